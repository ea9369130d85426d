// Writes manual pages and shell completions under a folder, laid out as below share/.
// Runs at build time only. Usage: spillway_describe SOURCE_FOLDER OUT_FOLDER
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "cli/command_line.h"
#include "core/config.h"
#include "core/stop.h"
#include "packaging/completion.h"
#include "packaging/man_pages.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) throw std::runtime_error(path.string() + ": cannot be read");
  return text.str();
}

void write_text(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream file(path);
  file << text << std::flush;
  if (!file) throw std::runtime_error(path.string() + ": cannot be written");
}

ManTexts read_man_texts(const fs::path& folder) {
  ManTexts texts;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".md") {
      texts[entry.path().stem().string()] = read_text(entry.path());
    }
  }
  return texts;
}

Grammar program_grammar() {
  StopFlag stop;
  Command chosen;
  CLI::App app;
  add_commands(app, stop, chosen);
  return read_grammar(app, SPILLWAY_VERSION, config_keys());
}

void describe(const fs::path& source, const fs::path& out) {
  const Grammar grammar = program_grammar();
  const ManTexts texts = read_man_texts(source / "packaging" / "man");
  const fs::path man = out / "man";
  write_text(man / "man1" / "spillway.1", program_page(grammar, texts));
  for (const GrammarCommand& command : grammar.commands) {
    write_text(man / "man1" / ("spillway-" + command.name + ".1"),
               command_page(grammar, command, texts));
  }
  const fs::path configs = source / "configs";
  write_text(man / "man5" / "spillway.yaml.5",
             configuration_page(grammar, read_text(configs / "README.md"),
                                read_text(configs / "example.yaml"), texts));
  write_text(out / "bash-completion" / "completions" / "spillway", bash_completion(grammar));
  write_text(out / "zsh" / "site-functions" / "_spillway", zsh_completion(grammar));
  write_text(out / "fish" / "vendor_completions.d" / "spillway.fish", fish_completion(grammar));
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: spillway_describe SOURCE_FOLDER OUT_FOLDER\n");
    return 2;
  }
  try {
    spillway::describe(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "spillway_describe: %s\n", error.what());
    return 1;
  }
  return 0;
}
