// Embedding rows, norms, activations, RoPE with KV append: one pass over their data each.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/simt.cuh"

namespace spillway::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kPerThread = 4;  // elements of a flat loop: 16-byte accesses

__device__ void store_input(const InputTarget& target, uint64_t index, float value) {
  if (target.half == nullptr) {
    target.f32[index] = value;
  } else {
    target.half[index] =
        target.dtype == DType::kBF16 ? Bf16::from_f32(value) : F16::from_f32(value);
  }
}

/// Four neighbours; index is a multiple of four.
__device__ void store_input4(const InputTarget& target, uint64_t index, const float4& v) {
  if (target.half == nullptr) {
    *reinterpret_cast<float4*>(target.f32 + index) = v;
  } else if (target.dtype == DType::kBF16) {
    *reinterpret_cast<uint2*>(target.half + index) =
        uint2{pack2<Bf16>(v.x, v.y), pack2<Bf16>(v.z, v.w)};
  } else {
    *reinterpret_cast<uint2*>(target.half + index) =
        uint2{pack2<F16>(v.x, v.y), pack2<F16>(v.z, v.w)};
  }
}

__device__ float4 load4(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}

// Traffic: count rows of the table, count * cols * 4 written.
template <typename T>
__global__ void embed_kernel(const std::byte* table, uint32_t cols, const uint32_t* ids,
                             const uint32_t* rows, float* out) {
  wait_for_stream();
  const uint64_t from = uint64_t{ids[blockIdx.x]} * cols;
  const uint64_t to = uint64_t{rows[blockIdx.x]} * cols;
  for (uint32_t i = threadIdx.x; i < cols; i += kThreads) {
    out[to + i] = load_one<T>(table, from + i);
  }
}

/// Sum of squares of one row over the block, after y was added to x.
__device__ float square_sum(float* x, const float* y, uint32_t cols, float* scratch) {
  float sum = 0;
  if (cols % 4 == 0) {
    for (uint32_t i = threadIdx.x * 4; i < cols; i += kThreads * 4) {
      float4 v = load4(x + i);
      if (y != nullptr) {
        const float4 w = load4(y + i);
        v = float4{v.x + w.x, v.y + w.y, v.z + w.z, v.w + w.w};
        *reinterpret_cast<float4*>(x + i) = v;
      }
      sum = fmaf(v.x, v.x, sum);
      sum = fmaf(v.y, v.y, sum);
      sum = fmaf(v.z, v.z, sum);
      sum = fmaf(v.w, v.w, sum);
    }
  } else {
    for (uint32_t i = threadIdx.x; i < cols; i += kThreads) {
      if (y != nullptr) x[i] += y[i];
      sum = fmaf(x[i], x[i], sum);
    }
  }
  return block_sum<kThreads>(sum, scratch);
}

// A block per row. Traffic per element: 4 read (8 with y, and 4 written), the target written; the
// second reading of x comes from cache.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_rmsnorm_kernel(float* x, const float* y, const std::byte* weight, uint32_t cols,
                       float epsilon, float added, InputTarget target) {
  wait_for_stream();
  __shared__ float scratch[kThreads / kWarp];
  const uint64_t at = uint64_t{blockIdx.x} * cols;
  float* row = x + at;
  const float sum = square_sum(row, y == nullptr ? nullptr : y + at, cols, scratch);
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(cols) + epsilon);
  if (cols % 4 == 0) {
    for (uint32_t i = threadIdx.x * 4; i < cols; i += kThreads * 4) {
      const float4 v = load4(row + i);
      store_input4(target, at + i,
                   float4{v.x * scale * (load_one<T>(weight, i) + added),
                          v.y * scale * (load_one<T>(weight, i + 1) + added),
                          v.z * scale * (load_one<T>(weight, i + 2) + added),
                          v.w * scale * (load_one<T>(weight, i + 3) + added)});
    }
  } else {
    for (uint32_t i = threadIdx.x; i < cols; i += kThreads) {
      store_input(target, at + i, row[i] * scale * (load_one<T>(weight, i) + added));
    }
  }
}

// A warp per row, for the short rows of QK norm. Traffic per element: 4 read, 4 written.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rmsnorm_kernel(const float* x, const std::byte* weight, uint32_t rows, uint32_t cols,
                   float epsilon, float added, float* out) {
  wait_for_stream();
  const uint32_t r = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp;
  const unsigned lane = threadIdx.x % kWarp;
  if (r >= rows) return;  // whole warps
  const float* row = x + uint64_t{r} * cols;
  float sum = 0;
  for (uint32_t i = lane; i < cols; i += kWarp) sum = fmaf(row[i], row[i], sum);
  const float scale = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(cols) + epsilon);
  for (uint32_t i = lane; i < cols; i += kWarp) {
    out[uint64_t{r} * cols + i] = row[i] * scale * (load_one<T>(weight, i) + added);
  }
}

/// 0.5 (1 + tanh(u)) of GELU is 1 / (1 + exp(-2u)), which keeps its digits where x is negative.
template <Activation kActivation>
__device__ float activated(float x) {
  if constexpr (kActivation == Activation::kSilu) {
    return x / (1.0f + expf(-x));
  } else {
    const float minus_two_u = x * fmaf(-0.0713548162726f, x * x, -1.59576912161f);
    return x / (1.0f + expf(minus_two_u));
  }
}

/// value(i) for every i < count goes to the target, four at a time.
template <typename Four, typename One>
__device__ void map_flat(uint64_t count, const InputTarget& target, const Four& four,
                         const One& one) {
  const uint64_t i = (uint64_t{blockIdx.x} * kThreads + threadIdx.x) * kPerThread;
  if (i + kPerThread <= count) {
    store_input4(target, i, four(i));
  } else {
    for (uint64_t j = i; j < count; ++j) store_input(target, j, one(j));
  }
}

// Traffic per element: 8 read, the target written.
template <Activation kActivation>
__global__ void gate_mul_kernel(const float* gate, const float* up, uint64_t count,
                                InputTarget target) {
  wait_for_stream();
  map_flat(
      count, target,
      [&](uint64_t i) {
        const float4 g = load4(gate + i);
        const float4 u = load4(up + i);
        return float4{activated<kActivation>(g.x) * u.x, activated<kActivation>(g.y) * u.y,
                      activated<kActivation>(g.z) * u.z, activated<kActivation>(g.w) * u.w};
      },
      [&](uint64_t i) { return activated<kActivation>(gate[i]) * up[i]; });
}

// Traffic per element: 4 read, the target written.
__global__ void convert_kernel(const float* x, uint64_t count, InputTarget target) {
  wait_for_stream();
  map_flat(
      count, target, [&](uint64_t i) { return load4(x + i); }, [&](uint64_t i) { return x[i]; });
}

// Traffic per element: 8 read, 4 written.
__global__ void add_kernel(float* x, const float* y, uint64_t count) {
  wait_for_stream();
  map_flat(
      count, InputTarget{x, nullptr, DType::kF32},
      [&](uint64_t i) {
        const float4 a = load4(x + i);
        const float4 b = load4(y + i);
        return float4{a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
      },
      [&](uint64_t i) { return x[i] + y[i]; });
}

// Traffic per element: 4 read, 4 written.
__global__ void scale_kernel(float* x, float factor, uint64_t count) {
  wait_for_stream();
  map_flat(
      count, InputTarget{x, nullptr, DType::kF32},
      [&](uint64_t i) {
        const float4 v = load4(x + i);
        return float4{v.x * factor, v.y * factor, v.z * factor, v.w * factor};
      },
      [&](uint64_t i) { return x[i] * factor; });
}

// Grid: the pieces of every row, one row after the other, all in x: y ends at 65535, which a
// vocabulary of 2^24 would pass. Traffic per element: 4 read, 4 written.
__global__ void soft_cap_kernel(float* x, float cap, uint32_t cols, uint32_t stride) {
  wait_for_stream();
  const uint32_t pieces = (cols + kThreads - 1) / kThreads;
  const uint32_t i = blockIdx.x % pieces * kThreads + threadIdx.x;
  if (i >= cols) return;
  float* value = x + uint64_t{blockIdx.x / pieces} * stride + i;
  *value = soft_capped(*value, cap);
}

// Traffic per element: 4 read, 4 written.
template <typename T>
__global__ void add_bias_kernel(float* x, const std::byte* bias, uint32_t cols, uint64_t count) {
  wait_for_stream();
  const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) x[i] += load_one<T>(bias, i % cols);
}

/// Which sequence and which of its rows block `index` works on.
__device__ uint32_t find_row(const SequenceBatch& batch, uint32_t index, uint32_t* row) {
  uint32_t s = 0;
  while (index >= batch.items[s].rows) index -= batch.items[s++].rows;
  *row = index;
  return s;
}

/// Blocks beside each other that share a row's heads, so that few rows keep the machine busy, too.
uint32_t head_shares(uint32_t rows, uint32_t heads) {
  constexpr uint32_t kBlocks = 256;
  const uint32_t shares = kBlocks / (rows < kBlocks ? rows : kBlocks);
  return shares < heads ? shares : heads;
}

// Grid: rows, shares of the heads (every gridDim.y-th is a block's own). Traffic: q read and
// written, k and v read, both written to the cache.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rope_append_kernel(float* q, const float* k, const float* v, AttentionShape shape,
                       const float* inverse_frequencies, SequenceBatch batch) {
  wait_for_stream();
  __shared__ float cosine[kMaxHeadDim / 2];
  __shared__ float sine[kMaxHeadDim / 2];
  uint32_t r = 0;
  const SequenceRows sequence = batch.items[find_row(batch, blockIdx.x, &r)];
  const uint32_t position = sequence.first_position + r;
  const uint32_t head_dim = shape.head_dim;
  const uint32_t half = head_dim / 2;
  const uint32_t pairs = shape.rotary_dim != 0 ? shape.rotary_dim / 2 : half;
  for (uint32_t i = threadIdx.x; i < pairs; i += kThreads) {
    const float angle = static_cast<float>(position) *
                        inverse_frequencies[uint64_t{sequence.rope_table} * pairs + i];
    cosine[i] = cosf(angle) * shape.rope_scale;
    sine[i] = sinf(angle) * shape.rope_scale;
  }
  __syncthreads();
  const uint64_t row = sequence.first_row + r;
  const auto own_heads = [](uint32_t heads) {
    return blockIdx.y < heads ? (heads - blockIdx.y - 1) / gridDim.y + 1 : 0;
  };
  // A head's pair i comes from element i * step and the one `apart` behind it.
  const uint32_t step = shape.interleaved ? 2 : 1;
  const uint32_t apart = shape.interleaved ? 1 : pairs;
  static_assert(kMaxHeadDim / 2 <= kThreads);
  const uint32_t heads_at_once = kThreads / pairs;
  for (uint32_t done = 0; done < own_heads(shape.heads); done += heads_at_once) {
    const uint32_t i = threadIdx.x % pairs;
    const uint32_t own = done + threadIdx.x / pairs;
    const bool turns = threadIdx.x < heads_at_once * pairs && own < own_heads(shape.heads);
    float* head = q + (row * shape.heads + blockIdx.y + own * gridDim.y) * head_dim;
    const float low = turns ? head[i * step] : 0;
    const float high = turns ? head[i * step + apart] : 0;
    if (shape.interleaved) __syncthreads();  // another's pair lies where this one goes
    if (!turns) continue;
    head[i] = low * cosine[i] - high * sine[i];
    head[i + pairs] = high * cosine[i] + low * sine[i];
  }
  auto* keys = reinterpret_cast<typename T::Raw*>(sequence.kv);
  const uint64_t head_elements = uint64_t{sequence.kv_capacity} * head_dim;
  typename T::Raw* values = keys + shape.kv_heads * head_elements;
  const uint64_t place = uint64_t{position} * head_dim;
  for (uint32_t j = threadIdx.x; j < own_heads(shape.kv_heads) * half; j += kThreads) {
    const uint32_t i = j % half;
    const uint32_t head = blockIdx.y + j / half * gridDim.y;
    const float* key = k + (row * shape.kv_heads + head) * head_dim;
    const float* value = v + (row * shape.kv_heads + head) * head_dim + i;
    const uint64_t at = head * head_elements + place;
    if (i < pairs) {
      const float low = key[i * step];
      const float high = key[i * step + apart];
      keys[at + i] = T::from_f32(low * cosine[i] - high * sine[i]);
      keys[at + i + pairs] = T::from_f32(high * cosine[i] + low * sine[i]);
    } else {  // two of those that stay as they are
      keys[at + pairs + i] = T::from_f32(key[pairs + i]);
      keys[at + half + i] = T::from_f32(key[half + i]);
    }
    values[at + i] = T::from_f32(value[0]);
    values[at + i + half] = T::from_f32(value[half]);
  }
}

/// What a kernel adds to a norm's weights: -0 changes no bit of any.
float added_to(const NormWeight& norm) {
  return norm.added != 0 ? norm.added : -0.0f;
}

}  // namespace

bool has_code() {
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, convert_kernel);
  if (status == cudaSuccess) return true;
  static_cast<void>(cudaGetLastError());
  return false;
}

bool waits_by_itself() {
  constexpr int kEarliest = 90;
  cudaFuncAttributes attributes{};
  check_cuda(cudaFuncGetAttributes(&attributes, convert_kernel), "cudaFuncGetAttributes");
  return attributes.ptxVersion >= kEarliest;
}

void embed(const LaunchOn& on, const WeightView& table, const uint32_t* ids, const uint32_t* rows,
           uint32_t count, float* out) {
  if (count == 0) return;
  if (has_blocks(table.format)) return embed_blocks(on, table, ids, rows, count, out);
  with_type(table.format, [&](auto type) {
    launch("embed", embed_kernel<decltype(type)>, count, kThreads, on, table.data, table.cols, ids,
           rows, out);
  });
}

void rmsnorm(const LaunchOn& on, const float* x, const NormWeight& norm, uint32_t rows,
             float* out) {
  const WeightView& weight = norm.weight;
  with_type(weight.format, [&](auto type) {
    launch("rmsnorm", rmsnorm_kernel<decltype(type)>, blocks_of(rows, kThreads / kWarp), kThreads,
           on, x, weight.data, rows, weight.cols, norm.epsilon, added_to(norm), out);
  });
}

void add_rmsnorm(const LaunchOn& on, float* x, const float* y, const NormWeight& norm,
                 uint32_t rows, const InputTarget& target) {
  const WeightView& weight = norm.weight;
  with_type(weight.format, [&](auto type) {
    launch("add_rmsnorm", add_rmsnorm_kernel<decltype(type)>, rows, kThreads, on, x, y, weight.data,
           weight.cols, norm.epsilon, added_to(norm), target);
  });
}

void gate_mul(const LaunchOn& on, Activation activation, const float* gate, const float* up,
              uint64_t count, const InputTarget& target) {
  const auto kernel = activation == Activation::kSilu ? gate_mul_kernel<Activation::kSilu>
                                                      : gate_mul_kernel<Activation::kGeluTanh>;
  launch("gate_mul", kernel, blocks_of(count, kThreads * kPerThread), kThreads, on, gate, up, count,
         target);
}

void convert(const LaunchOn& on, const float* x, uint64_t count, const InputTarget& target) {
  launch("convert", convert_kernel, blocks_of(count, kThreads * kPerThread), kThreads, on, x, count,
         target);
}

void add(const LaunchOn& on, float* x, const float* y, uint64_t count) {
  launch("add", add_kernel, blocks_of(count, kThreads * kPerThread), kThreads, on, x, y, count);
}

void scale(const LaunchOn& on, float* x, float factor, uint64_t count) {
  launch("scale", scale_kernel, blocks_of(count, kThreads * kPerThread), kThreads, on, x, factor,
         count);
}

void soft_cap(const LaunchOn& on, float* x, float cap, uint32_t rows, uint32_t cols,
              uint32_t stride) {
  if (rows == 0 || cols == 0) return;
  launch("soft_cap", soft_cap_kernel, rows * blocks_of(cols, kThreads), kThreads, on, x, cap, cols,
         stride);
}

void add_bias(const LaunchOn& on, float* x, uint32_t rows, const WeightView& bias) {
  const uint64_t count = uint64_t{rows} * bias.cols;
  with_type(bias.format, [&](auto type) {
    launch("add_bias", add_bias_kernel<decltype(type)>, blocks_of(count, kThreads), kThreads, on, x,
           bias.data, bias.cols, count);
  });
}

void rope_append(const LaunchOn& on, float* q, const float* k, const float* v,
                 const AttentionShape& shape, const float* inverse_frequencies,
                 const SequenceBatch& sequences) {
  uint32_t rows = 0;
  for (uint32_t s = 0; s < sequences.count; ++s) rows += sequences.items[s].rows;
  if (rows == 0) return;
  with_type(shape.kv_dtype, [&](auto type) {
    launch("rope_append", rope_append_kernel<decltype(type)>,
           dim3(rows, head_shares(rows, shape.heads)), kThreads, on, q, k, v, shape,
           inverse_frequencies, sequences);
  });
}

}  // namespace spillway::cuda
