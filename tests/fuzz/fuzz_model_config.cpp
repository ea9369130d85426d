// config.json.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>
#include "core/error.h"

#include "io/json_strict.h"
#include "model/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto json = spillway::parse_json_strict(text, "fuzz");
    const auto config = spillway::parse_model_config(json, "fuzz");
    std::vector<float> frequencies(config.rotary_pairs());
    const uint32_t regime = spillway::rope_regime(config.rope_scaling, config.context);
    spillway::rope_inverse_frequencies(config.rope_scaling, config.rope_theta, regime, frequencies);
  } catch (const spillway::Error&) {  // the only way out that bad input may take
  }
  return 0;
}
