// What a GPU can do, measured with the bare libraries: the ceilings that kernels and passes are
// compared with. Throws Error where CUDA is not built in.
#pragma once

#include <cstdint>

namespace spillway::bench {

/// bf16 x bf16 -> bf16, 8192^3 on random data, FLOP/s; median of `repeats`.
double cuda_matmul_rate(int ordinal, uint32_t repeats);
/// A device-to-device copy of 2 GiB, bytes read plus bytes written per second.
double cuda_memory_rate(int ordinal, uint32_t repeats);
/// Pinned host memory to device, 64 MiB copies back to back, bytes per second.
double cuda_copy_rate(int ordinal, uint32_t repeats);

}  // namespace spillway::bench
