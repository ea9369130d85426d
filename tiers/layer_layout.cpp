#include "tiers/layer_layout.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr uint64_t kPackedAlignment = 256;

struct Cutter {
  std::vector<Unit> units;
  uint64_t unit_bytes;

  void open(uint32_t layer) {
    units.emplace_back();
    units.back().layer = layer;
  }
  void add(uint32_t tensor, uint64_t first_row, uint64_t rows, uint64_t row_bytes) {
    units.back().parts.push_back({tensor, first_row, rows, 0});
    units.back().bytes += rows * row_bytes;
  }
  bool fits(uint64_t bytes) const {
    return units.back().parts.empty() || units.back().bytes + bytes <= unit_bytes;
  }
};

/// Tiles of nearly equal size, so that no unit is much smaller than the others.
uint64_t rows_per_tile(const TensorSpec& tensor, uint64_t unit_bytes) {
  if (tensor.tile_rows == 0) return tensor.rows;
  const uint64_t most = std::max<uint64_t>(
      align_down(unit_bytes / tensor.row_bytes, tensor.tile_rows), tensor.tile_rows);
  const uint64_t tiles = ceil_div(tensor.rows, most);
  return std::min(most, align_up(ceil_div(tensor.rows, tiles), tensor.tile_rows));
}

void cut_layer(Cutter& cutter, const LayerSpec& layer, uint32_t layer_index) {
  cutter.open(layer_index);
  for (uint32_t t = 0; t < layer.tensors.size(); ++t) {
    const TensorSpec& tensor = layer.tensors[t];
    CHECK(tensor.rows > 0 && tensor.row_bytes > 0);
    const uint64_t tile = tensor.bytes() <= cutter.unit_bytes
                              ? tensor.rows
                              : rows_per_tile(tensor, cutter.unit_bytes);
    for (uint64_t row = 0; row < tensor.rows; row += tile) {
      const uint64_t rows = std::min(tile, tensor.rows - row);
      if (!cutter.fits(rows * tensor.row_bytes)) cutter.open(layer_index);
      cutter.add(t, row, rows, tensor.row_bytes);
    }
  }
}

void lay_out(Unit& unit, const LayerSpec& layer, std::span<const FileShape> files,
             const CutOptions& options) {
  std::vector<FileRange> ranges;
  uint64_t in_place_bytes = 0;
  for (const Part& part : unit.parts) {
    const TensorSpec& tensor = layer.tensors[part.tensor];
    const uint64_t bytes = part.rows * tensor.row_bytes;
    const uint64_t alignment = files[tensor.file].alignment;
    ranges.push_back({tensor.file, tensor.offset + part.first_row * tensor.row_bytes, bytes});
    in_place_bytes += align_up(bytes, alignment) + alignment;
  }
  if (options.layout == BlobLayout::kInPlace) {
    unit.plan = plan_in_place(ranges, files, options.chunk_bytes);
    // The same for equal tensors wherever they lie, so that equal layers cost the same.
    unit.home_bytes = in_place_bytes;
  } else {
    unit.plan = plan_scattered(ranges, files, options.chunk_bytes, kPackedAlignment);
    unit.home_bytes = unit.plan.blob_bytes;
  }
  CHECK(unit.plan.blob_bytes <= unit.home_bytes);
  for (size_t i = 0; i < unit.parts.size(); ++i) {
    unit.parts[i].blob_offset = unit.plan.view_offsets[i];
  }
}

}  // namespace

uint64_t LayerSpec::bytes() const {
  return std::accumulate(tensors.begin(), tensors.end(), uint64_t{0},
                         [](uint64_t sum, const TensorSpec& t) { return sum + t.bytes(); });
}

std::vector<Unit> cut_units(std::span<const LayerSpec> layers, std::span<const FileShape> files,
                            const CutOptions& options) {
  // Files that ask for less are read at the alignment of the one that asks for most: places in a
  // blob, chunks and slabs have one grain.
  std::vector<FileShape> shapes(files.begin(), files.end());
  for (FileShape& shape : shapes) shape.alignment = plan_alignment(files);
  Cutter cutter{{}, options.unit_bytes};
  for (uint32_t i = 0; i < layers.size(); ++i) cut_layer(cutter, layers[i], i);
  for (Unit& unit : cutter.units) lay_out(unit, layers[unit.layer], shapes, options);
  return std::move(cutter.units);
}

}  // namespace spillway
