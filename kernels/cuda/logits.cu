// What becomes of logits: folded into a log-softmax or the likeliest ids for scoring, or the next
// token picked. A block per row: a row of any vocabulary stays in the L2 cache, and nothing needs
// scratch memory.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/simt.cuh"

namespace spillway::cuda {
namespace {

constexpr unsigned kThreads = 1024;
constexpr unsigned kWarps = kThreads / kWarp;

/// Logits [id, id + 4) of a row, `filler` for those it does not have. `aligned`: row + id is a
/// multiple of 16 bytes.
__device__ float4 load_four(const float* row, uint32_t cols, uint32_t id, bool aligned,
                            float filler) {
  if (aligned && id < cols && cols - id >= 4) {
    return *reinterpret_cast<const float4*>(row + id);
  }
  const auto one = [&](uint32_t i) { return i < cols ? row[i] : filler; };
  return {one(id), one(id + 1), one(id + 2), one(id + 3)};
}

/// Inclusive, by lane.
template <typename Value, typename Combine>
__device__ Value warp_scan(Value value, const Combine& combine) {
  for (unsigned width = 1; width < kWarp; width *= 2) {
    const Value before = __shfl_up_sync(kAllLanes, value, width);
    if (threadIdx.x % kWarp >= width) value = combine(before, value);
  }
  return value;
}

__device__ uint64_t plus(uint64_t a, uint64_t b) {
  return a + b;
}

constexpr unsigned kPanelsAtATime = kThreads;
constexpr unsigned kPanelLanes = kPanelRows / 4;

/// Maximum and sum of exponentials per panel, half a warp each: four logits a lane, added as if
/// lane l of a warp had l and l + 32.
__device__ void fold_panels(const float* row, uint32_t cols, uint32_t first, uint32_t count,
                            float2* panels) {
  static_assert(kPanelRows == 64);
  const bool aligned = reinterpret_cast<uintptr_t>(row) % 16 == 0;
  const unsigned lane = threadIdx.x % kWarp;
  for (uint32_t w = threadIdx.x / kWarp * 2; w < count; w += kWarps * 2) {
    const uint32_t p = w + lane / kPanelLanes;
    const float4 four =
        load_four(row, cols, (first + p) * kPanelRows + lane % kPanelLanes * 4, aligned, -INFINITY);
    float top = fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w));
    for (unsigned width = kPanelLanes / 2; width > 0; width /= 2) {
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, width));
    }
    const float values[4] = {expf(four.x - top), expf(four.y - top), expf(four.z - top),
                             expf(four.w - top)};
    float sum = warp_sums<4, kPanelLanes / 2>(values);
    sum += __shfl_xor_sync(kAllLanes, sum, kPanelLanes / 2);
    sum += __shfl_xor_sync(kAllLanes, sum, kPanelLanes / 4);
    if (lane % kPanelLanes == 0 && p < count) panels[p] = {top, sum};
  }
}

/// Panels become what the fold in order does with them, sum = sum * x + y, given the maximum before
/// the first. Returns that after the last.
__device__ float scale_panels(float2* panels, uint32_t count, float top, float* warp_tops) {
  const uint32_t p = threadIdx.x;
  const float2 mine = p < count ? panels[p] : float2{-INFINITY, 0.0f};
  const float through = warp_scan(mine.x, [](float a, float b) { return fmaxf(a, b); });
  if (p % kWarp == kWarp - 1) warp_tops[p / kWarp] = through;
  const float others = __shfl_up_sync(kAllLanes, through, 1);
  __syncthreads();
  float before = top;
  for (unsigned w = 0; w < kWarps; ++w) {
    if (w < p / kWarp) before = fmaxf(before, warp_tops[w]);
    top = fmaxf(top, warp_tops[w]);
  }
  if (p % kWarp != 0) before = fmaxf(before, others);
  const float both = fmaxf(before, mine.x);
  if (p < count) panels[p] = {expf(before - both), mine.y * expf(mine.x - both)};
  __syncthreads();
  return top;
}

/// Blocks of a multiprocessor at a time: some GPUs have room for 2048 threads there, others for
/// 1536.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 900 || \
                               __CUDA_ARCH__ == 1000 || __CUDA_ARCH__ == 1030)
constexpr unsigned kFoldBlocks = 2;
#else
constexpr unsigned kFoldBlocks = 1;
#endif

// Panels of kPanelRows and their scales in parallel; in order goes one multiply-add a panel, so
// that the result does not depend on the tile, while the other warps begin with the next panels.
// Traffic: cols * 4 per row.
__global__ void __launch_bounds__(kThreads, kFoldBlocks)
    fold_kernel(const float* logits, uint32_t cols, uint32_t stride, uint32_t first_id,
                const uint32_t* targets, float* running_max, float* running_sum,
                float* target_logit) {
  wait_for_stream();
  __shared__ float2 both_panels[2][kPanelsAtATime];
  __shared__ float warp_tops[kWarps];
  const uint32_t r = blockIdx.x;
  const float* row = logits + uint64_t{r} * stride;
  const uint32_t all = (cols + kPanelRows - 1) / kPanelRows;
  float top = running_max[r];
  float sum = running_sum[r];
  for (uint32_t first = 0; first < all; first += kPanelsAtATime) {
    const uint32_t count = all - first < kPanelsAtATime ? all - first : kPanelsAtATime;
    float2* panels = both_panels[first / kPanelsAtATime % 2];
    fold_panels(row, cols, first, count, panels);
    __syncthreads();
    top = scale_panels(panels, count, top, warp_tops);
    if (threadIdx.x != 0) continue;
#pragma unroll 8
    for (uint32_t p = 0; p < count; ++p) sum = fmaf(sum, panels[p].x, panels[p].y);
  }
  if (threadIdx.x != 0) return;
  running_max[r] = top;
  running_sum[r] = sum;
  if (targets[r] >= first_id && targets[r] - first_id < cols) {
    target_logit[r] = row[targets[r] - first_id];
  }
}

/// Order of floats as order of unsigned integers; -0 counts as 0.
__device__ uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ float value_of(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

// The likeliest. A token's rank is its logit's key and, below it, the id's complement: of all ranks
// none are equal, so that the list of the highest does not depend on the order they are met in.

__device__ uint64_t rank_of(float value, uint32_t id) {
  return static_cast<uint64_t>(key_of(value)) << 32 | ~id;
}

/// A row's list so far, highest first, and those that wait to be sorted into it.
struct TopList {
  static constexpr uint32_t kRoom = kThreads;
  uint64_t ranks[kRoom];
  uint64_t waiting[kRoom];
  uint32_t count;  // of those that wait; more than kRoom where some found none

  /// Of a bitonic sort of `many` ranks, a power of two, the steps that make runs of `size` out of
  /// those of half that; those of `next` follow. At distances below its width a warp compares what
  /// is its own.
  static __device__ void exchange(uint64_t* of, uint32_t many, uint32_t size, uint32_t next) {
    const uint32_t i = threadIdx.x;
    for (uint32_t distance = size / 2; distance > 0; distance /= 2) {
      const uint32_t other = i ^ distance;
      if (i < many && other > i) {
        const uint64_t mine = of[i];
        const uint64_t its = of[other];
        if ((mine < its) == ((i & size) == 0)) {
          of[i] = its;
          of[other] = mine;
        }
      }
      const uint32_t following = distance > 1 ? distance / 2 : next / 2;
      if (distance >= kWarp || following >= kWarp) {
        __syncthreads();
      } else {
        __syncwarp();
      }
    }
  }

  /// All threads call it and have seen the same `found`, which is what `count` was.
  __device__ void merge(uint32_t found, uint32_t width) {
    if (found > kRoom) found = kRoom;
    uint32_t many = 1;
    while (many < found) many *= 2;
    const uint32_t i = threadIdx.x;
    if (i >= found && i < many && i < kRoom) waiting[i] = 0;  // many is kRoom at most
    __syncthreads();
    if (i == 0) count = 0;
    for (uint32_t size = 2; size <= many; size *= 2) exchange(waiting, many, size, size * 2);
    __syncthreads();
    // The higher of the one's n-th and the other's n-th last: the highest of both, down, then up.
    const uint32_t mirrored = width - 1 - i;
    if (i < width && mirrored < many && waiting[mirrored] > ranks[i]) ranks[i] = waiting[mirrored];
    __syncthreads();
    exchange(ranks, width, width, 0);
    __syncthreads();
  }
};
static_assert(TopList::kRoom >= kMaxTopK);

/// Which of the four from `id` on rank above `least`, as bits. What is not a number does not.
__device__ unsigned higher_of(const float (&four)[4], uint32_t id, const uint64_t& least) {
  const float value = value_of(static_cast<uint32_t>(least >> 32));
  unsigned higher = 0;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    if (four[i] >= value && rank_of(four[i], id + i) > least) higher |= 1u << i;
  }
  return higher;
}

// Logits are tested against the list's last as they are read; the few that rank higher wait until
// there is no more room, or the tile ends. Traffic: cols * 4 per row.
__global__ void __launch_bounds__(kThreads, kFoldBlocks)
    top_k_kernel(const float* logits, uint32_t cols, uint32_t stride, uint32_t first_id, uint32_t k,
                 float* values, uint32_t* ids) {
  wait_for_stream();
  __shared__ TopList list;
  const float* row = logits + uint64_t{blockIdx.x} * stride;
  const uint64_t place = uint64_t{blockIdx.x} * k + threadIdx.x;
  uint32_t width = 1;
  while (width < k) width *= 2;
  if (threadIdx.x < width) {
    list.ranks[threadIdx.x] = threadIdx.x < k ? rank_of(values[place], ids[place]) : 0;
  }
  if (threadIdx.x == 0) list.count = 0;
  __syncthreads();
  const uint64_t& least = list.ranks[k - 1];
  const auto skew = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(row) / 4 % 4);
  const uint32_t end = cols + skew;
  const auto load = [&](uint32_t at) { return load_four(row, cols, at - skew, true, NAN); };
  for (uint32_t begin = 0; begin < end; begin += kThreads * 4) {
    const uint32_t at = begin + threadIdx.x * 4;
    const float4 loaded = load(at);
    const float four[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
    const uint32_t id = first_id + at - skew;
    unsigned higher = higher_of(four, id, least);
    while (__syncthreads_or(higher != 0)) {
      uint32_t slot = higher != 0 ? atomicAdd(&list.count, __popc(higher)) : 0;
#pragma unroll
      for (unsigned i = 0; i < 4; ++i) {
        if ((higher >> i & 1) == 0 || slot >= TopList::kRoom) continue;
        list.waiting[slot++] = rank_of(four[i], id + i);
        higher &= ~(1u << i);
      }
      __syncthreads();
      const uint32_t found = list.count;
      if (found < TopList::kRoom) break;
      list.merge(found, width);
      higher &= higher_of(four, id, least);
    }
  }
  if (const uint32_t found = list.count; found > 0) list.merge(found, width);
  if (threadIdx.x >= k) return;
  values[place] = value_of(static_cast<uint32_t>(list.ranks[threadIdx.x] >> 32));
  ids[place] = ~static_cast<uint32_t>(list.ranks[threadIdx.x]);
}

// Sampling. Sums are of integers, so that they do not depend on the order: of ones, or of weights
// in fixed point (Weigher). A search sums into bins over the whole range, finds the bin in which
// the sum reaches its goal, and goes on with that bin's range.

constexpr unsigned kBinBits = 11;
constexpr unsigned kBins = 1u << kBinBits;
static_assert(kBins == 2 * kThreads);

constexpr uint32_t kLowestKey = 0x00800000u;  // of numbers that are finite
constexpr uint32_t kHighestKey = 0xff7fffffu;

/// One row's logits, read by the whole block. Fours lie at aligned addresses: the first begins
/// `skew` floats before the row.
struct Row {
  static constexpr unsigned kSegment = 4 * kWarp;  // what a warp takes at a time
  const float* logits;
  uint32_t cols;
  uint32_t skew;

  static __device__ Row of(const float* logits, uint32_t cols) {
    return {logits, cols, static_cast<uint32_t>(reinterpret_cast<uintptr_t>(logits) / 4 % 4)};
  }

  __device__ float4 load(uint32_t at) const {
    return load_four(logits, cols, at - skew, true, 0.0f);
  }
  /// use(at, four) where four[i] has the id at + i - skew, if there is one; by whole warps, a
  /// segment each. The next four is on its way meanwhile.
  template <typename Use>
  __device__ void for_fours(const Use& use) const {
    const uint32_t end = cols + skew;
    const uint32_t offset = threadIdx.x % kWarp * 4;
    uint32_t segment = threadIdx.x / kWarp * kSegment;
    float4 next = load(segment + offset);
    for (; segment < end; segment += kWarps * kSegment) {
      const float4 four = next;
      next = load(segment + kWarps * kSegment + offset);
      use(segment + offset, four);
    }
  }
  /// use(id, logit) for those of a four that exist, by ascending id.
  template <typename Use>
  __device__ void each_of(uint32_t at, const float4& four, const Use& use) const {
    const uint32_t id = at - skew;
    if (id < cols) use(id, four.x);
    if (id + 1 < cols) use(id + 1, four.y);
    if (id + 2 < cols) use(id + 2, four.z);
    if (id + 3 < cols) use(id + 3, four.w);
  }
  template <typename Use>
  __device__ void for_each(const Use& use) const {
    for_fours([&](uint32_t at, const float4& four) { each_of(at, four, use); });
  }
};

struct Found {
  uint32_t bin;
  uint32_t count;   // of values in the bin, where they are counted
  uint64_t sum;     // of the bin
  uint64_t before;  // of all bins below
  uint64_t goal;
};

/// Sums in shared memory. Of 64 bits, in halves: additions of 32 bits are single instructions.
struct Bins {
  uint32_t counts[kBins];
  uint32_t low[kBins];
  uint32_t high[kBins];
  uint64_t warp_sums[kWarps];
  Found found;

  __device__ void clear() {
    for (uint32_t i = threadIdx.x; i < kBins; i += kThreads) counts[i] = low[i] = high[i] = 0;
    __syncthreads();
  }
  /// For sums of less than 2^32; they are not counted.
  __device__ void add(uint32_t bin, uint32_t value) { atomicAdd(&low[bin], value); }
  __device__ void add(uint32_t bin, uint64_t value) {
    const auto part = static_cast<uint32_t>(value);
    atomicAdd(&counts[bin], 1u);
    const uint32_t carry = part > ~atomicAdd(&low[bin], part) ? 1 : 0;
    const uint32_t upper = static_cast<uint32_t>(value >> 32) + carry;
    if (upper != 0) atomicAdd(&high[bin], upper);
  }
  __device__ uint64_t sum(uint32_t bin) const {
    return static_cast<uint64_t>(high[bin]) << 32 | low[bin];
  }
  /// The bin in which the sum from the first on reaches goal_of(total), which is in [1, total].
  template <typename Goal>
  __device__ Found find(const Goal& goal_of) {
    __syncthreads();
    const uint32_t bin = threadIdx.x * 2;
    const uint64_t first = sum(bin);
    const uint64_t both = first + sum(bin + 1);
    uint64_t through = warp_scan(both, plus);
    if (threadIdx.x % kWarp == kWarp - 1) warp_sums[threadIdx.x / kWarp] = through;
    __syncthreads();
    uint64_t total = 0;
#pragma unroll 4  // few registers
    for (unsigned w = 0; w < kWarps; ++w) {
      if (w == threadIdx.x / kWarp) through += total;
      total += warp_sums[w];
    }
    const uint64_t goal = goal_of(total);
    const uint64_t before = through - both;
    if (before < goal && goal <= through) {
      const bool second = before + first < goal;
      found = {bin + second, counts[bin + second], second ? both - first : first,
               second ? before + first : before, goal};
    }
    __syncthreads();
    return found;
  }
};

/// The tokens up to a last one by rank: of a logit less than `distance` below the best, in keys,
/// and at that distance those up to `id`.
struct Kept {
  uint32_t distance;
  uint32_t id;
  __device__ bool holds(uint32_t its_distance, uint32_t its_id) const {
    return its_distance < distance || (its_distance == distance && its_id <= id);
  }
};
constexpr uint32_t kEveryId = UINT32_MAX;

/// Weights relative to the best token's, in fixed point with as many bits as let `cols` of the
/// largest be added: the sum of all roundings is then less than 2^-31 of the total.
struct Weigher {
  double top;
  double per_degree;
  double one;

  static __device__ Weigher of(float best, float temperature, uint32_t cols) {
    const int bits = 32 + __clz(static_cast<int>(cols));
    return {static_cast<double>(best), 1.0 / static_cast<double>(temperature),
            static_cast<double>(uint64_t{1} << bits)};
  }
  __device__ uint64_t operator()(float logit) const {
    const double exponent = (static_cast<double>(logit) - top) * per_degree;
    if (exponent < -45.0) return 0;  // less than half of 2^-63
    return static_cast<uint64_t>(exp(exponent) * one + 0.5);
  }
};

/// That share of a total, in whole units; `share` is less than 1.
__device__ double share_of(uint64_t total, float share) {
  return fmax(static_cast<double>(share), 0.0) * static_cast<double>(total);
}

struct Sampler {
  Row row;
  uint32_t top_key;
  Bins& bins;

  __device__ uint32_t distance(float logit) const { return top_key - key_of(logit); }

  /// The lowest id up to which the sum of value(id, logit) reaches its goal. One pass, and the
  /// found segment by every warp.
  template <typename Value, typename Goal>
  __device__ uint32_t reach_by_id(const Value& value, const Goal& goal_of) const {
    const uint32_t per_bin = (row.cols + row.skew) / (Row::kSegment * kBins) + 1;
    bins.clear();
    row.for_fours([&](uint32_t at, const float4& four) {
      uint64_t sum = 0;
      row.each_of(at, four, [&](uint32_t id, float logit) { sum += value(id, logit); });
      if (__ballot_sync(kAllLanes, sum != 0) == 0) return;
      for (unsigned width = kWarp / 2; width > 0; width /= 2) {
        sum += __shfl_xor_sync(kAllLanes, sum, width);
      }
      if (threadIdx.x % kWarp == 0) bins.add(at / Row::kSegment / per_bin, sum);
    });
    const Found found = bins.find(goal_of);
    uint64_t left = found.goal - found.before;
    uint32_t first = found.bin * per_bin * Row::kSegment - row.skew;
    while (true) {
      const uint32_t id = first + threadIdx.x % kWarp;
      const uint64_t mine = id < row.cols ? value(id, row.logits[id]) : 0;
      const uint64_t through = warp_scan(mine, plus);
      const unsigned reached = __ballot_sync(kAllLanes, through >= left);
      if (reached != 0) return first + static_cast<uint32_t>(__ffs(static_cast<int>(reached))) - 1;
      left -= __shfl_sync(kAllLanes, through, kWarp - 1);
      first += kWarp;
    }
  }

  /// The fewest of `kept`, by rank, whose sum of value(logit) reaches its goal. Up to three passes
  /// over 32 bits of key, as a rule two for all tokens and one for few; one more for ties.
  template <typename Value, typename Goal>
  __device__ Kept reach_by_rank(const Kept& kept, const Value& value, const Goal& goal_of) const {
    uint32_t first = 0;
    uint32_t last = kept.distance;
    uint64_t left = 0;  // not known before the first pass
    while (true) {
      const int bits = 32 - __clz(static_cast<int>(last - first));
      const unsigned shift = bits > static_cast<int>(kBinBits) ? bits - kBinBits : 0;
      bins.clear();
      row.for_each([&](uint32_t id, float logit) {
        const uint32_t at = distance(logit);
        if (at - first > last - first || !kept.holds(at, id)) return;
        const auto its = value(logit);
        if (its != 0) bins.add((at - first) >> shift, its);
      });
      const Found found =
          bins.find([&](uint64_t total) { return left != 0 ? left : goal_of(total); });
      left = found.goal - found.before;
      first += found.bin << shift;
      const uint32_t end = first + ((1u << shift) - 1);
      if (end < last) last = end;
      if (found.count == 1 || found.sum == left) {
        return {last, last == kept.distance ? kept.id : kEveryId};
      }
      if (shift == 0) break;
    }
    const uint64_t each = value(value_of(top_key - first));
    const uint64_t ties = (left + each - 1) / each;
    const auto tie = [&](uint32_t id, float logit) -> uint64_t {
      return distance(logit) == first && kept.holds(first, id) ? 1 : 0;
    };
    return {first, reach_by_id(tie, [&](uint64_t) { return ties; })};
  }
};

struct Extremes {
  uint32_t top_key;
  uint32_t low_key;
  uint32_t best;  // the lowest id of the top key
};

__device__ Extremes combine(const Extremes& a, const Extremes& b) {
  const bool first = a.top_key > b.top_key || (a.top_key == b.top_key && a.best < b.best);
  return {first ? a.top_key : b.top_key, a.low_key < b.low_key ? a.low_key : b.low_key,
          first ? a.best : b.best};
}

/// In every thread.
__device__ Extremes extremes_of(const Row& row) {
  __shared__ Extremes of_warps[kWarps];
  Extremes mine = {0, UINT32_MAX, UINT32_MAX};
  row.for_each([&](uint32_t id, float logit) {
    const uint32_t key = key_of(logit);
    if (key > mine.top_key) {
      mine.top_key = key;
      mine.best = id;
    }
    if (key < mine.low_key) mine.low_key = key;
  });
  for (unsigned width = kWarp / 2; width > 0; width /= 2) {
    mine = combine(mine, {__shfl_xor_sync(kAllLanes, mine.top_key, width),
                          __shfl_xor_sync(kAllLanes, mine.low_key, width),
                          __shfl_xor_sync(kAllLanes, mine.best, width)});
  }
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = mine;
  __syncthreads();
#pragma unroll 4
  for (unsigned w = 0; w < kWarps; ++w) mine = combine(mine, of_warps[w]);
  return mine;
}

// Traffic: passes over a row that stays in L2. One when greedy, and as a rule two for top_k, two
// for top_p (one after top_k) and one for the draw. Exponentials in double, of kept tokens only.
__global__ void __launch_bounds__(kThreads)
    sample_kernel(const float* all_logits, uint32_t cols, SampleBatch batch, uint32_t* ids) {
  wait_for_stream();
  __shared__ Bins bins;
  const SampleRow& how = batch.rows[blockIdx.x];
  const Row row = Row::of(all_logits + uint64_t{blockIdx.x} * cols, cols);
  const Extremes extremes = extremes_of(row);
  const bool bad = extremes.low_key < kLowestKey || extremes.top_key > kHighestKey;
  if (bad || !(how.temperature > 0)) {
    if (threadIdx.x == 0) ids[blockIdx.x] = bad ? kBadLogits : extremes.best;
    return;
  }
  const Sampler sampler{row, extremes.top_key, bins};
  const auto weigh = Weigher::of(value_of(extremes.top_key), how.temperature, cols);
  Kept kept = {extremes.top_key - extremes.low_key, kEveryId};
  if (how.top_k != 0 && how.top_k < cols) {
    kept = sampler.reach_by_rank(
        kept, [](float) { return uint32_t{1}; }, [&](uint64_t) { return uint64_t{how.top_k}; });
  }
  if (how.top_p < 1) {
    kept = sampler.reach_by_rank(kept, weigh, [&](uint64_t total) {
      const auto goal = static_cast<uint64_t>(ceil(share_of(total, how.top_p)));
      return goal > 1 ? goal : 1;  // the best token, at least
    });
  }
  const uint32_t id = sampler.reach_by_id(
      [&](uint32_t i, float logit) {
        return kept.holds(sampler.distance(logit), i) ? weigh(logit) : 0;
      },
      // Passed is one more than reached; added as an integer, for a double has fewer bits.
      [&](uint64_t total) { return static_cast<uint64_t>(share_of(total, how.uniform)) + 1; });
  if (threadIdx.x == 0) ids[blockIdx.x] = id;
}

}  // namespace

void fold_log_softmax(const LaunchOn& on, const float* logits, uint32_t rows, uint32_t cols,
                      uint32_t stride, uint32_t first_id, const uint32_t* targets,
                      float* running_max, float* running_sum, float* target_logit) {
  launch("fold_log_softmax", fold_kernel, rows, kThreads, on, logits, cols, stride, first_id,
         targets, running_max, running_sum, target_logit);
}

void fold_top_k(const LaunchOn& on, const float* logits, uint32_t rows, uint32_t cols,
                uint32_t stride, uint32_t first_id, uint32_t k, float* values, uint32_t* ids) {
  launch("fold_top_k", top_k_kernel, rows, kThreads, on, logits, cols, stride, first_id, k, values,
         ids);
}

void sample(const LaunchOn& on, const float* logits, uint32_t cols, const SampleBatch& batch,
            uint32_t rows, uint32_t* ids) {
  launch("sample", sample_kernel, rows, kThreads, on, logits, cols, batch, ids);
}

}  // namespace spillway::cuda
