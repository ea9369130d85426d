#include "model/unit_cursor.h"

#include <algorithm>

#include "core/error.h"

namespace spillway {

UnitCursor::UnitCursor(Engine& engine, Stream& stream, const StreamPlan& plan,
                       const WeightMap& weights)
    : engine_(engine), stream_(stream), plan_(plan), weights_(weights) {
  for (uint32_t u = 0; u < plan.units.size(); ++u) {
    if (u == 0 || plan.units[u].layer != plan.units[u - 1].layer) first_units_.push_back(u);
  }
  size_t most = kMostTiles;  // of a layer; no group of tiles reaches into another
  for (size_t l = 0; l < first_units_.size(); ++l) {
    const size_t end = l + 1 < first_units_.size() ? first_units_[l + 1] : plan.units.size();
    most = std::max(most, end - first_units_[l]);
  }
  leases_.resize(most);
}

void UnitCursor::begin(uint32_t layer, bool keep) {
  const uint32_t first = first_units_[layer];
  if (leased_ == used_) leased_ = used_ = first;  // nothing is leased
  CHECK(used_ == first);
  unit_ = first;
  part_ = 0;
  keep_ = keep;
}

void UnitCursor::give_back() noexcept {
  for (LayerLease& lease : leases_) lease = LayerLease();
  leased_ = used_ = 0;
}

/// The tile the cursor is at, and its first row; `rows_left` of its tensor come after it.
std::pair<WeightView, uint32_t> UnitCursor::tile(uint64_t& rows_left) {
  if (unit_ == leased_) {
    lease(unit_) = engine_.acquire(unit_, stream_);
    ++leased_;
  }
  const Unit& unit = plan_.units[unit_];
  const Part& part = unit.parts[part_];
  const Weight& weight = weights_.weights[unit.layer][part.tensor];
  if (part.first_row == 0) rows_left = weight.spec.rows;
  CHECK(rows_left >= part.rows);
  rows_left -= part.rows;
  return {WeightView{lease(unit_).part(part_), weight.format, static_cast<uint32_t>(part.rows),
                     weight.spec.cols},
          static_cast<uint32_t>(part.first_row)};
}

/// Of a tensor that goes on: in the same unit, one that is leased, or one that may be now. `slots`:
/// taken by the group so far; the feeder needs some, too, to get on.
bool UnitCursor::next_at_hand(uint32_t& slots) const {
  if (part_ + 1 < plan_.units[unit_].parts.size() || unit_ + 1 < leased_) return true;
  if (!engine_.at_hand(unit_ + 1)) return false;
  if (engine_.in_place(unit_ + 1)) return true;
  return slots++ < plan_.placement.slots / 2;
}

void UnitCursor::advance() {
  if (++part_ < plan_.units[unit_].parts.size()) return;
  part_ = 0;
  ++unit_;
}

void UnitCursor::end_used() {
  if (keep_) return;
  for (; used_ < unit_; ++used_) lease(used_) = LayerLease();
}

}  // namespace spillway
