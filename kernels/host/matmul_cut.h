// How a matmul on the host is cut into tasks for its threads: plain numbers that come from its
// shape and the count of threads. No sum depends on them: a row of weights belongs to one task, and
// prompts are cut at rows that depend on the prompt alone. Pure; any thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "core/error.h"
#include "core/units.h"
#include "kernels/host/amx.h"
#include "kernels/ops.h"

namespace spillway {

/// Rows of a matrix whose tiles may lie apart. The tiles outlive it.
class TiledRows {
 public:
  /// All tiles but the last end at whole panels.
  explicit TiledRows(std::span<const WeightView> tiles) : tiles_(tiles) {
    CHECK(!tiles.empty());
    for (const WeightView& tile : tiles) {
      CHECK(tile.cols == tiles[0].cols && tile.format == tiles[0].format);
      CHECK(rows_ % kPanelRows == 0);
      rows_ += tile.rows;
    }
    CHECK(rows_ > 0);
  }
  uint32_t rows() const { return rows_; }
  uint32_t cols() const { return tiles_[0].cols; }
  WeightFormat format() const { return tiles_[0].format; }

  /// use(view, first) for what each tile has of `count` rows from `first` on, or of as many as
  /// there are: one view where they lie in a panel.
  template <typename Use>
  void each(uint32_t first, uint32_t count, const Use& use) const {
    const uint32_t end = std::min(rows_, first + count);
    uint32_t begin = 0;  // of the tile
    for (const WeightView& tile : tiles_) {
      const uint32_t from = std::max(first, begin);
      const uint32_t to = std::min(end, begin + tile.rows);
      if (from < to) {
        WeightView part = tile;
        part.data += (from - begin) * row_bytes(tile.format, tile.cols);
        part.rows = to - from;
        use(part, from);
      }
      begin += tile.rows;
      if (begin >= end) return;
    }
  }

 private:
  std::span<const WeightView> tiles_;
  uint32_t rows_ = 0;
};

/// Weight rows that one thread takes at a time in decode: so many that starting is nothing beside
/// them, and fewer where not every thread had its share.
inline uint32_t gemv_slice_rows(uint32_t weight_rows, uint32_t threads) {
  constexpr uint64_t kMost = 32;
  constexpr uint64_t kLeast = 8;  // what the kernels of blocks take at once
  constexpr uint64_t kSlicesPerThread = 2;
  const uint64_t share = weight_rows / (uint64_t{threads} * kSlicesPerThread);
  return static_cast<uint32_t>(std::clamp(align_down(share, kLeast), kLeast, kMost));
}

/// Slices of weight rows of a prompt's product on tiles (amx.h): each of groups that follow each
/// other, as many for one thread as for another, and small enough for a product. At least two
/// groups each, so that the input is not read for every few rows, unless threads would idle.
inline uint32_t amx_slices(uint32_t weight_rows, uint32_t threads) {
  const auto groups = static_cast<uint32_t>(ceil_div(weight_rows, kAmxGroupRows));
  const auto rounds =
      static_cast<uint32_t>(ceil_div(weight_rows, uint64_t{threads} * kAmxWeightRows));
  const uint32_t most = groups / 2 < threads ? groups : groups / 2;
  return std::clamp(most, 1u, threads * rounds);
}

}  // namespace spillway
