// The header of a .npy file, as numpy.save writes it. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/token_array.h"

namespace spillway {

struct NpyHeader {
  TokenType type = TokenType::kU16;
  std::vector<uint64_t> shape;  ///< one or two dimensions
  uint64_t values_begin = 0;    ///< bytes before the first value
  uint64_t values = 0;          ///< of all dimensions together
};

/// As much of a file as a header is looked for in.
inline constexpr uint64_t kMaxNpyHeaderBytes = uint64_t{64} << 10;

/// Reads format 1.0, 2.0 or 3.0 of arrays in C order, of little-endian u16, u32, i32 or i64, with
/// one dimension or two. `start`: the file's first bytes, kMaxNpyHeaderBytes where it has so many.
/// Throws Error that begins with `name`, also when the values do not fill the file exactly.
NpyHeader parse_npy_header(std::string_view start, uint64_t file_bytes, const std::string& name);

}  // namespace spillway
