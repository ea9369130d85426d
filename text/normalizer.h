// What a tokenizer does to text before it splits it. Immutable after the last add; any thread may
// apply.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"
#include "text/unicode.h"

namespace spillway {

/// A text on its way through the steps.
struct NormalText {
  std::string text;
  /// Bytes at its beginning that stem from the first character of what was given; 0 when that was
  /// removed. Metaspace asks for it.
  size_t from_first = 0;
};

class Normalizer {
 public:
  void add_form(NormalForm form);
  void add_lowercase();
  void add_strip(bool left, bool right);
  void add_strip_accents();
  void add_nmt();
  void add_byte_level();
  void add_prepend(std::string prefix);
  void add_replace(std::string from, std::string to);
  void add_replace(Regex from, std::string to);
  /// A SentencePiece table of characters. Throws Error when it is malformed.
  void add_precompiled(std::string_view table);

  bool empty() const { return steps_.empty(); }
  /// `at_start`: the text's first character is that of the whole text.
  NormalText apply(std::string_view text, bool at_start) const;

 private:
  using Step = std::function<void(NormalText&)>;
  void add_map(std::function<std::string(std::string_view)> map);
  std::vector<Step> steps_;
};

/// Every place of `from` in `text`, as a pattern would find them.
std::vector<Match> find_literal(std::string_view text, std::string_view from);

}  // namespace spillway
