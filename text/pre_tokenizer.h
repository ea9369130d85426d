// How a tokenizer splits normalized text into words. Immutable after the last add; any thread may
// apply.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"

namespace spillway {

/// What becomes of the text between words, and of matches.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

/// Words as places in a text that the steps may rewrite.
struct Words {
  std::string text;
  std::vector<Match> words;
  /// The first word begins with the first character of the whole text.
  bool at_start = false;
};

class PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };

  void add_split(Regex pattern, SplitBehavior behavior, bool invert);
  void add_split(std::string literal, SplitBehavior behavior, bool invert);
  void add_digits(bool individual);
  void add_punctuation(SplitBehavior behavior);
  void add_whitespace();
  void add_whitespace_split();
  void add_metaspace(std::string mark, Prepend prepend, bool split);
  /// Without the mapping of bytes, which add_byte_level_text() does.
  void add_byte_level(bool prefix_space, bool split);
  void add_byte_level_text();

  bool empty() const { return steps_.empty(); }
  void apply(Words& words) const;

 private:
  using Step = std::function<void(Words&)>;
  using Find = std::function<void(std::string_view, std::vector<Match>&)>;
  void add_finder(Find find, SplitBehavior behavior, bool invert);
  std::vector<Step> steps_;
};

}  // namespace spillway
