#include "io/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "core/error.h"
#include "core/one_line.h"
#include "core/units.h"

namespace spillway {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint64_t kPieceBytes = kMiB;
constexpr uint64_t kMaxNameBytes = 65535;  ///< the format's limit of keys
constexpr uint64_t kMaxKeys = 100'000;
constexpr uint64_t kMaxTensors = 1'000'000;
constexpr uint32_t kMaxDimensions = 4;
constexpr uint64_t kMaxGgufAlignment = kGiB;
// The least that one of each takes: lengths, a type and a value; a length, dimensions, type,
// offset.
constexpr uint64_t kMinKeyBytes = 8 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;

std::string_view name_of(GgufType type) {
  constexpr std::array<std::string_view, 13> kNames = {
      "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "text", "array", "u64", "i64", "f64"};
  return kNames.at(static_cast<size_t>(type));
}

/// What came before GGUF, as its files begin.
bool is_ggml(std::string_view magic) {
  return magic == "lmgg" || magic == "fmgg" || magic == "tjgg" || magic == "algg";
}

template <typename T>
T number_from(std::string_view bytes, size_t index) {
  T number{};
  std::memcpy(&number, bytes.data() + index * sizeof(T), sizeof(T));
  return number;
}

struct TensorType {
  uint32_t id;
  std::string_view name;
  uint32_t block_values;  ///< 0: the type was removed, and what it was is not said here
  uint32_t block_bytes;
};

/// Those that the engine does not compute with (core/weight_format.h has the others). Names and
/// sizes: https://github.com/ggml-org/ggml, ggml.h and ggml-common.h.
constexpr auto kOtherTypes = std::to_array<TensorType>({
    {4, "Q4_2", 0, 0},        {5, "Q4_3", 0, 0},        {9, "Q8_1", 32, 36},
    {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},   {31, "Q4_0_4_4", 0, 0},   {32, "Q4_0_4_8", 0, 0},
    {33, "Q4_0_8_8", 0, 0},   {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},
    {36, "IQ4_NL_4_4", 0, 0}, {37, "IQ4_NL_4_8", 0, 0}, {38, "IQ4_NL_8_8", 0, 0},
    {40, "NVFP4", 64, 36},    {41, "Q1_0", 128, 18},
});

/// The bytes of a header, in order, a piece of the file at a time.
class HeaderBytes {
 public:
  HeaderBytes(const GgufBytes& read, uint64_t file_bytes, const std::string& path)
      : read_(read), file_bytes_(file_bytes), path_(path) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return file_bytes_ - position_; }

  /// `what` is what a message calls them. The view holds until the next call.
  std::string_view take(uint64_t bytes, const std::string& what) {
    if (bytes > left()) {
      fail(fmt::format("the file ends at byte {} inside {}", file_bytes_, what));
    }
    if (bytes > kMaxHeaderBytes - position_) {
      fail(fmt::format("the header goes on past {} bytes, at {}", kMaxHeaderBytes, what));
    }
    if (position_ + bytes > piece_begin_ + piece_.size()) {
      piece_ = read_(position_, std::min(std::max(bytes, kPieceBytes), left()));
      piece_begin_ = position_;
      CHECK(piece_.size() >= bytes);
    }
    const auto taken = std::string_view(piece_).substr(position_ - piece_begin_, bytes);
    position_ += bytes;
    return taken;
  }
  template <typename T>
  T number(const std::string& what) {
    return number_from<T>(take(sizeof(T), what), 0);
  }
  /// The view holds until the next call.
  std::string_view text(const std::string& what) {
    const auto length = number<uint64_t>(what);
    if (length > left()) {
      fail(
          fmt::format("{} claims {} bytes of text but the file has {} more", what, length, left()));
    }
    return take(length, what);
  }
  std::string name(const std::string& what) {
    std::string result(text(what));
    if (result.empty()) fail(what + " is empty");
    if (result.size() > kMaxNameBytes) fail(fmt::format("{} has {} bytes", what, result.size()));
    return result;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(
        fmt::format("{}: {}; the file is damaged or incomplete: fetch it again", path_, what));
  }

 private:
  const GgufBytes& read_;
  uint64_t file_bytes_;
  const std::string& path_;
  std::string piece_;
  uint64_t piece_begin_ = 0;
  uint64_t position_ = 0;
};

class GgufParser {
 public:
  GgufParser(const GgufBytes& read, uint64_t file_bytes, const std::string& path)
      : bytes_(read, file_bytes, path), file_bytes_(file_bytes), path_(path) {
    header_.metadata = GgufMetadata(path);
    check_start();
    const uint64_t tensors = count("tensors", kMinTensorBytes, kMaxTensors);
    const uint64_t keys = count("keys", kMinKeyBytes, kMaxKeys);
    for (uint64_t i = 0; i < keys; ++i) read_key(i, keys);
    alignment_ = read_alignment();
    for (uint64_t i = 0; i < tensors; ++i) read_tensor(i, tensors);
    place_tensors();
    check_overlap();
  }
  GgufHeader take() { return std::move(header_); }

 private:
  [[noreturn]] void fail(const std::string& what) const { bytes_.fail(what); }
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(fmt::format("{}: {}", path_, what));
  }

  void check_start() {
    const std::string magic(bytes_.take(4, "the first four bytes"));
    if (magic == "vers") {  // "version https://git-lfs.github.com/spec/v1"
      refuse(
          "begins as a pointer of Git LFS does, not with \"GGUF\"; git lfs pull fetches the file");
    }
    if (!looks_like_gguf(magic)) {
      fail(fmt::format("begins with {}, not with \"GGUF\"", in_quotes(magic)));
    }
    if (is_ggml(magic)) refuse("a GGML file, from before GGUF; fetch the model as GGUF");
    const auto version = bytes_.number<uint32_t>("the version");
    if (magic != "GGUF" || (version != 0 && version % 65536 == 0)) {
      refuse("a GGUF file for big-endian machines; fetch the little-endian one");
    }
    if (version == 1) refuse("version 1 of GGUF is too old; fetch the model in version 2 or 3");
    if (version != 2 && version != 3) {
      refuse(fmt::format("version {} of GGUF is not known, only 2 and 3", version));
    }
  }

  uint64_t count(const char* what, uint64_t least_bytes, uint64_t most) {
    const auto result = bytes_.number<uint64_t>(fmt::format("the number of {}", what));
    if (result > bytes_.left() / least_bytes) {
      fail(fmt::format("claims {} {} but the file has {} more bytes", result, what, bytes_.left()));
    }
    if (result > most) {
      fail(fmt::format("claims {} {}, and more than {} are never there", result, what, most));
    }
    return result;
  }

  GgufType read_type(const std::string& key) {
    const auto type = bytes_.number<uint32_t>(key);
    if (type > static_cast<uint32_t>(GgufType::kF64)) {
      fail(fmt::format("{} has a value of type {}, which is not known", key, type));
    }
    return static_cast<GgufType>(type);
  }

  void read_key(uint64_t index, uint64_t keys) {
    const std::string name = bytes_.name(fmt::format("the name of key {} of {}", index + 1, keys));
    const std::string key = "key " + name;
    const GgufType type = read_type(key);
    if (!header_.metadata.set(name, read_value(key, type))) fail(key + " is there twice");
  }

  GgufMetadata::Value read_value(const std::string& key, GgufType type) {
    if (type == GgufType::kText) return std::string(bytes_.text(key));
    if (type == GgufType::kArray) return read_array(key);
    return {type, false, numbers(key, type, 1)};
  }

  GgufMetadata::Value read_array(const std::string& key) {
    const GgufType type = read_type(key);
    if (type == GgufType::kArray) {
      refuse(key + " is an array of arrays, which no known model has");
    }
    const auto length = bytes_.number<uint64_t>(key);
    const bool texts = type == GgufType::kText;
    if (length > bytes_.left() / (texts ? sizeof(uint64_t) : gguf_value_bytes(type))) {
      fail(fmt::format("{} claims {} values but the file has {} more bytes", key, length,
                       bytes_.left()));
    }
    if (!texts) return {type, true, numbers(key, type, length)};
    GgufTexts list;
    for (uint64_t i = 0; i < length; ++i) list.push_back(bytes_.text(key));
    return list;
  }

  std::string numbers(const std::string& key, GgufType type, uint64_t length) {
    std::string packed(bytes_.take(length * gguf_value_bytes(type), key));
    if (type == GgufType::kBool) {
      for (const char flag : packed) {
        if (flag != 0 && flag != 1) {
          fail(fmt::format("{} has a flag of {}, where 0 and 1 are known", key,
                           static_cast<uint8_t>(flag)));
        }
      }
    }
    return packed;
  }

  uint64_t read_alignment() const {
    const uint64_t alignment = header_.metadata.whole("general.alignment").value_or(kGgufAlignment);
    if (!std::has_single_bit(alignment) || alignment > kMaxGgufAlignment) {
      fail(fmt::format("key general.alignment is {}; expected a power of two up to {}", alignment,
                       kMaxGgufAlignment));
    }
    return alignment;
  }

  void read_tensor(uint64_t index, uint64_t tensors) {
    TensorEntry entry;
    entry.name = bytes_.name(fmt::format("the name of tensor {} of {}", index + 1, tensors));
    const std::string tensor = "tensor " + entry.name;
    if (!names_.insert(entry.name).second) fail(tensor + " is there twice");
    entry.shape = read_dimensions(tensor);
    set_format(tensor, bytes_.number<uint32_t>(tensor), entry);
    while (entry.shape.size() > 1 && entry.shape.back() == 1) entry.shape.pop_back();
    std::reverse(entry.shape.begin(), entry.shape.end());
    entry.offset = bytes_.number<uint64_t>(tensor);
    if (entry.offset % alignment_ != 0) {
      fail(fmt::format("{} begins at {}, no multiple of the alignment, {}", tensor, entry.offset,
                       alignment_));
    }
    header_.tensors.push_back(std::move(entry));
  }

  std::vector<uint64_t> read_dimensions(const std::string& tensor) {
    const auto dimensions = bytes_.number<uint32_t>(tensor);
    if (dimensions == 0 || dimensions > kMaxDimensions) {
      fail(fmt::format("{} has {} dimensions; expected 1 to {}", tensor, dimensions,
                       kMaxDimensions));
    }
    std::vector<uint64_t> shape;
    for (uint32_t i = 0; i < dimensions; ++i) {
      shape.push_back(bytes_.number<uint64_t>(tensor));
      if (shape.back() == 0) fail(tensor + " has a dimension of 0");
    }
    return shape;
  }

  TensorType type_of(const std::string& tensor, uint32_t id) const {
    for (const FormatTraits& traits : kFormats) {
      if (traits.gguf_id == id) return {id, traits.name, traits.block_values, traits.block_bytes};
    }
    const auto* other = std::find_if(kOtherTypes.begin(), kOtherTypes.end(),
                                     [id](const TensorType& type) { return type.id == id; });
    if (other == kOtherTypes.end()) {
      refuse(
          fmt::format("{} is of type {}, which is not known; fetch the model in a type such as "
                      "Q4_K_M or Q8_0",
                      tensor, id));
    }
    if (other->block_values == 0) {
      refuse(
          fmt::format("{} is of type {}, which was removed from GGUF; fetch the model in another "
                      "type, such as Q4_0 or Q4_K_M",
                      tensor, other->name));
    }
    return *other;
  }

  /// Type and bytes of an entry whose shape is `ne`, innermost first.
  void set_format(const std::string& tensor, uint32_t id, TensorEntry& entry) const {
    const TensorType type = type_of(tensor, id);
    entry.format_text = type.name;
    entry.format = parse_format(type.name);
    if (entry.shape.front() % type.block_values != 0) {
      fail(fmt::format("{} has rows of {} values, no multiple of {}'s {}", tensor,
                       entry.shape.front(), type.name, type.block_values));
    }
    entry.bytes = entry.shape.front() / type.block_values;
    bool overflow = __builtin_mul_overflow(entry.bytes, type.block_bytes, &entry.bytes);
    for (size_t i = 1; i < entry.shape.size(); ++i) {
      overflow |= __builtin_mul_overflow(entry.bytes, entry.shape[i], &entry.bytes);
    }
    if (overflow) fail(fmt::format("the product of the dimensions of {} overflows", tensor));
  }

  /// Offsets count from the data section; it begins where the header's end is aligned.
  void place_tensors() {
    const uint64_t begin = align_up(bytes_.position(), alignment_);
    for (TensorEntry& entry : header_.tensors) {
      uint64_t end = 0;
      bool overflow = __builtin_add_overflow(entry.offset, begin, &entry.offset);
      overflow |= __builtin_add_overflow(entry.offset, entry.bytes, &end);
      if (overflow || end > file_bytes_) {
        fail(fmt::format("tensor {} of {} bytes at {} lies beyond the file's {} bytes", entry.name,
                         entry.bytes, overflow ? "an offset" : fmt::to_string(entry.offset),
                         file_bytes_));
      }
    }
  }

  void check_overlap() {
    auto& tensors = header_.tensors;
    std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
      return std::tie(a.offset, a.name) < std::tie(b.offset, b.name);
    });
    for (size_t i = 1; i < tensors.size(); ++i) {
      if (tensors[i - 1].offset + tensors[i - 1].bytes > tensors[i].offset) {
        fail(fmt::format("tensor {} overlaps tensor {}", tensors[i].name, tensors[i - 1].name));
      }
    }
  }

  HeaderBytes bytes_;
  uint64_t file_bytes_;
  const std::string& path_;
  uint64_t alignment_ = kGgufAlignment;
  std::unordered_set<std::string> names_;
  GgufHeader header_;
};

}  // namespace

const GgufMetadata::Value* GgufMetadata::find(std::string_view key, bool array) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return nullptr;
  if (found->second.array != array) refuse(key, array ? "an array" : "a single value");
  return &found->second;
}

void GgufMetadata::refuse(std::string_view key, std::string_view expected) const {
  const Value& value = values_.find(key)->second;
  throw Error(fmt::format(
      "{}: key {} is of type {}{}; expected {}: the file was not converted as other programs read "
      "it, fetch another",
      path_, key, value.array ? "array of " : "", name_of(value.type), expected));
}

uint64_t gguf_value_bytes(GgufType type) {
  constexpr std::array<uint8_t, 13> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kBytes.at(static_cast<size_t>(type));
}

bool GgufMetadata::is_array(std::string_view key) const {
  const auto found = values_.find(key);
  return found != values_.end() && found->second.array;
}

size_t GgufMetadata::length(std::string_view key) const {
  const Value* value = find(key, true);
  if (value == nullptr) return 0;
  return value->type == GgufType::kText ? value->texts.size()
                                        : value->bytes.size() / gguf_value_bytes(value->type);
}

int64_t GgufMetadata::whole_at(std::string_view key, const Value& value, size_t index) const {
  switch (value.type) {
    case GgufType::kU8:
      return number_from<uint8_t>(value.bytes, index);
    case GgufType::kI8:
      return number_from<int8_t>(value.bytes, index);
    case GgufType::kU16:
      return number_from<uint16_t>(value.bytes, index);
    case GgufType::kI16:
      return number_from<int16_t>(value.bytes, index);
    case GgufType::kU32:
      return number_from<uint32_t>(value.bytes, index);
    case GgufType::kI32:
      return number_from<int32_t>(value.bytes, index);
    case GgufType::kI64:
      return number_from<int64_t>(value.bytes, index);
    case GgufType::kU64: {
      const auto number = number_from<uint64_t>(value.bytes, index);
      if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        throw Error(fmt::format("{}: key {} has {}, which is out of range", path_, key, number));
      }
      return static_cast<int64_t>(number);
    }
    case GgufType::kF32:
    case GgufType::kF64:
    case GgufType::kBool:
    case GgufType::kText:
    case GgufType::kArray:
      break;
  }
  refuse(key, value.array ? "whole numbers" : "a whole number");
}

double GgufMetadata::number_at(std::string_view key, const Value& value, size_t index) const {
  double number = 0;
  if (value.type == GgufType::kF32) {
    number = number_from<float>(value.bytes, index);
  } else if (value.type == GgufType::kF64) {
    number = number_from<double>(value.bytes, index);
  } else if (value.type == GgufType::kU64) {
    number = static_cast<double>(number_from<uint64_t>(value.bytes, index));
  } else if (value.type == GgufType::kBool || value.type == GgufType::kText) {
    refuse(key, value.array ? "numbers" : "a number");
  } else {
    return static_cast<double>(whole_at(key, value, index));
  }
  if (!std::isfinite(number)) {
    throw Error(fmt::format("{}: key {} has {}; expected finite numbers", path_, key, number));
  }
  return number;
}

std::optional<uint64_t> GgufMetadata::whole(std::string_view key) const {
  const Value* value = find(key, false);
  if (value == nullptr) return std::nullopt;
  if (value->type == GgufType::kU64) return number_from<uint64_t>(value->bytes, 0);
  const int64_t number = whole_at(key, *value, 0);
  if (number < 0) {
    throw Error(fmt::format("{}: key {} is {}; expected 0 or more", path_, key, number));
  }
  return static_cast<uint64_t>(number);
}

std::optional<double> GgufMetadata::number(std::string_view key) const {
  const Value* value = find(key, false);
  if (value == nullptr) return std::nullopt;
  return number_at(key, *value, 0);
}

std::optional<bool> GgufMetadata::flag(std::string_view key) const {
  const Value* value = find(key, false);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kBool) refuse(key, "a flag");
  return value->bytes.front() != 0;
}

std::optional<std::string> GgufMetadata::text(std::string_view key) const {
  const Value* value = find(key, false);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufType::kText) refuse(key, "a text");
  return value->bytes;
}

std::optional<std::vector<int64_t>> GgufMetadata::wholes(std::string_view key) const {
  const Value* value = find(key, true);
  if (value == nullptr) return std::nullopt;
  if (value->type == GgufType::kText) refuse(key, "whole numbers");
  std::vector<int64_t> result(length(key));
  for (size_t i = 0; i < result.size(); ++i) result[i] = whole_at(key, *value, i);
  return result;
}

std::optional<std::vector<double>> GgufMetadata::numbers(std::string_view key) const {
  const Value* value = find(key, true);
  if (value == nullptr) return std::nullopt;
  if (value->type == GgufType::kText) refuse(key, "numbers");
  std::vector<double> result(length(key));
  for (size_t i = 0; i < result.size(); ++i) result[i] = number_at(key, *value, i);
  return result;
}

const GgufTexts* GgufMetadata::texts(std::string_view key) const {
  const Value* value = find(key, true);
  if (value == nullptr) return nullptr;
  if (value->type != GgufType::kText) refuse(key, "texts");
  return &value->texts;
}

bool looks_like_gguf(std::string_view first_bytes) {
  const std::string_view magic = first_bytes.substr(0, 4);
  return magic == "GGUF" || magic == "FUGG" || is_ggml(magic);
}

GgufHeader read_gguf_header(const GgufBytes& read, uint64_t file_bytes, const std::string& path) {
  return GgufParser(read, file_bytes, path).take();
}

}  // namespace spillway
