// Regular expressions as Oniguruma reads them, which tokenizer.json files are written for, run by
// PCRE2. What the two read differently is translated, or refused by name.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace spillway {

/// A pattern that is no regular expression, or one that is not supported.
class BadPattern : public Error {
 public:
  using Error::Error;
};

struct Match {
  size_t begin;
  size_t end;
};

/// The same pattern for PCRE2 (UTF, UCP, newline LF). Throws BadPattern.
std::string pcre2_pattern(std::string_view oniguruma);
/// Whether such a pattern looks at more of a character than which one it is. If not, the library's
/// version of Unicode does not matter.
bool asks_properties(std::string_view pcre2);

/// A compiled pattern. Move-only. After construction any number of threads may search: PCRE2 never
/// writes to compiled code, and every search has match data and, where it needs one, a stack of its
/// own.
class Regex {
 public:
  /// Throws BadPattern naming the pattern and the place of the mistake.
  explicit Regex(const std::string& oniguruma);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  /// Every match in turn, empty ones too, but none right behind another match. Throws Error when
  /// matching exceeds the library's limits.
  std::vector<Match> find_all(std::string_view text) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spillway
