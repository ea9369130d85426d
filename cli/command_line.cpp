#include "cli/command_line.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "core/config.h"
#include "core/one_line.h"
#include "core/units.h"
#include "model/quantize.h"
#include "model/synthetic.h"

namespace spillway {
namespace {

struct CommandContext {
  CLI::App& app;
  StopFlag& stop;
  Command& chosen;
  /// Registers what to run when `subcommand` was given.
  void on(CLI::App* subcommand, Command command) const {
    subcommand->callback([&chosen = chosen, command = std::move(command)] { chosen = command; });
  }
};

std::string check_device(const std::string& name) {
  return is_device_name(name) ? ""
                              : fmt::format("expected {}, got {}", kDeviceNames, in_quotes(name));
}

std::string check_budget(const std::string& text) {
  return text == "auto" ? "" : memory_size_problem(text);
}

/// An empty name is a variable that was not set, not the default.
std::string check_name(const std::string& name) {
  return name.empty() ? "the name is empty" : "";
}

template <typename Field>
CLI::Option* add_file(CLI::App* command, const char* names, Field& field, const char* text) {
  return command->add_option(names, field, text)->type_name("FILE")->check(check_name);
}

/// What run and score write beside their text.
template <typename Options>
void add_outputs(CLI::App* command, Options& options) {
  add_file(command, "--report", options.report, "Write a JSON report");
  add_file(command, "--trace", options.trace, "Write a Perfetto timeline");
}

/// What names a model and sets single keys.
void add_model_options(CLI::App* command, ModelOptions& options) {
  command
      ->add_option("MODEL", options.model,
                   "A .gguf file, a checkpoint's folder, its name in the Hugging Face cache "
                   "(Qwen/Qwen2.5-7B), or a YAML file (man spillway.yaml)")
      ->required();
  command->add_option("--ram", options.ram, "Memory to use: 6GiB (default: what is free)")
      ->type_name("SIZE")
      ->check(check_budget);
  command->add_option("--gpu", options.gpu, "GPU memory to use (default: what is free)")
      ->type_name("SIZE")
      ->check(check_budget);
  command->add_option("--device", options.device, "auto, host, cuda or cuda:N")
      ->type_name("DEVICE")
      ->check(check_device);
  command->add_option("--set", options.overrides, "Set any key: --set generate.top_p=0.9")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

void add_folder_option(CLI::App* command, std::string& directory) {
  command
      ->add_option("MODEL", directory,
                   "A .gguf file, a checkpoint's folder, or its name in the Hugging Face cache")
      ->required();
}

void add_run(const CommandContext& context) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = context.app.add_subcommand("run", "Answer prompts with a model");
  add_model_options(command, options->model);
  command
      ->add_option("-p,--prompt", options->prompts,
                   "Prompt text, instead of the file's; - reads standard input; repeat for more")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  add_file(command, "--prompt-file", options->prompt_files,
           "File with a prompt (- = standard input); repeat for more")
      ->allow_extra_args(false);
  command->add_option("-n,--max-new-tokens", options->new_tokens, "Most tokens of an answer")
      ->type_name("N")
      ->check(CLI::Range(1u, 1u << 24));
  add_outputs(command, *options);
  auto* json = command->add_flag("--json", options->json, "Print the report instead of the texts");
  command->add_flag("--json-lines", options->json_lines, "Print a JSON event per token")
      ->excludes(json);
  command->add_flag("--quiet", options->quiet, "Print the texts only");
  context.on(command, [options, &stop = context.stop] { return run_command(*options, stop); });
}

void add_score(const CommandContext& context) {
  auto options = std::make_shared<ScoreOptions>();
  CLI::App* command =
      context.app.add_subcommand("score", "Log-likelihood of a text, or of data sets of any size");
  add_model_options(command, options->model);
  auto* input = command->add_option_group("input");
  add_file(input, "--text-file", options->text_file, "Text to score (- = standard input)");
  add_file(input, "--token-ids-file", options->ids_file, "JSON list of ids, or list of lists");
  add_file(input, "--data", options->data,
           "Documents: .jsonl, .txt, .npy or .bin; results go to --out")
      ->expected(1, CLI::detail::expected_max_vector_size);
  input->require_option(0, 1);
  command->add_option("--out", options->out, "Folder for the results of --data; goes on there")
      ->type_name("DIR")
      ->check(check_name);
  add_file(command, "--lengths", options->lengths, "Tokens of each document of a packed --data")
      ->allow_extra_args(false);
  command->add_option("--topk", options->top_k, "Keep the K likeliest tokens at each position")
      ->type_name("K")
      ->check(CLI::Range(1u, kMostTopK));
  command->add_flag("--skip-bad", options->skip_bad, "Pass over bad documents and count them");
  command->add_option("--shard", options->shard, "The I-th of N equal parts of the data: 2/8")
      ->type_name("I/N");
  add_outputs(command, *options);
  command->add_flag("--json", options->json, "Print the report instead of the result");
  command->add_flag("--quiet", options->quiet, "Print the result line only");
  context.on(command, [options, &stop = context.stop] { return score_command(*options, stop); });
}

void add_merge(const CommandContext& context) {
  auto options = std::make_shared<MergeOptions>();
  CLI::App* command = context.app.add_subcommand(
      "merge", "Join the folders that the parts of a scoring job left (score --shard)");
  command->add_option("DIR", options->folders, "Folders of all parts, in any order")
      ->required()
      ->check(check_name);
  command->add_option("--out", options->out, "Folder for all of it")
      ->type_name("DIR")
      ->required()
      ->check(check_name);
  context.on(command, [options, &stop = context.stop] { return merge_command(*options, stop); });
}

void add_init(const CommandContext& context) {
  auto options = std::make_shared<InitOptions>();
  CLI::App* command = context.app.add_subcommand(
      "init", "Write a commented YAML file for a model, with the numbers of this machine");
  add_folder_option(command, options->model.model);
  add_file(command, "-o,--out", options->out,
           "File to write; - prints it (default: the model's name, here)");
  context.on(command, [options, &stop = context.stop] { return init_command(*options, stop); });
}

void add_plan(const CommandContext& context) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command = context.app.add_subcommand(
      "plan", "Show where every layer goes and what memory is needed; reads no weights");
  add_model_options(command, options->model);
  add_file(command, "--profile", options->profile,
           "Hardware profile for the prediction (default: what probe kept)");
  command->add_flag("--json", options->json, "Print JSON");
  context.on(command, [options] { return plan_command(*options); });
}

void add_probe(const CommandContext& context) {
  auto options = std::make_shared<ProbeOptions>();
  CLI::App* command = context.app.add_subcommand(
      "probe", "Measure this machine: drive, memory, copies, matmuls (about a minute)");
  command
      ->add_option("--path", options->path,
                   "Folder or file on the drive to measure (a model's folder)")
      ->type_name("PATH")
      ->check(check_name)
      ->capture_default_str();
  add_file(command, "--out", options->out,
           "Keep the profile in this file (default: the user's cache folder)");
  command->add_option("--device", options->device, "auto, host, cuda or cuda:N")
      ->type_name("DEVICE")
      ->check(check_device)
      ->capture_default_str();
  command->add_option("--seconds", options->seconds, "Seconds per figure")
      ->check(CLI::Range(0.01, 600.0))
      ->check([](const std::string& text) {  // a range lets nan through
        return text.find_first_not_of("0123456789.eE+-") == std::string::npos
                   ? std::string()
                   : "expected a number from 0.01 to 600, got " + in_quotes(text);
      })
      ->capture_default_str();
  command->add_flag("--sustained", options->sustained, "Also read for a whole minute");
  command->add_flag("--json", options->json, "Print the profile as JSON");
  command->add_flag("--quiet", options->quiet, "No progress");
  context.on(command, [options, &stop = context.stop] { return probe_command(*options, stop); });
}

void add_bench(const CommandContext& context) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = context.app.add_subcommand(
      "bench",
      "Compare RAM with NVMe on this model and machine: shares, batches, memory budgets, and mmap "
      "over the same kernels");
  add_model_options(command, options->model);
  command->add_option("--out", options->out, "Folder for bench.html, .json, .csv and the arms")
      ->type_name("DIR")
      ->check(check_name)
      ->capture_default_str();
  command->add_option("--sweeps", options->sweeps, "Any of memory, decode, prompt, score")
      ->type_name("SWEEP")
      ->delimiter(',')
      ->check(CLI::IsMember({"memory", "decode", "prompt", "score"}))
      ->capture_default_str();
  command->add_option("--repeats", options->repeats, "Processes per arm, interleaved")
      ->check(CLI::Range(1u, 100u))
      ->capture_default_str();
  command->add_option("--shares", options->sweep.ram_percents, "Percent of the layers in RAM")
      ->delimiter(',')
      ->check(CLI::Range(0u, 100u))
      ->capture_default_str();
  command->add_option("--batches", options->sweep.batches, "Sequences per batch")
      ->delimiter(',')
      ->check(CLI::Range(1u, 4096u))
      ->capture_default_str();
  command->add_option("--memory-points", options->sweep.memory_points, "Budgets, from least to all")
      ->check(CLI::Range(1u, 100u))
      ->capture_default_str();
  command->add_option("--budgets", options->budgets, "These budgets instead: 3GiB,6GiB")
      ->type_name("SIZE")
      ->delimiter(',')
      ->check(memory_size_problem);
  command->add_option("--tokens", options->sweep.new_tokens, "Decode passes that count")
      ->check(CLI::Range(1u, 10000u))
      ->capture_default_str();
  command->add_option("--prompt-tokens", options->sweep.prompt_tokens, "Length of the prompt")
      ->check(CLI::Range(1u, 1u << 20))
      ->capture_default_str();
  command
      ->add_option("--score-tokens", options->sweep.score_tokens,
                   "Tokens that are scored, in documents of 512")
      ->type_name("N")
      ->check(CLI::Range(2u, 1u << 22))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print the results as JSON");
  command->add_flag("--quiet", options->quiet, "No progress");
  context.on(command, [options, &stop = context.stop] { return bench_command(*options, stop); });
}

void add_inspect(const CommandContext& context) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command = context.app.add_subcommand("inspect", "Show what a checkpoint holds");
  add_folder_option(command, options->directory);
  command->add_flag("--json", options->json, "Print JSON");
  command->add_flag("--verify", options->verify, "Read everything; print rate and checksums");
  context.on(command, [options, &stop = context.stop] {
    options->directory = model_folder(options->directory).string();
    return inspect_command(*options, stop);
  });
}

void add_tokenize(const CommandContext& context) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = context.app.add_subcommand("tokenize", "Token ids of a text, as JSON");
  add_folder_option(command, options->directory);
  auto* input = command->add_option_group("input");
  input->add_option("--text", options->text, "The text")->type_name("TEXT");
  auto* file =
      add_file(input, "--text-file", options->text_file, "File with the text (- = standard input)");
  input->require_option(1);
  command->add_flag("--decode", options->decode,
                    "Print text: of a JSON list of ids, or of the text's own ids");
  command->add_flag("--bos", options->bos, "Add what a prompt of this model starts with");
  command
      ->add_flag("--lines", options->lines,
                 "A JSON string on each line of FILE, or a list of ids with --decode; a line of "
                 "JSON for each")
      ->needs(file);
  context.on(command, [options] {
    options->directory = model_folder(options->directory).string();
    return tokenize_command(*options);
  });
}

void add_trace(const CommandContext& context) {
  auto options = std::make_shared<TraceOptions>();
  CLI::App* command = context.app.add_subcommand(
      "trace", "Show one pass of a trace (run --trace FILE): reads, copies, computing, stalls");
  command->add_option("FILE", options->file, "Trace written by run or score")->required();
  add_file(command, "--svg", options->svg, "Draw it into this file");
  command
      ->add_option("--pass", options->pass, "Which pass, from 1 (default: the one in the middle)")
      ->check(CLI::Range(1u, 1u << 30));
  context.on(command, [options, &stop = context.stop] { return trace_command(*options, stop); });
}

void add_synth(const CommandContext& context) {
  auto options = std::make_shared<SynthOptions>();
  CLI::App* command = context.app.add_subcommand("synth", "Write a checkpoint with random weights");
  command->add_option("DIR", options->directory, "New folder to write; or new .gguf file")
      ->required();
  command
      ->add_option("--like", options->like,
                   fmt::format("Shape of a known model: {}", fmt::join(preset_names(), ", ")))
      ->type_name("PRESET");
  // So that neither the list of tensors nor the sum of their bytes grows out of bounds.
  constexpr uint32_t kMostWidth = 1u << 20;
  const auto natural = [&](const char* name, uint32_t& field, uint32_t most, const char* text) {
    command->add_option(name, field, text)->type_name("N")->check(CLI::Range(1u, most));
  };
  natural("--layers", options->layers, kMostLayers, "Decoder layers");
  natural("--hidden", options->hidden, kMostWidth, "Hidden size");
  natural("--intermediate", options->intermediate, kMostWidth, "MLP size");
  natural("--heads", options->heads, kMostHeads, "Attention heads");
  natural("--kv-heads", options->kv_heads, kMostHeads,
          "Key/value heads (default: as many as heads)");
  natural("--vocab", options->vocab, 1u << 24, "Vocabulary, at least 258");
  command
      ->add_option("--dtype", options->dtype,
                   fmt::format("Type of the matrices: {}", fmt::join(matrix_type_names(), ", ")))
      ->type_name("DTYPE")
      ->capture_default_str();
  command
      ->add_option("--format", options->format,
                   "safetensors, or gguf, which alone holds types of blocks (default: the one that "
                   "fits)")
      ->type_name("FORMAT")
      ->check(CLI::IsMember({"safetensors", "gguf"}));
  command->add_option("--shards", options->shards, "Files to spread the weights over")
      ->check(CLI::Range(1u, 10000u))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Seed of the weights")
      ->check(CLI::NonNegativeNumber)  // the parser alone would wrap -1
      ->capture_default_str();
  context.on(command, [options, &stop = context.stop] { return synth_command(*options, stop); });
}

void add_quantize(const CommandContext& context) {
  auto options = std::make_shared<QuantizeCommandOptions>();
  CLI::App* command = context.app.add_subcommand(
      "quantize", "Write a model as a GGUF file with smaller matrices, and say what that changed");
  command
      ->add_option("MODEL", options->source,
                   "Folder of a checkpoint, its name in the Hugging Face cache, or a GGUF file")
      ->required();
  command->add_option("FILE", options->target, "New .gguf file to write")
      ->required()
      ->check(check_name);
  command
      ->add_option("--type", options->type,
                   fmt::format("Type of the matrices: {}; Q4_K_M is Q4_K with the head and some of "
                               "the layers' matrices in Q6_K",
                               fmt::join(quantize_type_names(), ", ")))
      ->type_name("TYPE")
      ->required();
  constexpr uint32_t kMostThreads = 1024;  // as of compute.threads
  command->add_option("--ram", options->ram, "Memory for buffers")
      ->type_name("SIZE")
      ->check(memory_size_problem)
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Threads that compute (default: all cores)")
      ->check(CLI::Range(1u, kMostThreads));
  command->add_flag("--json", options->json, "Print the result as JSON");
  command->add_flag("--quiet", options->quiet, "No progress, and no table");
  context.on(command, [options, &stop = context.stop] { return quantize_command(*options, stop); });
}

void describe_program(CLI::App& app) {
  app.name("spillway");
  app.description(
      "Runs transformer models larger than the memory they are given: a planner places layers on "
      "GPU, RAM and NVMe, and what spilled is streamed.");
  app.require_subcommand(1);
  app.set_version_flag("-V,--version", SPILLWAY_VERSION, "Print the version and exit");
  app.footer("Start with: spillway run MODEL -p TEXT; the manual: man spillway");
}

}  // namespace

void add_commands(CLI::App& app, StopFlag& stop, Command& chosen) {
  describe_program(app);
  const CommandContext context{app, stop, chosen};
  add_run(context);
  add_init(context);
  add_score(context);
  add_merge(context);
  add_plan(context);
  add_probe(context);
  add_bench(context);
  add_inspect(context);
  add_tokenize(context);
  add_trace(context);
  add_synth(context);
  add_quantize(context);
}

}  // namespace spillway
