// Numbers in a file, read front to back through a small buffer. Refers to its file. Not for several
// threads at once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/data_file.h"

namespace spillway {

/// How a token id is stored, little-endian.
enum class TokenType { kU16, kU32, kI32, kI64 };

uint32_t token_bytes(TokenType type);

class TokenArray {
 public:
  static constexpr uint64_t kBufferValues = uint64_t{64} << 10;

  /// `values` of `type` from byte `begin`, all of them within the file.
  TokenArray(const DataFile& file, uint64_t begin, TokenType type, uint64_t values,
             uint64_t buffer_values = kBufferValues);

  uint64_t values() const { return values_; }
  const std::string& name() const { return file_.name(); }

  /// Some values from `first` on, one at least, until the next call. `first` is below values().
  std::span<const int64_t> from(uint64_t first);

  /// Where value `index` lies in the file.
  uint64_t offset_of(uint64_t index) const { return begin_ + index * token_bytes(type_); }
  /// The value that begins at `offset`, values() at the end. Throws Error where none does.
  uint64_t index_at(uint64_t offset) const;

  uint64_t buffer_bytes() const { return raw_.capacity() + decoded_.capacity() * sizeof(int64_t); }

 private:
  void decode(uint64_t count);

  const DataFile& file_;
  uint64_t begin_;
  TokenType type_;
  uint64_t values_;
  std::string raw_;
  std::vector<int64_t> decoded_;
  uint64_t first_ = 0;  // of what is decoded
  uint64_t count_ = 0;
};

}  // namespace spillway
