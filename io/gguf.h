// The header of a GGUF file, versions 2 and 3, little endian: typed key-values and where tensors
// lie. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "io/safetensors.h"

namespace spillway {

/// Of a value, as the format numbers them.
enum class GgufType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kText,
  kArray,
  kU64,
  kI64,
  kF64,
};

/// Of a number or flag; 0 for the others.
uint64_t gguf_value_bytes(GgufType type);

/// Of tensors, where `general.alignment` says nothing.
inline constexpr uint64_t kGgufAlignment = 32;

template <typename T>
  requires std::is_arithmetic_v<T>
constexpr GgufType gguf_type() {
  if constexpr (std::is_same_v<T, bool>) return GgufType::kBool;
  if constexpr (std::is_floating_point_v<T>) {
    return sizeof(T) == 4 ? GgufType::kF32 : GgufType::kF64;
  }
  constexpr GgufType kUnsigned = sizeof(T) == 1   ? GgufType::kU8
                                 : sizeof(T) == 2 ? GgufType::kU16
                                 : sizeof(T) == 4 ? GgufType::kU32
                                                  : GgufType::kU64;
  return std::is_unsigned_v<T> ? kUnsigned
                               : static_cast<GgufType>(static_cast<uint32_t>(kUnsigned) + 1);
}

/// Texts in one piece of memory, however short they are: files have hundreds of thousands.
class GgufTexts {
 public:
  GgufTexts() = default;
  GgufTexts(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) push_back(text);
  }
  size_t size() const { return ends_.size(); }
  bool empty() const { return ends_.empty(); }
  std::string_view operator[](size_t index) const {
    const uint32_t begin = index == 0 ? 0 : ends_[index - 1];
    return std::string_view(bytes_).substr(begin, ends_[index] - begin);
  }
  void push_back(std::string_view text) {
    bytes_ += text;
    CHECK(bytes_.size() <= UINT32_MAX);
    ends_.push_back(static_cast<uint32_t>(bytes_.size()));
  }
  bool operator==(const GgufTexts&) const = default;

 private:
  std::string bytes_;
  std::vector<uint32_t> ends_;
};

/// Key-values as a file has them. Plain data, immutable once read: any thread.
class GgufMetadata {
 public:
  /// A value, or an array of values of one type. Numbers stay packed as the file has them: an array
  /// takes no more memory than its bytes do.
  struct Value {
    template <typename T>
      requires std::is_arithmetic_v<T>
    Value(T number) : type(gguf_type<T>()) {
      append(number);
    }
    template <typename T>
      requires(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>)
    Value(const std::vector<T>& numbers) : type(gguf_type<T>()), array(true) {
      for (const T number : numbers) append(number);
    }
    Value(std::string text) : type(GgufType::kText), bytes(std::move(text)) {}
    Value(const char* text) : Value(std::string(text)) {}
    Value(const std::vector<std::string>& list) : Value(GgufTexts(list)) {}
    Value(GgufTexts list) : type(GgufType::kText), array(true), texts(std::move(list)) {}
    Value(GgufType of_type, bool is_list, std::string packed)
        : type(of_type), array(is_list), bytes(std::move(packed)) {}

    GgufType type;  ///< of the elements, where it is an array; never kArray
    bool array = false;
    std::string bytes;  ///< a text, or numbers and flags, packed
    GgufTexts texts;    ///< of an array of texts

   private:
    template <typename T>
    void append(T number) {
      bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
    }
  };
  using Values = std::map<std::string, Value, std::less<>>;

  explicit GgufMetadata(std::string path = "metadata") : path_(std::move(path)) {}

  /// Where the values come from, for messages.
  const std::string& path() const { return path_; }
  bool has(std::string_view key) const { return values_.contains(key); }
  bool is_array(std::string_view key) const;
  /// Of an array, before its numbers take eight bytes each; 0 where the key is missing.
  size_t length(std::string_view key) const;

  // Each: empty where the key is missing; Error naming file and key where it is of another kind or
  // out of range.
  std::optional<uint64_t> whole(std::string_view key) const;  ///< of any type of integer
  std::optional<double> number(std::string_view key) const;   ///< of any type of number; finite
  std::optional<bool> flag(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;
  std::optional<std::vector<int64_t>> wholes(std::string_view key) const;
  std::optional<std::vector<double>> numbers(std::string_view key) const;
  /// Null where the key is missing.
  const GgufTexts* texts(std::string_view key) const;

  const Values& values() const { return values_; }
  /// For readers, writers and tests; false, and nothing changes, where the key is there already.
  bool set(std::string key, Value value) {
    return values_.emplace(std::move(key), std::move(value)).second;
  }

  /// Frees the keys that begin so.
  void drop(std::string_view prefix) {
    std::erase_if(values_, [&](const auto& item) { return item.first.starts_with(prefix); });
  }

 private:
  const Value* find(std::string_view key, bool array) const;
  [[noreturn]] void refuse(std::string_view key, std::string_view expected) const;
  int64_t whole_at(std::string_view key, const Value& value, size_t index) const;
  double number_at(std::string_view key, const Value& value, size_t index) const;

  std::string path_;
  Values values_;
};

struct GgufHeader {
  GgufMetadata metadata;
  /// By offset, which counts from the start of the file. Shapes are outermost first ([rows, cols]:
  /// `ne` the other way round) and never begin with a 1 that could be left out.
  std::vector<TensorEntry> tensors;
};

/// Is this how a GGUF file begins, of any version and order of bytes, or one of GGML, its
/// forerunner?
bool looks_like_gguf(std::string_view first_bytes);

/// Gives exactly the bytes that were asked for; the parser asks for none beyond the file's end.
using GgufBytes = std::function<std::string(uint64_t offset, uint64_t bytes)>;

/// Parses and validates the header of a file of `file_bytes`: every count, length, type and place,
/// no name twice, no overlap, file long enough. Reads piece by piece and keeps nothing for which
/// the bytes were not there. Throws Error.
GgufHeader read_gguf_header(const GgufBytes& read, uint64_t file_bytes, const std::string& path);

}  // namespace spillway
