// What oneDNN can do on this machine: with the bare loops of probe/read_rate.h, the denominators of
// the host's ratios in docs/PERFORMANCE.md.
#pragma once

#include <cstdint>

namespace spillway::bench {

/// oneDNN matmul of 512 rows by 4096 x 4096, its own threads, layout as in a checkpoint: FLOP/s.
/// 0 where the CPU cannot multiply bf16.
double onednn_rate(bool bf16, uint32_t threads, double seconds);

}  // namespace spillway::bench
