#include "kernels/host/top_k.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/ops.h"

namespace spillway {
namespace {

struct Entry {
  float value;
  uint32_t id;
};
bool before(const Entry& a, const Entry& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

/// A row's list, and what waits to be sorted into it: a move of the whole list per entry would be
/// slow where logits ascend.
class TopList {
 public:
  TopList(std::span<float> values, std::span<uint32_t> ids)
      : values_(values),
        ids_(ids),
        room_(std::clamp<size_t>(values.size(), kLeastWaiting, kMostWaiting)) {}

  bool full() const { return ids_.back() != UINT32_MAX; }
  float least() const { return values_.back(); }
  void add(float value, uint32_t id) {
    waiting_[count_++] = {value + 0.0f, id};  // -0 becomes 0
    if (count_ == room_) merge();
  }
  void merge() {
    if (count_ == 0) return;
    const auto end = waiting_.begin() + static_cast<ptrdiff_t>(count_);
    std::sort(waiting_.begin(), end, before);
    const size_t k = values_.size();
    size_t at = 0;
    while (at < k && before({values_[at], ids_[at]}, waiting_[0])) ++at;
    // From `at` on the list is merged anew, out of its old entries.
    std::copy(values_.begin() + static_cast<ptrdiff_t>(at), values_.end(), old_values_.begin());
    std::copy(ids_.begin() + static_cast<ptrdiff_t>(at), ids_.end(), old_ids_.begin());
    size_t old = 0;
    size_t next = 0;
    for (; at < k; ++at) {
      Entry entry{old_values_[old], old_ids_[old]};
      if (next < count_ && before(waiting_[next], entry)) {
        entry = waiting_[next++];
      } else {
        ++old;
      }
      values_[at] = entry.value;
      ids_[at] = entry.id;
    }
    count_ = 0;
  }

 private:
  static constexpr size_t kLeastWaiting = 16;
  static constexpr size_t kMostWaiting = 256;
  std::span<float> values_;
  std::span<uint32_t> ids_;
  size_t room_;
  size_t count_ = 0;
  std::array<Entry, kMostWaiting> waiting_;
  std::array<float, kMaxTopK> old_values_;
  std::array<uint32_t, kMaxTopK> old_ids_;
};

}  // namespace

void host_fold_top_k(const IsaKernels& isa, std::span<const float> logits, uint32_t first_id,
                     std::span<float> values, std::span<uint32_t> ids) {
  TopList list(values, ids);
  const auto id_at = [&](size_t i) { return first_id + static_cast<uint32_t>(i); };
  size_t i = 0;
  for (; i < logits.size() && !list.full(); ++i) {  // every number has a place
    if (!std::isnan(logits[i])) list.add(logits[i], id_at(i));
  }
  // Ids ascend: what equals the last of a full list comes after it.
  while (true) {
    i += isa.first_above(logits.data() + i, logits.size() - i, list.least());
    if (i == logits.size()) break;
    list.add(logits[i], id_at(i));
    ++i;
  }
  list.merge();
}

}  // namespace spillway
