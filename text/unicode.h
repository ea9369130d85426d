// UTF-8 and the Unicode operations that tokenizers ask for, over utf8proc. Functions without state:
// any thread may call them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace spillway {

/// U+2581: what SentencePiece writes for a space.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

bool is_valid_utf8(std::string_view text);
/// Throws Error that says where it is not.
void require_utf8(std::string_view text);
/// Bytes of the character that starts at `at` (1 where it is malformed).
size_t utf8_length(std::string_view text, size_t at);
void append_utf8(std::string& text, uint32_t code_point);
/// U+FFFD where it is malformed.
uint32_t utf8_code_point(std::string_view text, size_t at);
/// Start of the character that ends before `at`, which is not 0.
size_t previous_character(std::string_view text, size_t at);

/// Each broken sequence becomes one U+FFFD: the longest start of a character, or a lone byte.
std::string replace_malformed(std::string_view text);
/// Each broken byte becomes one U+FFFD.
std::string replace_malformed_bytes(std::string_view text);
/// Bytes at the end that may yet become a character.
size_t incomplete_tail(std::string_view text);

/// The property White_Space.
bool is_white_space(uint32_t code_point);
bool is_numeric(uint32_t code_point);
/// Punctuation, and the symbols of ASCII.
bool is_punctuation(uint32_t code_point);
/// Letters, marks, decimal digits, connectors and joiners.
bool is_word(uint32_t code_point);
/// A character that PCRE2's version of Unicode treats as Oniguruma's treats this one; itself
/// mostly.
uint32_t same_for_patterns(uint32_t code_point);
/// `text` with these; the same length. Nothing when it is the same text.
std::optional<std::string> same_for_patterns(std::string_view text);
/// Ranges of characters and what same_for_patterns gives for each.
struct Substitute {
  uint32_t first;
  uint32_t last;
  int32_t same;
};
std::span<const Substitute> pattern_substitutes();

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
/// Takes n log n in the longest run of combining marks, else linear time.
std::string normalize(std::string_view text, NormalForm form);
std::string lowercase(std::string_view text);
/// Without combining marks.
std::string strip_marks(std::string_view text);

}  // namespace spillway
