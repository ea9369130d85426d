#include "data/token_array.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/error.h"

namespace spillway {
namespace {

static_assert(std::endian::native == std::endian::little);

template <typename Stored>
void widen(const char* raw, std::span<int64_t> values) {
  for (int64_t& value : values) {
    Stored stored;
    std::memcpy(&stored, raw, sizeof(stored));
    value = static_cast<int64_t>(stored);
    raw += sizeof(stored);
  }
}

}  // namespace

uint32_t token_bytes(TokenType type) {
  switch (type) {
    case TokenType::kU16:
      return 2;
    case TokenType::kU32:
    case TokenType::kI32:
      return 4;
    case TokenType::kI64:
      return 8;
  }
  CHECK(false);
}

TokenArray::TokenArray(const DataFile& file, uint64_t begin, TokenType type, uint64_t values,
                       uint64_t buffer_values)
    : file_(file),
      begin_(begin),
      type_(type),
      values_(values),
      raw_(buffer_values * token_bytes(type), '\0'),
      decoded_(buffer_values) {
  CHECK(buffer_values > 0 && offset_of(values) <= file.bytes());
}

void TokenArray::decode(uint64_t count) {
  const std::span<int64_t> values(decoded_.data(), count);
  switch (type_) {
    case TokenType::kU16:
      return widen<uint16_t>(raw_.data(), values);
    case TokenType::kU32:
      return widen<uint32_t>(raw_.data(), values);
    case TokenType::kI32:
      return widen<int32_t>(raw_.data(), values);
    case TokenType::kI64:
      return widen<int64_t>(raw_.data(), values);
  }
}

std::span<const int64_t> TokenArray::from(uint64_t first) {
  CHECK(first < values_);
  if (first < first_ || first >= first_ + count_) {
    count_ = 0;  // nothing, should the read fail
    const uint64_t count = std::min<uint64_t>(decoded_.size(), values_ - first);
    file_.read(offset_of(first), std::span(raw_).first(count * token_bytes(type_)));
    decode(count);
    first_ = first;
    count_ = count;
  }
  return std::span<const int64_t>(decoded_).subspan(first - first_, count_ - (first - first_));
}

uint64_t TokenArray::index_at(uint64_t offset) const {
  if (offset < begin_ || offset > offset_of(values_) ||
      (offset - begin_) % token_bytes(type_) != 0) {
    throw Error(
        fmt::format("{}: no token begins at byte {}, where the job would go on; the file is "
                    "not the one it began with: start again",
                    name(), offset));
  }
  return (offset - begin_) / token_bytes(type_);
}

}  // namespace spillway
