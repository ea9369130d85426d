// Tokens that are cut out of a text before anything else looks at it ("<|eot_id|>").
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/flat_map.h"

namespace spillway {

/// With Hugging Face's flags.
struct AddedToken {
  std::string content;
  uint32_t id = 0;
  bool special = false;
  bool normalized = false;  ///< matched, itself normalized, in normalized text
  bool left_strip = false;
  bool right_strip = false;
  bool single_word = false;
  bool operator==(const AddedToken&) const = default;
};

/// A piece of text: a token, or what lies between two.
struct TextPiece {
  std::string_view text;
  const AddedToken* token = nullptr;  ///< set: this piece is the token
};

/// Finds the leftmost of several texts, the longest of those. Immutable after the last add.
class TokenMatcher {
 public:
  /// The first of equal texts wins. `token` must outlive the matcher.
  void add(std::string_view text, const AddedToken* token);
  /// The pieces of `text` in order. A token that strips takes white space beside it.
  std::vector<TextPiece> split(std::string_view text) const;

 private:
  struct Node {
    const AddedToken* token = nullptr;
  };
  struct Found {
    const AddedToken* token = nullptr;
    size_t bytes = 0;
  };
  Found longest_at(std::string_view text, size_t at) const;
  std::vector<Node> nodes_{1};
  FlatMap<uint32_t> edges_;  // node and byte to node
  bool first_[256] = {};
};

}  // namespace spillway
