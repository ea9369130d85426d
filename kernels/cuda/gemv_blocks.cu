// Matmul of weights in blocks with one to a few rows: bound by reading the weights once.
//
// Traffic: w_rows * row bytes from memory; x (rows * cols * 4) comes from cache. A block computes
// kBlockRows rows of the weight together, so that every x loaded serves as many products; two steps
// of each row are on their way to shared memory while a third is multiplied, the first ones while
// the kernel before still runs.
#include "kernels/cuda/blocks.cuh"
#include "kernels/cuda/kernels.h"

namespace spillway::cuda {
namespace {

constexpr unsigned kStages = 3;

template <typename Format, unsigned kRows, unsigned kAlign>
__global__ void __launch_bounds__(kBlockThreads)
    gemv_blocks_kernel(const std::byte* weight, uint32_t w_rows, uint32_t cols, const float* x,
                       uint32_t rows, float* out, uint32_t out_stride) {
  __shared__ Stage<Format> stages[kStages];
  __shared__ float partial[kBlockRows][kBlockRows * kRows];
  const BlockTensor<Format> tensor{weight, w_rows, cols};
  const uint32_t first = blockIdx.x * kBlockRows;
  const unsigned warp = threadIdx.x / kWarp;
  const auto row_of = [&](unsigned n) {  // past the end: the last row again, not stored
    return first + n < w_rows ? first + n : w_rows - 1;
  };
  const uint32_t steps = (cols + kBlockStepCols - 1) / kBlockStepCols;
  const auto start = [&](uint32_t step) {
    if (step < steps) start_copies(tensor, row_of(warp), step, stages[step % kStages], warp);
    commit_copies();
  };
  for (unsigned step = 0; step + 1 < kStages; ++step) start(step);
  wait_for_stream();
  float sum[kBlockRows * kRows] = {};
  for (uint32_t step = 0; step < steps; ++step) {
    wait_copies<kStages - 2>();
    __syncthreads();  // the step is there for all, and the one before was used by all
    start(step + kStages - 1);
    const BlockUnit own = own_unit<Format>(step, cols);
    if (!own.exists) continue;
    Sixteen sixteen[kBlockRows];
#pragma unroll
    for (unsigned n = 0; n < kBlockRows; ++n) {
      sixteen[n] =
          load_unit<Format, kAlign>(tensor, row_of(n), step, stages[step % kStages], n, own);
    }
#pragma unroll
    for (unsigned run = 0; run < 2; ++run) {
      float w[kBlockRows][8];
#pragma unroll
      for (unsigned n = 0; n < kBlockRows; ++n) {
#pragma unroll
        for (unsigned i = 0; i < 8; ++i) w[n][i] = value_of<Format>(sixteen[n], run, i);
      }
      const uint32_t col = column_of<Format>(own, step, run);
#pragma unroll
      for (unsigned r = 0; r < kRows; ++r) {
        const float* at = x + uint64_t{r < rows ? r : 0} * cols + col;
        const Eight<F32> eight = load_eight<F32, true>(at, 8);
#pragma unroll
        for (unsigned n = 0; n < kBlockRows; ++n) {
#pragma unroll
          for (unsigned i = 0; i < 8; ++i) {
            sum[n * kRows + r] = fmaf(w[n][i], eight[i], sum[n * kRows + r]);
          }
        }
      }
    }
  }
  const float lane_total = warp_sums(sum);
  constexpr unsigned kLanesEach = kWarp / (kBlockRows * kRows);
  const unsigned lane = threadIdx.x % kWarp;
  if (lane % kLanesEach == 0) partial[warp][lane / kLanesEach] = lane_total;
  __syncthreads();
  const unsigned n = threadIdx.x / kRows;
  const unsigned r = threadIdx.x % kRows;
  if (n >= kBlockRows || first + n >= w_rows || r >= rows) return;
  float total = 0;
  for (unsigned w = 0; w < kBlockRows; ++w) total += partial[w][threadIdx.x];
  out[uint64_t{r} * out_stride + first + n] = total;
}

template <typename Format, unsigned kRows, unsigned kAlign>
void run(const LaunchOn& on, const WeightView& weight, const float* x, uint32_t rows, float* out,
         uint32_t out_stride) {
  launch("gemv_blocks", gemv_blocks_kernel<Format, kRows, kAlign>,
         blocks_of(weight.rows, kBlockRows), kBlockThreads, on, weight.data, weight.rows,
         weight.cols, x, rows, out, out_stride);
}

}  // namespace

void gemv_blocks(const LaunchOn& on, const WeightView& weight, const float* x, uint32_t rows,
                 float* out, uint32_t out_stride) {
  CHECK(rows <= kMaxGemvRows && reinterpret_cast<uintptr_t>(x) % 16 == 0);
  with_blocks(weight.format, [&](auto format) {
    using Format = decltype(format);
    CHECK(weight.cols % Format::kValues == 0);
    if (reinterpret_cast<uintptr_t>(weight.data) % 16 != 0) {  // no tile that a device was given
      run<Format, kMaxGemvRows, 1>(on, weight, x, rows, out, out_stride);
    } else if (rows == 1) {
      run<Format, 1, Format::kAlign>(on, weight, x, rows, out, out_stride);
    } else if (rows == 2) {
      run<Format, 2, Format::kAlign>(on, weight, x, rows, out, out_stride);
    } else if (rows <= 4) {
      run<Format, 4, Format::kAlign>(on, weight, x, rows, out, out_stride);
    } else {
      run<Format, kMaxGemvRows, Format::kAlign>(on, weight, x, rows, out, out_stride);
    }
  });
}

}  // namespace spillway::cuda
