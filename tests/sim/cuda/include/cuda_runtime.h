// CUDA C++ as plain C++: the keywords, the built-in variables, and the intrinsics that the kernels
// use. See cuda_runtime_api.h.
#pragma once

#include <cuda_runtime_api.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <tuple>

#include "tests/sim/cuda/simt.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
// One block runs at a time: a block's shared memory is a variable of the function.
#define __shared__ static

using std::isfinite;

struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

using spillway::sim_cuda::blockDim;
using spillway::sim_cuda::blockIdx;
using spillway::sim_cuda::gridDim;
using spillway::sim_cuda::threadIdx;

inline unsigned char __ldcg(const unsigned char* p) {
  return *p;
}
inline uint4 __ldcg(const uint4* p) {
  spillway::sim_cuda::require(reinterpret_cast<uintptr_t>(p) % 16 == 0, "misaligned 16-byte load");
  return *p;
}
/// The low word of the pair high:low shifted right by shift % 32.
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> (shift % 32));
}
/// Byte i is what bits 0 to 2 of the selector's nibble i pick of the eight bytes, those of x first.
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned picked = selector >> (4 * i) & 7u;
    result |= static_cast<uint32_t>(bytes >> (8 * picked) & 0xffu) << (8 * i);
  }
  return result;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline void __syncthreads() {
  spillway::sim_cuda::block_barrier();
}
inline bool __syncthreads_or(bool mine) {
  return spillway::sim_cuda::block_any(mine);
}
inline void __syncwarp() {
  const char none = 0;
  spillway::sim_cuda::exchange_bytes(&none, 1);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, unsigned lanes) {
  spillway::sim_cuda::require(mask == 0xffffffffu, "only whole warps shuffle");
  return spillway::sim_cuda::exchange_with(value, spillway::sim_cuda::lane() ^ lanes);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, unsigned lane) {
  spillway::sim_cuda::require(mask == 0xffffffffu, "only whole warps shuffle");
  return spillway::sim_cuda::exchange_with(value, lane % 32);
}
/// The lowest lanes keep their own.
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes) {
  spillway::sim_cuda::require(mask == 0xffffffffu, "only whole warps shuffle");
  const unsigned lane = spillway::sim_cuda::lane();
  return spillway::sim_cuda::exchange_with(value, lane < lanes ? lane : lane - lanes);
}
inline unsigned __ballot_sync(unsigned mask, bool mine) {
  spillway::sim_cuda::require(mask == 0xffffffffu, "only whole warps vote");
  unsigned votes = 0;
  unsigned lane = 0;
  for (const bool vote : spillway::sim_cuda::exchange(mine)) votes |= unsigned{vote} << lane++;
  return votes;
}
/// Threads change only where they wait: what lies between is atomic as it is.
inline uint32_t atomicAdd(uint32_t* value, uint32_t more) {
  const uint32_t before = *value;
  *value = before + more;
  return before;
}
inline int __clz(int value) {
  return std::countl_zero(static_cast<uint32_t>(value));
}
inline int __popc(unsigned value) {
  return std::popcount(value);
}
inline int __ffs(int value) {
  return value == 0 ? 0 : std::countr_zero(static_cast<uint32_t>(value)) + 1;
}

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  return spillway::sim_cuda::enqueue_kernel(
      *config, [kernel, values = std::tuple<Params...>(static_cast<Params>(args)...)] {
        std::apply(kernel, values);
      });
}
