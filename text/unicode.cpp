#include "text/unicode.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "text/unicode_tables.h"

namespace spillway {
namespace {

namespace tables = unicode_tables;

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
/// Stands for a character that normal forms leave alone: unassigned, so they leave it alone as
/// well.
constexpr utf8proc_int32_t kHidden = 0x10FFFF;

template <typename Range, size_t count>
const Range* find_range(const Range (&ranges)[count], uint32_t c) {
  const Range* found = std::upper_bound(
      ranges, ranges + count, c, [](uint32_t point, const Range& r) { return point < r.first; });
  return found != ranges && c <= (found - 1)->last ? found - 1 : nullptr;
}

template <typename Range, size_t count>
bool contains(const Range (&ranges)[count], uint32_t c) {
  return find_range(ranges, c) != nullptr;
}

utf8proc_ssize_t iterate(std::string_view text, size_t at, utf8proc_int32_t* code_point) {
  return utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                          static_cast<utf8proc_ssize_t>(text.size() - at), code_point);
}

/// What begins at `at`: a character, or the longest start of one, or a byte that starts none.
struct Sequence {
  size_t bytes;
  bool whole;
};

Sequence sequence_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return {1, true};
  if (first < 0xC2 || first > 0xF4) return {1, false};
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  // The second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  const unsigned low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i) {
    if (at + i >= text.size()) return {i, false};
    const bool fits =
        i == 1 ? byte(i) >= low && byte(i) <= high : byte(i) >= 0x80 && byte(i) <= 0xBF;
    if (!fits) return {i, false};
  }
  return {length, true};
}

void order_marks(std::vector<utf8proc_int32_t>& points) {
  const auto combining = [](utf8proc_int32_t c) {
    return c < 0x300 ? 0 : utf8proc_get_property(c)->combining_class;
  };
  for (size_t at = 0; at < points.size(); ++at) {
    if (combining(points[at]) == 0) continue;
    size_t end = at + 1;
    while (end < points.size() && combining(points[end]) != 0) ++end;
    std::stable_sort(points.begin() + static_cast<ptrdiff_t>(at),
                     points.begin() + static_cast<ptrdiff_t>(end),
                     [&](auto a, auto b) { return combining(a) < combining(b); });
    at = end;
  }
}

/// Takes the characters out that normal forms leave alone, and says which they were.
std::vector<utf8proc_int32_t> hide_never_normalized(std::vector<utf8proc_int32_t>& points) {
  std::vector<utf8proc_int32_t> hidden;
  for (utf8proc_int32_t& c : points) {
    if (c != kHidden && !contains(tables::kNeverNormalized, static_cast<uint32_t>(c))) continue;
    hidden.push_back(c);
    c = kHidden;
  }
  return hidden;
}

[[noreturn]] void throw_not_normalized() {
  throw Error(
      "the text cannot be brought into a normal form of Unicode; split it into shorter ones");
}

/// Bytes at the beginning that are UTF-8.
size_t valid_bytes(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Sequence next = sequence_at(text, at);
    if (!next.whole) break;
    at += next.bytes;
  }
  return at;
}

std::string encode(const std::vector<utf8proc_int32_t>& points) {
  std::string text;
  text.reserve(points.size());
  for (const utf8proc_int32_t c : points) append_utf8(text, static_cast<uint32_t>(c));
  return text;
}

}  // namespace

bool is_valid_utf8(std::string_view text) {
  return valid_bytes(text) == text.size();
}

void require_utf8(std::string_view text) {
  const size_t valid = valid_bytes(text);
  if (valid == text.size()) return;
  throw Error(fmt::format(
      "the text is not valid UTF-8: byte \\x{:02x} at {}; convert it first, such as with iconv -f "
      "LATIN1 -t UTF-8",
      static_cast<unsigned char>(text[valid]), valid));
}

size_t utf8_length(std::string_view text, size_t at) {
  const Sequence next = sequence_at(text, at);
  return next.whole ? next.bytes : 1;
}

uint32_t utf8_code_point(std::string_view text, size_t at) {
  if (static_cast<unsigned char>(text[at]) < 0x80) return static_cast<unsigned char>(text[at]);
  utf8proc_int32_t code_point = 0;
  return iterate(text, at, &code_point) <= 0 ? 0xFFFD : static_cast<uint32_t>(code_point);
}

size_t previous_character(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

void append_utf8(std::string& text, uint32_t code_point) {
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
    return;
  }
  utf8proc_uint8_t bytes[4];
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
}

std::string replace_malformed(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const Sequence next = sequence_at(text, at);
    result.append(next.whole ? text.substr(at, next.bytes) : kReplacement);
    at += next.bytes;
  }
  return result;
}

std::string replace_malformed_bytes(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const Sequence next = sequence_at(text, at);
    result.append(next.whole ? text.substr(at, next.bytes) : kReplacement);
    at += next.whole ? next.bytes : 1;
  }
  return result;
}

size_t incomplete_tail(std::string_view text) {
  for (size_t back = std::min<size_t>(3, text.size()); back > 0; --back) {
    const size_t at = text.size() - back;
    const auto first = static_cast<unsigned char>(text[at]);
    if (first < 0xC2 || first > 0xF4) continue;
    const Sequence next = sequence_at(text, at);
    if (!next.whole && next.bytes == back) return back;
  }
  return 0;
}

bool is_white_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_numeric(uint32_t c) {
  return c < 0x80 ? c >= '0' && c <= '9' : contains(tables::kNumeric, c);
}

bool is_punctuation(uint32_t c) {
  return contains(tables::kPunctuation, c);
}

bool is_word(uint32_t c) {
  return contains(tables::kWord, c);
}

uint32_t same_for_patterns(uint32_t c) {
  const auto* range = find_range(tables::kSameForPatterns, c);
  return range == nullptr ? c : static_cast<uint32_t>(range->same);
}

std::optional<std::string> same_for_patterns(std::string_view text) {
  std::optional<std::string> result;
  for (size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0xE0) {  // the shortest of them has three bytes
      ++at;
      continue;
    }
    const uint32_t c = utf8_code_point(text, at);
    const size_t bytes = byte < 0xF0 ? 3 : 4;
    const uint32_t same = same_for_patterns(c);
    if (same != c) {
      if (!result) result = std::string(text);
      std::string other;
      append_utf8(other, same);
      result->replace(at, bytes, other);
    }
    at += bytes;
  }
  return result;
}

std::span<const Substitute> pattern_substitutes() {
  return tables::kSameForPatterns;
}

std::string normalize(std::string_view text, NormalForm form) {
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  if (std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; })) {
    return std::string(text);  // ASCII is normal in every form
  }
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (size_t at = 0; at < text.size(); at += utf8_length(text, at)) {
    const uint32_t c = utf8_code_point(text, at);
    if (contains(tables::kNeverNormalized, c)) {
      points.push_back(static_cast<utf8proc_int32_t>(c));
      continue;
    }
    utf8proc_int32_t parts[32];  // the longest decomposition has 18
    int boundary = 0;
    const auto count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(utf8_code_point(text, at)), parts, 32, options, &boundary);
    if (count < 0 || count > 32) {
      throw_not_normalized();
    }
    points.insert(points.end(), parts, parts + count);
  }
  const auto hidden = hide_never_normalized(points);
  order_marks(points);
  if (compose) {
    const auto count = utf8proc_normalize_utf32(
        points.data(), static_cast<utf8proc_ssize_t>(points.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (count < 0) throw_not_normalized();
    points.resize(static_cast<size_t>(count));
  }
  auto next = hidden.begin();  // they neither move nor combine
  for (utf8proc_int32_t& c : points) {
    if (c == kHidden) c = *next++;
  }
  return encode(points);
}

std::string lowercase(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t at = 0; at < text.size(); at += utf8_length(text, at)) {
    const uint32_t c = utf8_code_point(text, at);
    if (c == 0x130) {
      result += "i\xCC\x87";  // the one character whose lower case is two
    } else if (const auto* other = find_range(tables::kLowercase, c)) {
      append_utf8(result, static_cast<uint32_t>(static_cast<int32_t>(c) + other->value));
    } else {
      append_utf8(result,
                  static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    }
  }
  return result;
}

std::string strip_marks(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = utf8_length(text, at);
    if (!contains(tables::kStrippedMarks, utf8_code_point(text, at))) {
      result.append(text.substr(at, bytes));
    }
    at += bytes;
  }
  return result;
}

}  // namespace spillway
