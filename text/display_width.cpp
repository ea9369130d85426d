#include "text/display_width.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/unicode.h"

namespace spillway {
namespace {

constexpr std::string_view kCut = "…";

size_t columns_of(uint32_t code_point) {
  const int columns = utf8proc_charwidth(static_cast<utf8proc_int32_t>(code_point));
  return static_cast<size_t>(std::max(0, columns));
}

}  // namespace

size_t display_width(std::string_view text) {
  size_t columns = 0;
  for (size_t at = 0; at < text.size(); at += utf8_length(text, at)) {
    columns += columns_of(utf8_code_point(text, at));
  }
  return columns;
}

std::string cut_to_width(std::string_view text, size_t columns) {
  if (display_width(text) <= columns) return std::string(text);
  if (columns == 0) return "";
  size_t used = 1;  // the mark
  size_t at = 0;
  while (at < text.size()) {
    const size_t next = columns_of(utf8_code_point(text, at));
    if (used + next > columns) break;
    used += next;
    at += utf8_length(text, at);
  }
  return std::string(text.substr(0, at)).append(kCut);
}

}  // namespace spillway
