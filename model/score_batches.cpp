#include "model/score_batches.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "data/windows.h"

namespace spillway {
namespace {

/// visit(window) for every window of a text, in order.
template <typename Visit>
void for_each_window(const TextShape& shape, const ScoreCut& cut, const Visit& visit) {
  DocumentWindows windows(shape.tokens, shape.scored_from, cut.window, cut.stride);
  ScoreWindow next;
  bool any = false;
  while (windows.next(next)) {
    any = true;
    visit(next);
  }
  if (any || !cut.feed_all || shape.tokens == 0) return;
  const uint64_t begin = shape.tokens - std::min<uint64_t>(shape.tokens, cut.window);
  const auto tokens = static_cast<uint32_t>(shape.tokens - begin);
  visit(ScoreWindow{begin, tokens, tokens});
}

}  // namespace

uint32_t ScoreBatch::rows() const {
  uint32_t rows = 0;
  for (const ScoreSlice& slice : slices) rows += slice.count;
  return rows;
}

TextCounts counts_of(const TextShape& shape, const ScoreCut& cut) {
  TextCounts counts;
  uint64_t end = 0;
  for_each_window(shape, cut, [&](const ScoreWindow& window) {
    const uint64_t window_end = window.begin + window.tokens;
    counts.fed += window_end - std::max(window.begin, end);
    counts.scored += window.tokens - window.scored_from;
    end = window_end;
  });
  return counts;
}

BatchPacker::BatchPacker(const ScoreCut& cut, Take take) : cut_(cut), take_(std::move(take)) {
  CHECK(cut.chunk >= 1 && cut.window >= 2 && cut.stride >= 1 && cut.stride < cut.window);
}

void BatchPacker::add(uint64_t text, const TextShape& shape) {
  uint64_t fed_end = 0;
  bool first = true;
  for_each_window(shape, cut_, [&](const ScoreWindow& window) {
    const uint32_t length = window.tokens;
    ScoreSlice slice{text,
                     window.begin,
                     window.begin,
                     length,
                     window.begin + window.scored_from,
                     std::max(window.begin, fed_end)};
    fed_end = window.begin + length;
    const bool begins_text = std::exchange(first, false);
    if (open_rows_ + length > cut_.chunk) flush();
    if (length <= cut_.chunk) {
      if (open_.slices.empty()) open_.begins_text = begins_text;
      open_.slices.push_back(slice);
      open_.kv_lengths.push_back(length);
      open_rows_ += length;
      return;
    }
    for (uint32_t at = 0; at < length; at += cut_.chunk) {
      slice.begin = window.begin + at;
      slice.count = std::min(cut_.chunk, length - at);
      take_(ScoreBatch{{slice}, {length}, begins_text && at == 0});
    }
  });
}

void BatchPacker::flush() {
  if (!open_.slices.empty()) take_(std::exchange(open_, {}));
  open_rows_ = 0;
}

std::vector<ScoreBatch> plan_scoring(std::span<const TextShape> texts, const ScoreCut& cut) {
  std::vector<ScoreBatch> batches;
  BatchPacker packer(cut, [&](ScoreBatch&& batch) { batches.push_back(std::move(batch)); });
  for (size_t text = 0; text < texts.size(); ++text) packer.add(text, texts[text]);
  packer.finish();
  return batches;
}

void SweepCounter::add(const ScoreBatch& batch) {
  const uint32_t rows = batch.rows();
  if (sweep_rows_ == 0 || !batch.goes_on()) end_window();
  ++batches_;
  ++in_window_;
  window_rows_ += rows;
  within_.push_back(rows);
  rows_within_ += rows;
  for (; rows_within_ > sweep_rows_ && within_.size() > 1; within_.pop_front()) {
    rows_within_ -= within_.front();
  }
  most_within_ = std::max(most_within_, static_cast<uint32_t>(within_.size()));
}

void SweepCounter::end_window() {
  if (in_window_ == 0) return;
  if (in_sweep_ == 0 || rows_ + window_rows_ > sweep_rows_) {
    ++sweeps_;
    rows_ = in_sweep_ = 0;
  }
  rows_ += std::exchange(window_rows_, 0);
  in_sweep_ += std::exchange(in_window_, 0);
  most_batches_ = std::max(most_batches_, in_sweep_);
}

std::vector<std::span<const ScoreBatch>> plan_sweeps(std::span<const ScoreBatch> batches,
                                                     uint32_t sweep_rows) {
  std::vector<std::span<const ScoreBatch>> sweeps;
  size_t first = 0;
  uint64_t rows = 0;  // of the sweep from `first` on
  for (size_t i = 0; i < batches.size();) {
    size_t end = i + 1;  // of the window that batch i ends with
    uint64_t more = batches[i].rows();
    for (; sweep_rows > 0 && end < batches.size() && batches[end].goes_on(); ++end) {
      more += batches[end].rows();
    }
    if (i > first && rows + more > sweep_rows) {
      sweeps.push_back(batches.subspan(first, i - first));
      first = i;
      rows = 0;
    }
    rows += more;
    i = end;
  }
  if (first < batches.size()) sweeps.push_back(batches.subspan(first));
  return sweeps;
}

}  // namespace spillway
