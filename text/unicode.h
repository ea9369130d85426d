// UTF-8 helpers over utf8proc and PCRE2.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"

namespace spillway {

bool is_valid_utf8(std::string_view text);
/// Bytes of the character that starts at `at` (1 where it is malformed).
size_t utf8_length(std::string_view text, size_t at);
void append_utf8(std::string& text, uint32_t code_point);
uint32_t utf8_code_point(std::string_view text, size_t at);
/// Malformed bytes become U+FFFD, as decoders do.
std::string replace_malformed(std::string_view text);
/// Bytes at the end that are the start of a character not yet whole.
size_t incomplete_tail(std::string_view text);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalize(std::string_view text, NormalForm form);

/// A pattern that does not compile, or a text it cannot be matched on.
class BadPattern : public Error {
 public:
  using Error::Error;
};

/// A compiled pattern over UTF-8 with Unicode classes. Move-only, thread-safe to search.
class Regex {
 public:
  /// Throws BadPattern naming the pattern and the place of the mistake.
  explicit Regex(const std::string& pattern);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  /// [begin, end) of every match in turn. Throws Error when matching exceeds the library's limits.
  std::vector<std::pair<size_t, size_t>> find_all(std::string_view text) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spillway
