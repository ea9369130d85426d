// A document longer than a model's window, cut into windows that overlap. Pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

namespace spillway {

/// Tokens of a document that start with an empty cache.
struct ScoreWindow {
  uint64_t begin = 0;  ///< in the document
  uint32_t tokens = 0;
  uint32_t scored_from = 0;  ///< in the window: the first token that this window scores, 1 at least
  bool operator==(const ScoreWindow&) const = default;
};

/// One window after the other; together they score every token of a document from `scored_from` on
/// exactly once. A few words of memory, however many there are.
///
/// A window scores `stride` tokens more than the ones before it, so that each scored token has at
/// least `window - stride` tokens before it in its window, or all there are. With a stride of
/// `window - 1` windows overlap by one token, as those of plan_scoring() do. Where no
/// more than `stride` tokens are left to score, they lie in one window, and before them as many
/// others as there is room for, which is what lm-evaluation-harness keeps of a long request (of
/// which it keeps one token more than the context, since it does not feed the last one; `window`
/// may be that). Of a rolling text it moves the last window back until it is full; here it begins a
/// stride after the one before, as all do.
class DocumentWindows {
 public:
  /// `window` is at least 2, `stride` from 1 to `window - 1`, `scored_from` at least 1.
  DocumentWindows(uint64_t tokens, uint64_t scored_from, uint32_t window, uint32_t stride);
  DocumentWindows(uint64_t tokens, uint64_t scored_from, uint32_t window)
      : DocumentWindows(tokens, scored_from, window, window - 1) {}

  /// False when all is scored; at once where a document has nothing to score.
  bool next(ScoreWindow& window);

 private:
  uint64_t tokens_;
  uint64_t scored_;  // the first token that no window has scored yet
  uint64_t begin_;
  uint32_t window_;
  uint32_t stride_;
};

/// All of them.
std::vector<ScoreWindow> windows_of(uint64_t tokens, uint64_t scored_from, uint32_t window,
                                    uint32_t stride);

}  // namespace spillway
