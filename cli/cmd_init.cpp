// spillway init: a commented YAML file for a model, with the numbers of this machine.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/forecast.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "compare/figures.h"
#include "core/error.h"
#include "core/one_line.h"
#include "core/output_file.h"
#include "core/units.h"
#include "core/user_path.h"
#include "io/gguf_files.h"
#include "model/generate.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTitle = "# Spillway configuration of ";
constexpr uint32_t kNewTokens = 64;
constexpr uint32_t kShownBudgets = 3;

/// As the user called it, and as a file may be called: "Qwen2.5-7B-Q4_K_M" of a GGUF file.
std::string short_name(const fs::path& model) {
  const fs::path path = fs::absolute(model).lexically_normal();
  const fs::path name = (path.has_filename() ? path : path.parent_path()).filename();
  if (!is_gguf_file(path)) return name.string();
  if (const auto part = parse_gguf_part(name.string())) return part->prefix;
  return (name.extension() == ".gguf" ? name.stem() : name).string();
}

fs::path output_of(const InitOptions& options) {
  return options.out.empty() ? fs::path(short_name(options.model.model) + ".yaml")
                             : fs::path(options.out);
}

void refuse_existing(const fs::path& file) {
  std::error_code error;
  if (!fs::is_regular_file(file, error) || fs::file_size(file, error) == 0) return;
  throw Error(
      fmt::format("{}: is there already, and may hold what you changed; give another name "
                  "with --out, or --out - to see what would be written",
                  file.string()));
}

/// JSON's strings are YAML's, too.
std::string quoted(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw Error(
        "the model's path is not UTF-8, which YAML cannot hold; name it on the command line "
        "of spillway run instead");
  }
}

/// What a budget brings, a comment line each; empty where the machine was not measured.
std::string outlook(const Config& config, const Model& model, const Machine& machine,
                    const MemoryRange& range, const NoticeSink& notice) {
  const auto known = find_rates("", model, machine, notice);
  if (!known) return "";
  const Workload workload = generation_workload(config, model, make_prompts(config, model));
  const uint64_t here = machine.memory.total_bytes - machine.memory.total_bytes / 64;
  const uint64_t most = std::max(range.least_bytes, std::min(range.all_bytes, here));
  std::string text;
  std::optional<uint64_t> before;
  for (uint32_t i = 0; i < kShownBudgets; ++i) {
    Config with = config;
    const std::string shown =
        format_bytes_up(range.least_bytes + (most - range.least_bytes) * i / (kShownBudgets - 1));
    with.ram_bytes = parse_size(shown);
    if (with.ram_bytes == before) continue;
    before = with.ram_bytes;
    const PlannedRun planned =
        plan_with(known, with, model, machine, workload, work_amount(workload));
    if (!planned.forecast) return "";
    text += fmt::format("  #   {:<9} {} per token\n", shown,
                        rough_duration(planned.forecast->decode.seconds));
  }
  return fmt::format("  # Predicted with the rates measured {}:\n{}", known->measured_at, text);
}

/// What the file asks: a text, or ids where the model has no tokenizer.
void set_prompts(Config& config, const Model& model) {
  if (model.tokenizer != nullptr) {
    config.prompts = {"The capital of France is"};
  } else {
    config.prompt_token_ids = {{1, 2, 3}};
  }
}

std::string prompts_text(const Config& config) {
  if (!config.prompts.empty()) {
    return fmt::format("  prompts:\n    - {}\n", quoted(config.prompts[0]));
  }
  return fmt::format(
      "  # There is no tokenizer for the model, so prompts are token ids.\n"
      "  prompt_token_ids: [[{}]]\n",
      fmt::join(config.prompt_token_ids[0], ", "));
}

/// `file`: as a shell takes it.
std::string yaml_text(const std::string& name, const std::string& file, const Config& config,
                      const Model& model, const Machine& machine, const NoticeSink& notice) {
  const MemoryRange range = memory_range(config, model, machine);
  const std::string device = machine.device->name();
  return fmt::format(
      "{}{}: {}, {}, {}\n"
      "# Written {} for this machine:\n"
      "# {}\n"
      "#\n"
      "#   spillway run {}     answers the prompts below\n"
      "#   spillway plan {}    shows where every layer goes, and how fast it will be\n"
      "#   spillway bench {}   compares RAM with NVMe on this machine\n"
      "\n"
      "model:\n"
      "  path: {}\n"
      "\n"
      "memory:\n"
      "  # A size such as 6GiB: weights, caches and buffers stay below it. auto takes what is "
      "free\n"
      "  # less a reserve, now {}. This model runs from {} on and fits whole into {}.\n"
      "{}"
      "  ram: auto\n"
      "\n"
      "# auto takes the first GPU (here it chose {}); or host, cuda, cuda:1.\n"
      "device: auto\n"
      "\n"
      "generate:\n"
      "{}"
      "  max_new_tokens: {}  # the context has room for {}\n"
      "  temperature: 0  # the likeliest token; 0.7 is livelier, then seed: makes it repeatable\n"
      "  # top_p: 0.95\n"
      "  # top_k: 40\n"
      "  # seed: 1\n"
      "\n"
      "# A report as JSON, and a timeline for https://ui.perfetto.dev\n"
      "# report: run.json\n"
      "# trace: trace.json\n",
      kTitle, name, model.config.architecture, counted(model.config.layers, "layer"),
      weights_text(model), utc_now(), one_line(machine_text(machine, config.model_path)), file,
      file, file, quoted(fs::absolute(config.model_path).lexically_normal().string()),
      format_bytes(automatic_ram_budget(machine.memory)), format_bytes_up(range.least_bytes),
      format_bytes_up(range.all_bytes), outlook(config, model, machine, range, notice), device,
      prompts_text(config), kNewTokens, model.config.context);
}

}  // namespace

int init_command(const InitOptions& options, StopFlag& stop) {
  const NoticeSink notice = stderr_notices();
  Config config = default_config(model_folder(options.model.model), {});
  config.max_new_tokens = kNewTokens;
  const bool prints = options.out == "-";
  const fs::path file = prints ? fs::path() : output_of(options);
  FilesInUse in_use = with_model_files(config.model_path, {});
  in_use.check_stdout();
  if (!prints) refuse_existing(file);
  const Model model = open_model(config.model_path, config.io_direct, notice);
  set_prompts(config, model);
  if (model.tokenizer == nullptr) notice(model.no_tokenizer + "; prompts are token ids");
  const Machine machine = open_machine(config, notice);
  const std::string shown = prints ? short_name(options.model.model) + ".yaml" : file.string();
  const std::string text = yaml_text(one_line(short_name(options.model.model)), shell_word(shown),
                                     config, model, machine, notice);
  if (prints) {
    print_text(text);
    return 0;
  }
  stop.watch();
  OutputFile output(file, {"configuration", "#Spillwayconfigurationof"}, in_use);
  output.heed(stop);
  output.write(text);
  const std::string name = printable(shown);  // what a terminal cannot show nobody can type
  print_text(name == shown
                 ? fmt::format("{} written; try: spillway run {}\n", name, shell_word(shown))
                 : name + " written\n",
             stop);
  return 0;
}

}  // namespace spillway
