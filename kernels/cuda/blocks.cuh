// Weights in blocks (core/weight_format.h): rows on their way to shared memory, and what blocks
// there hold.
//
// Blocks of most formats begin at addresses that nothing but 2 divides. So the 16-byte chunks that
// cover a part of a row are copied as they lie, by cp.async, and the blocks are read from shared
// memory a word at a time, shifted where they lie across two. Bytes outside of the tensor are never
// touched.
//
// A value is scale * (q - zero) + offset, bit for bit as decode_values has it: scales are products
// that f32 holds exactly, q - zero is a small integer, and products and sums round in one
// instruction each, that no compiler contracts.
#pragma once

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/simt.cuh"

namespace spillway::cuda {

/// Bytes in shared memory, `at` bytes behind `words`, whose address is a multiple of 16. kAlign
/// divides that distance where a block begins.
template <unsigned kAlign>
struct Place {
  const uint32_t* words;
  uint32_t at;

  __device__ Place operator+(uint32_t bytes) const { return {words, at + bytes}; }
  __device__ uint32_t byte() const { return reinterpret_cast<const unsigned char*>(words)[at]; }
  __device__ uint32_t half_word() const {
    const auto* bytes = reinterpret_cast<const unsigned char*>(words) + at;
    if constexpr (kAlign % 2 == 0) {
      return *reinterpret_cast<const uint16_t*>(bytes);
    } else {
      return bytes[0] | uint32_t{bytes[1]} << 8;
    }
  }
  __device__ float half() const {
    return __half2float(__ushort_as_half(static_cast<uint16_t>(half_word())));
  }
};

template <unsigned kCount>
struct Words {
  uint32_t word[kCount];
  __device__ uint32_t operator[](unsigned i) const { return word[i]; }
};

__device__ inline Words<2> words_of(const uint2& two) {
  return {two.x, two.y};
}
__device__ inline Words<4> words_of(const uint4& four) {
  return {four.x, four.y, four.z, four.w};
}

/// kCount words from a place; kSkipped divides its distance from a block's begin.
template <unsigned kCount, unsigned kSkipped, unsigned kAlign>
__device__ Words<kCount> load_words(const Place<kAlign>& place) {
  constexpr unsigned kKnown = kAlign < kSkipped ? kAlign : kSkipped;
  const uint32_t* from = place.words + place.at / 4;
  Words<kCount> result{};
  if constexpr (kKnown >= 16 && kCount == 4) {
    return words_of(*reinterpret_cast<const uint4*>(from));
  } else if constexpr (kKnown >= 8 && kCount == 2) {
    return words_of(*reinterpret_cast<const uint2*>(from));
  } else if constexpr (kKnown >= 4) {
#pragma unroll
    for (unsigned i = 0; i < kCount; ++i) result.word[i] = from[i];
  } else {
    const uint32_t shift = place.at % 4 * 8;
    uint32_t low = from[0];
#pragma unroll
    for (unsigned i = 0; i < kCount; ++i) {
      const uint32_t high = from[i + 1];  // of the shared array, if not of the row
      result.word[i] = __funnelshift_r(low, high, shift);
      low = high;
    }
  }
  return result;
}

constexpr float kTwo23 = 8388608.0f;
/// An integer below 2^23, without the conversion instruction, which is slow.
__device__ inline float small_float(uint32_t value) {
  return __uint_as_float(0x4b000000u | value) - kTwo23;
}
__device__ inline float signed_byte(uint32_t byte) {
  return small_float(byte ^ 0x80u) - 128.0f;
}

/// Sixteen values as stored: two runs of eight neighbours. A run shares scale and offset.
struct Sixteen {
  uint32_t q[2][2];
  float scale[2];
  float offset[2];

  __device__ void low_and_high_nibbles(const Words<2>& w) {
#pragma unroll
    for (unsigned i = 0; i < 2; ++i) {
      q[0][i] = w[i] & 0x0f0f0f0fu;
      q[1][i] = w[i] >> 4 & 0x0f0f0f0fu;
    }
  }
  /// Eight bits, one more for each of the run's values, at `place`.
  __device__ void add_bits(unsigned run, uint32_t bits, unsigned place) {
#pragma unroll
    for (unsigned i = 0; i < 2; ++i) {
      const uint32_t four = bits >> (4 * i) & 15u;  // to the lowest bits of four bytes
      q[run][i] |= (four * 0x00204081u & 0x01010101u) << place;
    }
  }
};

/// Value i of eight.
template <typename Format>
__device__ float value_of(const Sixteen& sixteen, unsigned run, unsigned i) {
  // The byte as the lowest of a float's 23 bits below 2^23.
  const uint32_t bits = __byte_perm(sixteen.q[run][i / 4], 0x4b000000u, 0x7440 + i % 4);
  const float q = __uint_as_float(bits) - (kTwo23 + Format::kZero);
  if constexpr (Format::kHasOffset) {
    return fmaf(sixteen.scale[run], q, sixteen.offset[run]);
  } else {
    return __fmul_rn(sixteen.scale[run], q);
  }
}

__device__ constexpr uint32_t four_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return a | b << 8 | c << 16 | d << 24;
}

/// Of four bytes below 16 each, what a table of 16 bytes holds there.
struct ByteTable {
  uint32_t words[4];

  __device__ uint32_t operator()(uint32_t indices) const {
    uint32_t packed = (indices | indices >> 4) & 0x00ff00ffu;
    packed = (packed | packed >> 8) & 0xffffu;
    const uint32_t low = __byte_perm(words[0], words[1], packed & 0x7777u);
    const uint32_t high = __byte_perm(words[2], words[3], packed & 0x7777u);
    return __byte_perm(low, high, 0x3210u | (packed & 0x8888u) >> 1);
  }
  __device__ void map(Sixteen& sixteen) const {
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
      sixteen.q[i / 2][i % 2] = (*this)(sixteen.q[i / 2][i % 2]);
    }
  }
};
/// IQ4's values plus 128.
__device__ constexpr ByteTable iq4_table() {
  return {{four_bytes(1, 24, 45, 63), four_bytes(79, 93, 106, 118), four_bytes(129, 141, 153, 166),
           four_bytes(181, 197, 217, 241)}};
}
/// Twice E2M1's values, plus 12.
__device__ constexpr ByteTable e2m1_table() {
  return {{four_bytes(12, 13, 14, 15), four_bytes(16, 18, 20, 24), four_bytes(12, 11, 10, 9),
           four_bytes(8, 6, 4, 0)}};
}

// A format gives, of unit `u` of sixteen values in a block: their columns, column(u).. and kApart
// behind that.., and the values themselves. kZero and kHasOffset say how a value is made of them.

template <WeightFormat kWhich>
struct BlockFormat {
  static constexpr WeightFormat kFormat = kWhich;
  static constexpr unsigned kValues = traits_of(kWhich).block_values;
  static constexpr unsigned kBytes = traits_of(kWhich).block_bytes;
  static constexpr unsigned kUnits = kValues / 16;
  /// What divides the address of every block of a tensor that begins at a multiple of 16.
  static constexpr unsigned kAlign = kBytes % 16 == 0  ? 16
                                     : kBytes % 8 == 0 ? 8
                                     : kBytes % 4 == 0 ? 4
                                     : kBytes % 2 == 0 ? 2
                                                       : 1;
};

/// 32 nibbles: the low halves of 16 bytes, then the high ones. A unit is eight bytes.
template <WeightFormat kWhich>
struct Nibbles32 : BlockFormat<kWhich> {
  static constexpr unsigned kApart = 16;
  static __device__ unsigned column(unsigned u) { return 8 * u; }
};

struct Q8_0 : BlockFormat<WeightFormat::kQ8_0> {
  static constexpr float kZero = 128;
  static constexpr bool kHasOffset = false;
  static constexpr unsigned kApart = 8;
  static __device__ unsigned column(unsigned u) { return 16 * u; }
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    const auto w = load_words<4, 2>(block + (2 + 16 * u));
    Sixteen s;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) s.q[i / 2][i % 2] = w[i] ^ 0x80808080u;
    s.scale[0] = s.scale[1] = block.half();
    return s;
  }
};

struct Q4_0 : Nibbles32<WeightFormat::kQ4_0> {
  static constexpr float kZero = 8;
  static constexpr bool kHasOffset = false;
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    s.low_and_high_nibbles(load_words<2, 2>(block + (2 + 8 * u)));
    s.scale[0] = s.scale[1] = block.half();
    return s;
  }
};

struct Q4_1 : Nibbles32<WeightFormat::kQ4_1> {
  static constexpr float kZero = 0;
  static constexpr bool kHasOffset = true;
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    s.low_and_high_nibbles(load_words<2, 4>(block + (4 + 8 * u)));
    s.scale[0] = s.scale[1] = block.half();
    s.offset[0] = s.offset[1] = (block + 2).half();
    return s;
  }
};

struct Q5_0 : Nibbles32<WeightFormat::kQ5_0> {
  static constexpr float kZero = 16;
  static constexpr bool kHasOffset = false;
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    s.low_and_high_nibbles(load_words<2, 2>(block + (6 + 8 * u)));
    s.add_bits(0, (block + (2 + u)).byte(), 4);
    s.add_bits(1, (block + (4 + u)).byte(), 4);
    s.scale[0] = s.scale[1] = block.half();
    return s;
  }
};

struct Q5_1 : Nibbles32<WeightFormat::kQ5_1> {
  static constexpr float kZero = 0;
  static constexpr bool kHasOffset = true;
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    s.low_and_high_nibbles(load_words<2, 8>(block + (8 + 8 * u)));
    s.add_bits(0, (block + (4 + u)).byte(), 4);
    s.add_bits(1, (block + (6 + u)).byte(), 4);
    s.scale[0] = s.scale[1] = block.half();
    s.offset[0] = s.offset[1] = (block + 2).half();
    return s;
  }
};

struct Iq4Nl : Nibbles32<WeightFormat::kIQ4_NL> {
  static constexpr float kZero = 128;
  static constexpr bool kHasOffset = false;
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    s.low_and_high_nibbles(load_words<2, 2>(block + (2 + 8 * u)));
    iq4_table().map(s);
    s.scale[0] = s.scale[1] = block.half();
    return s;
  }
};

struct Mxfp4 : Nibbles32<WeightFormat::kMXFP4> {
  static constexpr float kZero = 12;
  static constexpr bool kHasOffset = false;
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    s.low_and_high_nibbles(load_words<2, 1>(block + (1 + 8 * u)));
    e2m1_table().map(s);
    // 2^(e - 128), for values twice as large: subnormal below e = 2, and infinite at 255 as f32 is.
    const uint32_t e = block.byte();
    const uint32_t normal = (e == 255 ? e : e - 1) << 23;
    s.scale[0] = s.scale[1] = __uint_as_float(e < 2 ? 0x00200000u << e : normal);
    return s;
  }
};

/// 256 values of two bits, 128 in 32 bytes, shifted by 0, 2, 4, 6. A unit is eight bytes at two
/// neighbouring shifts.
template <WeightFormat kWhich>
struct Quarters256 : BlockFormat<kWhich> {
  static constexpr unsigned kApart = 32;
  static __device__ unsigned column(unsigned u) { return u / 4 * 64 + u % 4 * 8; }
  /// Which of the 16 scales the first run has; the second has that two further.
  static __device__ unsigned scale_index(unsigned u) { return column(u) / 16; }
  static __device__ void two_bits(Sixteen& s, const Words<2>& w, unsigned u) {
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
      s.q[i / 2][i % 2] = w[i % 2] >> (u / 4 % 2 * 4 + i / 2 * 2) & 0x03030303u;
    }
  }
};

struct Q2K : Quarters256<WeightFormat::kQ2_K> {
  static constexpr float kZero = 0;
  static constexpr bool kHasOffset = true;
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    two_bits(s, load_words<2, 8>(block + (16 + u / 8 * 32 + u % 4 * 8)), u);
    const float d = (block + 80).half();
    const float min = (block + 82).half();
#pragma unroll
    for (unsigned run = 0; run < 2; ++run) {
      const uint32_t both = (block + (scale_index(u) + 2 * run)).byte();
      s.scale[run] = __fmul_rn(d, small_float(both & 15u));
      s.offset[run] = -__fmul_rn(min, small_float(both >> 4));
    }
    return s;
  }
};

struct Q3K : Quarters256<WeightFormat::kQ3_K> {
  static constexpr float kZero = 4;
  static constexpr bool kHasOffset = false;
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    two_bits(s, load_words<2, 2>(block + (32 + u / 8 * 32 + u % 4 * 8)), u);
    const auto high = load_words<2, 2>(block + u % 4 * 8);
    const float d = (block + 108).half();
#pragma unroll
    for (unsigned run = 0; run < 2; ++run) {
#pragma unroll
      for (unsigned i = 0; i < 2; ++i) {
        s.q[run][i] |= (high[i] >> (u / 4 * 2 + run) & 0x01010101u) << 2;
      }
      const unsigned j = scale_index(u) + 2 * run;
      const uint32_t low = (block + (96 + j % 8)).byte() >> (j / 8 * 4) & 15u;
      const uint32_t top = (block + (104 + j % 4)).byte() >> (j / 4 * 2) & 3u;
      s.scale[run] = __fmul_rn(d, small_float(low | top << 4) - 32.0f);
    }
    return s;
  }
};

/// 256 nibbles, 64 in 32 bytes, low halves first; eight pairs of 6-bit scale and minimum in bytes
/// 4..15. A unit is eight bytes.
template <WeightFormat kWhich>
struct Nibbles256 : BlockFormat<kWhich> {
  static constexpr float kZero = 0;
  static constexpr bool kHasOffset = true;
  static constexpr unsigned kApart = 32;
  static __device__ unsigned column(unsigned u) { return u / 4 * 64 + u % 4 * 8; }
  template <unsigned kAlign>
  static __device__ void load_scales(Sixteen& s, const Place<kAlign>& block, unsigned u) {
    const auto w = load_words<4, 16>(block);
    const float d = __half2float(__ushort_as_half(static_cast<uint16_t>(w[0])));
    const float min = __half2float(__ushort_as_half(static_cast<uint16_t>(w[0] >> 16)));
    // Four of the eight pairs, a byte each.
    const bool upper = u >= 8;
    const uint32_t scales =
        upper ? (w[3] & 0x0f0f0f0fu) | (w[1] >> 2 & 0x30303030u) : w[1] & 0x3f3f3f3fu;
    const uint32_t mins =
        upper ? (w[3] >> 4 & 0x0f0f0f0fu) | (w[2] >> 2 & 0x30303030u) : w[2] & 0x3f3f3f3fu;
#pragma unroll
    for (unsigned run = 0; run < 2; ++run) {
      const unsigned shift = u / 4 % 2 * 16 + run * 8;
      s.scale[run] = __fmul_rn(d, small_float(scales >> shift & 63u));
      s.offset[run] = -__fmul_rn(min, small_float(mins >> shift & 63u));
    }
  }
};

struct Q4K : Nibbles256<WeightFormat::kQ4_K> {
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    s.low_and_high_nibbles(load_words<2, 8>(block + (16 + 8 * u)));
    load_scales(s, block, u);
    return s;
  }
};

struct Q5K : Nibbles256<WeightFormat::kQ5_K> {
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    s.low_and_high_nibbles(load_words<2, 8>(block + (48 + 8 * u)));
    const auto high = load_words<2, 8>(block + (16 + u % 4 * 8));
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
      s.q[i / 2][i % 2] |= (high[i % 2] >> (u / 4 * 2 + i / 2) & 0x01010101u) << 4;
    }
    load_scales(s, block, u);
    return s;
  }
};

/// 256 of 6 bits: the low halves of 64 bytes, then the high ones, twice; two more bits as
/// Quarters256 has them. A unit is eight bytes of the nibbles.
struct Q6K : BlockFormat<WeightFormat::kQ6_K> {
  static constexpr float kZero = 32;
  static constexpr bool kHasOffset = false;
  static constexpr unsigned kApart = 64;
  static __device__ unsigned column(unsigned u) { return u / 8 * 128 + u % 8 * 8; }
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    s.low_and_high_nibbles(load_words<2, 2>(block + 8 * u));
    const auto high = load_words<2, 2>(block + (128 + u / 8 * 32 + u % 4 * 8));
    const float d = (block + 208).half();
#pragma unroll
    for (unsigned run = 0; run < 2; ++run) {
      const unsigned shift = u % 8 / 4 * 2 + run * 4;
#pragma unroll
      for (unsigned i = 0; i < 2; ++i) s.q[run][i] |= (high[i] >> shift & 0x03030303u) << 4;
      s.scale[run] = __fmul_rn(d, signed_byte((block + (192 + column(u) / 16 + 4 * run)).byte()));
    }
    return s;
  }
};

struct Iq4Xs : BlockFormat<WeightFormat::kIQ4_XS> {
  static constexpr float kZero = 128;
  static constexpr bool kHasOffset = false;
  static constexpr unsigned kApart = 16;
  static __device__ unsigned column(unsigned u) { return u / 2 * 32 + u % 2 * 8; }
  template <unsigned kAlign>
  static __device__ Sixteen load(const Place<kAlign>& block, unsigned u) {
    Sixteen s;
    s.low_and_high_nibbles(load_words<2, 8>(block + (8 + 8 * u)));
    iq4_table().map(s);
    const auto w = load_words<2, 8>(block);
    const unsigned j = u / 2;
    const uint32_t scale = (w[1] >> (4 * j) & 15u) | (w[0] >> (16 + 2 * j) & 3u) << 4;
    const float d = __half2float(__ushort_as_half(static_cast<uint16_t>(w[0])));
    s.scale[0] = s.scale[1] = __fmul_rn(d, small_float(scale) - 32.0f);
    return s;
  }
};

/// use(Format{}) for a format of blocks.
template <typename Use>
void with_blocks(WeightFormat format, const Use& use) {
  switch (format) {
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      break;
    case WeightFormat::kQ8_0:
      return use(Q8_0{});
    case WeightFormat::kQ4_0:
      return use(Q4_0{});
    case WeightFormat::kQ4_1:
      return use(Q4_1{});
    case WeightFormat::kQ5_0:
      return use(Q5_0{});
    case WeightFormat::kQ5_1:
      return use(Q5_1{});
    case WeightFormat::kQ2_K:
      return use(Q2K{});
    case WeightFormat::kQ3_K:
      return use(Q3K{});
    case WeightFormat::kQ4_K:
      return use(Q4K{});
    case WeightFormat::kQ5_K:
      return use(Q5K{});
    case WeightFormat::kQ6_K:
      return use(Q6K{});
    case WeightFormat::kIQ4_NL:
      return use(Iq4Nl{});
    case WeightFormat::kIQ4_XS:
      return use(Iq4Xs{});
    case WeightFormat::kMXFP4:
      return use(Mxfp4{});
  }
  CHECK(!"a format of blocks");
}

// Rows on their way. The threads of a block take kBlockRows rows side by side: in a step, every
// thread has a unit of sixteen values of each, and every warp copies one row's part.

inline constexpr unsigned kBlockThreads = 128;
inline constexpr unsigned kBlockRows = kBlockThreads / kWarp;
inline constexpr unsigned kBlockStepCols = kBlockThreads * 16;

/// Room for a step of every row: the bytes, as far from a multiple of 16 as in their tensor, and a
/// word behind them that load_words may look at.
template <typename Format>
struct Stage {
  static constexpr uint32_t kBytes = kBlockStepCols / Format::kValues * Format::kBytes;
  static constexpr uint32_t kChunks = kBytes / 16 + 2;
  static_assert(kBytes % 16 == 0);
  uint4 chunks[kBlockRows][kChunks];
};

template <typename Format>
struct BlockTensor {
  const std::byte* data;
  uint32_t rows;
  uint32_t cols;

  __device__ uint64_t row_bytes() const {
    return uint64_t{cols / Format::kValues} * Format::kBytes;
  }
  __device__ uint64_t bytes() const { return rows * row_bytes(); }
  /// Where `step` of a row begins, in bytes of the tensor.
  __device__ uint64_t begin(uint32_t row, uint32_t step) const {
    return row * row_bytes() + uint64_t{step} * Stage<Format>::kBytes;
  }
};

/// Starts to copy `step` of `row` to a stage's row `n`, by all lanes of a warp.
template <typename Format>
__device__ void start_copies(const BlockTensor<Format>& tensor, uint32_t row, uint32_t step,
                             Stage<Format>& stage, unsigned n) {
  const uint64_t begin = tensor.begin(row, step);
  const uint64_t left = (row + uint64_t{1}) * tensor.row_bytes() - begin;
  const uint32_t count =
      left < Stage<Format>::kBytes ? static_cast<uint32_t>(left) : Stage<Format>::kBytes;
  const auto skipped = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(tensor.data + begin) % 16);
  const auto end = static_cast<int64_t>(tensor.bytes());
  for (uint32_t c = threadIdx.x % kWarp; c * 16 < skipped + count; c += kWarp) {
    const int64_t at = static_cast<int64_t>(begin) - skipped + 16 * c;
    if (at >= 0 && at + 16 <= end) {
      copy16_async(&stage.chunks[n][c], tensor.data + at, true);
    } else {  // the tensor's first and last chunk
      auto* to = reinterpret_cast<unsigned char*>(&stage.chunks[n][c]);
      const auto* from = reinterpret_cast<const unsigned char*>(tensor.data);
#pragma unroll 1
      for (int i = 0; i < 16; ++i) {
        if (at + i >= 0 && at + i < end) to[i] = __ldcg(from + at + i);
      }
    }
  }
}

/// This thread's unit of a step, where columns are left for it.
struct BlockUnit {
  bool exists;
  unsigned block;  // of the step
  unsigned unit;   // of the block
};
template <typename Format>
__device__ BlockUnit own_unit(uint32_t step, uint32_t cols) {
  return {step * kBlockThreads + threadIdx.x < cols / 16, threadIdx.x / Format::kUnits,
          threadIdx.x % Format::kUnits};
}
/// The column of a run's first value.
template <typename Format>
__device__ uint32_t column_of(const BlockUnit& own, uint32_t step, unsigned run) {
  return step * kBlockStepCols + own.block * Format::kValues + Format::column(own.unit) +
         run * Format::kApart;
}

/// The sixteen values of this thread's unit in row `n` of a stage that holds `step` of `row`.
template <typename Format, unsigned kAlign>
__device__ Sixteen load_unit(const BlockTensor<Format>& tensor, uint32_t row, uint32_t step,
                             const Stage<Format>& stage, unsigned n, const BlockUnit& own) {
  Place<kAlign> begin{reinterpret_cast<const uint32_t*>(stage.chunks[n]), 0};
  if constexpr (kAlign < 16) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(tensor.data) + tensor.begin(row, step);
    begin.at = static_cast<uint32_t>(address % 16);
  }
  return Format::load(begin + own.block * Format::kBytes, own.unit);
}

}  // namespace spillway::cuda
