// The few instructions that CUDA C++ has no name for. Layouts: PTX ISA, "Warp-level matrix
// instructions"; all exist from compute capability 8.0 on.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/simt.cuh"

namespace spillway::cuda {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// Four 8x8 matrices of 16-bit elements from shared memory. Lane l gives the address of row l % 8
/// of matrix l / 8 (a multiple of 16) and receives, of each matrix, elements 2 * (l % 4) and the
/// next of row l / 4.
__device__ inline void load_matrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

/// The same, each matrix transposed: of column l / 4, elements 2 * (l % 4) and the next.
__device__ inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

/// c [16, 8] += a [16, 16] b [16, 8], spread over a warp; T is Bf16 or F16. With g = lane / 4 and
/// t = 2 * (lane % 4): a[0], a[1], a[2], a[3] hold columns t, t + 1 of rows g and g + 8, then
/// columns t + 8, t + 9 of the same; b0, b1 hold rows t, t + 1 and t + 8, t + 9 of column g; c
/// holds columns t, t + 1 of row g, then of row g + 8.
template <typename T>
__device__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline void multiply<Bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                      uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void multiply<F16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                     uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 2^x to 2 ulp, for any x; what would be denormal is zero.
__device__ inline float exp2_fast(float x) {
  float result = 0;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// Starts copying 16 bytes (zeros where nothing `exists`) to shared memory, past the registers.
__device__ inline void copy16_async(void* shared, const void* global, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(shared)), "l"(global), "r"(exists ? 16 : 0)
               : "memory");
}

/// Closes the group of this thread's copies started since the last call.
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most kGroups of this thread's latest groups are under way.
template <int kGroups>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

}  // namespace spillway::cuda
