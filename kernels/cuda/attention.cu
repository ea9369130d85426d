// Attention over a KV cache, online softmax; no score matrix is ever stored.
//
// attend_kernel: f32 arithmetic. A block holds up to kQueries queries that share a KV head (the
// heads of its group, and for prompts neighbouring rows), so that keys and values are read once for
// all of them. For decode the positions are split over blocks, whose results combine_kernel joins:
// splits depend on the sequence's own length alone, so its bits do not depend on its neighbours.
// A sliding window moves where the splits begin.
//
// tile_kernel: prompts over 16-bit caches, on tensor cores: 64 rows of a head against tiles of keys
// that arrive by asynchronous copies, two stages deep.
//
// Tiles of keys lie on one grid from position 0 and those wholly behind every window are skipped,
// so that a row's bits depend neither on the rows beside it nor on what is skipped.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/simt.cuh"

namespace spillway::cuda {
namespace {

constexpr unsigned kThreads = 128;
constexpr unsigned kWarps = kThreads / kWarp;
constexpr unsigned kQueries = 16;

/// Positions that one block of a decoding sequence that sees `length` works on: enough blocks for
/// short sequences, little to join for long ones.
__host__ __device__ constexpr uint32_t split_positions(uint32_t length) {
  return length <= 4096 ? 64 : 256;
}
__host__ __device__ constexpr uint32_t splits_of(uint32_t length) {
  return (length + split_positions(length) - 1) / split_positions(length);
}

/// The first position that a row at `position` sees.
__host__ __device__ constexpr uint32_t first_visible(const AttentionShape& shape,
                                                     uint32_t position) {
  return position < shape.window ? 0 : position - shape.window + 1;
}
/// How many positions the one row of a decoding sequence sees.
__host__ __device__ constexpr uint32_t seen_positions(const AttentionShape& shape,
                                                      const SequenceRows& sequence) {
  return sequence.first_position + 1 - first_visible(shape, sequence.first_position);
}

/// What multiplies q·k.
__device__ float score_scale(const AttentionShape& shape) {
  if (shape.score_scale != 0) return shape.score_scale;
  return 1.0f / sqrtf(static_cast<float>(shape.head_dim));
}

/// What a split leaves per head: the unnormalised output, its maximum and its sum.
__host__ __device__ constexpr uint64_t partial_floats(const AttentionShape& shape) {
  return shape.head_dim + 2;
}

template <typename T>
struct KvView {
  const typename T::Raw* keys;
  const typename T::Raw* values;
};

/// Keys and values [capacity, head_dim] of one head.
template <typename T>
__device__ KvView<T> head_view(const SequenceRows& sequence, const AttentionShape& shape,
                               uint32_t kv_head) {
  const uint64_t head_elements = uint64_t{sequence.kv_capacity} * shape.head_dim;
  const auto* keys = reinterpret_cast<const typename T::Raw*>(sequence.kv);
  return {keys + kv_head * head_elements, keys + (shape.kv_heads + kv_head) * head_elements};
}

/// Rows [first, end) of a [.., head_dim] array to the tile's rows; rows from end on become zero.
template <typename T, unsigned kRows, unsigned kStride>
__device__ void load_tile(typename T::Raw (*tile)[kStride], const typename T::Raw* source,
                          uint32_t first, uint32_t end, uint32_t head_dim) {
  using Raw = typename T::Raw;
  if (head_dim % 8 == 0) {
    const uint32_t pieces = head_dim / 8;
    for (uint32_t j = threadIdx.x; j < kRows * pieces; j += kThreads) {
      const uint32_t row = j / pieces;
      const uint32_t dim = j % pieces * 8;
      const Raw* from = source + uint64_t{first + row} * head_dim + dim;
      const Eight<T> eight = load_eight<T, true>(from, first + row < end ? 8 : 0);
      auto* to = reinterpret_cast<uint4*>(&tile[row][dim]);
      for (unsigned i = 0; i < kEightBytes<T> / 16; ++i) {
        to[i] = uint4{eight.words[4 * i], eight.words[4 * i + 1], eight.words[4 * i + 2],
                      eight.words[4 * i + 3]};
      }
    }
  } else {
    for (uint32_t j = threadIdx.x; j < kRows * head_dim; j += kThreads) {
      const uint32_t row = j / head_dim;
      const uint32_t dim = j % head_dim;
      tile[row][dim] = first + row < end ? source[uint64_t{first + row} * head_dim + dim] : Raw{};
    }
  }
}

/// One block's shared memory; 16 bytes of padding per row keep rows in different banks.
template <typename T, unsigned kMaxDim>
struct AttendShared {
  static constexpr unsigned kTile = 8192 / (kMaxDim * sizeof(typename T::Raw));
  static constexpr unsigned kStride = kMaxDim + 16 / sizeof(typename T::Raw);
  alignas(16) typename T::Raw keys[kTile][kStride];
  alignas(16) typename T::Raw values[kTile][kStride];
  float queries[kQueries][kMaxDim];
  float weights[kQueries][kTile];
  float maximum[kQueries];
  float sum[kQueries];
  float correction[kQueries];
};

/// A dot product of a query and a key is cut into so many parts, each of every fourth eight dims.
constexpr unsigned kParts = 4;

/// Scores of the tile, the running maxima and sums, and the weights of the values.
template <typename T, unsigned kMaxDim>
__device__ void weigh_tile(AttendShared<T, kMaxDim>& s, const AttentionShape& shape,
                           uint32_t queries, uint32_t first_query, uint32_t first_position,
                           uint32_t tile_begin, uint32_t end) {
  constexpr unsigned kTile = AttendShared<T, kMaxDim>::kTile;
  const uint32_t head_dim = shape.head_dim;
  const uint32_t group = shape.heads / shape.kv_heads;
  // Eight lanes on eight keys take the same dims of each: their rows lie in different banks.
  for (uint32_t j = threadIdx.x; j < queries * kTile * kParts; j += kThreads) {
    const uint32_t part = j / 8 % kParts;
    const uint32_t key = j / (8 * kParts) % (kTile / 8) * 8 + j % 8;
    const uint32_t query = j / (kTile * kParts);
    const uint32_t own = first_position + (first_query + query) / group;
    float dot = 0;
    for (uint32_t d = part * 8; d < head_dim; d += kParts * 8) {
      const Eight<T> eight = load_eight<T, true>(&s.keys[key][d], 8);
#pragma unroll
      for (unsigned i = 0; i < 8; ++i) {
        if (d + i < head_dim) dot = fmaf(s.queries[query][d + i], eight[i], dot);
      }
    }
    dot += __shfl_xor_sync(kAllLanes, dot, 8);
    dot += __shfl_xor_sync(kAllLanes, dot, 16);
    if (part != 0) continue;
    const uint32_t position = tile_begin + key;
    const bool visible = position < end && position <= own && own - position < shape.window;
    s.weights[query][key] = visible ? dot : -INFINITY;
  }
  __syncthreads();
  const unsigned lane = threadIdx.x % kWarp;
  for (uint32_t query = threadIdx.x / kWarp; query < queries; query += kWarps) {
    if (shape.score_cap != 0) {  // each lane its own keys; those that are masked stay so
      for (unsigned key = lane; key < kTile; key += kWarp) {
        float& score = s.weights[query][key];
        if (score != -INFINITY) score = soft_capped(score, shape.score_cap);
      }
    }
    float top = s.maximum[query];
    for (unsigned key = lane; key < kTile; key += kWarp) top = fmaxf(top, s.weights[query][key]);
    top = warp_max(top);
    float sum = 0;
    for (unsigned key = lane; key < kTile; key += kWarp) {
      // Nothing visible yet: every score is -inf, and so is top.
      const float weight = top == -INFINITY ? 0.0f : expf(s.weights[query][key] - top);
      s.weights[query][key] = weight;
      sum += weight;
    }
    sum = warp_sum(sum);
    __syncwarp();  // every lane has read the maximum
    if (lane == 0) {
      const float correction = top == -INFINITY ? 1.0f : expf(s.maximum[query] - top);
      s.correction[query] = correction;
      s.sum[query] = s.sum[query] * correction + sum;
      s.maximum[query] = top;
    }
  }
  __syncthreads();
}

/// acc[j] of the first kCount queries, for this thread's dims: corrected, and the tile's values
/// added.
template <unsigned kCount, unsigned kDims, typename T, unsigned kMaxDim>
__device__ void add_values(const AttendShared<T, kMaxDim>& s, uint32_t head_dim,
                           float (&acc)[kDims][kQueries]) {
#pragma unroll
  for (unsigned j = 0; j < kDims; ++j) {
    const uint32_t dim = threadIdx.x + j * kThreads;
    if (dim >= head_dim) continue;
#pragma unroll
    for (unsigned query = 0; query < kCount; ++query) acc[j][query] *= s.correction[query];
    for (unsigned key = 0; key < AttendShared<T, kMaxDim>::kTile; ++key) {
      const float value = T::to_f32(s.values[key][dim]);
#pragma unroll
      for (unsigned query = 0; query < kCount; ++query) {
        acc[j][query] = fmaf(s.weights[query][key], value, acc[j][query]);
      }
    }
  }
}

/// use(count) with the smallest of a few that `queries` fit in: what lies between is computed and
/// not stored.
template <typename Use>
__device__ void with_count(uint32_t queries, const Use& use) {
  if (queries <= 1) return use(std::integral_constant<unsigned, 1>{});
  if (queries <= 4) return use(std::integral_constant<unsigned, 4>{});
  if (queries <= 8) return use(std::integral_constant<unsigned, 8>{});
  use(std::integral_constant<unsigned, kQueries>{});
}

// Grid: kv_heads * query blocks, splits, sequences. Traffic: each key and value once per query
// block; with kPartial, head_dim + 2 floats per head and split.
template <typename T, unsigned kMaxDim, bool kPartial>
__global__ void __launch_bounds__(kThreads)
    attend_kernel(const float* q, AttentionShape shape, SequenceBatch batch, float* out) {
  wait_for_stream();
  using Shared = AttendShared<T, kMaxDim>;
  constexpr unsigned kDims = kMaxDim > kThreads ? kMaxDim / kThreads : 1;
  __shared__ Shared s;
  const SequenceRows sequence = batch.items[blockIdx.z];
  const uint32_t head_dim = shape.head_dim;
  const uint32_t group = shape.heads / shape.kv_heads;
  const uint32_t kv_head = blockIdx.x % shape.kv_heads;
  const uint32_t first_query = blockIdx.x / shape.kv_heads * kQueries;
  const uint32_t all_queries = sequence.rows * group;
  const uint32_t queries =
      all_queries - first_query < kQueries ? all_queries - first_query : kQueries;
  const uint32_t longest = sequence.first_position + (first_query + queries - 1) / group + 1;
  const uint32_t earliest = first_visible(shape, sequence.first_position + first_query / group);
  const uint32_t split = kPartial ? split_positions(longest - earliest) : longest;
  const uint32_t begin =
      kPartial ? earliest + blockIdx.y * split : earliest - earliest % Shared::kTile;
  if (begin >= longest) return;
  const uint32_t end = begin + split < longest ? begin + split : longest;
  const auto head_of = [&](uint32_t query) {
    return kv_head * group + (first_query + query) % group;
  };
  const auto row_of = [&](uint32_t query) {
    return sequence.first_row + (first_query + query) / group;
  };

  const float scale = score_scale(shape);
  for (uint32_t j = threadIdx.x; j < queries * head_dim; j += kThreads) {
    const uint32_t query = j / head_dim;
    const uint64_t at = uint64_t{row_of(query)} * shape.heads + head_of(query);
    s.queries[query][j % head_dim] = q[at * head_dim + j % head_dim] * scale;
  }
  if (threadIdx.x < kQueries) {
    s.maximum[threadIdx.x] = -INFINITY;
    s.sum[threadIdx.x] = 0;
  }
  float acc[kDims][kQueries] = {};
  const KvView<T> view = head_view<T>(sequence, shape, kv_head);
  for (uint32_t at = begin; at < end; at += Shared::kTile) {
    __syncthreads();  // the tile before was used, the queries are there
    load_tile<T, Shared::kTile>(s.keys, view.keys, at, end, head_dim);
    load_tile<T, Shared::kTile>(s.values, view.values, at, end, head_dim);
    __syncthreads();
    weigh_tile(s, shape, queries, first_query, sequence.first_position, at, end);
    with_count(queries, [&](auto count) { add_values<decltype(count)::value>(s, head_dim, acc); });
  }
#pragma unroll
  for (unsigned query = 0; query < kQueries; ++query) {
    if (query >= queries) continue;
    const uint64_t split_index = uint64_t{blockIdx.z} * gridDim.y + blockIdx.y;
    float* target = kPartial
                        ? out + (split_index * shape.heads + head_of(query)) * partial_floats(shape)
                        : out + (uint64_t{row_of(query)} * shape.heads + head_of(query)) * head_dim;
    const float factor = kPartial ? 1.0f : 1.0f / s.sum[query];
#pragma unroll
    for (unsigned j = 0; j < kDims; ++j) {
      const uint32_t dim = threadIdx.x + j * kThreads;
      if (dim < head_dim) target[dim] = acc[j][query] * factor;
    }
    if (kPartial && threadIdx.x == 0) {
      target[head_dim] = s.maximum[query];
      target[head_dim + 1] = s.sum[query];
    }
  }
}

// Grid: heads, sequences. Joins the splits of each, in order. Traffic: what the splits left.
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const float* partials, AttentionShape shape, SequenceBatch batch,
                   uint32_t max_splits, float* out) {
  wait_for_stream();
  const SequenceRows sequence = batch.items[blockIdx.y];
  const uint32_t splits = splits_of(seen_positions(shape, sequence));
  const uint64_t stride = shape.heads * partial_floats(shape);
  const float* first =
      partials + uint64_t{blockIdx.y} * max_splits * stride + blockIdx.x * partial_floats(shape);
  __shared__ float tops[kWarps];
  __shared__ float weights[kThreads];
  __shared__ float sums[kThreads];
  float top = -INFINITY;
  for (uint32_t i = threadIdx.x; i < splits; i += kThreads) {
    top = fmaxf(top, first[i * stride + shape.head_dim]);
  }
  top = warp_max(top);
  if (threadIdx.x % kWarp == 0) tops[threadIdx.x / kWarp] = top;
  __syncthreads();
  for (unsigned w = 0; w < kWarps; ++w) top = fmaxf(top, tops[w]);
  float value[kMaxHeadDim / kThreads] = {};
  float sum = 0;
  for (uint32_t begin = 0; begin < splits; begin += kThreads) {
    const uint32_t count = splits - begin < kThreads ? splits - begin : kThreads;
    const float* parts = first + begin * stride;
    if (begin > 0) __syncthreads();  // the weights before were used
    if (threadIdx.x < count) {
      const float* part = parts + threadIdx.x * stride + shape.head_dim;
      weights[threadIdx.x] = expf(part[0] - top);
      sums[threadIdx.x] = part[1];
    }
    __syncthreads();
    for (uint32_t i = 0; i < count; ++i) sum = fmaf(sums[i], weights[i], sum);
#pragma unroll
    for (unsigned j = 0; j < kMaxHeadDim / kThreads; ++j) {
      const uint32_t dim = threadIdx.x + j * kThreads;
      if (dim >= shape.head_dim) continue;
#pragma unroll 8
      for (uint32_t i = 0; i < count; ++i) {
        value[j] = fmaf(parts[i * stride + dim], weights[i], value[j]);
      }
    }
  }
#pragma unroll
  for (unsigned j = 0; j < kMaxHeadDim / kThreads; ++j) {
    const uint32_t dim = threadIdx.x + j * kThreads;
    if (dim >= shape.head_dim) continue;
    out[(uint64_t{sequence.first_row} * shape.heads + blockIdx.x) * shape.head_dim + dim] =
        value[j] / sum;
  }
}

constexpr unsigned kTileRows = 64;

template <unsigned kMaxDim>
struct TileShared {
  static constexpr unsigned kTile = 4096 / kMaxDim;
  static constexpr unsigned kStride = kMaxDim + 8;
  alignas(16) uint16_t keys[2][kTile][kStride];
  alignas(16) uint16_t values[2][kTile][kStride];
};

/// Starts copying a tile of keys or values; what lies from `end` on becomes zero.
template <unsigned kRows, unsigned kStride>
__device__ void start_tile(uint16_t (*tile)[kStride], const uint16_t* source, uint32_t first,
                           uint32_t end, uint32_t head_dim) {
  if (head_dim % 8 != 0) {  // rows are not aligned
    for (uint32_t j = threadIdx.x; j < kRows * head_dim; j += kThreads) {
      const uint32_t row = first + j / head_dim;
      tile[j / head_dim][j % head_dim] =
          row < end ? source[uint64_t{row} * head_dim + j % head_dim] : uint16_t{0};
    }
    return;
  }
  const uint32_t pieces = head_dim / 8;
  for (uint32_t j = threadIdx.x; j < kRows * pieces; j += kThreads) {
    const uint32_t row = first + j / pieces;
    const uint32_t dim = j % pieces * 8;
    const uint16_t* from = source + uint64_t{row < end ? row : 0} * head_dim + dim;
    copy16_async(&tile[j / pieces][dim], from, row < end);
  }
}

// Grid: tiles of kTileRows rows (longest first), heads. A warp works on 16 rows. Traffic: keys and
// values once per tile and head, from L2 for all but the first reader. kCapped: a score_cap is
// given.
template <typename T, unsigned kMaxDim, bool kCapped>
__global__ void __launch_bounds__(kThreads)
    tile_kernel(const float* q, AttentionShape shape, SequenceRows sequence, float* out) {
  wait_for_stream();
  using Shared = TileShared<kMaxDim>;
  constexpr unsigned kTile = Shared::kTile;
  constexpr unsigned kDimSteps = kMaxDim / 16;
  constexpr float kLog2E = 1.44269504f;
  __shared__ Shared s;
  const uint32_t head_dim = shape.head_dim;
  const uint32_t head = blockIdx.y;
  const uint32_t block_row = (gridDim.x - 1 - blockIdx.x) * kTileRows;
  const unsigned lane = threadIdx.x % kWarp;
  const uint32_t warp_row = block_row + threadIdx.x / kWarp * 16;
  const uint32_t row[2] = {warp_row + lane / 4, warp_row + lane / 4 + 8};
  const uint32_t last_row =
      block_row + kTileRows < sequence.rows ? block_row + kTileRows : sequence.rows;
  const uint32_t longest = sequence.first_position + last_row;
  const KvView<T> view = head_view<T>(sequence, shape, head / (shape.heads / shape.kv_heads));

  // Columns between head_dim and the next multiple of 16 take part: they must be zero.
  for (uint32_t j = threadIdx.x; j < sizeof(Shared) / 16; j += kThreads) {
    reinterpret_cast<uint4*>(&s)[j] = uint4{0, 0, 0, 0};
  }
  __syncthreads();
  const uint32_t tiles = (longest + kTile - 1) / kTile;
  const uint32_t first_tile = first_visible(shape, sequence.first_position + block_row) / kTile;
  start_tile<kTile>(s.keys[0], view.keys, first_tile * kTile, longest, head_dim);
  start_tile<kTile>(s.values[0], view.values, first_tile * kTile, longest, head_dim);
  commit_copies();

  // Base 2 from here on, or, where scores are capped, from there on.
  const float scale = kCapped                  ? score_scale(shape)
                      : shape.score_scale != 0 ? kLog2E * shape.score_scale
                                               : kLog2E / sqrtf(static_cast<float>(head_dim));
  const auto query = [&](uint32_t r, uint32_t dim) {
    if (r >= sequence.rows || dim >= head_dim) return 0u;
    const float* at = q + (uint64_t{sequence.first_row + r} * shape.heads + head) * head_dim + dim;
    return pack2<T>(at[0] * scale, at[1] * scale);
  };
  uint32_t queries[kDimSteps][4];
#pragma unroll
  for (unsigned k = 0; k < kDimSteps; ++k) {
    const uint32_t dim = k * 16 + lane % 4 * 2;
    queries[k][0] = query(row[0], dim);
    queries[k][1] = query(row[1], dim);
    queries[k][2] = query(row[0], dim + 8);
    queries[k][3] = query(row[1], dim + 8);
  }
  float acc[kDimSteps * 2][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // this lane's columns; joined at the end

  for (uint32_t tile = first_tile; tile < tiles; ++tile) {
    const unsigned stage = (tile - first_tile) % 2;
    wait_copies<0>();
    __syncthreads();  // this tile is there, and nobody works on the one before
    if (tile + 1 < tiles) {
      const uint32_t next = (tile + 1) * kTile;
      start_tile<kTile>(s.keys[stage ^ 1], view.keys, next, longest, head_dim);
      start_tile<kTile>(s.values[stage ^ 1], view.values, next, longest, head_dim);
      commit_copies();
    }

    float scores[kTile / 8][4] = {};
#pragma unroll
    for (unsigned k = 0; k < kDimSteps; ++k) {
      if (k * 16 >= head_dim) break;
#pragma unroll
      for (unsigned n = 0; n < kTile / 16; ++n) {
        uint32_t b[4];  // keys n * 16 .. +7: two halves of dims; then keys +8 .. +15
        load_matrices(b,
                      &s.keys[stage][n * 16 + lane / 16 * 8 + lane % 8][k * 16 + lane / 8 % 2 * 8]);
        multiply<T>(scores[2 * n], queries[k], b[0], b[1]);
        multiply<T>(scores[2 * n + 1], queries[k], b[2], b[3]);
      }
    }
    if constexpr (kCapped) {
#pragma unroll
      for (unsigned n = 0; n < kTile / 8; ++n) {
#pragma unroll
        for (unsigned c = 0; c < 4; ++c) {
          scores[n][c] = kLog2E * soft_capped(scores[n][c], shape.score_cap);
        }
      }
    }
    const uint32_t tile_begin = tile * kTile;
    const uint32_t warp_position = sequence.first_position + warp_row;
    if (tile_begin + kTile > warp_position + 1 || warp_position + 15 - tile_begin >= shape.window) {
#pragma unroll
      for (unsigned n = 0; n < kTile / 8; ++n) {
#pragma unroll
        for (unsigned c = 0; c < 4; ++c) {
          const uint32_t position = tile_begin + n * 8 + lane % 4 * 2 + c % 2;
          const uint32_t own = sequence.first_position + row[c / 2];
          if (position > own || own - position >= shape.window) scores[n][c] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (unsigned half = 0; half < 2; ++half) {
      float top = maximum[half];
#pragma unroll
      for (unsigned n = 0; n < kTile / 8; ++n) {
        top = fmaxf(top, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      const float base = top == -INFINITY ? 0.0f : top;  // nothing visible yet: weights of 0
      const float correction = exp2_fast(maximum[half] - base);
      maximum[half] = top;
      sum[half] *= correction;
#pragma unroll
      for (unsigned n = 0; n < kTile / 8; ++n) {
#pragma unroll
        for (unsigned c = 2 * half; c < 2 * half + 2; ++c) {
          scores[n][c] = exp2_fast(scores[n][c] - base);
          sum[half] += scores[n][c];
        }
      }
#pragma unroll
      for (unsigned d = 0; d < kDimSteps * 2; ++d) {
        acc[d][2 * half] *= correction;
        acc[d][2 * half + 1] *= correction;
      }
    }
#pragma unroll
    for (unsigned k = 0; k < kTile / 16; ++k) {
      const uint32_t weights[4] = {pack2<T>(scores[2 * k][0], scores[2 * k][1]),
                                   pack2<T>(scores[2 * k][2], scores[2 * k][3]),
                                   pack2<T>(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                                   pack2<T>(scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
      for (unsigned d = 0; d < kDimSteps; ++d) {
        if (d * 16 >= head_dim) break;
        uint32_t b[4];  // dims d * 16 .. +7: two halves of keys; then dims +8 .. +15
        load_matrices_transposed(
            b, &s.values[stage][k * 16 + lane / 8 % 2 * 8 + lane % 8][d * 16 + lane / 16 * 8]);
        multiply<T>(acc[2 * d], weights, b[0], b[1]);
        multiply<T>(acc[2 * d + 1], weights, b[2], b[3]);
      }
    }
  }

#pragma unroll
  for (unsigned half = 0; half < 2; ++half) {
    float total = sum[half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    if (row[half] >= sequence.rows) continue;
    float* target =
        out + (uint64_t{sequence.first_row + row[half]} * shape.heads + head) * head_dim;
#pragma unroll
    for (unsigned d = 0; d < kDimSteps * 2; ++d) {
      const uint32_t dim = d * 8 + lane % 4 * 2;
      if (dim >= head_dim) continue;
      target[dim] = acc[d][2 * half] / total;
      target[dim + 1] = acc[d][2 * half + 1] / total;
    }
  }
}

/// use(bound) with the smallest bound of shared memory that holds head_dim.
template <typename Use>
void with_bound(uint32_t head_dim, const Use& use) {
  if (head_dim <= 64) return use(std::integral_constant<unsigned, 64>{});
  if (head_dim <= 128) return use(std::integral_constant<unsigned, 128>{});
  use(std::integral_constant<unsigned, kMaxHeadDim>{});
}

template <typename T, unsigned kMaxDim>
auto prompt_kernel(bool capped) {
  return capped ? tile_kernel<T, kMaxDim, true> : tile_kernel<T, kMaxDim, false>;
}

uint32_t query_blocks(const AttentionShape& shape, uint32_t rows) {
  return shape.kv_heads * blocks_of(uint64_t{rows} * (shape.heads / shape.kv_heads), kQueries);
}

}  // namespace

uint64_t kv_cache_bytes(const AttentionShape& shape, uint32_t capacity) {
  return uint64_t{2} * capacity * shape.kv_heads * shape.head_dim * dtype_bytes(shape.kv_dtype);
}

uint64_t split_workspace_bytes(const AttentionShape& shape, uint32_t positions) {
  constexpr uint32_t kBend = 4096;  // just below it there are more splits than just above
  const uint32_t splits = positions > kBend && splits_of(positions) < splits_of(kBend)
                              ? splits_of(kBend)
                              : splits_of(positions);
  return splits * shape.heads * partial_floats(shape) * sizeof(float);
}

void attention_decode(const LaunchOn& on, const float* q, const AttentionShape& shape,
                      std::span<const SequenceRows> sequences, float* out,
                      std::span<std::byte> workspace) {
  auto* partials = reinterpret_cast<float*>(workspace.data());
  const uint64_t split_bytes = shape.heads * partial_floats(shape) * sizeof(float);
  for (size_t first = 0; first < sequences.size();) {
    SequenceBatch batch;
    uint32_t splits = 0;
    for (; first < sequences.size() && batch.count < SequenceBatch::kMax; ++first) {
      const uint32_t own = splits_of(seen_positions(shape, sequences[first]));
      const uint32_t most = own > splits ? own : splits;
      const bool fits = uint64_t{most} * (batch.count + 1) * split_bytes <= workspace.size();
      if (batch.count > 0 && !fits) break;
      splits = most;
      batch.items[batch.count++] = sequences[first];
    }
    with_type(shape.kv_dtype, [&](auto type) {
      with_bound(shape.head_dim, [&](auto bound) {
        launch("attention (decode)", attend_kernel<decltype(type), bound(), true>,
               dim3(query_blocks(shape, 1), splits, batch.count), kThreads, on, q, shape, batch,
               partials);
      });
    });
    launch("attention (combine)", combine_kernel, dim3(shape.heads, batch.count), kThreads, on,
           partials, shape, batch, splits, out);
  }
}

void attention_prefill(const LaunchOn& on, const float* q, const AttentionShape& shape,
                       const SequenceRows& sequence, float* out) {
  with_bound(shape.head_dim, [&](auto bound) {
    if (shape.kv_dtype == DType::kF32) {
      SequenceBatch batch;
      batch.count = 1;
      batch.items[0] = sequence;
      launch("attention (f32 prompt)", attend_kernel<F32, bound(), false>,
             query_blocks(shape, sequence.rows), kThreads, on, q, shape, batch, out);
    } else {
      const auto kernel = shape.kv_dtype == DType::kBF16
                              ? prompt_kernel<Bf16, bound()>(shape.score_cap != 0)
                              : prompt_kernel<F16, bound()>(shape.score_cap != 0);
      launch("attention (prompt)", kernel, dim3(blocks_of(sequence.rows, kTileRows), shape.heads),
             kThreads, on, q, shape, sequence, out);
    }
  });
}

}  // namespace spillway::cuda
