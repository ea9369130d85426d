// What this machine can do, measured with loops that do nothing else: the denominators of every
// ratio in docs/PERFORMANCE.md.
#pragma once

#include <cstdint>
#include <filesystem>

namespace spillway::bench {

/// A bare io_uring O_DIRECT loop over the largest file of a checkpoint, into huge-page buffers:
/// bytes/s over about `read_bytes`.
double raw_read_rate(const std::filesystem::path& file, uint64_t read_bytes, uint64_t chunk_bytes,
                     uint32_t depth);

/// Sum of all words of a large huge-page buffer on `threads` threads: bytes/s.
double memory_read_rate(uint32_t threads, double seconds);

/// oneDNN matmul of 512 rows by 4096 x 4096, its own threads, layout as in a checkpoint: FLOP/s.
/// 0 where the CPU cannot multiply bf16.
double onednn_rate(bool bf16, uint32_t threads, double seconds);

}  // namespace spillway::bench
