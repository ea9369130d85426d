// The architecture of a model, read from a checkpoint's config.json and generation_config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/rope.h"

namespace spillway {

/// The widest head that kernels compute with.
inline constexpr uint32_t kMostHeadDim = 1024;
/// As many as a kernel's grid takes beside each other (y of CUDA's).
inline constexpr uint32_t kMostHeads = 65535;
inline constexpr uint32_t kMostLayers = 10000;

struct ModelConfig {
  std::string architecture;
  uint32_t layers = 0;
  uint32_t hidden = 0;
  uint32_t intermediate = 0;
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t vocab = 0;
  uint32_t context = 0;  ///< positions, what yarn and dynamic scaling add among them
  /// Positions that a row sees in the layers that slide, its own among them.
  std::optional<uint32_t> sliding_window;
  std::vector<bool> sliding_layers;  ///< one per layer where a window is set
  double rms_epsilon = 1e-6;
  float norm_added = 0;  ///< to every weight of a norm: some checkpoints keep them less 1
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  /// Layers that slide turn by this base, unscaled, where it is set.
  std::optional<double> local_rope_theta;
  uint32_t rotary_dim = 0;         ///< elements of a head that turn, the first ones; 0 = all
  float score_scale = 0;           ///< multiplies scores; 0 = 1/sqrt(head_dim)
  float score_cap = 0;             ///< scores become cap * tanh(score / cap); 0 = they stay
  float logit_cap = 0;             ///< the same of logits
  bool scaled_embeddings = false;  ///< by sqrt(hidden)
  bool gelu = false;               ///< gates are GELU (its tanh form) instead of SiLU
  bool post_norms = false;         ///< what a block leaves is normed before it is added
  bool fused = false;              ///< Q, K and V are one tensor, gate and up another
  bool tied_embeddings = false;
  bool qkv_bias = false;
  bool output_bias = false;  ///< attention output projection
  bool mlp_bias = false;
  bool qk_norm = false;
  /// Rows of Q and K are stored with the two that a rotation turns together side by side.
  bool interleaved_heads = false;
  std::vector<uint32_t> end_tokens;  ///< generation_config.json, else config.json

  uint32_t q_width() const { return heads * head_dim; }
  uint32_t kv_width() const { return kv_heads * head_dim; }
  uint32_t rotary_pairs() const { return (rotary_dim > 0 ? rotary_dim : head_dim) / 2; }
  bool slides(uint32_t layer) const {
    return sliding_window && layer < sliding_layers.size() && sliding_layers[layer];
  }
};

/// Reads and validates; throws Error with file, key and what was expected. Unknown architectures
/// are refused with the list of supported ones.
ModelConfig load_model_config(const std::filesystem::path& directory);
/// The same from parsed JSON; `where` names it in messages.
ModelConfig parse_model_config(const nlohmann::json& json, const std::string& where);

/// What yarn and dynamic scaling add to the context.
void extend_context(ModelConfig& config);

/// What of a model's rotations leads to speeds, or scores, that no float holds.
enum class RopePart : uint8_t { kBase, kLocalBase, kScaling, kLongFactors, kAttention };
struct RopeFault {
  RopePart part;
  const char* expected;
};
std::optional<RopeFault> rope_fault(const ModelConfig& config);

/// Gemma 2, and 3: norms after blocks as well, GELU, scaled embeddings.
bool is_gemma(const ModelConfig& config);
/// Phi 3 and 4: fused weights, heads that may turn in part, windows in all layers or none.
bool is_phi(const ModelConfig& config);
/// All that is so in every model of these: what neither config.json nor GGUF says.
void add_gemma_ways(ModelConfig& config);
/// Which layers slide where nothing says so: all but every `period`th.
std::vector<bool> all_but_every(uint32_t period, uint32_t layers);

/// "llama" for "LlamaForCausalLM": the model_type that goes with a class.
std::string model_type_of(const std::string& architecture);

/// One line that names every architecture this version computes.
std::string supported_architectures();

}  // namespace spillway
