// spillway tokenize: token ids of a text as JSON, and back.
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "cli/commands.h"
#include "core/error.h"
#include "model/tokenizer.h"

namespace spillway {
namespace {

struct TokenizeOptions {
  std::string directory;
  std::optional<std::string> text;
  std::optional<std::string> text_file;
  bool decode = false;
  bool bos = false;
};

std::string input_of(const TokenizeOptions& options) {
  if (options.text) return *options.text;
  std::ifstream in(*options.text_file, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) throw Error(fmt::format("cannot read {}: {}", *options.text_file, errno_text(errno)));
  return text.str();
}

/// Ids when the text is a JSON list of them.
std::optional<std::vector<uint32_t>> ids_in(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_array()) return std::nullopt;
  std::vector<uint32_t> ids;
  for (const auto& item : json) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > UINT32_MAX) return std::nullopt;
    ids.push_back(item.get<uint32_t>());
  }
  return ids;
}

int tokenize(const TokenizeOptions& options) {
  std::error_code error;
  if (!std::filesystem::is_directory(options.directory, error)) {
    throw Error(fmt::format("{}: no such folder", options.directory));
  }
  const auto tokenizer = load_tokenizer(options.directory);
  if (tokenizer == nullptr) {
    throw Error(fmt::format("{}: no tokenizer.json and no tokenizer.model", options.directory));
  }
  const std::string text = input_of(options);
  if (options.decode) {
    const auto ids = ids_in(text);
    if (ids) {
      for (const uint32_t id : *ids) {
        if (id >= tokenizer->vocab_size()) {
          throw Error(fmt::format("token id {} is outside the vocabulary of {}", id,
                                  tokenizer->vocab_size()));
        }
      }
    }
    fmt::print("{}\n", tokenizer->decode(ids ? *ids : tokenizer->encode(text)));
    return 0;
  }
  const auto ids = options.bos ? tokenizer->encode_prompt(text) : tokenizer->encode(text);
  fmt::print("{}\n", nlohmann::json(ids).dump());
  return 0;
}

}  // namespace

void add_tokenize_command(CommandContext& context) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = context.app.add_subcommand("tokenize", "Token ids of a text, as JSON");
  command->add_option("MODEL_DIR", options->directory, "Folder with a tokenizer")->required();
  auto* input = command->add_option_group("input");
  input->add_option("--text", options->text, "The text")->type_name("TEXT");
  input->add_option("--text-file", options->text_file, "File with the text")->type_name("FILE");
  input->require_option(1);
  command->add_flag("--decode", options->decode,
                    "Print text: of a JSON list of ids, or of the text's own ids");
  command->add_flag("--bos", options->bos, "Add what a prompt of this model starts with");
  context.on(command, [options] { return tokenize(*options); });
}

}  // namespace spillway
