#include "kernels/host/cpu_features.h"

#include <cpuid.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>

#include "core/units.h"

namespace spillway {
namespace {

bool cpuid_bit(unsigned leaf, unsigned subleaf, int reg, unsigned bit) {
  unsigned r[4] = {};
  if (__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]) == 0) return false;
  return ((r[reg] >> bit) & 1u) != 0;
}

constexpr unsigned kMostCaches = 16;

/// The first word of a file in sysfs; empty where there is none.
std::string word_in(const std::filesystem::path& file) {
  std::string word;
  std::ifstream(file) >> word;
  return word;
}
/// The number it begins with, or 0.
uint64_t number_in(const std::filesystem::path& file) {
  uint64_t number = 0;
  std::ifstream(file) >> number;
  return number;
}

}  // namespace

Isa detect_isa() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return __builtin_cpu_supports("avx512vnni") ? Isa::kAvx512Vnni : Isa::kAvx512;
  }
  const bool f16c = cpuid_bit(1, 0, 2, 29);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c) return Isa::kAvx2;
  return Isa::kBaseline;
}

bool has_avx512_bf16() {
  return detect_isa() >= Isa::kAvx512 && cpuid_bit(7, 1, 0, 5);
}

bool bf16_matmul_is_fast() {
  if (!has_avx512_bf16()) return false;
  const bool amx_bf16 = cpuid_bit(7, 0, 3, 22);
  return amx_bf16 || __builtin_cpu_is("amd");
}

bool allowed_amx() {
  constexpr long kAskForPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM (Linux, arch/x86/xstate.rst)
  constexpr long kTileData = 18;              // XFEATURE_XTILEDATA
  const bool amx_tile = cpuid_bit(7, 0, 3, 24);
  const bool amx_bf16 = cpuid_bit(7, 0, 3, 22);
  return has_avx512_bf16() && amx_tile && amx_bf16 &&
         syscall(SYS_arch_prctl, kAskForPermission, kTileData) == 0;
}

unsigned usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    return std::max(1u, static_cast<unsigned>(CPU_COUNT(&set)));
  }
  return std::max(1u, std::thread::hardware_concurrency());
}

uint64_t cache_bytes() {
  constexpr uint64_t kCommonBytes = 32 * kMiB;
  std::map<std::string, uint64_t> farthest;  // by the cores that share one
  unsigned farthest_level = 0;
  std::error_code error;
  const std::filesystem::path cores = "/sys/devices/system/cpu";
  for (const auto& core : std::filesystem::directory_iterator(cores, error)) {
    for (unsigned i = 0; i < kMostCaches; ++i) {
      const auto folder = core.path() / "cache" / ("index" + std::to_string(i));
      const unsigned level = static_cast<unsigned>(number_in(folder / "level"));
      if (level == 0) break;
      if (level < farthest_level) continue;
      if (level > farthest_level) farthest.clear();
      farthest_level = level;
      farthest[word_in(folder / "shared_cpu_list")] =
          kKiB * number_in(folder / "size");  // "32768K"
    }
  }
  uint64_t bytes = 0;
  for (const auto& [cores_of_one, size] : farthest) bytes += size;
  return bytes > 0 ? bytes : kCommonBytes;
}

}  // namespace spillway
