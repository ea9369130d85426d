// Writes a safetensors file whose shapes are known before its values: the header first, then rows
// as they come, in pieces, to one tensor and another. Nothing is held in memory; the file is absent
// until it is whole. The folder outlives it. One thread.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/stop.h"
#include "sinks/content_hash.h"
#include "sinks/manifest.h"
#include "sinks/partial_file.h"

namespace spillway {

enum class Element : uint8_t { kF32, kF16, kBF16, kI32, kU32, kI64 };

constexpr uint64_t element_bytes(Element element) {
  if (element == Element::kI64) return 8;
  return element == Element::kF16 || element == Element::kBF16 ? 2 : 4;
}

/// May values of this C++ type be those elements? 16-bit floats come as their bits.
template <typename T>
constexpr bool holds(Element element) {
  if (element == Element::kF32) return std::same_as<T, float>;
  if (element == Element::kI32) return std::same_as<T, int32_t>;
  if (element == Element::kU32) return std::same_as<T, uint32_t>;
  if (element == Element::kI64) return std::same_as<T, int64_t>;
  return std::same_as<T, uint16_t>;
}

struct TensorShape {
  std::string name;
  Element element = Element::kF32;
  std::vector<uint64_t> shape;

  uint64_t bytes() const;
  uint64_t row_bytes() const;  ///< of what the first dimension counts
};

class SafetensorsWriter {
 public:
  /// Tensors lie in the order given, those of larger elements first, so that each is aligned to its
  /// own. Takes the space of the whole file. Throws Error.
  SafetensorsWriter(const OutputFolder& folder, const std::string& name,
                    std::vector<TensorShape> tensors,
                    const std::map<std::string, std::string>& metadata);

  /// The next rows of a tensor, whole ones. Throws Error.
  template <typename T>
  void append(std::string_view tensor, std::span<const T> values) {
    append_bytes(tensor, holds<T>,
                 {reinterpret_cast<const char*>(values.data()), values.size_bytes()});
  }
  template <typename T>
  void append(std::string_view tensor, const std::vector<T>& values) {
    append(tensor, std::span<const T>(values));
  }
  /// All rows of all tensors are there: the file is on the drive under its name when this returns.
  /// Throws Error, Stopped; after a stop it may be called again.
  ShardRecord publish(const StopFlag& stop);
  const std::string& name() const { return file_.name(); }

 private:
  struct Place {
    TensorShape tensor;
    uint64_t begin = 0;  // from the start of the file
    uint64_t next = 0;
    uint64_t end = 0;
  };
  struct Layout {
    std::string head;
    std::vector<Place> places;
    uint64_t bytes = 0;
  };
  static Layout lay_out(std::vector<TensorShape> tensors,
                        const std::map<std::string, std::string>& metadata);
  SafetensorsWriter(const OutputFolder& folder, const std::string& name, Layout layout);
  Place& place_of(std::string_view tensor);
  void append_bytes(std::string_view tensor, bool (*fits)(Element), std::string_view bytes);
  void write(uint64_t offset, std::string_view bytes);
  void hash_rest(const StopFlag& stop);

  Layout layout_;
  PartialFile file_;
  ContentHash hash_;
  uint64_t hashed_ = 0;  // so many of the first bytes
};

}  // namespace spillway
