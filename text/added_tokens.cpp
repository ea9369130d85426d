#include "text/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "text/unicode.h"

namespace spillway {
namespace {

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  return (begin == 0 || !is_word(utf8_code_point(text, previous_character(text, begin)))) &&
         (end == text.size() || !is_word(utf8_code_point(text, end)));
}

/// Not further than `least`: what stands before it is somebody else's.
size_t skip_spaces_left(std::string_view text, size_t at, size_t least) {
  while (at > least) {
    const size_t before = previous_character(text, at);
    if (!is_white_space(utf8_code_point(text, before))) break;
    at = before;
  }
  return at;
}

size_t skip_spaces_right(std::string_view text, size_t at) {
  while (at < text.size() && is_white_space(utf8_code_point(text, at))) at += utf8_length(text, at);
  return at;
}

}  // namespace

void TokenMatcher::add(std::string_view text, const AddedToken* token) {
  if (text.empty()) return;
  first_[static_cast<unsigned char>(text[0])] = true;
  uint32_t node = 0;
  for (const char byte : text) {
    const uint32_t* next = edges_.get(trie_edge(node, byte));
    if (next == nullptr) {
      edges_.set(trie_edge(node, byte), static_cast<uint32_t>(nodes_.size()));
      node = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
    } else {
      node = *next;
    }
  }
  if (nodes_[node].token == nullptr) nodes_[node].token = token;
}

TokenMatcher::Found TokenMatcher::longest_at(std::string_view text, size_t at) const {
  Found found;
  uint32_t node = 0;
  for (size_t end = at; end < text.size();) {
    const uint32_t* next = edges_.get(trie_edge(node, text[end]));
    if (next == nullptr) break;
    node = *next;
    ++end;
    if (nodes_[node].token != nullptr) found = {nodes_[node].token, end - at};
  }
  return found;
}

std::vector<TextPiece> TokenMatcher::split(std::string_view text) const {
  std::vector<TextPiece> pieces;
  size_t done = 0;
  size_t spaces_end = 0;  // of the white space that was last walked over
  for (size_t at = 0; at < text.size();) {
    if (!first_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const Found found = longest_at(text, at);
    if (found.token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at += found.bytes;
    if (found.token->single_word && !stands_alone(text, begin, end)) continue;
    if (found.token->left_strip) begin = std::max(done, skip_spaces_left(text, begin, done));
    if (found.token->right_strip) {  // of a run of spaces full of such tokens only once
      if (end >= spaces_end) spaces_end = skip_spaces_right(text, end);
      end = spaces_end;
    }
    if (begin > end) {
      throw Error(
          fmt::format("the added token \"{}\" lies in the spaces that the one before it takes; "
                      "the tokenizers library refuses such a text",
                      found.token->content));
    }
    if (done < begin) pieces.push_back({text.substr(done, begin - done), nullptr});
    // White space that the token before took may be a token all the same; one that strips on its
    // left as well finds nothing left of itself.
    if (begin < end) pieces.push_back({text.substr(begin, end - begin), found.token});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), nullptr});
  return pieces;
}

}  // namespace spillway
