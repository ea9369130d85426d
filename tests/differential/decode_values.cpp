// Values of blocks for blocks.py: decode_values FORMAT < blocks > f32 numbers.
#include <cstdio>
#include <optional>
#include <vector>

#include "core/weight_format.h"

namespace spillway {
namespace {

std::vector<std::byte> read_all(std::FILE* in) {
  std::vector<std::byte> bytes;
  std::byte part[65536];
  while (const size_t count = std::fread(part, 1, sizeof(part), in)) {
    bytes.insert(bytes.end(), part, part + count);
  }
  return bytes;
}

int decode(std::string_view name) {
  const std::optional<WeightFormat> format = parse_format(name);
  const auto bytes = read_all(stdin);
  if (!format || bytes.size() % traits_of(*format).block_bytes != 0) {
    std::fputs("usage: decode_values FORMAT < whole blocks\n", stderr);
    return 2;
  }
  const FormatTraits& traits = traits_of(*format);
  std::vector<float> values(bytes.size() / traits.block_bytes * traits.block_values);
  decode_values(*format, bytes.data(), values.size(), values.data());
  const size_t written = std::fwrite(values.data(), sizeof(float), values.size(), stdout);
  return written == values.size() && std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) {
  return spillway::decode(argc == 2 ? argv[1] : "");
}
