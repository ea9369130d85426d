// Matmul with one to a few rows: bound by reading the weights once.
//
// Traffic: w_rows * cols * element bytes from memory; x (rows * cols * 4) comes from cache. A block
// computes kOutputs rows of the weight together, its threads side by side along the columns, so
// that a warp reads 512 contiguous bytes of each row and every x loaded serves kOutputs products.
// Two steps of loads are under way before the first is used: kOutputs * 2 * 16 bytes a thread.
// While the kernel before still runs, a block's rows are on their way to the L2 cache.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/simt.cuh"

namespace spillway::cuda {
namespace {

constexpr unsigned kThreads = 128;
constexpr unsigned kWarps = kThreads / kWarp;
constexpr unsigned kOutputs = 4;
constexpr unsigned kSteps = 2;
constexpr unsigned kStepCols = kThreads * 8;

/// Columns in front of `col` that exist, up to eight.
__device__ uint32_t eight_at(uint32_t col, uint32_t cols) {
  return col >= cols ? 0 : cols - col < 8 ? cols - col : 8;
}

template <typename T, unsigned kRows, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    gemv_kernel(const std::byte* weight, uint32_t w_rows, uint32_t cols, const float* x,
                uint32_t rows, float* out, uint32_t out_stride) {
  __shared__ float partial[kWarps][kOutputs * kRows];
  const uint32_t first = blockIdx.x * kOutputs;
  const uint64_t row_bytes = uint64_t{cols} * sizeof(typename T::Raw);
  const std::byte* row[kOutputs];
#pragma unroll
  for (unsigned n = 0; n < kOutputs; ++n) {  // past the end: the last row again, not stored
    row[n] = weight + (first + n < w_rows ? first + n : w_rows - 1) * row_bytes;
  }
  Eight<T> w[kSteps][kOutputs];
  const auto load_steps = [&](uint32_t begin) {
#pragma unroll
    for (unsigned step = 0; step < kSteps; ++step) {
      const uint32_t col = begin + step * kStepCols;
#pragma unroll
      for (unsigned n = 0; n < kOutputs; ++n) {
        w[step][n] =
            load_weights<T, kAligned>(row[n] + col * sizeof(typename T::Raw), eight_at(col, cols));
      }
    }
  };
  load_steps(threadIdx.x * 8);
  wait_for_stream();
  float sum[kOutputs * kRows] = {};
  for (uint32_t begin = threadIdx.x * 8; begin < cols; begin += kSteps * kStepCols) {
    if (begin >= kSteps * kStepCols) load_steps(begin);
#pragma unroll
    for (unsigned step = 0; step < kSteps; ++step) {
      const uint32_t col = begin + step * kStepCols;
#pragma unroll
      for (unsigned r = 0; r < kRows; ++r) {
        const float* at = x + uint64_t{r < rows ? r : 0} * cols + col;
        const Eight<F32> eight = load_eight<F32, kAligned>(at, eight_at(col, cols));
#pragma unroll
        for (unsigned n = 0; n < kOutputs; ++n) {
#pragma unroll
          for (unsigned i = 0; i < 8; ++i) {
            sum[n * kRows + r] = fmaf(w[step][n][i], eight[i], sum[n * kRows + r]);
          }
        }
      }
    }
  }
  const float lane_total = warp_sums(sum);
  constexpr unsigned kLanesEach = kWarp / (kOutputs * kRows);
  const unsigned lane = threadIdx.x % kWarp;
  if (lane % kLanesEach == 0) partial[threadIdx.x / kWarp][lane / kLanesEach] = lane_total;
  __syncthreads();
  const unsigned n = threadIdx.x / kRows;
  const unsigned r = threadIdx.x % kRows;
  if (n >= kOutputs || first + n >= w_rows || r >= rows) return;
  float total = 0;
  for (unsigned warp = 0; warp < kWarps; ++warp) total += partial[warp][threadIdx.x];
  out[uint64_t{r} * out_stride + first + n] = total;
}

template <typename T, unsigned kRows>
void run(const LaunchOn& on, const WeightView& weight, const float* x, uint32_t rows, float* out,
         uint32_t out_stride) {
  const auto address = reinterpret_cast<uintptr_t>(weight.data) | reinterpret_cast<uintptr_t>(x);
  const bool aligned = weight.cols % 8 == 0 && address % 16 == 0;
  launch("gemv", aligned ? gemv_kernel<T, kRows, true> : gemv_kernel<T, kRows, false>,
         blocks_of(weight.rows, kOutputs), kThreads, on, weight.data, weight.rows, weight.cols, x,
         rows, out, out_stride);
}

}  // namespace

void gemv(const LaunchOn& on, const WeightView& weight, const float* x, uint32_t rows, float* out,
          uint32_t out_stride) {
  if (has_blocks(weight.format)) return gemv_blocks(on, weight, x, rows, out, out_stride);
  with_type(weight.format, [&](auto type) {
    using T = decltype(type);
    if (rows == 1) {
      run<T, 1>(on, weight, x, rows, out, out_stride);
    } else if (rows == 2) {
      run<T, 2>(on, weight, x, rows, out, out_stride);
    } else if (rows <= 4) {
      run<T, 4>(on, weight, x, rows, out, out_stride);
    } else {
      run<T, kMaxGemvRows>(on, weight, x, rows, out, out_stride);
    }
  });
}

}  // namespace spillway::cuda
