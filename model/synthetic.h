// Synthetic checkpoints: real layout, random weights, for trying out sizes nobody wants to
// download.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/stop.h"
#include "model/matrix_type.h"
#include "model/model_config.h"

namespace spillway {

enum class CheckpointKind : uint8_t { kSafetensors, kGguf };

struct SyntheticOptions {
  ModelConfig model;
  MatrixType type = matrix_type(WeightFormat::kBF16);  ///< blocks and mixes: in GGUF alone
  CheckpointKind kind = CheckpointKind::kSafetensors;
  uint32_t shards = 1;
  uint64_t seed = 0;
};

/// "llama-2-7b" and the like; empty architecture when unknown.
ModelConfig preset_config(const std::string& name);
/// After the shape of a preset was changed: what follows from it.
void fit_to_shape(ModelConfig& config);
std::vector<std::string> preset_names();

/// The partial_rotary_factor of heads of which so many elements turn: readers cut the product to
/// whole elements.
double rotary_share(uint32_t rotary_dim, uint32_t head_dim);

/// Called with bytes written and bytes in all.
using SyntheticProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

/// safetensors: writes config.json, generation_config.json, tokenizer.json and the shards into the
/// folder `path`. GGUF: writes model.gguf there, or the file `path` itself where it ends in
/// ".gguf", in parts beside each other where there are several shards. Plain numbers of one seed
/// are the same weights in both.
///
/// Every file is written without a name or under a temporary one, synced and then named; on any
/// failure (full disk, no permission, stop request) all of them are removed, and the folders too
/// that were made here. In a folder, a marker names what it writes: what a killed run left is
/// recognised by it and replaced; a folder that holds anything else is refused, and so is a name
/// that something has. Throws Error, Stopped.
void write_synthetic(const std::filesystem::path& path, const SyntheticOptions& options,
                     const StopFlag& stop, const SyntheticProgress& progress);

}  // namespace spillway
