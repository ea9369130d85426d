// What becomes of logits: folded into a log-softmax for scoring, or the next token picked.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/simt.cuh"

namespace spillway::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / kWarp;
constexpr unsigned kPanelsAtATime = 64;

// A block per row; a warp takes panels of kPanelRows, one thread folds them in order. Traffic:
// cols * 4 per row.
__global__ void __launch_bounds__(kThreads)
    fold_kernel(const float* logits, uint32_t cols, uint32_t stride, uint32_t first_id,
                const uint32_t* targets, float* running_max, float* running_sum,
                float* target_logit) {
  wait_for_stream();
  static_assert(kPanelRows == 2 * kWarp);
  __shared__ float maxima[kPanelsAtATime];
  __shared__ float sums[kPanelsAtATime];
  const uint32_t r = blockIdx.x;
  const float* row = logits + uint64_t{r} * stride;
  const unsigned lane = threadIdx.x % kWarp;
  const uint32_t panels = (cols + kPanelRows - 1) / kPanelRows;
  for (uint32_t first = 0; first < panels; first += kPanelsAtATime) {
    const uint32_t count = panels - first < kPanelsAtATime ? panels - first : kPanelsAtATime;
    for (uint32_t p = threadIdx.x / kWarp; p < count; p += kWarps) {
      const uint32_t at = (first + p) * kPanelRows + lane;
      const float low = at < cols ? row[at] : -INFINITY;
      const float high = at + kWarp < cols ? row[at + kWarp] : -INFINITY;
      const float top = warp_max(fmaxf(low, high));
      const float sum = warp_sum(expf(low - top) + expf(high - top));
      if (lane == 0) {
        maxima[p] = top;
        sums[p] = sum;
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      float top = running_max[r];
      float sum = running_sum[r];
      for (uint32_t p = 0; p < count; ++p) {
        const float both = fmaxf(top, maxima[p]);
        sum = sum * expf(top - both) + sums[p] * expf(maxima[p] - both);
        top = both;
      }
      running_max[r] = top;
      running_sum[r] = sum;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0 && targets[r] >= first_id && targets[r] - first_id < cols) {
    target_logit[r] = row[targets[r] - first_id];
  }
}

constexpr unsigned kSampleThreads = 1024;

/// Order of floats as order of unsigned integers.
__device__ uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// Best logit and its lowest id over the block; kBadLogits where any is not a number.
__device__ uint32_t best_id(const float* logits, uint32_t cols) {
  __shared__ uint32_t keys[kSampleThreads / kWarp];
  __shared__ uint32_t ids[kSampleThreads / kWarp];
  uint32_t best_key = 0;
  uint32_t best = kBadLogits;
  bool bad = false;
  for (uint32_t i = threadIdx.x; i < cols; i += kSampleThreads) {
    bad |= !isfinite(logits[i]);
    const uint32_t key = key_of(logits[i] + 0.0f);  // -0 counts as 0
    if (key > best_key) {
      best_key = key;
      best = i;
    }
  }
  if (__syncthreads_or(bad)) return kBadLogits;
  for (unsigned width = kWarp / 2; width > 0; width /= 2) {
    const uint32_t other_key = __shfl_xor_sync(kAllLanes, best_key, width);
    const uint32_t other = __shfl_xor_sync(kAllLanes, best, width);
    if (other_key > best_key || (other_key == best_key && other < best)) {
      best_key = other_key;
      best = other;
    }
  }
  if (threadIdx.x % kWarp == 0) {
    keys[threadIdx.x / kWarp] = best_key;
    ids[threadIdx.x / kWarp] = best;
  }
  __syncthreads();
  for (unsigned w = 0; w < kSampleThreads / kWarp; ++w) {
    if (keys[w] > best_key || (keys[w] == best_key && ids[w] < best)) {
      best_key = keys[w];
      best = ids[w];
    }
  }
  return best;
}

/// One row's candidates; every member is a pass over the row by the whole block. A rank order by
/// (logit descending, id ascending) is described by its last member: all of higher logit, and of
/// equal logit those up to its id.
struct Candidates {
  const float* logits;
  uint32_t cols;
  float top;
  float temperature;
  double* scratch;  // kSampleThreads / kWarp, shared

  __device__ double weight(uint32_t i) const {
    return static_cast<double>(expf((logits[i] - top) / temperature));
  }
  /// key of the logit, then the complement of the id: ranks as integers, higher first.
  __device__ uint64_t rank(uint32_t i) const {
    return static_cast<uint64_t>(key_of(logits[i] + 0.0f)) << 32 | (0xffffffffu - i);
  }
  template <typename Value>
  __device__ double total(uint64_t least, const Value& value) const {
    double sum = 0;
    for (uint32_t i = threadIdx.x; i < cols; i += kSampleThreads) {
      if (rank(i) >= least) sum += value(i);
    }
    const double result = block_sum<kSampleThreads>(sum, scratch);
    __syncthreads();
    return result;
  }
  /// The highest rank such that the sum over all at or above it reaches `goal`.
  template <typename Value>
  __device__ uint64_t reach(double goal, uint64_t lowest, const Value& value) const {
    uint64_t low = lowest;         // reaches
    uint64_t high = ~uint64_t{0};  // does not, or is the answer's upper bound
    while (low + 1 < high) {
      const uint64_t middle = low + (high - low) / 2;
      if (total(middle, value) >= goal) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// A block per row. Traffic: about 100 passes over a row that stays in L2 when sampling; one when
// greedy.
__global__ void __launch_bounds__(kSampleThreads)
    sample_kernel(const float* all_logits, uint32_t cols, SampleBatch batch, uint32_t* ids) {
  wait_for_stream();
  __shared__ double scratch[kSampleThreads / kWarp];
  const SampleRow row = batch.rows[blockIdx.x];
  const float* logits = all_logits + uint64_t{blockIdx.x} * cols;
  const uint32_t best = best_id(logits, cols);
  if (best == kBadLogits || row.temperature <= 0) {
    if (threadIdx.x == 0) ids[blockIdx.x] = best;
    return;
  }
  const Candidates all{logits, cols, logits[best], row.temperature, scratch};
  const auto count = [](uint32_t) { return 1.0; };
  const auto weight = [&](uint32_t i) { return all.weight(i); };
  uint64_t least = 0;
  if (row.top_k != 0 && row.top_k < cols) least = all.reach(row.top_k, 0, count);
  if (row.top_p < 1) {
    least = all.reach(static_cast<double>(row.top_p) * all.total(least, weight), least, weight);
  }
  const double goal = static_cast<double>(row.uniform) * all.total(least, weight);
  // The lowest id at which the cumulative weight passes the goal.
  uint32_t low = 0;
  uint32_t high = cols - 1;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    const double sum = all.total(least, [&](uint32_t i) { return i <= middle ? weight(i) : 0.0; });
    if (sum > goal) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  // Rounding may lead past the last candidate; the best one always is one.
  if (threadIdx.x == 0) ids[blockIdx.x] = all.rank(low) >= least ? low : best;
}

}  // namespace

void fold_log_softmax(const LaunchOn& on, const float* logits, uint32_t rows, uint32_t cols,
                      uint32_t stride, uint32_t first_id, const uint32_t* targets,
                      float* running_max, float* running_sum, float* target_logit) {
  launch("fold_log_softmax", fold_kernel, rows, kThreads, on, logits, cols, stride, first_id,
         targets, running_max, running_sum, target_logit);
}

void sample(const LaunchOn& on, const float* logits, uint32_t cols, const SampleBatch& batch,
            uint32_t rows, uint32_t* ids) {
  launch("sample", sample_kernel, rows, kSampleThreads, on, logits, cols, batch, ids);
}

}  // namespace spillway::cuda
