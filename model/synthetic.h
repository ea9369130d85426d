// Synthetic checkpoints: real layout, random weights, for trying out sizes nobody wants to
// download.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/stop.h"
#include "model/model_config.h"

namespace spillway {

struct SyntheticOptions {
  ModelConfig model;
  DType dtype = DType::kBF16;
  uint32_t shards = 1;
  uint64_t seed = 0;
};

/// "llama-2-7b" and the like; empty architecture when unknown.
ModelConfig preset_config(const std::string& name);
std::vector<std::string> preset_names();

/// Called with bytes written and bytes in all.
using SyntheticProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

/// Writes config.json, generation_config.json, tokenizer.json and the shards. Every file is written
/// under a temporary name, fsynced and renamed; on any failure (full disk, no permission, stop
/// request) all of them are removed, and the folders too that were made here. While it writes, a
/// marker names what it writes: what a killed run left is recognised by it and replaced; a folder
/// that holds anything else is refused. Throws Error, Stopped.
void write_synthetic(const std::filesystem::path& directory, const SyntheticOptions& options,
                     const StopFlag& stop, const SyntheticProgress& progress);

}  // namespace spillway
