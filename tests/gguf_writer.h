// Builds GGUF files for tests: whole ones, and wrong ones by changing what this gives.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"

namespace spillway::test {

template <typename T>
std::string packed(T number) {
  return {reinterpret_cast<const char*>(&number), sizeof(number)};
}
/// A text as a header has it: its length, then its bytes.
inline std::string packed_text(std::string_view text) {
  return packed<uint64_t>(text.size()).append(text);
}

struct GgufTensor {
  std::string name;
  std::vector<uint64_t> ne;  ///< innermost first, as the file has it
  uint32_t type = 0;         ///< the format's number of it (FormatTraits::gguf_id)
  std::string data;
  std::optional<uint64_t> offset = std::nullopt;  ///< in place of the next aligned one

  /// The entry in a header, at `offset` of the data section.
  std::string info(uint64_t at) const {
    std::string text = packed_text(name) + packed<uint32_t>(static_cast<uint32_t>(ne.size()));
    for (const uint64_t size : ne) text += packed(size);
    return text + packed(type) + packed(offset.value_or(at));
  }
};

/// A key-value as a header has it.
inline std::string gguf_key(const std::string& key, const GgufMetadata::Value& value) {
  std::string text = packed_text(key);
  if (value.array) {
    text += packed(GgufType::kArray) + packed(value.type);
    if (value.type == GgufType::kText) {
      text += packed<uint64_t>(value.texts.size());
      for (size_t i = 0; i < value.texts.size(); ++i) text += packed_text(value.texts[i]);
      return text;
    }
    constexpr uint64_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 1, 1, 8, 8, 8};
    text += packed<uint64_t>(value.bytes.size() / kBytes[static_cast<size_t>(value.type)]);
    return text + value.bytes;
  }
  text += packed(value.type);
  return text + (value.type == GgufType::kText ? packed_text(value.bytes) : value.bytes);
}

struct GgufFile {
  std::vector<std::pair<std::string, GgufMetadata::Value>> metadata = {};
  std::vector<GgufTensor> tensors = {};
  uint64_t alignment = 32;  ///< what tensors are aligned to, whatever `metadata` says of it
  uint32_t version = 3;
  std::string magic = "GGUF";
  bool pad_end = true;
  std::optional<uint64_t> key_count = std::nullopt;  ///< in place of the right one
  std::optional<uint64_t> tensor_count = std::nullopt;

  std::string header() const {
    std::string text = magic + packed(version) +
                       packed(tensor_count.value_or(uint64_t{tensors.size()})) +
                       packed(key_count.value_or(uint64_t{metadata.size()}));
    for (const auto& [key, value] : metadata) text += gguf_key(key, value);
    uint64_t at = 0;
    for (const GgufTensor& tensor : tensors) {
      text += tensor.info(at);
      at = aligned(at + tensor.data.size());
    }
    return text;
  }
  std::string bytes() const {
    std::string text = header();
    if (tensors.empty()) return text;
    text.resize(aligned(text.size()));
    const size_t begin = text.size();
    for (size_t i = 0; i < tensors.size(); ++i) {
      text += tensors[i].data;
      if (pad_end || i + 1 < tensors.size()) text.resize(begin + aligned(text.size() - begin));
    }
    return text;
  }

 private:
  uint64_t aligned(uint64_t size) const { return (size + alignment - 1) / alignment * alignment; }
};

/// Reads the header of a file that is in memory, in pieces of any size.
inline GgufHeader read_gguf(const std::string& file, const std::string& path = "m.gguf") {
  const GgufBytes read = [&](uint64_t offset, uint64_t bytes) {
    return file.substr(offset, bytes);
  };
  return read_gguf_header(read, file.size(), path);
}

}  // namespace spillway::test
