#include "io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>

#include "core/error.h"
#include "core/one_line.h"
#include "io/json_strict.h"

namespace spillway {
namespace {

using Json = nlohmann::json;

/// Bits of every element type that the format defines.
std::optional<uint64_t> element_bits(const std::string& dtype) {
  static const std::map<std::string, uint64_t> kBits = {
      {"BOOL", 8},    {"U8", 8},   {"I8", 8},      {"F8_E5M2", 8}, {"F8_E4M3", 8},
      {"F8_E8M0", 8}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"I16", 16},
      {"U16", 16},    {"F16", 16}, {"BF16", 16},   {"I32", 32},    {"U32", 32},
      {"F32", 32},    {"C64", 64}, {"F64", 64},    {"I64", 64},    {"U64", 64}};
  const auto found = kBits.find(dtype);
  return found == kBits.end() ? std::nullopt : std::optional(found->second);
}

class HeaderParser {
 public:
  HeaderParser(std::string_view json, uint64_t file_bytes, const std::string& path)
      : path_(path), payload_begin_(8 + json.size()), file_bytes_(file_bytes) {
    CHECK(payload_begin_ <= file_bytes_);
    const Json header = parse_json_strict(json, path + " (header)");
    if (!header.is_object()) fail("", "the header is not a JSON object");
    for (const auto& [name, value] : header.items()) {
      if (name != "__metadata__") entries_.push_back(entry(name, value));
    }
    check_overlap();
    check_end();
  }
  std::vector<TensorEntry> take() { return std::move(entries_); }

 private:
  [[noreturn]] void fail(const std::string& tensor, const std::string& what) const {
    throw Error(fmt::format("{}{}: {}; the file is damaged or not safetensors: fetch it again",
                            path_, tensor.empty() ? "" : fmt::format(": tensor {}", tensor), what));
  }

  uint64_t natural(const std::string& name, const Json& value, const char* what) const {
    if (!value.is_number_unsigned()) fail(name, fmt::format("{} is not a whole number", what));
    return value.get<uint64_t>();
  }

  TensorEntry entry(const std::string& name, const Json& value) const {
    if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() ||
        !value.contains("shape") || !value["shape"].is_array() || !value.contains("data_offsets") ||
        !value["data_offsets"].is_array() || value["data_offsets"].size() != 2) {
      fail(name, "expected dtype, shape and two data_offsets");
    }
    TensorEntry result;
    result.name = name;
    result.format_text = value["dtype"].get<std::string>();
    if (const auto dtype = parse_dtype(result.format_text)) result.format = format_of(*dtype);
    const auto bits = element_bits(result.format_text);
    if (!bits) fail(name, "unknown dtype " + cut_middle(printable(result.format_text), 40));
    uint64_t total_bits = *bits;
    for (const Json& item : value["shape"]) {
      const uint64_t dimension = natural(name, item, "a dimension");
      result.shape.push_back(dimension);
      if (__builtin_mul_overflow(total_bits, dimension, &total_bits)) {
        fail(name, "the product of the shape overflows");
      }
    }
    const uint64_t begin = natural(name, value["data_offsets"][0], "an offset");
    const uint64_t end = natural(name, value["data_offsets"][1], "an offset");
    const uint64_t payload_bytes = file_bytes_ - payload_begin_;
    if (begin > end) fail(name, "its data_offsets run backwards");
    if (end > payload_bytes) {
      fail(name, fmt::format("its bytes end at {} but the file holds {} bytes of payload", end,
                             payload_bytes));
    }
    if (total_bits % 8 != 0 || end - begin != total_bits / 8) {
      fail(name, fmt::format("its shape needs {} bytes but data_offsets span {}", total_bits / 8,
                             end - begin));
    }
    result.offset = payload_begin_ + begin;
    result.bytes = end - begin;
    return result;
  }

  void check_overlap() {
    std::sort(entries_.begin(), entries_.end(), [](const TensorEntry& a, const TensorEntry& b) {
      return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
    });
    for (size_t i = 1; i < entries_.size(); ++i) {
      if (entries_[i - 1].offset + entries_[i - 1].bytes > entries_[i].offset) {
        fail(entries_[i].name, fmt::format("overlaps tensor {}", entries_[i - 1].name));
      }
    }
  }

  /// Bytes that belong to no tensor: a length that lies about the header moves every weight.
  void check_end() const {
    const uint64_t end =
        entries_.empty() ? payload_begin_ : entries_.back().offset + entries_.back().bytes;
    if (end != file_bytes_) {
      fail("", fmt::format("its tensors end at byte {} of {}", end, file_bytes_));
    }
  }

  const std::string& path_;
  uint64_t payload_begin_;
  uint64_t file_bytes_;
  std::vector<TensorEntry> entries_;
};

}  // namespace

uint64_t safetensors_header_bytes(std::string_view first_bytes, uint64_t file_bytes,
                                  const std::string& path) {
  static_assert(std::endian::native == std::endian::little);
  if (first_bytes.size() < 8 || file_bytes < 8) {
    throw Error(fmt::format("{}: {} bytes are too few for a safetensors file; fetch it again", path,
                            file_bytes));
  }
  uint64_t length = 0;
  std::memcpy(&length, first_bytes.data(), 8);
  if (length > kMaxHeaderBytes || length > file_bytes - 8) {
    throw Error(fmt::format(
        "{}: the header claims {} bytes but the file has {}; it is truncated or not safetensors: "
        "fetch it again",
        path, length, file_bytes));
  }
  return length;
}

std::vector<TensorEntry> parse_safetensors_header(std::string_view json, uint64_t file_bytes,
                                                  const std::string& path) {
  return HeaderParser(json, file_bytes, path).take();
}

}  // namespace spillway
