// Weights in blocks made plain: as bf16 for the matmuls of prompts, as f32 where a table's rows are
// looked up. One pass over the data.
#include "kernels/cuda/blocks.cuh"
#include "kernels/cuda/kernels.h"

namespace spillway::cuda {
namespace {

/// Shows what a stage holds of rows row_of(0..count): use(n, column, first value of eight).
template <typename Format, typename RowOf, typename Use>
__device__ void each_eight(const BlockTensor<Format>& tensor, const Stage<Format>& stage,
                           uint32_t step, uint32_t count, const RowOf& row_of, const Use& use) {
  const BlockUnit own = own_unit<Format>(step, tensor.cols);
  if (!own.exists) return;
  for (unsigned n = 0; n < kBlockRows; ++n) {
    if (n >= count) return;
    const Sixteen sixteen = load_unit<Format, 1>(tensor, row_of(n), step, stage, n, own);
#pragma unroll
    for (unsigned run = 0; run < 2; ++run) {
      float values[8];
#pragma unroll
      for (unsigned i = 0; i < 8; ++i) values[i] = value_of<Format>(sixteen, run, i);
      use(n, column_of<Format>(own, step, run), values);
    }
  }
}

// Grid: kBlockRows rows each, steps of the columns. Traffic: the rows' bytes read, 2 bytes a value
// written.
template <typename Format>
__global__ void __launch_bounds__(kBlockThreads)
    decode_blocks_kernel(const std::byte* weight, uint32_t rows, uint32_t cols, uint16_t* out) {
  __shared__ Stage<Format> stage;
  const BlockTensor<Format> tensor{weight, rows, cols};
  const uint32_t first = blockIdx.x * kBlockRows;
  const uint32_t count = rows - first < kBlockRows ? rows - first : kBlockRows;
  const unsigned warp = threadIdx.x / kWarp;
  const auto row_of = [&](unsigned n) { return first + n; };
  if (warp < count) start_copies(tensor, row_of(warp), blockIdx.y, stage, warp);
  commit_copies();
  wait_for_stream();  // somebody may still read what `out` held
  wait_copies<0>();
  __syncthreads();
  each_eight(tensor, stage, blockIdx.y, count, row_of,
             [&](unsigned n, uint32_t column, const float(&v)[8]) {
               *reinterpret_cast<uint4*>(out + uint64_t{row_of(n)} * cols + column) =
                   uint4{pack2<Bf16>(v[0], v[1]), pack2<Bf16>(v[2], v[3]), pack2<Bf16>(v[4], v[5]),
                         pack2<Bf16>(v[6], v[7])};
             });
}

// Grid: kBlockRows of the rows looked up each, steps of the columns. Traffic: the rows' bytes read,
// 4 bytes a value written.
template <typename Format>
__global__ void __launch_bounds__(kBlockThreads)
    embed_blocks_kernel(const std::byte* table, uint32_t table_rows, uint32_t cols,
                        const uint32_t* ids, const uint32_t* rows, uint32_t count, float* out) {
  wait_for_stream();  // ids, and a table that was gathered
  __shared__ Stage<Format> stage;
  const BlockTensor<Format> tensor{table, table_rows, cols};
  const uint32_t first = blockIdx.x * kBlockRows;
  const uint32_t own = count - first < kBlockRows ? count - first : kBlockRows;
  const unsigned warp = threadIdx.x / kWarp;
  const auto row_of = [&](unsigned n) { return ids[first + n]; };
  if (warp < own) start_copies(tensor, row_of(warp), blockIdx.y, stage, warp);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  each_eight(
      tensor, stage, blockIdx.y, own, row_of, [&](unsigned n, uint32_t column, const float(&v)[8]) {
        auto* to = reinterpret_cast<float4*>(out + uint64_t{rows[first + n]} * cols + column);
        to[0] = float4{v[0], v[1], v[2], v[3]};
        to[1] = float4{v[4], v[5], v[6], v[7]};
      });
}

}  // namespace

void decode_blocks(const LaunchOn& on, const WeightView& weight, uint16_t* out) {
  CHECK(reinterpret_cast<uintptr_t>(out) % 16 == 0);
  with_blocks(weight.format, [&](auto format) {
    using Format = decltype(format);
    CHECK(weight.cols % Format::kValues == 0);
    const dim3 grid(blocks_of(weight.rows, kBlockRows), blocks_of(weight.cols, kBlockStepCols));
    launch("decode_blocks", decode_blocks_kernel<Format>, grid, kBlockThreads, on, weight.data,
           weight.rows, weight.cols, out);
  });
}

void embed_blocks(const LaunchOn& on, const WeightView& table, const uint32_t* ids,
                  const uint32_t* rows, uint32_t count, float* out) {
  CHECK(reinterpret_cast<uintptr_t>(out) % 16 == 0);
  with_blocks(table.format, [&](auto format) {
    using Format = decltype(format);
    CHECK(table.cols % Format::kValues == 0);
    const dim3 grid(blocks_of(count, kBlockRows), blocks_of(table.cols, kBlockStepCols));
    launch("embed_blocks", embed_blocks_kernel<Format>, grid, kBlockThreads, on, table.data,
           table.rows, table.cols, ids, rows, count, out);
  });
}

}  // namespace spillway::cuda
