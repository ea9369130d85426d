// The header of a GGUF file, and what is asked of its metadata.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"
#include "io/gguf_files.h"

namespace {

using spillway::Error;
using spillway::GgufHeader;

/// Every value in every way; those of other kinds are refused.
void ask_for_all(const spillway::GgufMetadata& data) {
  for (const auto& [key, value] : data.values()) {
    const auto ask = [&](const auto& get) {
      try {
        get(key);
      } catch (const Error&) {
      }
    };
    ask([&](const std::string& k) { data.whole(k); });
    ask([&](const std::string& k) { data.number(k); });
    ask([&](const std::string& k) { data.flag(k); });
    ask([&](const std::string& k) { data.text(k); });
    ask([&](const std::string& k) { data.wholes(k); });
    ask([&](const std::string& k) { data.numbers(k); });
    ask([&](const std::string& k) { data.texts(k); });
    ask([&](const std::string& k) { (void)data.length(k); });
  }
}

/// Tensors lie in the file, in order, beside each other, and are as large as their shapes say.
void check_places(const GgufHeader& header, uint64_t file_bytes) {
  uint64_t end = 0;
  for (const spillway::TensorEntry& entry : header.tensors) {
    if (entry.offset < end || entry.bytes == 0 || entry.bytes > file_bytes - entry.offset) abort();
    end = entry.offset + entry.bytes;
    if (!entry.format) continue;
    uint64_t bytes = spillway::row_bytes(*entry.format, entry.shape.back());
    for (size_t i = 0; i + 1 < entry.shape.size(); ++i) bytes *= entry.shape[i];
    if (bytes != entry.bytes) abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto read = [&](uint64_t offset, uint64_t bytes) {
    if (offset > size || bytes > size - offset) abort();
    return std::string(file.substr(offset, bytes));
  };
  try {
    const GgufHeader header = spillway::read_gguf_header(read, size, "fuzz");
    check_places(header, size);
    ask_for_all(header.metadata);
    spillway::check_gguf_start("m-00001-of-00003.gguf", header.metadata);
  } catch (const Error&) {  // the only way out that bad input may take
  }
  return 0;
}
