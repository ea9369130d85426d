#include "text/byte_level.h"

#include <array>

#include "text/unicode.h"

namespace spillway {
namespace {

constexpr std::array<uint32_t, 256> make_alphabet() {
  std::array<uint32_t, 256> alphabet{};
  uint32_t next = 256;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable =
        (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
    alphabet[b] = printable ? b : next++;
  }
  return alphabet;
}

constexpr std::array<uint32_t, 256> kAlphabet = make_alphabet();
constexpr size_t kEnd = 256 + 68;  // 68 bytes are not printable

constexpr std::array<int16_t, kEnd> make_bytes() {
  std::array<int16_t, kEnd> bytes{};
  bytes.fill(-1);
  for (size_t b = 0; b < 256; ++b) bytes[kAlphabet[b]] = static_cast<int16_t>(b);
  return bytes;
}

constexpr std::array<int16_t, kEnd> kBytes = make_bytes();

}  // namespace

std::string byte_level_text(std::string_view bytes) {
  std::string text;
  text.reserve(2 * bytes.size());
  for (const char c : bytes) append_utf8(text, kAlphabet[static_cast<unsigned char>(c)]);
  return text;
}

int byte_of_character(uint32_t code_point) {
  return code_point < kEnd ? kBytes[code_point] : -1;
}

}  // namespace spillway
