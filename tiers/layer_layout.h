// How layers are cut into units, the pieces in which they stream, and what a unit costs.
//
// The engine does not know what a transformer is: a layer is an ordered list of named byte ranges,
// in the order in which the consumer uses them. Plain data from pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/read_plan.h"

namespace spillway {

/// A tensor in a checkpoint, as rows of equal size. Units may cut it between multiples of
/// `tile_rows`; 0 = never.
struct TensorSpec {
  std::string name;
  uint32_t file = 0;
  uint64_t offset = 0;
  uint64_t rows = 0;
  uint64_t row_bytes = 0;
  uint64_t tile_rows = 0;
  uint64_t bytes() const { return rows * row_bytes; }
};

struct LayerSpec {
  std::string name;
  std::vector<TensorSpec> tensors;
  uint64_t bytes() const;
};

/// Rows of one tensor inside a unit.
struct Part {
  uint32_t tensor = 0;
  uint64_t first_row = 0;
  uint64_t rows = 0;
  uint64_t blob_offset = 0;  ///< where the unit's blob holds it
};

/// The grain of streaming: small enough that a double buffer costs little, large enough that its
/// overhead vanishes. Belongs to one layer.
struct Unit {
  uint32_t layer = 0;
  std::vector<Part> parts;
  ReadPlan plan;
  uint64_t bytes = 0;       ///< payload
  uint64_t home_bytes = 0;  ///< room for the blob at any alignment of the payload in its file
};

/// Where blobs live decides their layout: in place on unified memory (the file's own extents),
/// packed at multiples of 256 bytes on a device of its own.
enum class BlobLayout { kInPlace, kPacked };

struct CutOptions {
  uint64_t unit_bytes = 0;
  uint64_t chunk_bytes = 0;
  BlobLayout layout = BlobLayout::kInPlace;
};

/// Cuts every layer, in schedule order. A unit exceeds unit_bytes only when tile_rows of a tensor
/// do.
std::vector<Unit> cut_units(std::span<const LayerSpec> layers, std::span<const FileShape> files,
                            const CutOptions& options);

}  // namespace spillway
