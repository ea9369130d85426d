// What this CPU can do, read once at start.
#pragma once

#include <cstdint>

namespace spillway {

enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Vnni };

/// Best instruction set that both the CPU and the system support.
Isa detect_isa();

/// True where bf16 dot products run faster than f32 FMA: AMX, or AVX512-BF16 on AMD. On Intel
/// cores without AMX, vdpbf16ps runs at half the f32 rate (docs/PERFORMANCE.md).
bool bf16_matmul_is_fast();
/// True when the CPU has AVX512-BF16 at all.
bool has_avx512_bf16();

/// True where the CPU has AMX for bf16 and the system lets this process use it, which is asked
/// here.
bool allowed_amx();

unsigned usable_cores();

/// Of the caches farthest from the cores, all together, as sysfs has them (Linux,
/// Documentation/ABI/testing/sysfs-devices-system-cpu); where it does not, a common size.
uint64_t cache_bytes();

}  // namespace spillway
