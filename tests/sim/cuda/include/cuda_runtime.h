// CUDA C++ as plain C++: the keywords, the built-in variables, and the intrinsics that the kernels
// use. See cuda_runtime_api.h.
#pragma once

#include <cuda_runtime_api.h>

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

inline uint4 __ldcg(const uint4* p) {
  spillway::sim_cuda::require(reinterpret_cast<uintptr_t>(p) % 16 == 0, "misaligned 16-byte load");
  return *p;
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

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  return spillway::sim_cuda::enqueue_kernel(
      *config, [kernel, values = std::tuple<Params...>(static_cast<Params>(args)...)] {
        std::apply(kernel, values);
      });
}
