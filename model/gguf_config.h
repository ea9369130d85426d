// The architecture of a model, read from a GGUF file's metadata and the shapes of its tensors.
// Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml-org/llama.cpp,
// gguf-py/gguf/constants.py.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "model/model_config.h"

namespace spillway {

/// Of a checkpoint in GGUF. Reads one tensor of numbers where the rotation's factors are stored as
/// one. Throws Error with file, key and what was expected; unknown architectures are refused with
/// the list of supported ones.
ModelConfig gguf_model_config(const Checkpoint& checkpoint);

/// What a file means that does not say which layers slide, though it has a window: the flags, empty
/// where none does.
std::vector<bool> unlisted_windows(std::string_view gguf_architecture, uint32_t layers);
/// ... and that does not say what scores are multiplied by (ModelConfig::score_scale).
float usual_score_scale(const ModelConfig& config);

}  // namespace spillway
