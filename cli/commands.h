// The commands: one file each. They throw Error; main.cpp says it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/model_argument.h"
#include "compare/arms.h"
#include "core/stop.h"
#include "model/matrix_type.h"

namespace spillway {

struct RunOptions {
  ModelOptions model;
  std::vector<std::string> prompts;  ///< "-" = standard input
  std::vector<std::string> prompt_files;
  std::optional<uint32_t> new_tokens;
  std::string report;
  std::string trace;
  bool json = false;
  bool json_lines = false;
  bool quiet = false;
};
int run_command(const RunOptions& options, StopFlag& stop);

struct ScoreOptions {
  ModelOptions model;
  std::string text_file;
  std::string ids_file;
  std::vector<std::string> data;
  std::vector<std::string> lengths;
  std::string out;
  std::string shard;  ///< "2/8"
  std::optional<uint32_t> top_k;
  bool skip_bad = false;
  std::string report;
  std::string trace;
  bool json = false;
  bool quiet = false;
};
int score_command(const ScoreOptions& options, StopFlag& stop);

struct MergeOptions {
  std::vector<std::string> folders;
  std::string out;
};
int merge_command(const MergeOptions& options, StopFlag& stop);

struct InitOptions {
  ModelOptions model;
  std::string out;  ///< "-" = stdout; empty = the model's name in this folder
};
int init_command(const InitOptions& options, StopFlag& stop);

struct PlanOptions {
  ModelOptions model;
  std::string profile;
  bool json = false;
};
int plan_command(const PlanOptions& options);

struct ProbeOptions {
  std::string path = ".";
  std::string out;
  std::string device = "auto";
  double seconds = 1;
  bool sustained = false;
  bool json = false;
  bool quiet = false;
};
int probe_command(const ProbeOptions& options, StopFlag& stop);

struct BenchOptions {
  ModelOptions model;
  std::string out = "spillway-bench";
  std::vector<std::string> budgets;
  std::vector<std::string> sweeps = {"memory", "decode", "prompt"};
  SweepOptions sweep;
  uint32_t repeats = 3;
  bool json = false;
  bool quiet = false;
};
int bench_command(BenchOptions options, StopFlag& stop);

struct InspectOptions {
  std::string directory;
  bool json = false;
  bool verify = false;
};
int inspect_command(const InspectOptions& options, const StopFlag& stop);

struct TokenizeOptions {
  std::string directory;
  std::optional<std::string> text;
  std::optional<std::string> text_file;
  bool decode = false;
  bool bos = false;
  bool lines = false;
};
int tokenize_command(const TokenizeOptions& options);

struct TraceOptions {
  std::string file;
  std::string svg;
  uint32_t pass = 0;
};
int trace_command(const TraceOptions& options, StopFlag& stop);

struct SynthOptions {
  std::string directory;
  std::string like;
  uint32_t layers = 0;
  uint32_t hidden = 0;
  uint32_t intermediate = 0;
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t vocab = 0;
  std::string dtype = "bf16";
  std::string format;  ///< "safetensors", "gguf"; empty = what goes with the rest
  uint32_t shards = 1;
  uint64_t seed = 0;
};
int synth_command(const SynthOptions& options, StopFlag& stop);

struct QuantizeCommandOptions {
  std::string source;
  std::string target;
  std::string type;
  std::string ram = "256MiB";
  uint32_t threads = 0;
  bool json = false;
  bool quiet = false;
};
int quantize_command(const QuantizeCommandOptions& options, StopFlag& stop);

/// A type by name. Throws Error, which names the option.
MatrixType type_of(const std::string& name, const char* option);

/// Exit codes: 0, 1 for an Error, 2 for wrong usage, and this after Ctrl-C, SIGTERM or SIGHUP,
/// whether the run ended cleanly or a second signal ended it.
inline constexpr int kExitInterrupted = 130;

}  // namespace spillway
