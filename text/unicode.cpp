#include "text/unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "core/error.h"

namespace spillway {
namespace {

utf8proc_ssize_t iterate(std::string_view text, size_t at, utf8proc_int32_t* code_point) {
  return utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                          static_cast<utf8proc_ssize_t>(text.size() - at), code_point);
}

}  // namespace

bool is_valid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t code_point = 0;
    const auto bytes = iterate(text, at, &code_point);
    if (bytes <= 0) return false;
    at += static_cast<size_t>(bytes);
  }
  return true;
}

size_t utf8_length(std::string_view text, size_t at) {
  utf8proc_int32_t code_point = 0;
  const auto bytes = iterate(text, at, &code_point);
  return bytes <= 0 ? 1 : static_cast<size_t>(bytes);
}

uint32_t utf8_code_point(std::string_view text, size_t at) {
  utf8proc_int32_t code_point = 0;
  return iterate(text, at, &code_point) <= 0 ? 0xFFFD : static_cast<uint32_t>(code_point);
}

void append_utf8(std::string& text, uint32_t code_point) {
  utf8proc_uint8_t bytes[4];
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
}

std::string replace_malformed(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t code_point = 0;
    const auto bytes = iterate(text, at, &code_point);
    if (bytes <= 0) {
      result += "\xEF\xBF\xBD";
      ++at;
    } else {
      result.append(text.substr(at, static_cast<size_t>(bytes)));
      at += static_cast<size_t>(bytes);
    }
  }
  return result;
}

size_t incomplete_tail(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;  // a continuation: look further back for its start
    const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return length > back ? back : 0;
  }
  return 0;
}

std::string normalize(std::string_view text, NormalForm form) {
  int options = UTF8PROC_STABLE;
  options |=
      form == NormalForm::kNfc || form == NormalForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* mapped = nullptr;
  const auto bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                  static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                  static_cast<utf8proc_option_t>(options));
  if (bytes < 0) {
    std::free(mapped);
    throw Error(fmt::format("cannot normalize text: {}", utf8proc_errmsg(bytes)));
  }
  std::string result(reinterpret_cast<const char*>(mapped), static_cast<size_t>(bytes));
  std::free(mapped);
  return result;
}

struct Regex::Impl {
  pcre2_code* code = nullptr;
  ~Impl() { pcre2_code_free(code); }
};

Regex::Regex(const std::string& pattern) : impl_(std::make_unique<Impl>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (impl_->code == nullptr) {
    PCRE2_UCHAR message[160] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    throw BadPattern(fmt::format("the pattern \"{}\" is not a regular expression: {} at {}",
                                 pattern, reinterpret_cast<const char*>(message), offset));
  }
  pcre2_jit_compile(impl_->code, PCRE2_JIT_COMPLETE);  // optional: matching works without
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

std::vector<std::pair<size_t, size_t>> Regex::find_all(std::string_view text) const {
  std::vector<std::pair<size_t, size_t>> found;
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
      pcre2_match_data_create_from_pattern(impl_->code, nullptr), pcre2_match_data_free);
  PCRE2_SIZE at = 0;
  while (at <= text.size()) {
    const int result = pcre2_match(impl_->code, reinterpret_cast<PCRE2_SPTR>(text.data()),
                                   text.size(), at, PCRE2_NO_UTF_CHECK, data.get(), nullptr);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) throw Error(fmt::format("splitting text into words failed (PCRE2 {})", result));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    if (span[1] > span[0]) found.emplace_back(span[0], span[1]);
    at = span[1] > span[0] ? span[1]
                           : span[1] + (span[1] < text.size() ? utf8_length(text, span[1]) : 1);
  }
  return found;
}

}  // namespace spillway
