#include "core/one_line.h"

#include <fmt/format.h>

namespace spillway {
namespace {

constexpr size_t kMaxBytes = 1600;
constexpr size_t kTailBytes = 400;  // what to do stands at the end

bool inside_character(std::string_view text, size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
}

}  // namespace

std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      line += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  if (line.size() <= kMaxBytes) return line;
  size_t head = kMaxBytes - kTailBytes;
  while (head > 0 && inside_character(line, head)) --head;
  size_t tail = line.size() - kTailBytes;
  while (inside_character(line, tail)) ++tail;
  return line.substr(0, head) + " ... " + line.substr(tail);
}

}  // namespace spillway
