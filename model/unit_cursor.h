// Walks the units of a layer in order and shows each part of each tensor once; as often as wanted
// while their leases are kept. Owner of the leases. One thread: the model's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/ops.h"
#include "model/weight_map.h"
#include "tiers/engine.h"

namespace spillway {

/// All that it is given outlives it. Allocates nothing after its construction.
class UnitCursor {
 public:
  UnitCursor(Engine& engine, Stream& stream, const StreamPlan& plan, const WeightMap& weights);
  ~UnitCursor() { give_back(); }
  UnitCursor(const UnitCursor&) = delete;

  /// Goes to the first tensor of a layer. `keep`: leases outlive their use, for the next begin() of
  /// the same layer, whose units are then there; else each ends when its last part was used and
  /// what was shown with it. Layers follow each other as the engine feeds them.
  void begin(uint32_t layer, bool keep);
  /// Ends all leases: after a walk that was not finished.
  void give_back() noexcept;

  /// use(views of tiles, first row) for all of the next tensor: at once those that are at hand, up
  /// to `most`. The more there are, the better they are spread over threads.
  template <typename Use>
  void next_tiles(const Use& use, size_t most = kMostTiles) {
    uint64_t rows_left = 0;
    do {
      const auto [view, first_row] = tile(rows_left);
      tiles_[0] = view;
      size_t count = 1;
      for (uint32_t slots = 1; rows_left > 0 && count < most && next_at_hand(slots);) {
        advance();
        tiles_[count++] = tile(rows_left).first;
      }
      use(std::span<const WeightView>(tiles_.data(), count), first_row);
      advance();
      end_used();
    } while (rows_left > 0);
  }
  /// use(view, first row): the same tile by tile.
  template <typename Use>
  void next(const Use& use) {
    const auto use_first = [&](auto tiles, uint32_t first_row) { use(tiles[0], first_row); };
    next_tiles(use_first, 1);
  }
  /// A tensor that is never cut.
  template <typename Use>
  void whole(const Use& use) {
    next([&](const WeightView& view, uint32_t) { use(view); });
  }

 private:
  /// At 4 MiB each a matrix of 256 MiB.
  static constexpr size_t kMostTiles = 64;

  std::pair<WeightView, uint32_t> tile(uint64_t& rows_left);
  bool next_at_hand(uint32_t& slots) const;
  void advance();
  void end_used();
  LayerLease& lease(uint32_t unit) { return leases_[unit % leases_.size()]; }

  Engine& engine_;
  Stream& stream_;
  const StreamPlan& plan_;
  const WeightMap& weights_;
  std::vector<uint32_t> first_units_;  // of each layer
  std::vector<LayerLease> leases_;     // of the units from used_ to leased_, in a ring
  std::array<WeightView, kMostTiles> tiles_;
  uint32_t leased_ = 0;  // the first unit that was not leased yet
  uint32_t used_ = 0;    // the first whose lease has not ended
  uint32_t unit_ = 0;
  size_t part_ = 0;
  bool keep_ = false;
};

}  // namespace spillway
