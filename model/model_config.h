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
  double rope_theta = 10000;
  RopeScaling rope_scaling;
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
  bool slides(uint32_t layer) const { return sliding_window && sliding_layers[layer]; }
};

/// Reads and validates; throws Error with file, key and what was expected. Unknown architectures
/// are refused with the list of supported ones.
ModelConfig load_model_config(const std::filesystem::path& directory);
/// The same from parsed JSON; `where` names it in messages.
ModelConfig parse_model_config(const nlohmann::json& json, const std::string& where);

/// What yarn and dynamic scaling add to the context.
void extend_context(ModelConfig& config);

/// One line that names every architecture this version computes.
std::string supported_architectures();

}  // namespace spillway
