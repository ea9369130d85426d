// How a model computes, as data: for every kind of layer a list of steps with the tensors that each
// consumes. Who lists weights, walks a pass, sizes buffers or predicts times reads the same list; a
// new family is another list. Plain data and pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "model/model_config.h"

namespace spillway {

/// A tensor the architecture has, or rows of one; vectors have rows = 1.
struct WeightSpec {
  std::string name;
  uint32_t rows = 0;
  uint32_t cols = 0;
  bool vector = false;       ///< stored with one dimension
  uint32_t first_row = 0;    ///< of the stored tensor, where this is a part of it
  uint32_t stored_rows = 0;  ///< of all of that; 0 = this is no part
};

/// Activations of a pass, [rows, width] each. The result is what a block adds to x; it also holds
/// normed inputs.
enum class Buffer : uint8_t { kResult, kQuery, kKey, kValue, kAttended, kGate, kUp };
inline constexpr size_t kBuffers = 7;

enum class Operation : uint8_t {
  kNormInput,   ///< x += the result, where the step before left one; the input becomes norm(x)
  kLinear,      ///< buffer = input · weight, + bias
  kNorm,        ///< buffer = norm(buffer), row by row of the weight's width: heads, or all of it
  kRopeAppend,  ///< query and key turn; key and value go to the cache
  kAttention,   ///< buffer = what the query sees; it becomes the input
  kGate,        ///< the input becomes activation(gate) * up
};

struct Step {
  Operation operation = Operation::kLinear;
  Buffer buffer = Buffer::kResult;  ///< what it writes, or changes
  uint32_t width = 0;               ///< of the buffer
  std::vector<WeightSpec> tensors;  ///< in the order of their use; names lack the layer's prefix
};

/// One kind of layer.
struct LayerProgram {
  std::vector<Step> steps;
  uint32_t window = kNoWindow;
  bool local_rope = false;  ///< turns by the model's local base
};

struct ModelProgram {
  std::vector<LayerProgram> kinds;
  std::vector<uint32_t> kind_of;  ///< one per layer
  const LayerProgram& layer(uint32_t index) const { return kinds[kind_of[index]]; }
};

ModelProgram model_program(const ModelConfig& config);

/// Tensors of decoder layer `index`, and of the head, in the order of their use.
std::vector<WeightSpec> decoder_weights(const ModelProgram& program, uint32_t index);
std::vector<WeightSpec> decoder_weights(const ModelConfig& config, uint32_t index);
std::vector<WeightSpec> head_weights(const ModelConfig& config);
WeightSpec embedding_weight(const ModelConfig& config);
/// What a checkpoint stores, each tensor once: the embedding table, the layers, the head.
std::vector<WeightSpec> model_weights(const ModelConfig& config);

/// Where buffers of `rows` rows lie in memory that the layers share: those whose values are not
/// needed at the same time may lie in the same place. The result outlives layers and is none of
/// them.
struct BufferPlaces {
  std::array<uint64_t, kBuffers> offsets{};  ///< in bytes
  uint64_t bytes = 0;
};
BufferPlaces place_buffers(const ModelProgram& program, uint64_t rows, uint64_t alignment);

}  // namespace spillway
