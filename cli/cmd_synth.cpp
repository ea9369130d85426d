// spillway synth: a checkpoint with random weights, written at disk speed.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/commands.h"
#include "cli/report.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/one_line.h"
#include "core/units.h"
#include "model/synthetic.h"

namespace spillway {
namespace {

ModelConfig config_of(const SynthOptions& options) {
  ModelConfig config;
  if (!options.like.empty()) {
    config = preset_config(options.like);
    if (config.architecture.empty()) {
      throw Error(fmt::format("--like {}: no such preset; there are {}", options.like,
                              fmt::join(preset_names(), ", ")));
    }
  } else {
    config = preset_config("tiny");
    config.layers = config.hidden = config.intermediate = config.heads = config.vocab = 0;
    config.context = 4096;
  }
  const auto take = [](uint32_t given, uint32_t& field) {
    if (given != 0) field = given;
  };
  const bool reshaped = options.hidden != 0 || options.heads != 0;
  take(options.layers, config.layers);
  take(options.hidden, config.hidden);
  take(options.intermediate, config.intermediate);
  take(options.heads, config.heads);
  take(options.vocab, config.vocab);
  if (options.like.empty() || options.heads != 0) config.kv_heads = config.heads;
  take(options.kv_heads, config.kv_heads);
  if (config.layers == 0 || config.hidden == 0 || config.intermediate == 0 || config.heads == 0 ||
      config.vocab == 0) {
    throw Error("give --like PRESET, or all of --layers --hidden --intermediate --heads --vocab");
  }
  if (config.heads % config.kv_heads != 0) throw Error("--kv-heads must divide --heads");
  if (reshaped && !is_gemma(config)) {  // its heads are as wide whatever the width is
    if (config.hidden % config.heads != 0 || (config.hidden / config.heads) % 2 != 0) {
      throw Error("--hidden must be an even multiple of --heads, such as 64 times as much");
    }
    const uint32_t head_dim = config.hidden / config.heads;
    if (head_dim > kMostHeadDim) {
      throw Error(fmt::format("--hidden must be at most {} times --heads", kMostHeadDim));
    }
    if (config.rotary_dim > 0) {  // as large a part of the heads
      config.rotary_dim = 2 * (config.rotary_pairs() * head_dim / config.head_dim);
      if (config.rotary_dim == 0) throw Error("--heads: less make heads that are wide enough");
    }
    config.head_dim = head_dim;
  }
  fit_to_shape(config);
  if (config.vocab < 258) {
    throw Error("--vocab must be 258 or more: 256 bytes and two special tokens");
  }
  return config;
}

/// Blocks exist in GGUF alone, and so does a file of that name.
CheckpointKind kind_of(const SynthOptions& options, const MatrixType& type) {
  const bool named = std::filesystem::path(options.directory).extension() == ".gguf";
  if (options.format == "safetensors") {
    if (has_blocks(type.format)) {
      throw Error(
          fmt::format("--format safetensors: {} has blocks, which only GGUF files hold; "
                      "leave --format out",
                      type.name));
    }
    if (named) throw Error("--format safetensors: DIR ends in .gguf; give the name of a folder");
    return CheckpointKind::kSafetensors;
  }
  const bool gguf = options.format == "gguf" || named || has_blocks(type.format);
  return gguf ? CheckpointKind::kGguf : CheckpointKind::kSafetensors;
}

/// What was chosen for the user.
std::string notes_on(const SynthOptions& options, const SyntheticOptions& synthetic) {
  std::string notes;
  if (options.format.empty() && synthetic.kind == CheckpointKind::kGguf) {
    notes = "GGUF";
  }
  const std::string others = other_formats(synthetic.model, synthetic.type);
  if (!others.empty()) notes += (notes.empty() ? "" : "; ") + others;
  return notes;
}

}  // namespace

MatrixType type_of(const std::string& name, const char* option) {
  const auto type = parse_matrix_type(name);
  if (!type) {
    throw Error(fmt::format("{} {}: no such type; there are {}", option, in_quotes(name),
                            fmt::join(matrix_type_names(), ", ")));
  }
  return *type;
}

int synth_command(const SynthOptions& options, StopFlag& stop) {
  if (options.directory.empty()) throw Error("DIR is empty; give the new folder a name");
  SyntheticOptions synthetic;
  synthetic.model = config_of(options);
  synthetic.type = type_of(options.dtype, "--dtype");
  synthetic.kind = kind_of(options, synthetic.type);
  synthetic.shards = options.shards;
  synthetic.seed = options.seed;
  const SteadyClock clock;
  Progress progress(clock, stop, false);
  const int64_t begin_ns = clock.now_ns();
  uint64_t bytes = 0;
  stop.watch();
  try {
    write_synthetic(options.directory, synthetic, stop, [&](uint64_t done, uint64_t total) {
      bytes = total;
      const double elapsed = seconds(clock.now_ns() - begin_ns);
      const double left = elapsed * static_cast<double>(total - done) / static_cast<double>(done);
      progress.show(fmt::format("writing {} of {}, {}, {} left", format_bytes(done),
                                format_bytes(total), rate_text(done, elapsed),
                                format_duration(left)));
    });
  } catch (const Stopped&) {
    progress.clear();
    progress.say("spillway: stopped; nothing was kept");
    return kExitInterrupted;
  }
  progress.clear();
  const std::string notes = notes_on(options, synthetic);
  print_text_of(
      options.directory,
      fmt::format("{}: {} in {:.1f} s{}\n", printable(options.directory), format_bytes(bytes),
                  seconds(clock.now_ns() - begin_ns), notes.empty() ? "" : " (" + notes + ")"),
      stop);
  return 0;
}

}  // namespace spillway
