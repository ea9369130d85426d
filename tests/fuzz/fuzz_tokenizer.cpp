// tokenizer.json: parsing, then a text through it and back.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = spillway::parse_tokenizer_json(text, "fuzz", std::nullopt, "");
    const auto ids = tokenizer->encode_prompt("Hello w\u00f6rld  <s>\n 12 \u4f60\u597d");
    (void)tokenizer->decode(ids);
  } catch (const spillway::Error&) {  // the only way out that bad input may take
  }
  return 0;
}
