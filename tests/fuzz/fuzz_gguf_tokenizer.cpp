// A tokenizer from the metadata of a GGUF file: parsing, then a text through it and back.
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/error.h"
#include "io/gguf.h"
#include "text/gguf_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file(reinterpret_cast<const char*>(data), size);
  const spillway::GgufBytes read = [&](uint64_t offset, uint64_t bytes) {
    return file.substr(offset, bytes);
  };
  try {
    const auto header = spillway::read_gguf_header(read, file.size(), "fuzz");
    (void)spillway::gguf_end_tokens(header.metadata);
    const auto tokenizer = spillway::gguf_tokenizer(header.metadata);
    if (tokenizer == nullptr) return 0;
    const auto ids = tokenizer->encode_prompt("ab Hello w\u00f6rld  <s>\n 12 \u4f60\u597d\u2581");
    (void)tokenizer->decode(ids);
  } catch (const spillway::Error&) {  // the only way out that bad input may take
  }
  return 0;
}
