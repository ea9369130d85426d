#include "kernels/host/cpu_features.h"

#include <cpuid.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "core/units.h"

namespace spillway {
namespace {

bool cpuid_bit(unsigned leaf, unsigned subleaf, int reg, unsigned bit) {
  unsigned r[4] = {};
  if (__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]) == 0) return false;
  return ((r[reg] >> bit) & 1u) != 0;
}

}  // namespace

Isa detect_isa() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  const bool f16c = cpuid_bit(1, 0, 2, 29);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c) return Isa::kAvx2;
  return Isa::kBaseline;
}

bool has_avx512_bf16() {
  return detect_isa() == Isa::kAvx512 && cpuid_bit(7, 1, 0, 5);
}

bool bf16_matmul_is_fast() {
  if (!has_avx512_bf16()) return false;
  const bool amx_bf16 = cpuid_bit(7, 0, 3, 22);
  return amx_bf16 || __builtin_cpu_is("amd");
}

unsigned usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    return std::max(1u, static_cast<unsigned>(CPU_COUNT(&set)));
  }
  return std::max(1u, std::thread::hardware_concurrency());
}

uint64_t largest_cache_bytes() {
  constexpr uint64_t kCommonBytes = 32 * kMiB;
  const long known = std::max(sysconf(_SC_LEVEL2_CACHE_SIZE), sysconf(_SC_LEVEL3_CACHE_SIZE));
  return known > 0 ? static_cast<uint64_t>(known) : kCommonBytes;
}

}  // namespace spillway
