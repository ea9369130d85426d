// The run configuration: one YAML file plus --set overrides. Plain data, no behaviour.
//
// Every key is documented in configs/README.md, which spillway.yaml(5) is made from. Loading
// rejects unknown and duplicate keys, wrong types, bad units and impossible values with file, line,
// key and what was expected.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace spillway {

enum class PlacementPolicy { kAuto, kRam, kNvme };
/// kMmap: not a way to stream but what other engines do, for comparison: weights are used in a
/// mapping of their files and the system's page cache decides what stays.
enum class EngineChoice { kAuto, kUring, kPread, kMmap };
enum class DirectChoice { kAuto, kOn, kOff };
/// How the host computes prompts. kAuto: bf16 where the CPU multiplies bf16 faster than f32.
enum class PromptMath { kAuto, kBf16, kF32 };
/// Hidden states of a sweep on a drive. kAuto: where a sweep does not fit the memory otherwise, or
/// is predicted to be clearly faster.
enum class SpillChoice { kAuto, kNever, kAlways };
enum class Tier : uint8_t { kGpu, kRam, kNvme };

std::string_view tier_name(Tier tier);

inline constexpr std::string_view kDeviceNames = "auto, host, host-discrete, cuda or cuda:N";
bool is_device_name(std::string_view name);
/// What is wrong with a size for memory.ram or memory.gpu; empty = nothing.
std::string memory_size_problem(const std::string& text);

/// `placement.layers: {"0-3": ram, head: nvme}`: `first..last` are decoder layers, or `name` is
/// one of embed and head.
struct LayerOverride {
  std::string name;
  uint32_t first = 0;
  uint32_t last = 0;
  Tier tier = Tier::kNvme;
};

/// Of a vocabulary's likeliest tokens, that score.topk keeps.
inline constexpr uint32_t kMostTopK = 1024;

/// What of a document's states is kept.
enum class Pooling : uint8_t { kNone, kLast, kMean };
/// score.*, of jobs over data: files in, a folder out.
struct ScoreJobConfig {
  std::vector<std::filesystem::path> data;
  std::vector<std::filesystem::path> lengths;  ///< one per file of packed tokens, or none at all
  std::filesystem::path out;
  bool lines = false;  ///< a document a line of a text
  bool skip_bad = false;
  std::optional<uint32_t> end_token;
  std::optional<uint32_t> prefix_token;
  uint32_t raw_token_bytes = 0;  ///< 2, 4; 0 = not said
  std::optional<uint64_t> shard_tokens;
  uint32_t top_k = 0;
  std::vector<uint32_t> hidden_layers;  ///< ascending
  DType hidden_dtype = DType::kF32;
  Pooling embeddings = Pooling::kNone;
};

struct Config {
  std::filesystem::path file;  ///< where it came from, for messages; empty = the command line

  std::filesystem::path model_path;
  std::string device = "auto";        ///< auto, host, host-discrete, cuda, cuda:N
  std::optional<uint64_t> ram_bytes;  ///< memory.ram; empty = auto
  std::optional<uint64_t> gpu_bytes;  ///< memory.gpu; empty = auto
  PlacementPolicy policy = PlacementPolicy::kAuto;
  std::optional<double>
      ram_share;  ///< of the weights in RAM, the rest on NVMe; instead of a policy
  std::vector<LayerOverride> overrides;

  EngineChoice io_engine = EngineChoice::kAuto;
  DirectChoice io_direct = DirectChoice::kAuto;
  std::optional<uint64_t> io_chunk_bytes;
  std::optional<uint32_t> io_depth;
  std::optional<bool> io_register_buffers;

  std::optional<uint64_t> stream_unit_bytes;
  std::optional<uint32_t> stream_slots;
  std::optional<uint32_t> stream_staging_slabs;

  uint32_t compute_threads = 0;  ///< 0 = every core this process may use
  PromptMath prompt_math = PromptMath::kAuto;

  std::vector<std::string> prompts;
  std::vector<std::vector<int64_t>> prompt_token_ids;
  uint32_t max_new_tokens = 128;
  uint32_t prefill_chunk_tokens = 512;
  std::optional<uint32_t> prefill_sweep_tokens;  ///< that one read of the weights serves
  double temperature = 0.0;
  uint32_t top_k = 0;
  double top_p = 1.0;
  uint64_t seed = 0;
  bool ignore_eos = false;

  uint32_t score_chunk_tokens = 512;
  std::optional<uint32_t> score_sweep_tokens;    ///< that one read of the weights serves
  std::optional<uint32_t> score_context_tokens;  ///< window; empty = the model's context
  std::optional<uint32_t> score_stride_tokens;   ///< of windows; empty = they overlap by a token
  bool score_logprobs = true;
  SpillChoice score_spill = SpillChoice::kAuto;
  std::filesystem::path score_spill_dir;  ///< empty = temporary_folder
  /// For files that need no name; not a key: from the environment.
  std::filesystem::path temporary_folder = "/var/tmp";

  ScoreJobConfig job;

  std::filesystem::path report;
  std::filesystem::path trace;
};

/// Where hidden states are spilled.
inline const std::filesystem::path& spill_folder(const Config& config) {
  return config.score_spill_dir.empty() ? config.temporary_folder : config.score_spill_dir;
}

/// Every key that may be set, sorted: "memory.ram".
std::vector<std::string> config_keys();

/// Loads `file` and applies `overrides` ("a.b=value", YAML on the right). `home`: what ~ and $HOME
/// stand for in paths. Throws Error.
Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides,
                   const std::string& home = {});

/// Without a file: the defaults for the checkpoint in `model_path`, and `overrides`. Throws Error.
Config default_config(const std::filesystem::path& model_path,
                      const std::vector<std::string>& overrides, const std::string& home = {});

/// A YAML file that gives this configuration again; without report and trace.
std::string config_text(const Config& config);

/// The same from text; `file` names it in messages and anchors relative paths. For tests, fuzzing.
Config parse_config(const std::string& text, const std::filesystem::path& file,
                    const std::vector<std::string>& overrides, const std::string& home = {});

}  // namespace spillway
