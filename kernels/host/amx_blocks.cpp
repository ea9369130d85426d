// Compiled for CPUs with AMX and AVX512-FP16. As in isa_kernels.inl nothing of the standard library
// but memcpy and memset is called.
#include "kernels/host/amx_blocks.h"

#include <immintrin.h>

#include <cstring>

namespace spillway {
namespace {

#include "kernels/host/isa_vectors.inl"

#include "kernels/host/isa_blocks.inl"

// A tile product multiplies 16 weight rows by 32 columns with those columns of one activation row.
// The latter is a tile of four columns: the three parts of the split number, and zeros. Results
// of four blocks stand side by side in memory, so that a vector holds those of one weight row,
// which their scales then multiply.

constexpr unsigned kRows = kAmxBlocksRows;
/// Columns of a tile product.
constexpr unsigned kStep = kPart;
constexpr unsigned kStepsOfChunk = kChunk / kStep;
/// Numbers of a tile of weights.
constexpr size_t kTileNumbers = kRows * kStep;
/// Sums of a block: of each of three parts, and one that is nothing.
constexpr unsigned kSums = 4;
/// Activations that four sums of the most blocks come from are 16.
constexpr unsigned kSmallest = 16;
/// A step's columns, split: pairs of them as the second operand has them.
constexpr size_t kStepBytes = kStep / 2 * kSums * sizeof(uint32_t);

// What keeps a code in bf16 quick to make: the exponent of F16 goes to the place of bf16's without
// its other bias, and activations make up for the most of it.
constexpr float kCodeScale = 0x1p-112f;
constexpr float kInputScale = 0x1p56f;
constexpr float kResultScale = 0x1p56f;
static_assert(kCodeScale * kInputScale * kResultScale == 1);

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

constexpr uint32_t parts_of(uint32_t count, uint32_t size) {
  return (count + size - 1) / size;
}

/// Where things lie in a split row: steps, then sums of every 16 columns, then of every 32.
constexpr size_t sums_of_16_at(uint32_t cols) {
  return size_t{cols} / kStep * kStepBytes;
}
constexpr size_t sums_of_32_at(uint32_t cols) {
  return sums_of_16_at(cols) + parts_of(cols / 16, 16) * size_t{64};
}

// Codes as bf16 numbers times kCodeScale.

using Codes = __m512i;

/// The F16 number's sign, exponent and upper mantissa, where bf16 has them.
inline Codes codes_of(const int8_t* p) {
  const __m512i wide =
      _mm512_maskz_cvtepi8_epi16(~0u, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const auto half = reinterpret_cast<__m512i>(_mm512_maskz_cvtepi16_ph(~0u, wide));
  const __m512i moved = _mm512_maskz_srai_epi16(~0u, half, 3);
  return _mm512_maskz_and_epi32(0xffff, moved, _mm512_set1_epi16(static_cast<int16_t>(0x8fff)));
}

/// bf16 bits of a small integer times kCodeScale.
constexpr uint16_t code_bits(int code) {
  if (code == 0) return 0;
  const unsigned size = static_cast<unsigned>(code < 0 ? -code : code);
  unsigned exponent = 0;
  while (size >> (exponent + 1) != 0) ++exponent;
  const unsigned mantissa = (size << 7 >> exponent) & 0x7fu;
  return static_cast<uint16_t>((code < 0 ? 0x8000u : 0u) | (exponent + 15) << 7 | mantissa);
}

/// Of 32 entries, picked by the lowest five bits of a word; those of fewer bits repeat.
struct alignas(64) Table {
  uint16_t entries[32];
};
constexpr Table table_of_16(const int8_t (&codes)[16]) {
  Table table{};
  for (unsigned i = 0; i < 32; ++i) table.entries[i] = code_bits(codes[i % 16]);
  return table;
}
/// Five bits, less `zero` where that is not 0.
constexpr Table table_of_32(int zero) {
  Table table{};
  for (unsigned i = 0; i < 32; ++i) {
    const int code = static_cast<int>(i);
    // Less 16 they come as the signed numbers that they are then.
    table.entries[i] = code_bits(zero == 0 ? code : code < 16 ? code : code - 32);
  }
  return table;
}

inline __m512i loaded(const Table& table) {
  return _mm512_load_si512(&table);
}
inline Codes picked_codes(__m512i table, __m512i words) {
  return _mm512_maskz_permutexvar_epi16(~0u, words, table);
}
inline __m512i words_of(__m256i bytes) {
  return _mm512_maskz_cvtepu8_epi16(~0u, bytes);
}
inline __m512i words_of(const void* p) {
  return words_of(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
/// 16 bytes, twice: low nibbles of the first and high ones of the second are where they are picked.
inline __m512i nibbles_of(const std::byte* p) {
  const __m256i both =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  static constexpr Table kCounts = {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                     4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4}};
  return _mm512_maskz_srlv_epi16(~0u, words_of(both), loaded(kCounts));
}

/// Where a weight row's codes of a chunk go: steps lie a tile apart.
struct Target {
  uint16_t* row;
  void put(unsigned step, Codes codes) const {
    _mm512_store_si512(row + step * kTileNumbers, codes);
  }
};

/// The codes of kBlocks blocks of a row.
template <typename Format>
struct CodesOf {  // Q8_0 and Q6_K: signed bytes
  template <unsigned kBlocks>
  static inline void put(const std::byte* b, const Ready& ready, Target target) {
    if constexpr (Format::kFormat == WeightFormat::kQ8_0) {
      for (unsigned i = 0; i < kBlocks; ++i) {
        target.put(i, codes_of(reinterpret_cast<const int8_t*>(b) + i * 34 + 2));
      }
    } else {
      for (unsigned i = 0; i < kStepsOfChunk; ++i) target.put(i, codes_of(ready.codes + i * kPart));
    }
  }
};

template <typename Kind, size_t kStride, size_t kAt>
struct NibbleCodes {
  template <unsigned kBlocks>
  static inline void put(const std::byte* b, const Ready&, Target target) {
    static constexpr Table kTable = table_of_16(Kind::kCodes);
    const __m512i table = loaded(kTable);
    for (unsigned i = 0; i < kBlocks; ++i) {
      target.put(i, picked_codes(table, nibbles_of(b + i * kStride + kAt)));
    }
  }
};
template <>
struct CodesOf<Q4_0> : NibbleCodes<Centered, 18, 2> {};
template <>
struct CodesOf<IQ4_NL> : NibbleCodes<Iq4, 18, 2> {};
template <>
struct CodesOf<Q4_1> : NibbleCodes<Counted, 20, 4> {};
template <>
struct CodesOf<MXFP4> : NibbleCodes<TwiceE2m1, 17, 1> {};
template <>
struct CodesOf<IQ4_XS> {
  template <unsigned kBlocks>
  static inline void put(const std::byte* b, const Ready& ready, Target target) {
    static_assert(kBlocks == 1);
    NibbleCodes<Iq4, 16, 8>::put<kStepsOfChunk>(b, ready, target);
  }
};

/// What prepare() made of bytes, of which five bits count.
template <int kZero>
struct FiveBitCodes {
  template <unsigned kSteps>
  static inline void put_all(const Ready& ready, Target target) {
    static constexpr Table kTable = table_of_32(kZero);
    const __m512i table = loaded(kTable);
    for (unsigned i = 0; i < kSteps; ++i) {
      target.put(i, picked_codes(table, words_of(ready.codes + i * kPart)));
    }
  }
  template <unsigned kBlocks>
  static inline void put(const std::byte*, const Ready& ready, Target target) {
    put_all<kBlocks>(ready, target);
  }
};
template <>
struct CodesOf<Q5_0> : FiveBitCodes<16> {};
template <>
struct CodesOf<Q5_1> : FiveBitCodes<0> {};

template <>
struct CodesOf<Q4_K> {
  template <unsigned kBlocks>
  static inline void put(const std::byte* b, const Ready&, Target target) {
    static constexpr Table kTable = table_of_16(Counted::kCodes);
    const __m512i table = loaded(kTable);
    for (unsigned i = 0; i < kStepsOfChunk; i += 2) {
      const __m512i words = words_of(b + 16 + i * 16);
      target.put(i, picked_codes(table, words));
      target.put(i + 1, picked_codes(table, _mm512_maskz_srli_epi16(~0u, words, 4)));
    }
  }
};
template <>
struct CodesOf<Q5_K> {
  template <unsigned kBlocks>
  static inline void put(const std::byte*, const Ready& ready, Target target) {
    static constexpr Table kTable = table_of_32(0);
    const __m512i table = loaded(kTable);
    for (unsigned i = 0; i < kStepsOfChunk; ++i) {
      target.put(i, picked_codes(table, words_of(ready.codes + Q5_K::place(i) * kPart)));
    }
  }
};
template <>
struct CodesOf<Q3_K> {
  template <unsigned kBlocks>
  static inline void put(const std::byte*, const Ready& ready, Target target) {
    static constexpr Table kTable = table_of_16(Q3_K::kThreeBits);
    const __m512i table = loaded(kTable);
    for (unsigned i = 0; i < kStepsOfChunk; ++i) {
      target.put(i, picked_codes(table, words_of(ready.codes + i * kPart)));
    }
  }
};
template <>
struct CodesOf<Q2_K> {
  template <unsigned kBlocks>
  static inline void put(const std::byte* b, const Ready&, Target target) {
    static constexpr Table kTable = table_of_16(Q2_K::kTwoBits);
    const __m512i table = loaded(kTable);
    for (unsigned half = 0; half < 2; ++half) {
      const __m512i words = words_of(b + 16 + half * 32);
      for (unsigned i = 0; i < 4; ++i) {
        target.put(4 * half + i, picked_codes(table, _mm512_maskz_srli_epi16(~0u, words, 2 * i)));
      }
    }
  }
};

// Scales of a chunk. A value is scale * code, plus or less a minimum.

enum class Minima { kNone, kAdded, kSubtracted };

template <typename Format>
constexpr bool one_of(std::initializer_list<WeightFormat> formats) {
  for (const WeightFormat format : formats) {
    if (format == Format::kFormat) return true;
  }
  return false;
}
template <typename Format>
constexpr Minima minima_of() {
  using enum WeightFormat;
  if (one_of<Format>({kQ4_1, kQ5_1})) return Minima::kAdded;
  return one_of<Format>({kQ2_K, kQ4_K, kQ5_K}) ? Minima::kSubtracted : Minima::kNone;
}
/// Values that a scale is for.
template <typename Format>
constexpr unsigned scale_values() {
  using enum WeightFormat;
  return one_of<Format>({kQ2_K, kQ3_K, kQ6_K}) ? 16 : 32;
}
template <typename Format>
inline const float* minima_in(const Ready& ready) {
  return one_of<Format>({WeightFormat::kQ4_K, WeightFormat::kQ5_K}) ? ready.scale + 8 : ready.min;
}

/// Four numbers from `first` on of sixteen, each four times.
inline __m512 four_times(const float* numbers, unsigned first) {
  const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m512i which = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(first)));
  return _mm512_maskz_permutexvar_ps(0xffff, which, _mm512_loadu_ps(numbers));
}

struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
/// Tiles 0 to 3 are results, 4 and 5 weights, 6 and 7 activations.
template <unsigned kCols>
TileShapes shapes_for() {
  TileShapes shapes;
  for (unsigned i = 0; i < 8; ++i) {
    shapes.row_bytes[i] = i == 4 || i == 5 ? kCols * 2 : kSums * 4;
    shapes.rows[i] = i >= 6 ? kCols / 2 : kRows;
  }
  return shapes;
}

/// A chunk of 16 weight rows, ready to be multiplied.
struct alignas(64) Chunk {
  uint16_t codes[kStepsOfChunk * kTileNumbers];
  Ready ready[kRows];
  unsigned steps;
};

template <typename Format>
inline void convert(const std::byte* w, size_t row_bytes, unsigned count, size_t far, size_t near,
                    Chunk& chunk) {
  constexpr unsigned kBlocks = chunk_blocks<Format>();
  constexpr size_t kBytes = kBlocks * block_bytes<Format>();
  for (unsigned n = 0; n < count; ++n) {
    const std::byte* row = w + n * row_bytes;
    for (size_t line = 0; line < kBytes; line += 64) {
      __builtin_prefetch(row + far + line, 0, 2);
      __builtin_prefetch(row + near + line);
    }
    Format::template prepare<kBlocks>(row, chunk.ready[n]);
    CodesOf<Format>::template put<kBlocks>(row, chunk.ready[n], Target{chunk.codes + n * kStep});
  }
  chunk.steps = kStepsOfChunk;
}
/// The last blocks of rows, where they make no chunk.
template <typename Format>
inline void convert_rest(const std::byte* w, size_t row_bytes, unsigned count, unsigned blocks,
                         Chunk& chunk) {
  constexpr unsigned kSteps = block_values<Format>() / kStep;
  for (unsigned n = 0; n < count; ++n) {
    Ready& all = chunk.ready[n];
    std::memset(all.scale, 0, sizeof(all.scale));
    std::memset(all.min, 0, sizeof(all.min));
    for (unsigned i = 0; i < blocks; ++i) {
      const std::byte* block = w + n * row_bytes + i * block_bytes<Format>();
      Ready one;
      Format::template prepare<1>(block, one);
      CodesOf<Format>::template put<1>(block, one,
                                       Target{chunk.codes + i * kSteps * kTileNumbers + n * kStep});
      all.scale[i] = one.scale[0];
      all.min[i] = minima_of<Format>() == Minima::kNone ? 0 : one.min[0];
    }
  }
  chunk.steps = blocks * kSteps;
}

/// sums[4 blocks at a time][weight row][block][part] of a chunk with one activation row.
template <unsigned kCols>
inline void multiply(const Chunk& chunk, const std::byte* x, float (*sums)[kRows][16]) {
  constexpr unsigned kTimes = kStep / kCols;
  const auto one = [&](unsigned i, auto product) {
    const unsigned step = i / kTimes;
    const unsigned from = i % kTimes * kCols;
    product(chunk.codes + step * kTileNumbers + from, x + step * kStepBytes + from / 2 * 16,
            &sums[i / 4][0][i % 4 * kSums]);
  };
  const unsigned products = chunk.steps * kTimes;
  // Four at a time: a product is waited for long.
  for (unsigned i = 0; i < products; i += 4) {
    if (i + 4 <= products) {
      one(i, [](const uint16_t* w, const std::byte* a, float*) {
        _tile_zero(0);
        _tile_loadd(4, w, kStep * 2);
        _tile_loadd(6, a, kSums * 4);
        _tile_dpbf16ps(0, 4, 6);
      });
      one(i + 1, [](const uint16_t* w, const std::byte* a, float*) {
        _tile_zero(1);
        _tile_loadd(5, w, kStep * 2);
        _tile_loadd(7, a, kSums * 4);
        _tile_dpbf16ps(1, 5, 7);
      });
      one(i + 2, [](const uint16_t* w, const std::byte* a, float*) {
        _tile_zero(2);
        _tile_loadd(4, w, kStep * 2);
        _tile_loadd(6, a, kSums * 4);
        _tile_dpbf16ps(2, 4, 6);
      });
      one(i + 3, [](const uint16_t* w, const std::byte* a, float*) {
        _tile_zero(3);
        _tile_loadd(5, w, kStep * 2);
        _tile_loadd(7, a, kSums * 4);
        _tile_dpbf16ps(3, 5, 7);
      });
      one(i, [](const uint16_t*, const std::byte*, float* out) { _tile_stored(0, out, 64); });
      one(i + 1, [](const uint16_t*, const std::byte*, float* out) { _tile_stored(1, out, 64); });
      one(i + 2, [](const uint16_t*, const std::byte*, float* out) { _tile_stored(2, out, 64); });
      one(i + 3, [](const uint16_t*, const std::byte*, float* out) { _tile_stored(3, out, 64); });
      continue;
    }
    for (unsigned j = i; j < products; ++j) {
      one(j, [](const uint16_t* w, const std::byte* a, float* out) {
        _tile_zero(0);
        _tile_loadd(4, w, kStep * 2);
        _tile_loadd(6, a, kSums * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stored(0, out, 64);
      });
    }
  }
}

/// totals[weight row] += what a chunk's sums come to.
template <typename Format>
inline void scale_sums(const Chunk& chunk, const float (*sums)[kRows][16], const float* x_sums,
                       unsigned count, float (*totals)[16]) {
  constexpr unsigned kVectors = kChunk / scale_values<Format>() / 4;
  __m512 of_x[kVectors];
  if constexpr (minima_of<Format>() != Minima::kNone) {
    for (unsigned v = 0; v < kVectors; ++v) {
      of_x[v] = _mm512_maskz_expandloadu_ps(0x1111, x_sums + 4 * v);
    }
  }
  for (unsigned n = 0; n < count; ++n) {
    __m512 total = _mm512_load_ps(totals[n]);
    for (unsigned v = 0; v < kVectors; ++v) {
      const __m512 scales = four_times(chunk.ready[n].scale, 4 * v);
      total = _mm512_fmadd_ps(_mm512_load_ps(sums[v][n]), scales, total);
      if constexpr (minima_of<Format>() != Minima::kNone) {
        const __m512 minima = four_times(minima_in<Format>(chunk.ready[n]), 4 * v);
        total = minima_of<Format>() == Minima::kAdded ? _mm512_fmadd_ps(of_x[v], minima, total)
                                                      : _mm512_fnmadd_ps(of_x[v], minima, total);
      }
    }
    _mm512_store_ps(totals[n], total);
  }
}

/// Activation rows of one pass over weights.
constexpr unsigned kMostRows = 8;

template <typename Format>
struct Rows {
  static constexpr unsigned kScaleValues = scale_values<Format>();
  static constexpr unsigned kVectors = kChunk / kScaleValues / 4;
  static constexpr bool kPartial = block_values<Format>() < kChunk;

  const std::byte* split;
  size_t split_bytes;
  unsigned rows;
  uint32_t cols;
  float totals[kMostRows][kRows][16];
  alignas(64) float sums[kVectors][kRows][16];

  inline void add(const Chunk& chunk, unsigned index, unsigned count) {
    for (unsigned r = 0; r < rows; ++r) {
      const std::byte* x = split + r * split_bytes;
      if (kPartial && chunk.steps < kStepsOfChunk) std::memset(sums, 0, sizeof(sums));
      multiply<kScaleValues>(chunk, x + size_t{index} * kStepsOfChunk * kStepBytes, sums);
      const size_t at = kScaleValues == 16 ? sums_of_16_at(cols) : sums_of_32_at(cols);
      const auto* x_sums = reinterpret_cast<const float*>(x + at) + index * kChunk / kScaleValues;
      scale_sums<Format>(chunk, sums, x_sums, count, totals[r]);
    }
  }
};

/// Up to 16 weight rows. A chunk becomes ready while the one before it is multiplied.
template <typename Format>
inline void tile(Rows<Format>& state, Chunk (&chunks)[2], const std::byte* w, unsigned count,
                 float* out, uint32_t out_stride) {
  constexpr size_t kBytes = block_bytes<Format>();
  constexpr size_t kChunkBytes = chunk_blocks<Format>() * kBytes;
  constexpr size_t kNear = 512;
  const uint32_t cols = state.cols;
  const size_t row_bytes = cols / block_values<Format>() * kBytes;
  const uint32_t whole = cols / kChunk;
  const unsigned rest = cols % kChunk / block_values<Format>();
  const uint32_t all = whole + (rest != 0 ? 1 : 0);
  std::memset(state.totals, 0, state.rows * sizeof(state.totals[0]));
  const auto make = [&](uint32_t index) __attribute__((always_inline)) {
    const size_t at = index * kChunkBytes;
    const size_t ahead = kNear + (at + kNear >= row_bytes ? (kRows - 1) * row_bytes : 0);
    if (index < whole) {
      convert<Format>(w + at, row_bytes, count, kRows * row_bytes, ahead, chunks[index % 2]);
    } else if constexpr (Rows<Format>::kPartial) {
      convert_rest<Format>(w + at, row_bytes, count, rest, chunks[index % 2]);
    }
  };
  make(0);
  for (uint32_t i = 0; i < all; ++i) {
    if (i + 1 < all) make(i + 1);
    state.add(chunks[i % 2], i, count);
  }
  for (unsigned r = 0; r < state.rows; ++r) {
    for (unsigned n = 0; n < count; ++n) {
      Floats total;
      std::memcpy(&total, state.totals[r][n], sizeof(total));
      out[size_t{r} * out_stride + n] = sum_lanes(total) * kResultScale;
    }
  }
}

template <typename Format>
void blocks_product(const std::byte* split, uint32_t rows, const std::byte* w, uint32_t w_rows,
                    uint32_t cols, float* out, uint32_t out_stride) {
  const TileShapes shapes = shapes_for<scale_values<Format>()>();
  _tile_loadconfig(&shapes);
  const size_t row_bytes = cols / block_values<Format>() * block_bytes<Format>();
  Chunk chunks[2];
  std::memset(chunks[0].codes, 0, sizeof(chunks[0].codes));
  std::memset(chunks[1].codes, 0, sizeof(chunks[1].codes));
  Rows<Format> state;
  state.split_bytes = amx_split_bytes(cols);
  state.cols = cols;
  for (uint32_t first = 0; first < rows; first += kMostRows) {
    state.split = split + first * state.split_bytes;
    state.rows = rows - first < kMostRows ? rows - first : kMostRows;
    for (uint32_t n = 0; n < w_rows; n += kRows) {
      const unsigned count = w_rows - n < kRows ? w_rows - n : kRows;
      tile<Format>(state, chunks, w + n * row_bytes, count, out + size_t{first} * out_stride + n,
                   out_stride);
    }
  }
  _tile_release();
}

}  // namespace

uint64_t amx_split_bytes(uint32_t cols) {
  // What is read of the last four sums may lie behind them.
  return sums_of_32_at(cols) + parts_of(cols / 32, 16) * uint64_t{64};
}

void amx_split(const float* x, uint32_t cols, std::byte* split) {
  auto* numbers = reinterpret_cast<uint32_t*>(split);
  const size_t sums_at = sums_of_16_at(cols);
  std::memset(split + sums_at, 0, amx_split_bytes(cols) - sums_at);
  auto* sums_16 = reinterpret_cast<float*>(split + sums_at);
  auto* sums_32 = reinterpret_cast<float*>(split + sums_of_32_at(cols));
  constexpr uint32_t kUpper = 0xffff0000u;
  for (uint32_t i = 0; i < cols; i += 2) {
    uint32_t parts[2][3];
    for (unsigned j = 0; j < 2; ++j) {
      float left = x[i + j] * kInputScale;
      for (uint32_t& part : parts[j]) {
        part = bits_of(left) & kUpper;
        left -= from_bits(part);
      }
    }
    for (unsigned part = 0; part < 3; ++part) {
      numbers[size_t{i} * 2 + part] = parts[0][part] >> 16 | parts[1][part];
    }
    numbers[size_t{i} * 2 + 3] = 0;
  }
  for (uint32_t i = 0; i < cols / kSmallest; ++i) {
    float sum = 0;
    for (unsigned j = 0; j < kSmallest; ++j) sum += x[i * kSmallest + j];
    sums_16[i] = sum * (1 / kResultScale);
  }
  for (uint32_t i = 0; i < cols / 32; ++i) sums_32[i] = sums_16[2 * i] + sums_16[2 * i + 1];
}

AmxBlocksGemv amx_blocks_gemv(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ8_0:
      return blocks_product<Q8_0>;
    case WeightFormat::kQ4_0:
      return blocks_product<Q4_0>;
    case WeightFormat::kQ4_1:
      return blocks_product<Q4_1>;
    case WeightFormat::kQ5_0:
      return blocks_product<Q5_0>;
    case WeightFormat::kQ5_1:
      return blocks_product<Q5_1>;
    case WeightFormat::kQ2_K:
      return blocks_product<Q2_K>;
    case WeightFormat::kQ3_K:
      return blocks_product<Q3_K>;
    case WeightFormat::kQ4_K:
      return blocks_product<Q4_K>;
    case WeightFormat::kQ5_K:
      return blocks_product<Q5_K>;
    case WeightFormat::kQ6_K:
      return blocks_product<Q6_K>;
    case WeightFormat::kIQ4_NL:
      return blocks_product<IQ4_NL>;
    case WeightFormat::kIQ4_XS:
      return blocks_product<IQ4_XS>;
    case WeightFormat::kMXFP4:
      return blocks_product<MXFP4>;
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      break;
  }
  return nullptr;
}

}  // namespace spillway
