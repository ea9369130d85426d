#include "core/one_line.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <vector>

namespace spillway {
namespace {

constexpr size_t kMaxBytes = 1600;
constexpr size_t kTailBytes = 400;       // what to do stands at the end
constexpr size_t kMaxWordColumns = 160;  // two such names and what is said of them: 400
constexpr size_t kMaxValueColumns = 80;
constexpr std::string_view kCut = "\xE2\x80\xA6";  // …

struct Character {
  size_t bytes = 1;
  utf8proc_int32_t point = -1;  // -1: a byte that is not UTF-8
};

Character character_at(std::string_view text, size_t at) {
  Character result;
  const auto* data = reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at);
  const auto rest = static_cast<utf8proc_ssize_t>(std::min<size_t>(text.size() - at, 4));
  const utf8proc_ssize_t bytes = utf8proc_iterate(data, rest, &result.point);
  if (bytes > 0) {
    result.bytes = static_cast<size_t>(bytes);
  } else {
    result.point = -1;
  }
  return result;
}

/// Controls and formats, but for the two joiners that some scripts are written with.
bool shows_as_itself(utf8proc_int32_t point) {
  if (point == 0x200C || point == 0x200D) return true;
  switch (utf8proc_category(point)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

void append_escaped(std::string& line, std::string_view bytes, utf8proc_int32_t point) {
  if (point == '\n') {
    line += "\\n";
  } else if (point >= 0x10000) {
    line += fmt::format("\\U{:08x}", point);
  } else if (point >= 0x80) {
    line += fmt::format("\\u{:04x}", point);
  } else {
    for (const char c : bytes) line += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
}

size_t columns_of(utf8proc_int32_t point) {
  return point < 0 ? 1 : static_cast<size_t>(std::max(0, utf8proc_charwidth(point)));
}

bool inside_character(std::string_view text, size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
}

/// Names without an end make no message clearer.
std::string with_words_cut(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const size_t space = std::min(text.find(' ', at), text.size());
    result += cut_middle(text.substr(at, space - at), kMaxWordColumns);
    at = text.find_first_not_of(' ', space);
    if (at == std::string_view::npos) at = text.size();
    result += text.substr(space, at - space);
  }
  return result;
}

template <typename Shows>
std::string escaped_unless(std::string_view text, const Shows& shows) {
  std::string line;
  line.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    const std::string_view bytes = text.substr(at, c.bytes);
    if (c.point >= 0 && shows(c.point)) {
      line += bytes;
    } else {
      append_escaped(line, bytes, c.point);
    }
    at += c.bytes;
  }
  return line;
}

}  // namespace

std::string printable(std::string_view text) {
  return escaped_unless(text, shows_as_itself);
}

std::string harmless(std::string_view text) {
  return escaped_unless(text, [](utf8proc_int32_t point) {
    return point == '\n' || point == '\t' || utf8proc_category(point) != UTF8PROC_CATEGORY_CC;
  });
}

std::string one_line(std::string_view text) {
  std::string line = with_words_cut(printable(text));
  if (line.size() <= kMaxBytes) return line;
  size_t head = kMaxBytes - kTailBytes;
  while (head > 0 && inside_character(line, head)) --head;
  size_t tail = line.size() - kTailBytes;
  while (inside_character(line, tail)) ++tail;
  return fmt::format("{} ... {}", line.substr(0, head), line.substr(tail));
}

size_t display_width(std::string_view text) {
  size_t columns = 0;
  for (size_t at = 0; at < text.size();) {
    const Character c = character_at(text, at);
    columns += columns_of(c.point);
    at += c.bytes;
  }
  return columns;
}

std::string cut_middle(std::string_view text, size_t columns) {
  if (text.size() <= columns || display_width(text) <= columns) return std::string(text);
  const size_t kept = columns > 0 ? columns - 1 : 0;  // beside the …
  const size_t tail_columns = kept / 2;
  const size_t head_columns = kept - tail_columns;
  size_t head = 0;  // bytes
  for (size_t width = 0; head < text.size();) {
    const Character c = character_at(text, head);
    width += columns_of(c.point);
    if (width > head_columns) break;
    head += c.bytes;
  }
  size_t tail = text.size();
  for (size_t width = 0; tail > head;) {
    size_t before = tail - 1;
    while (before > head && inside_character(text, before)) --before;
    width += columns_of(character_at(text, before).point);
    if (width > tail_columns) break;
    tail = before;
  }
  return std::string(text.substr(0, head)) + std::string(kCut) + std::string(text.substr(tail));
}

std::string cut_to_width(std::string_view text, size_t columns) {
  if (display_width(text) <= columns) return std::string(text);
  if (columns == 0) return "";
  size_t used = 1;  // the mark
  size_t at = 0;
  while (at < text.size()) {
    const Character c = character_at(text, at);
    if (used + columns_of(c.point) > columns) break;
    used += columns_of(c.point);
    at += c.bytes;
  }
  return std::string(text.substr(0, at)) + std::string(kCut);
}

std::string in_quotes(std::string_view text) {
  // What is cut away need not be escaped first.
  constexpr size_t kEnough = 4096;
  if (text.size() > kEnough) {
    const std::string ends =
        printable(text.substr(0, kEnough / 2)) + printable(text.substr(text.size() - kEnough / 2));
    return fmt::format("\"{}\"", cut_middle(ends, kMaxValueColumns));
  }
  return fmt::format("\"{}\"", cut_middle(printable(text), kMaxValueColumns));
}

std::string first_few(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  std::string list;
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i) {
    list += (i > 0 ? ", " : "") + printable(names[i]);
  }
  if (names.size() > kShown) list += " and " + std::to_string(names.size() - kShown) + " more";
  return list;
}

}  // namespace spillway
