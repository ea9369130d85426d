// What a GGUF file says of a model: the keys that describe it, and the tensors that belong to no
// layer. The writing side; pure functions.
#pragma once

#include <string>
#include <vector>

#include "io/gguf_writer.h"
#include "model/matrix_type.h"
#include "model/model_config.h"

namespace spillway {

/// Sets general.* and the keys of the architecture. Throws Error where a file has no words for what
/// the model does.
void describe_model(const ModelConfig& config, const std::string& name, const MatrixType& type,
                    GgufMetadata& metadata);

/// Sets what of general.* says how the matrices are written.
void describe_type(const MatrixType& type, GgufMetadata& metadata);

/// A small F32 tensor with factors of rotation speeds (model/gguf_names.h); not all models have
/// one.
struct RopeFactors {
  std::string name;
  std::vector<float> values;
};
std::vector<RopeFactors> rope_factors(const ModelConfig& config);

/// Sets which of `parts` files, from 0, this is. The first has all other keys as well.
void describe_part(uint32_t part, uint32_t parts, size_t all_tensors, GgufMetadata& metadata);

/// A tensor as a file lists it.
GgufTensorSpec gguf_tensor(const ModelConfig& config, const WeightSpec& spec, WeightFormat format);

}  // namespace spillway
