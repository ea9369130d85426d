// Body of isa_*.cpp: included once per instruction set, compiled with its flags. Nothing of the
// standard library but memcpy may be used here: an inline function compiled with AVX-512 could be
// the copy that the linker keeps for everybody.
#include <cstring>

#include "kernels/host/isa_kernels.h"

#include <immintrin.h>

namespace spillway {
namespace {

#if defined(__AVX512F__)
constexpr unsigned kLanes = 16;
#elif defined(__AVX2__)
constexpr unsigned kLanes = 8;
#else
constexpr unsigned kLanes = 4;
#endif

using Floats = float __attribute__((vector_size(kLanes * 4)));
using Ints = int32_t __attribute__((vector_size(kLanes * 4)));
using Words = uint32_t __attribute__((vector_size(kLanes * 4)));
using Halves = uint16_t __attribute__((vector_size(kLanes * 2)));

inline Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline void store(float* p, Floats v) {
  std::memcpy(p, &v, sizeof(v));
}
inline Floats splat(float x) {
  return Floats{} + x;
}

/// The product as it is: where two products are added, the compiler would be free to choose which
/// of them an FMA does not round, and choose otherwise where the same lines are compiled again.
inline Floats rounded_product(Floats a, Floats b) {
  Floats product = a * b;
#if defined(__AVX512F__)
  asm("" : "+v"(product));
#else
  asm("" : "+x"(product));
#endif
  return product;
}

struct F32 {
  static constexpr size_t kBytes = 4;
  static Floats load_lanes(const std::byte* p) {
    Floats v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
};

/// kLanes unsigned numbers of 16 bits. GCC 12 widens vectors in halves, which takes four shuffles
/// instead of one.
inline Words words_of(const std::byte* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(
      _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Halves raw;
  std::memcpy(&raw, p, sizeof(raw));
  return __builtin_convertvector(raw, Words);
#endif
}

struct Bf16 {
  static constexpr size_t kBytes = 2;
  static Floats load_lanes(const std::byte* p) {
    return reinterpret_cast<Floats>(words_of(p) << 16);
  }
};

struct F16 {
  static constexpr size_t kBytes = 2;
  static Floats load_lanes(const std::byte* p) {
#if defined(__AVX512F__)
    // The masked form: the plain one warns in GCC 12 (bug 105593).
    return reinterpret_cast<Floats>(
        _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
    return reinterpret_cast<Floats>(
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    // Moves exponent and mantissa into place and rescales by 2^112: exact, subnormals included.
    const Words wide = words_of(p);
    const Words sign = (wide & 0x8000u) << 16;
    const Words rest = (wide & 0x7fffu) << 13;
    const Floats scaled = reinterpret_cast<Floats>(rest) * 0x1p112f;
    const Ints special = (wide & 0x7c00u) == 0x7c00u;
    const Words bits = (reinterpret_cast<Words>(special) & (rest | 0x7f800000u)) |
                       (~reinterpret_cast<Words>(special) & reinterpret_cast<Words>(scaled));
    return reinterpret_cast<Floats>(bits | sign);
#endif
  }
};

/// The last cols % kLanes elements, padded with zeros.
template <typename T>
inline Floats load_tail(const std::byte* p, size_t count) {
  std::byte padded[kLanes * T::kBytes] = {};
  std::memcpy(padded, p, count * T::kBytes);
  return T::load_lanes(padded);
}

/// Pairwise, so that the order is the same for every caller.
inline float sum_lanes(Floats v) {
  float lanes[kLanes];
  std::memcpy(lanes, &v, sizeof(v));
  for (unsigned width = kLanes / 2; width > 0; width /= 2) {
    for (unsigned i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

/// What a core asks for before it is needed.
constexpr size_t kPrefetchBytes = 2048;
/// Of rows no longer than that, several to a page, one row of activations asks for the next rows in
/// the order in which they lie, which a core's own reading ahead follows best: measured 5 to 20 %
/// faster, but slower for longer rows and for more rows of activations.
constexpr size_t kShortRowBytes = 6144;
/// What is asked for first is so far behind the next rows' beginning, from a line on that begins
/// two pairs: other distances and beginnings are slower at some lengths of rows, up to half.
constexpr size_t kShortRowsAhead = 256;

/// Where dot_tile() asks for a line of each of N rows while it loads those at `row_offset`: in turn
/// with the loads, since all at once wait for each other.
struct Ahead {
  uintptr_t first;  // at the end of a matrix beyond it, where no pointer may point
  size_t stride;
};
template <unsigned R, unsigned N>
inline Ahead ahead_of(const std::byte* w, size_t row_bytes, size_t row_offset) {
  const auto begin = reinterpret_cast<uintptr_t>(w);
  if (R == 1 && row_bytes <= kShortRowBytes) {
    const uintptr_t ahead = begin + N * row_bytes + kShortRowsAhead;
    return {ahead / kShortRowsAhead * kShortRowsAhead + N * row_offset, 64};
  }
  // Behind the end of a row, its place in the next N rows: what follows it is here already.
  const bool row_ends = row_offset + kPrefetchBytes >= row_bytes;
  return {begin + row_offset + kPrefetchBytes + (row_ends ? (N - 1) * row_bytes : 0), row_bytes};
}

/// R activation rows by N weight rows. Streams N weight rows at once, so that several cache lines
/// are always on their way: weight bytes read = N * cols * kBytes, the bound of decode.
template <typename T, unsigned R, unsigned N>
inline void dot_tile(const float* x, size_t x_stride, const std::byte* w, size_t cols, float* out,
                     size_t out_stride) {
  const size_t row_bytes = cols * T::kBytes;
  Floats sum[R][N] = {};
  size_t k = 0;
  for (; k + kLanes <= cols; k += kLanes) {
    Floats xs[R];
    for (unsigned r = 0; r < R; ++r) xs[r] = load(x + r * x_stride + k);
    const Ahead ahead = ahead_of<R, N>(w, row_bytes, k * T::kBytes);
    for (unsigned n = 0; n < N; ++n) {
      const std::byte* at = w + n * row_bytes + k * T::kBytes;
      if ((k * T::kBytes) % 64 == 0) {
        __builtin_prefetch(reinterpret_cast<const void*>(ahead.first + n * ahead.stride));
      }
      const Floats weight = T::load_lanes(at);
      for (unsigned r = 0; r < R; ++r) sum[r][n] += xs[r] * weight;
    }
  }
  if (k < cols) {
    const size_t rest = cols - k;
    for (unsigned n = 0; n < N; ++n) {
      const Floats weight = load_tail<T>(w + n * row_bytes + k * T::kBytes, rest);
      for (unsigned r = 0; r < R; ++r) {
        const auto* row = reinterpret_cast<const std::byte*>(x + r * x_stride + k);
        sum[r][n] += load_tail<F32>(row, rest) * weight;
      }
    }
  }
  for (unsigned r = 0; r < R; ++r) {
    for (unsigned n = 0; n < N; ++n) out[r * out_stride + n] = sum_lanes(sum[r][n]);
  }
}

template <typename T, unsigned R>
void gemv_rows(const float* x, size_t x_stride, const std::byte* w, unsigned w_rows, size_t cols,
               float* out, size_t out_stride) {
  constexpr unsigned kWeightRows = 4;
  const size_t row_bytes = cols * T::kBytes;
  unsigned n = 0;
  for (; n + kWeightRows <= w_rows; n += kWeightRows) {
    dot_tile<T, R, kWeightRows>(x, x_stride, w + n * row_bytes, cols, out + n, out_stride);
  }
  for (; n < w_rows; ++n) {
    dot_tile<T, R, 1>(x, x_stride, w + n * row_bytes, cols, out + n, out_stride);
  }
}

template <typename T>
void gemv(const float* x, size_t x_stride, unsigned rows, const std::byte* w, unsigned w_rows,
          size_t cols, float* out, size_t out_stride) {
  switch (rows) {
    case 1:
      return gemv_rows<T, 1>(x, x_stride, w, w_rows, cols, out, out_stride);
    case 2:
      return gemv_rows<T, 2>(x, x_stride, w, w_rows, cols, out, out_stride);
    case 3:
      return gemv_rows<T, 3>(x, x_stride, w, w_rows, cols, out, out_stride);
    default:
      return gemv_rows<T, 4>(x, x_stride, w, w_rows, cols, out, out_stride);
  }
}

template <typename T>
void to_f32(const std::byte* source, float* target, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(target + i, T::load_lanes(source + i * T::kBytes));
  }
  if (i < count) {
    const Floats rest = load_tail<T>(source + i * T::kBytes, count - i);
    std::memcpy(target + i, &rest, (count - i) * sizeof(float));
  }
}

void bf16_to_bf16(const std::byte* source, uint16_t* target, size_t count, size_t part_stride) {
  constexpr size_t kPart = 32;
  for (; count >= kPart; count -= kPart, source += 2 * kPart, target += part_stride) {
    std::memcpy(target, source, 2 * kPart);
  }
  std::memcpy(target, source, 2 * count);
}

/// Round to nearest even; activations are finite, so NaN needs no care beyond staying NaN-like.
void f32_to_bf16(const float* source, uint16_t* target, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, source + i, 4);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet_nan = (bits >> 16) | 0x40u;
    target[i] = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
  }
}

inline Floats clamped(Floats x, Floats low, Floats high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

/// exp(x) = (fraction + 1) * power: the one is exp(r) - 1, |r| <= ln2/2, by Cephes' coefficients,
/// the other a power of two.
struct ExpParts {
  Floats fraction;
  Floats power;
};
inline ExpParts exp_parts(Floats x) {
  const Floats scaled = x * 1.44269504088896341f;
  const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats rounded = (scaled + magic) - magic;
  Floats r = x - rounded * 0.693359375f;
  r = r - rounded * -2.12194440e-4f;
  Floats p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Ints exponent = (__builtin_convertvector(rounded, Ints) + 127) << 23;
  return {p * r * r + r, reinterpret_cast<Floats>(exponent)};
}

/// Relative error below 2e-7; 0 below -87.
inline Floats exp_lanes(Floats x) {
  const Floats low = splat(-87.3f);
  const Ints too_low = x < low;
  const ExpParts parts = exp_parts(clamped(x, low, splat(88.3f)));
  const Floats result = (parts.fraction + 1.0f) * parts.power;
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(result) & ~too_low);
}

/// By exp(2x) - 1, from which nothing is subtracted where it is small. Relative error below 3e-7.
inline Floats tanh_lanes(Floats x) {
  const Floats limit = splat(9.1f);  // from here on it is 1
  const ExpParts parts = exp_parts(2.0f * clamped(x, -limit, limit));
  const Floats less_one = parts.power * parts.fraction + (parts.power - 1.0f);
  return less_one / (less_one + 2.0f);
}

void rmsnorm(const float* x, const float* weight, size_t cols, float epsilon, float* out) {
  Floats sums = {};
  size_t i = 0;
  for (; i + kLanes <= cols; i += kLanes) {
    const Floats v = load(x + i);
    sums += v * v;
  }
  float total = sum_lanes(sums);
  for (; i < cols; ++i) total += x[i] * x[i];
  const float scale = 1.0f / __builtin_sqrtf(total / static_cast<float>(cols) + epsilon);
  for (size_t j = 0; j < cols; ++j) out[j] = x[j] * scale * weight[j];
}

inline Floats silu(Floats x) {
  return x / (1.0f + exp_lanes(-x));
}
/// 0.5 (1 + tanh(u)) is 1 / (1 + exp(-2u)), which keeps its digits where x is negative.
inline Floats gelu(Floats x) {
  const Floats minus_two_u = x * (-0.0713548162726f * (x * x) + -1.59576912161f);
  return x / (1.0f + exp_lanes(minus_two_u));
}

template <Floats (*kActivation)(Floats)>
void gate_mul(float* gate, const float* up, size_t count) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(gate + i, kActivation(load(gate + i)) * load(up + i));
  }
  if (i < count) {
    Floats g = {};
    Floats u = {};
    std::memcpy(&g, gate + i, (count - i) * 4);
    std::memcpy(&u, up + i, (count - i) * 4);
    const Floats result = kActivation(g) * u;
    std::memcpy(gate + i, &result, (count - i) * 4);
  }
}

void add(float* x, const float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) x[i] += y[i];
}

void scale(float* x, float factor, size_t count) {
  for (size_t i = 0; i < count; ++i) x[i] *= factor;
}

/// Of its own, so that it is the same instructions for whoever calls it.
__attribute__((noinline)) void soft_cap(float* x, size_t count, float cap) {
  const float inverse = 1.0f / cap;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    store(x + i, cap * tanh_lanes(load(x + i) * inverse));
  }
  if (i < count) {
    Floats rest = {};
    std::memcpy(&rest, x + i, (count - i) * 4);
    rest = cap * tanh_lanes(rest * inverse);
    std::memcpy(x + i, &rest, (count - i) * 4);
  }
}

void rotate(float* head, const float* cosine, const float* sine, size_t half) {
  for (size_t i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[i + half];
    head[i] = a * cosine[i] - b * sine[i];
    head[i + half] = b * cosine[i] + a * sine[i];
  }
}

constexpr unsigned kBlock = 16;
constexpr unsigned kVectors = kBlock / kLanes;

/// Queries at a time: as many sums under way as hide what one multiply-add waits for another.
constexpr unsigned kQueries = 8 / kVectors;

/// scores[i][0..15] = q[i] · k * scale. What a query's sum is does not depend on its neighbours.
template <unsigned N>
inline void score_block(const float* const* q, const float* k, size_t head_dim, float scale,
                        float (*scores)[kBlock]) {
  Floats sums[N][kVectors] = {};
  for (size_t d = 0; d < head_dim; ++d) {
    Floats keys[kVectors];
    for (unsigned j = 0; j < kVectors; ++j) keys[j] = load(k + d * kBlock + j * kLanes);
    for (unsigned i = 0; i < N; ++i) {
      const Floats query = splat(q[i][d]);
      for (unsigned j = 0; j < kVectors; ++j) sums[i][j] += query * keys[j];
    }
  }
  for (unsigned i = 0; i < N; ++i) {
    for (unsigned j = 0; j < kVectors; ++j) store(scores[i] + j * kLanes, sums[i][j] * scale);
  }
}

/// Scores of one query become weights against its new maximum; returns by what its earlier sums
/// shrink.
inline float weigh_block(float* scores, uint32_t from, uint32_t to, float* running_max,
                         float* running_sum) {
  for (unsigned i = 0; i < from; ++i) scores[i] = -1e30f;
  for (unsigned i = to; i < kBlock; ++i) scores[i] = -1e30f;
  float maximum = *running_max;
  for (unsigned i = 0; i < kBlock; ++i) maximum = scores[i] > maximum ? scores[i] : maximum;
  Floats block_sum = {};
  for (unsigned j = 0; j < kVectors; ++j) {
    const Floats p = exp_lanes(load(scores + j * kLanes) - maximum);
    store(scores + j * kLanes, p);
    block_sum += p;
  }
  const float shrink = exp_lanes(splat(*running_max - maximum))[0];
  *running_sum = *running_sum * shrink + sum_lanes(block_sum);
  *running_max = maximum;
  return shrink;
}

/// acc[i] = acc[i] * shrink[i] + weights[i] · v.
template <unsigned N>
inline void add_values(float* const* acc, const float (*weights)[kBlock], const float* shrink,
                       const float* v, size_t head_dim) {
  size_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) {
    Floats sums[N];
    for (unsigned i = 0; i < N; ++i) {
      sums[i] = rounded_product(load(acc[i] + d), splat(shrink[i]));
    }
    for (unsigned j = 0; j < kBlock; ++j) {
      const Floats values = load(v + j * head_dim + d);
      for (unsigned i = 0; i < N; ++i) sums[i] += weights[i][j] * values;
    }
    for (unsigned i = 0; i < N; ++i) store(acc[i] + d, sums[i]);
  }
  for (; d < head_dim; ++d) {
    for (unsigned i = 0; i < N; ++i) {
      float sum = rounded_product(splat(acc[i][d]), splat(shrink[i]))[0];
      for (unsigned j = 0; j < kBlock; ++j) sum += weights[i][j] * v[j * head_dim + d];
      acc[i][d] = sum;
    }
  }
}

template <unsigned N>
inline void attend_queries(const float* const* q, float* const* acc, const uint32_t* from,
                           const uint32_t* to, float* running_max, float* running_sum,
                           const float* k, const float* v, size_t head_dim, float scale,
                           float cap) {
  float scores[N][kBlock];
  float shrink[N];
  score_block<N>(q, k, head_dim, scale, scores);
  if (cap != 0) soft_cap(scores[0], N * kBlock, cap);
  for (unsigned i = 0; i < N; ++i) {
    shrink[i] = weigh_block(scores[i], from[i], to[i], running_max + i, running_sum + i);
  }
  add_values<N>(acc, scores, shrink, v, head_dim);
}

void attend_block(const float* const* q, float* const* acc, const uint32_t* from,
                  const uint32_t* to, float* running_max, float* running_sum, unsigned queries,
                  const float* k, const float* v, size_t head_dim, float scale, float cap) {
  unsigned i = 0;
  while (i < queries) {
    if (from[i] >= to[i]) {
      ++i;
      continue;
    }
    unsigned seeing = 1;
    while (seeing < kQueries && i + seeing < queries && from[i + seeing] < to[i + seeing]) ++seeing;
    if (seeing == kQueries) {
      attend_queries<kQueries>(q + i, acc + i, from + i, to + i, running_max + i, running_sum + i,
                               k, v, head_dim, scale, cap);
      i += kQueries;
    } else {
      attend_queries<1>(q + i, acc + i, from + i, to + i, running_max + i, running_sum + i, k, v,
                        head_dim, scale, cap);
      ++i;
    }
  }
}

void max_exp_sum(const float* x, size_t count, float* maximum, float* sum) {
  float top = x[0];
  for (size_t i = 1; i < count; ++i) top = x[i] > top ? x[i] : top;
  Floats sums = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sums += exp_lanes(load(x + i) - top);
  float total = sum_lanes(sums);
  for (; i < count; ++i) total += exp_lanes(splat(x[i] - top))[0];
  *maximum = top;
  *sum = total;
}

/// Whether a lane of a comparison is true.
inline bool any_lane(Ints truths) {
#if defined(__AVX512F__)
  const auto all = reinterpret_cast<__m512i>(truths);
  return _mm512_test_epi32_mask(all, all) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8(reinterpret_cast<__m256i>(truths)) != 0;
#else
  return _mm_movemask_epi8(reinterpret_cast<__m128i>(truths)) != 0;
#endif
}

size_t first_above(const float* x, size_t count, float bound) {
  constexpr unsigned kStep = 4 * kLanes;
  const Floats bounds = splat(bound);
  size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    Ints above = {};
    for (unsigned j = 0; j < kStep; j += kLanes) above |= load(x + i + j) > bounds;
    if (any_lane(above)) break;
  }
  while (i < count && !(x[i] > bound)) ++i;
  return i;
}

#include "kernels/host/isa_blocks.inl"

// In the order of WeightFormat.
constexpr IsaKernels kTable = {
    {gemv<F32>, gemv<F16>, gemv<Bf16>, block_gemv<Q8_0>, block_gemv<Q4_0>, block_gemv<Q4_1>,
     block_gemv<Q5_0>, block_gemv<Q5_1>, block_gemv<Q2_K>, block_gemv<Q3_K>, block_gemv<Q4_K>,
     block_gemv<Q5_K>, block_gemv<Q6_K>, block_gemv<IQ4_NL>, block_gemv<IQ4_XS>, block_gemv<MXFP4>},
    {to_f32<F32>, to_f32<F16>, to_f32<Bf16>, blocks_to_f32<Q8_0>, blocks_to_f32<Q4_0>,
     blocks_to_f32<Q4_1>, blocks_to_f32<Q5_0>, blocks_to_f32<Q5_1>, blocks_to_f32<Q2_K>,
     blocks_to_f32<Q3_K>, blocks_to_f32<Q4_K>, blocks_to_f32<Q5_K>, blocks_to_f32<Q6_K>,
     blocks_to_f32<IQ4_NL>, blocks_to_f32<IQ4_XS>, blocks_to_f32<MXFP4>},
    {nullptr, nullptr, bf16_to_bf16, blocks_to_bf16<Q8_0>, blocks_to_bf16<Q4_0>,
     blocks_to_bf16<Q4_1>, blocks_to_bf16<Q5_0>, blocks_to_bf16<Q5_1>, blocks_to_bf16<Q2_K>,
     blocks_to_bf16<Q3_K>, blocks_to_bf16<Q4_K>, blocks_to_bf16<Q5_K>, blocks_to_bf16<Q6_K>,
     blocks_to_bf16<IQ4_NL>, blocks_to_bf16<IQ4_XS>, blocks_to_bf16<MXFP4>},
    f32_to_bf16,
    rmsnorm,
    gate_mul<silu>,
    gate_mul<gelu>,
    add,
    scale,
    soft_cap,
    rotate,
    attend_block,
    max_exp_sum,
    first_above};

}  // namespace
}  // namespace spillway
