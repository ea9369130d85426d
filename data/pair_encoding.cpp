#include "data/pair_encoding.h"

#include <algorithm>
#include <string>

#include "text/unicode.h"

namespace spillway {
namespace {

/// What Python's str.rstrip() takes away: more than Unicode's White_Space.
bool is_python_space(uint32_t code_point) {
  return is_white_space(code_point) || (code_point >= 0x1C && code_point <= 0x1F);
}

size_t bytes_without_trailing_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t begin = previous_character(text, end);
    if (!is_python_space(utf8_code_point(text, begin))) break;
    end = begin;
  }
  return end;
}

TokenPair encode_after_nothing(const Tokenizer& tokenizer, std::string_view continuation,
                               std::optional<uint32_t> prefix_token) {
  TokenPair pair{{}, tokenizer.encode(continuation)};
  if (!prefix_token.has_value()) return pair;
  pair.context = {*prefix_token};
  if (!pair.continuation.empty() && pair.continuation.front() == *prefix_token) {
    pair.continuation.erase(pair.continuation.begin());
  }
  return pair;
}

}  // namespace

TokenPair encode_pair(const Tokenizer& tokenizer, std::string_view context,
                      std::string_view continuation, std::optional<uint32_t> prefix_token) {
  require_utf8(context);
  require_utf8(continuation);
  if (context.empty()) return encode_after_nothing(tokenizer, continuation, prefix_token);
  std::string whole(context);
  whole += continuation;
  TokenPair pair;
  pair.context = tokenizer.encode_prompt(context.substr(0, bytes_without_trailing_space(context)));
  if (pair.context.empty()) return encode_after_nothing(tokenizer, whole, prefix_token);
  pair.continuation = tokenizer.encode_prompt(whole);
  pair.continuation.erase(
      pair.continuation.begin(),
      pair.continuation.begin() +
          static_cast<ptrdiff_t>(std::min(pair.context.size(), pair.continuation.size())));
  return pair;
}

}  // namespace spillway
