#include "data/windows.h"

#include <algorithm>

#include "core/error.h"

namespace spillway {

DocumentWindows::DocumentWindows(uint64_t tokens, uint64_t scored_from, uint32_t window,
                                 uint32_t stride)
    : tokens_(tokens), scored_(scored_from), begin_(0), window_(window), stride_(stride) {
  CHECK(window >= 2 && stride >= 1 && stride < window && scored_from >= 1);
  if (scored_ >= tokens_) return;
  if (tokens_ - scored_ <= stride_) {
    begin_ = tokens_ - std::min<uint64_t>(tokens_, window_);
  } else {
    begin_ = scored_ - std::min<uint64_t>(scored_, window_ - stride_);
  }
}

bool DocumentWindows::next(ScoreWindow& window) {
  if (scored_ >= tokens_) return false;
  window.begin = begin_;
  window.tokens = static_cast<uint32_t>(std::min<uint64_t>(window_, tokens_ - begin_));
  window.scored_from = static_cast<uint32_t>(scored_ - begin_);
  scored_ = begin_ + window.tokens;
  begin_ += stride_;
  return true;
}

std::vector<ScoreWindow> windows_of(uint64_t tokens, uint64_t scored_from, uint32_t window,
                                    uint32_t stride) {
  std::vector<ScoreWindow> windows;
  DocumentWindows source(tokens, scored_from, window, stride);
  for (ScoreWindow next; source.next(next);) windows.push_back(next);
  return windows;
}

}  // namespace spillway
