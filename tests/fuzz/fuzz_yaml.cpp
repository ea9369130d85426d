// The run configuration.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/config.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    spillway::parse_config(std::string(text), "fuzz.yaml", {});
  } catch (const spillway::Error&) {  // the only way out that bad input may take
  }
  return 0;
}
