// Byte sizes: constants, rounding, parsing "3GiB", printing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace spillway {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;
inline constexpr uint64_t kHugePageBytes = 2 * kMiB;

constexpr uint64_t align_down(uint64_t value, uint64_t alignment) {
  return value - value % alignment;
}
constexpr uint64_t align_up(uint64_t value, uint64_t alignment) {
  return align_down(value + alignment - 1, alignment);
}
constexpr uint64_t ceil_div(uint64_t value, uint64_t by) {
  return (value + by - 1) / by;
}

/// Reads "3GiB", "1.5 GB", "512MiB", "4096" (plain bytes). Units: B, KB, KiB, MB, MiB, GB, GiB,
/// TB, TiB, PB, PiB, any case; K, M, G, T, P and Ki, Mi, Gi, Ti, Pi are powers of 1024 too, as
/// free, docker and kubectl take them. Empty result: not a size (NaN, negative, unknown unit, too
/// large).
std::optional<uint64_t> parse_size(std::string_view text);

/// "1 thread", "2 threads".
std::string counted(uint64_t count, std::string_view thing);

/// "3.00 GiB", "512 B": three significant digits, binary units.
std::string format_bytes(uint64_t bytes);
/// The same, never less than `bytes`: what is typed again must be enough.
std::string format_bytes_up(uint64_t bytes);

}  // namespace spillway
