// What the kernels share: launching, element types, loads of eight elements, reductions.
//
// Reductions run in a fixed order: the same input gives the same bits, whatever the grid.
//
// Every kernel begins with wait_for_stream(): launched early where its code was compiled for 9.0 or
// later, it starts while the last blocks of the one before still run. Before that call it may read
// weights alone, and past the L1 cache (load_weights); loads that count on memory being constant
// while the kernel lives (__ldg) are for nothing that a kernel writes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/error.h"
#include "core/weight_format.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/kernels.h"

namespace spillway::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

constexpr uint32_t blocks_of(uint64_t count, uint64_t per_block) {
  return static_cast<uint32_t>((count + per_block - 1) / per_block);
}

/// Launches where `on` says; arguments convert to the kernel's parameters. Throws Error when
/// refused.
template <typename... Params, typename... Args>
void launch(const char* name, void (*kernel)(Params...), dim3 grid, dim3 block, const LaunchOn& on,
            Args&&... args) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = on.stream;
  config.attrs = &early;
  config.numAttrs = on.early ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(std::forward<Args>(args))...),
             name);
}

/// Lets the next kernel of the stream be launched, and waits until the work before has ended and
/// its memory can be seen (CUDA C++ Programming Guide, "Programmatic Dependent Launch").
__device__ inline void wait_for_stream() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Element types: Raw is what memory holds.

struct F32 {
  using Raw = float;
  static __device__ float to_f32(float raw) { return raw; }
  static __device__ float from_f32(float value) { return value; }
};

struct Bf16 {
  using Raw = uint16_t;
  static __device__ float to_f32(uint16_t raw) {
    return __uint_as_float(static_cast<uint32_t>(raw) << 16);
  }
  static __device__ uint16_t from_f32(float value) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
};

struct F16 {
  using Raw = uint16_t;
  static __device__ float to_f32(uint16_t raw) { return __half2float(__ushort_as_half(raw)); }
  /// Saturates: an activation beyond f16 must not become infinite.
  static __device__ uint16_t from_f32(float value) {
    const float clamped = value > 65504.0f ? 65504.0f : value < -65504.0f ? -65504.0f : value;
    return __half_as_ushort(__float2half_rn(clamped));
  }
};

/// Two elements as one register, the lower in the low half.
template <typename T>
__device__ uint32_t pack2(float low, float high) {
  return static_cast<uint32_t>(T::from_f32(low)) | static_cast<uint32_t>(T::from_f32(high)) << 16;
}

/// use(T{}) for the element type of `dtype`.
template <typename Use>
void with_type(DType dtype, const Use& use) {
  if (dtype == DType::kF32) use(F32{});
  if (dtype == DType::kF16) use(F16{});
  if (dtype == DType::kBF16) use(Bf16{});
}
/// The same of a format of plain numbers.
template <typename Use>
void with_type(WeightFormat format, const Use& use) {
  CHECK(!has_blocks(format));
  with_type(compute_dtype(format), use);
}

template <typename T>
constexpr unsigned kEightBytes = 8 * sizeof(typename T::Raw);

/// Eight elements in registers as loaded: all loads of a step are under way before the first use.
template <typename T>
struct Eight {
  uint32_t words[kEightBytes<T> / 4];

  __device__ float operator[](unsigned i) const {
    if constexpr (sizeof(typename T::Raw) == 4) {
      return __uint_as_float(words[i]);
    } else {
      return T::to_f32(static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16)));
    }
  }
};

/// From any address, or, kAligned, from a multiple of 16. `count` of the eight exist (kAligned: all
/// or none); the others are zero. load(p) loads 16 aligned bytes, or one.
template <typename T, bool kAligned, typename Load>
__device__ Eight<T> load_eight_by(const void* data, uint32_t count, const Load& load) {
  constexpr unsigned kBytes = sizeof(typename T::Raw);
  Eight<T> result{};
  if constexpr (kAligned) {
    if (count == 0) return result;
#pragma unroll
    for (unsigned i = 0; i < kEightBytes<T> / 16; ++i) {
      const uint4 four = load(static_cast<const uint4*>(data) + i);
      result.words[4 * i] = four.x;
      result.words[4 * i + 1] = four.y;
      result.words[4 * i + 2] = four.z;
      result.words[4 * i + 3] = four.w;
    }
  } else {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (unsigned i = 0; i < 8; ++i) {
      if (i >= count) continue;
      uint32_t raw = 0;
      for (unsigned b = 0; b < kBytes; ++b) {
        raw |= static_cast<uint32_t>(load(bytes + i * kBytes + b)) << (8 * b);
      }
      result.words[i * kBytes / 4] |= raw << (i * kBytes % 4 * 8);
    }
  }
  return result;
}

template <typename T, bool kAligned>
__device__ Eight<T> load_eight(const void* data, uint32_t count) {
  return load_eight_by<T, kAligned>(data, count, [](const auto* p) { return *p; });
}

/// Of weights, which are read once: not kept in the L1 cache.
template <typename T, bool kAligned>
__device__ Eight<T> load_weights(const void* data, uint32_t count) {
  return load_eight_by<T, kAligned>(data, count, [](const auto* p) { return __ldcg(p); });
}

/// One element of an array at any address.
template <typename T>
__device__ float load_one(const std::byte* data, uint64_t index) {
  const auto* bytes =
      reinterpret_cast<const unsigned char*>(data) + index * sizeof(typename T::Raw);
  if constexpr (sizeof(typename T::Raw) == 4) {
    const uint32_t raw =
        bytes[0] | bytes[1] << 8 | bytes[2] << 16 | static_cast<uint32_t>(bytes[3]) << 24;
    return __uint_as_float(raw);
  } else {
    return T::to_f32(static_cast<uint16_t>(bytes[0] | bytes[1] << 8));
  }
}

/// cap * tanh(value / cap), as accurate as tanhf.
__device__ inline float soft_capped(float value, float cap) {
  return cap * tanhf(value / cap);
}

__device__ inline float warp_sum(float value) {
  for (unsigned width = kWarp / 2; width > 0; width /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, width);
  }
  return value;
}

/// Sums of kCount values over the lanes at once, kCount a power of two up to 32: lane l gets that
/// of value l * kCount / 32. Each step halves the values a lane still carries, so that all together
/// take about kCount shuffles, and adds in the order of warp_sum.
template <unsigned kCount, unsigned kWidth = kWarp / 2>
__device__ float warp_sums(const float (&values)[kCount]) {
  if constexpr (kCount == 1) {
    float value = values[0];
    for (unsigned width = kWidth; width > 0; width /= 2) {
      value += __shfl_xor_sync(kAllLanes, value, width);
    }
    return value;
  } else {
    const bool upper = (threadIdx.x & kWidth) != 0;
    float half[kCount / 2];
#pragma unroll
    for (unsigned i = 0; i < kCount / 2; ++i) {
      const float low = values[i];
      const float high = values[i + kCount / 2];
      half[i] = (upper ? high : low) + __shfl_xor_sync(kAllLanes, upper ? low : high, kWidth);
    }
    return warp_sums<kCount / 2, kWidth / 2>(half);
  }
}

__device__ inline float warp_max(float value) {
  for (unsigned width = kWarp / 2; width > 0; width /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, width));
  }
  return value;
}

/// Sum over a block of kThreads, in every thread. `scratch` holds kThreads / 32 values and is free
/// again after the next barrier.
template <unsigned kThreads, typename Value>
__device__ Value block_sum(Value value, Value* scratch) {
  for (unsigned width = kWarp / 2; width > 0; width /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, width);
  }
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  Value total = scratch[0];
  for (unsigned i = 1; i < kThreads / kWarp; ++i) total += scratch[i];
  return total;
}

}  // namespace spillway::cuda
