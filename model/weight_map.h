// Where a checkpoint has the tensors that a model needs, in the order of their use.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/weight_format.h"
#include "io/checkpoint.h"
#include "model/layer_program.h"
#include "model/model_config.h"
#include "tiers/layer_layout.h"

namespace spillway {

struct Weight {
  WeightSpec spec;
  WeightFormat format = WeightFormat::kF32;
};

struct FormatBytes {
  WeightFormat format = WeightFormat::kF32;
  uint64_t bytes = 0;
};

/// The model's layers over a checkpoint: decoder layers "0".. and "head". weights[l][t] describes
/// layers[l].tensors[t].
struct WeightMap {
  ModelProgram program;  ///< what uses them
  std::vector<LayerSpec> layers;
  std::vector<std::vector<Weight>> weights;
  LayerSpec embed;
  Weight embed_weight;
  bool tied = false;                ///< the head is the embedding table
  std::vector<std::string> unused;  ///< tensors of the checkpoint that the model does not need
  uint64_t weight_bytes = 0;        ///< all that the model needs, the tied table once

  /// What a pass walks: the layers and the head.
  uint64_t pass_bytes() const;
  /// What every matrix of the layers and the head is multiplied in; empty when they differ.
  std::optional<DType> matrix_dtype() const;
  /// What keys and values are kept in on a device: what most of the matrices' values are multiplied
  /// in.
  DType kv_dtype() const;
  /// Formats of the matrices that a pass walks and the bytes of each, the most first.
  std::vector<FormatBytes> matrix_formats() const;
};

/// Throws Error naming the tensor that is missing, or has the wrong shape or dtype. Names may lack
/// the "model." of the bare model. Where the embeddings are tied one of the two names will do; a
/// head that is stored beside them counts, as it does for transformers 5.
WeightMap map_weights(const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace spillway
