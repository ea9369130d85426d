// The safetensors header: its length word and its JSON.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const uint64_t bytes = spillway::safetensors_header_bytes(text.substr(0, 8), size, "fuzz");
    spillway::parse_safetensors_header(text.substr(8, bytes), size, "fuzz");
  } catch (const spillway::Error&) {  // the only way out that bad input may take
  }
  return 0;
}
