// Compiled for CPUs with AVX512-VNNI. As in isa_kernels.inl nothing of the standard library but
// memcpy is called: an inline function compiled here could be the copy that the linker keeps.
//
// vpdpbusd multiplies 64 bytes without sign by 64 with sign and adds fours of products to 16 sums
// (Intel SDM, volume 2). Codes have six bits at most, so they may be either operand: inputs'
// upper bytes have signs, the lower two have none.
#include "kernels/host/vnni.h"

#include <immintrin.h>

#include <cstring>

namespace spillway {
namespace {

/// Values that are worked on in one go: four vectors of 64 codes.
constexpr size_t kChunk = 256;
constexpr unsigned kVectors = 4;
/// Values that keep together in every order: a vector holds four such groups.
constexpr size_t kGroup = 16;
constexpr unsigned kGroups = kChunk / kGroup;

/// A vector's inputs: three planes of bytes, the upper first, and the power of two of each four.
constexpr size_t kLine = 64;
constexpr size_t kVectorBytes = 4 * kLine;
constexpr size_t kSumsAt = kVectors * kVectorBytes;
constexpr size_t kWildAt = kSumsAt + kLine;
/// The vectors' inputs, and sums of inputs as f32, by which minima and scales are multiplied. Or,
/// where `wild` says so, the inputs as f32, group after group.
constexpr size_t kPackedBytes = kWildAt + kLine;
static_assert(kSumsAt == kChunk * sizeof(float));

template <typename T>
inline T read(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
inline __m512i line_at(const std::byte* p) {
  return _mm512_loadu_si512(p);
}
inline __m128i quarter_at(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline void store_quarter(std::byte* p, __m128i v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v);
}
inline __m512i bytes_of(int value) {
  return _mm512_set1_epi8(static_cast<char>(value));
}
/// a | (b & c).
inline __m512i or_masked(__m512i a, __m512i b, __m512i c) {
  return _mm512_ternarylogic_epi32(a, b, c, 0xf8);
}

/// Which group of a chunk comes when, and which sums follow.
struct Order {
  uint8_t groups[kGroups];
  uint32_t sum_values;  ///< of which each sum is: 16 or 32
  uint32_t first_lane;  ///< of the sums
  float factor;         ///< of the sums
};

/// Scales in lanes: 0..3 of them for a vector's four groups, from `from`.
inline __m512 spread(__m512 from, int a, int b, int c, int d) {
  return _mm512_permutexvar_ps(_mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d),
                               from);
}

/// A chunk of a row of weights: codes times the scale of their lane, and `all` times the sums.
struct Unpacked {
  __m512i codes[kVectors];
  __m512 scale[kVectors];
  __m512 all;
};

/// Blocks of 32 values with 16 bytes of nibbles, the low halves of which come first: a vector takes
/// the same halves of four blocks.
constexpr uint8_t kByHalves[kGroups] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
/// Bytes in which the low nibbles are 32 values and the high ones the next 32.
constexpr uint8_t kByPairs[kGroups] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
/// 64 bytes with two bits of a value from each half of the chunk.
constexpr uint8_t kByQuarters[kGroups] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
constexpr uint8_t kInOrder[kGroups] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

constexpr Order order_of(const uint8_t (&groups)[kGroups], uint32_t sum_values, uint32_t first_lane,
                         float factor) {
  Order order{{}, sum_values, first_lane, factor};
  for (unsigned i = 0; i < kGroups; ++i) order.groups[i] = groups[i];
  return order;
}
// Minima lie in the upper lanes of Unpacked::all; what a code of 0 stands for is a scale's
// multiple.
constexpr Order kHalvesLessEight = order_of(kByHalves, 32, 0, -8);
constexpr Order kHalvesLessSixteen = order_of(kByHalves, 32, 0, -16);
constexpr Order kHalvesAndMinima = order_of(kByHalves, 32, 8, 1);
constexpr Order kPairsLessMinima = order_of(kByPairs, 32, 8, -1);
constexpr Order kQuartersLessMinima = order_of(kByQuarters, 16, 0, -1);
constexpr Order kQuartersLessFour = order_of(kByQuarters, 16, 0, -4);
constexpr Order kLessThirtyTwo = order_of(kInOrder, 16, 0, -32);

/// Blocks of 32 values, of which a chunk has eight. A chunk at the end of a row may have fewer: the
/// first stands for those that are missing, whose inputs are 0.
template <size_t kBytes>
struct Whole {
  const std::byte* operator[](unsigned i) const { return first + i * kBytes; }
  const std::byte* first;
};
template <size_t kBytes>
struct Rest {
  const std::byte* operator[](unsigned i) const { return first + (i < count ? i * kBytes : 0); }
  const std::byte* first;
  unsigned count;
};

/// Four bytes at the beginning of each block; 0 for blocks of halves that are not taken.
template <unsigned kHalves, typename Blocks>
inline __m256i heads_of(const Blocks& blocks) {
  __m256i heads = kHalves == 2 ? _mm256_set1_epi32(read<int>(blocks[0])) : _mm256_setzero_si256();
  for (unsigned i = kHalves == 2 ? 1 : 0; i < 4 * kHalves; ++i) {
    heads = _mm256_mask_set1_epi32(heads, static_cast<__mmask8>(1u << i), read<int>(blocks[i]));
  }
  return heads;
}
/// Nibbles, which begin at byte kAt of a block, with the blocks' scales.
template <unsigned kHalves, size_t kAt, typename Blocks>
inline void take_nibbles(const Blocks& blocks, Unpacked& out) {
  for (unsigned i = 0; i < kHalves; ++i) {
    const auto quarter = [&](unsigned j) { return quarter_at(blocks[4 * i + j] + kAt); };
    __m512i raw = _mm512_castsi128_si512(quarter(0));
    raw = _mm512_mask_broadcast_i32x4(raw, 0x00f0, quarter(1));
    raw = _mm512_mask_broadcast_i32x4(raw, 0x0f00, quarter(2));
    raw = _mm512_mask_broadcast_i32x4(raw, 0xf000, quarter(3));
    out.codes[2 * i] = _mm512_and_si512(raw, bytes_of(15));
    out.codes[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), bytes_of(15));
    const int first = static_cast<int>(4 * i);
    out.scale[2 * i] = spread(out.all, first, first + 1, first + 2, first + 3);
    out.scale[2 * i + 1] = out.scale[2 * i];
  }
}
/// Adds fifth bits, which lie in 4 bytes from byte kAt of a block on.
template <unsigned kHalves, size_t kAt, typename Blocks>
inline void add_fifth_bits(const Blocks& blocks, Unpacked& out) {
  for (unsigned i = 0; i < kHalves; ++i) {
    uint64_t low = 0;
    uint64_t high = 0;
    for (unsigned j = 0; j < 4; ++j) {
      const uint64_t bits = read<uint32_t>(blocks[4 * i + j] + kAt);
      low |= (bits & 0xffffu) << (16 * j);
      high |= bits >> 16 << (16 * j);
    }
    __m512i* codes = out.codes + 2 * i;
    codes[0] = _mm512_mask_add_epi8(codes[0], low, codes[0], bytes_of(16));
    codes[1] = _mm512_mask_add_epi8(codes[1], high, codes[1], bytes_of(16));
  }
}
/// The f16 numbers with which blocks begin; the upper lanes are 0.
template <unsigned kHalves, typename Blocks>
inline __m512 halves_of(const Blocks& blocks) {
  const __m256i heads = heads_of<kHalves>(blocks);
  return _mm512_zextps256_ps512(_mm256_cvtph_ps(_mm256_cvtepi32_epi16(heads)));
}
/// Four blocks of 18 bytes begin in one line.
template <unsigned kHalves>
inline __m512 halves_of(const Whole<18>& blocks) {
  const __m512i which = _mm512_castsi128_si512(_mm_setr_epi16(0, 9, 18, 27, 0, 0, 0, 0));
  const auto four = [&](unsigned i) {
    return _mm512_castsi512_si128(_mm512_permutexvar_epi16(which, line_at(blocks[i])));
  };
  return _mm512_zextps256_ps512(_mm256_cvtph_ps(_mm_unpacklo_epi64(four(0), four(4))));
}
/// Lower halves in the lower lanes, upper ones in the upper lanes.
inline __m512 both_halves(__m256i heads) {
  const __m256i apart = _mm256_permutexvar_epi16(
      _mm256_setr_epi16(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15), heads);
  return _mm512_cvtph_ps(apart);
}

/// A format of blocks of 32: take() has what differs.
template <size_t kBlockBytes, const Order& kItsOrder>
struct OfBlocks {
  static constexpr size_t kBlock = kBlockBytes;
  static constexpr size_t kBytes = 8 * kBlockBytes;
  static constexpr const Order& kOrder = kItsOrder;
};
struct Q4_0 : OfBlocks<18, kHalvesLessEight> {
  template <unsigned kHalves, typename Blocks>
  static inline void take(const Blocks& blocks, Unpacked& out) {
    out.all = halves_of<kHalves>(blocks);
    take_nibbles<kHalves, 2>(blocks, out);
  }
};
struct Q4_1 : OfBlocks<20, kHalvesAndMinima> {
  template <unsigned kHalves, typename Blocks>
  static inline void take(const Blocks& blocks, Unpacked& out) {
    out.all = both_halves(heads_of<kHalves>(blocks));
    take_nibbles<kHalves, 4>(blocks, out);
  }
};
struct Q5_0 : OfBlocks<22, kHalvesLessSixteen> {
  template <unsigned kHalves, typename Blocks>
  static inline void take(const Blocks& blocks, Unpacked& out) {
    out.all = halves_of<kHalves>(blocks);
    take_nibbles<kHalves, 6>(blocks, out);
    add_fifth_bits<kHalves, 2>(blocks, out);
  }
};
struct Q5_1 : OfBlocks<24, kHalvesAndMinima> {
  template <unsigned kHalves, typename Blocks>
  static inline void take(const Blocks& blocks, Unpacked& out) {
    out.all = both_halves(heads_of<kHalves>(blocks));
    take_nibbles<kHalves, 8>(blocks, out);
    add_fifth_bits<kHalves, 4>(blocks, out);
  }
};
/// Q4_K and Q5_K: eight scales, then eight minima, of 6 bits each in 12 bytes, and their factors.
inline __m512 eight_pairs(const std::byte* b) {
  // Words of their own: as vectors they would take the ports that products need.
  auto x = read<uint32_t>(b + 4);
  auto y = read<uint32_t>(b + 8);
  auto z = read<uint32_t>(b + 12);
  asm("" : "+r"(x), "+r"(y), "+r"(z));
  constexpr uint32_t kSix = 0x3f3f3f3f;
  constexpr uint32_t kLow = 0x0f0f0f0f;
  constexpr uint32_t kHigh = 0x30303030;
  const uint64_t scales = (x & kSix) | uint64_t{(z & kLow) | (x >> 2 & kHigh)} << 32;
  const uint64_t minima = (y & kSix) | uint64_t{(z >> 4 & kLow) | (y >> 2 & kHigh)} << 32;
  const __m512 d =
      _mm512_castps128_ps512(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(b))));
  const __m512 factor =
      _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1), d);
  const __m128i bytes =
      _mm_set_epi64x(static_cast<long long>(minima), static_cast<long long>(scales));
  return _mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)));
}
struct Q4_K {
  static constexpr size_t kBytes = 144;
  static constexpr const Order& kOrder = kPairsLessMinima;
  static inline void take(const std::byte* b, Unpacked& out) { take(b, b + 16, out); }
  static inline void take(const std::byte* b, const std::byte* nibbles, Unpacked& out) {
    out.all = eight_pairs(b);
    for (int i = 0; i < 2; ++i) {
      const __m512i raw = line_at(nibbles + i * kLine);
      out.codes[2 * i] = _mm512_and_si512(raw, bytes_of(15));
      out.codes[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(raw, 4), bytes_of(15));
    }
    for (int v = 0; v < 4; ++v) {
      const int first = v / 2 * 4 + v % 2;
      out.scale[v] = spread(out.all, first, first, first + 2, first + 2);
    }
  }
};
/// The same 32 bytes twice, each copy shifted by bits of its own.
inline __m512i twice_left(__m512i twice, int first, int second) {
  return _mm512_sllv_epi64(
      twice, _mm512_setr_epi64(first, first, first, first, second, second, second, second));
}
inline __m512i twice_right(__m512i twice, int first, int second) {
  return _mm512_srlv_epi64(
      twice, _mm512_setr_epi64(first, first, first, first, second, second, second, second));
}
inline __m512i twice(const std::byte* p) {
  return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
struct Q5_K {
  static constexpr size_t kBytes = 176;
  static constexpr const Order& kOrder = kPairsLessMinima;
  static inline void take(const std::byte* b, Unpacked& out) {
    Q4_K::take(b, b + 48, out);
    const __m512i fifth = twice(b + 16);
    const __m512i bit = bytes_of(16);
    out.codes[0] = or_masked(out.codes[0], twice_left(fifth, 4, 2), bit);
    out.codes[1] = or_masked(out.codes[1], twice_left(fifth, 3, 1), bit);
    out.codes[2] = or_masked(out.codes[2], twice_right(fifth, 0, 2), bit);
    out.codes[3] = or_masked(out.codes[3], twice_right(fifth, 1, 3), bit);
  }
};
struct Q6_K {
  static constexpr size_t kBytes = 210;
  static constexpr const Order& kOrder = kLessThirtyTwo;
  static inline void take(const std::byte* b, Unpacked& out) {
    const __m512 d =
        _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(read<uint16_t>(b + 208))));
    out.all = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(quarter_at(b + 192))));
    const __m512i bits = bytes_of(0x30);
    for (int i = 0; i < 2; ++i) {
      const __m512i raw = line_at(b + i * kLine);
      const __m512i high = twice(b + 128 + i * kLine / 2);
      const __m512i low_nibbles = _mm512_and_si512(raw, bytes_of(15));
      const __m512i high_nibbles = _mm512_and_si512(_mm512_srli_epi16(raw, 4), bytes_of(15));
      out.codes[2 * i] = or_masked(low_nibbles, twice_left(high, 4, 2), bits);
      out.codes[2 * i + 1] = or_masked(high_nibbles, twice_right(high, 0, 2), bits);
    }
    for (int v = 0; v < 4; ++v)
      out.scale[v] = spread(out.all, 4 * v, 4 * v + 1, 4 * v + 2, 4 * v + 3);
  }
};
struct Q2_K {
  static constexpr size_t kBytes = 84;
  static constexpr const Order& kOrder = kQuartersLessMinima;
  static inline void take(const std::byte* b, Unpacked& out) {
    const __m128i both = quarter_at(b);
    const __m128i nibbles = _mm_set1_epi8(15);
    const __m512 d = _mm512_castps128_ps512(_mm_cvtph_ps(_mm_cvtsi32_si128(read<int>(b + 80))));
    const __m512 scale =
        _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_setzero_si512(), d),
                      _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(both, nibbles))));
    out.all = _mm512_mul_ps(
        _mm512_permutexvar_ps(_mm512_set1_epi32(1), d),
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16(both, 4), nibbles))));
    const __m512i raw = line_at(b + 16);
    for (int v = 0; v < 4; ++v) {
      out.codes[v] =
          _mm512_and_si512(_mm512_srli_epi16(raw, static_cast<unsigned>(2 * v)), bytes_of(3));
      out.scale[v] = spread(scale, 2 * v, 2 * v + 1, 2 * v + 8, 2 * v + 9);
    }
  }
};
struct Q3_K {
  static constexpr size_t kBytes = 110;
  static constexpr const Order& kOrder = kQuartersLessFour;
  static inline void take(const std::byte* b, Unpacked& out) {
    // 16 scales of 6 bits in 12 bytes: four low bits of each in the first eight.
    const auto low = read<uint64_t>(b + 96);
    const uint64_t high = read<uint32_t>(b + 104);
    constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0f;
    constexpr uint64_t kHigh = 0x30303030;
    const uint64_t high_0 = (high << 4 & kHigh) | (high << 2 & kHigh) << 32;
    const uint64_t high_1 = (high & kHigh) | (high >> 2 & kHigh) << 32;
    const __m128i bytes = _mm_set_epi64x(static_cast<long long>((low >> 4 & kLow) | high_1),
                                         static_cast<long long>((low & kLow) | high_0));
    const __m512i numbers = _mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(32));
    const __m512 d =
        _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(read<uint16_t>(b + 108))));
    out.all = _mm512_mul_ps(d, _mm512_cvtepi32_ps(numbers));
    // Bit v of a byte belongs to the first half of the chunk, bit v + 4 to the second.
    const __m512i third = twice_right(twice_left(twice(b), 2, 0), 0, 2);
    const __m512i raw = line_at(b + 32);
    for (int v = 0; v < 4; ++v) {
      const auto bits = static_cast<unsigned>(v);
      const __m512i two = _mm512_and_si512(_mm512_srli_epi16(raw, 2 * bits), bytes_of(3));
      out.codes[v] = or_masked(two, _mm512_srli_epi16(third, bits), bytes_of(4));
      out.scale[v] = spread(out.all, 2 * v, 2 * v + 1, 2 * v + 8, 2 * v + 9);
    }
  }
};

/// Bits of |x|, of which no numbers have the largest.
inline __m512i magnitude_of(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}
/// In every lane the largest of its four.
inline __m512i largest_of_four(__m512i magnitude) {
  const __m512i of_two = _mm512_max_epi32(
      magnitude, _mm512_shuffle_epi32(magnitude, static_cast<_MM_PERM_ENUM>(0xb1)));
  return _mm512_max_epi32(of_two, _mm512_shuffle_epi32(of_two, static_cast<_MM_PERM_ENUM>(0x4e)));
}
inline unsigned count_of(__mmask16 lanes) {
  return static_cast<unsigned>(__builtin_popcount(lanes));
}

/// What is 2^bits times smaller than the largest is small, and too much where it is one of `share`.
struct Small {
  int bits;
  unsigned share;
};
constexpr Small kSmall[] = {{6, 8}, {10, 32}};

/// Whether some of `count` inputs are so large that others would lose bits which count where the
/// weights of the large ones are small, as models have them: too many are small beside the largest
/// of their four, or lie in a four that is small beside the largest of all (minima are taken away
/// from sums as large as that). Zeros have no bits to lose. Or sums might overflow, or be too small
/// for ordinary numbers.
inline bool is_wild(const float* x, size_t count) {
  constexpr int kHuge = (127 + 100) << 23;
  constexpr int kTiny = (127 - 80) << 23;
  __m512i most = _mm512_setzero_si512();
  for (size_t i = 0; i < count; i += kGroup) {
    most = _mm512_max_epi32(most, magnitude_of(_mm512_loadu_ps(x + i)));
  }
  const int largest = _mm512_reduce_max_epi32(most);
  if (largest == 0) return false;
  if (largest >= kHuge || largest < kTiny) return true;
  for (const Small& small : kSmall) {
    const __m512i less = _mm512_set1_epi32(small.bits << 23);
    const __m512i bound = _mm512_sub_epi32(_mm512_set1_epi32(largest), less);
    unsigned values[2] = {};  // that are not 0, and of those what is small
    unsigned fours[2] = {};   // each counts four times
    for (size_t i = 0; i < count; i += kGroup) {
      const __m512i value = magnitude_of(_mm512_loadu_ps(x + i));
      const __m512i of_four = largest_of_four(value);
      const __mmask16 is_some = _mm512_test_epi32_mask(value, value);
      const __mmask16 four_is_some = _mm512_test_epi32_mask(of_four, of_four);
      const __m512i four_bound = _mm512_sub_epi32(of_four, less);
      values[0] += count_of(is_some);
      values[1] += count_of(_mm512_mask_cmplt_epi32_mask(is_some, value, four_bound));
      fours[0] += count_of(four_is_some);
      fours[1] += count_of(_mm512_mask_cmplt_epi32_mask(four_is_some, of_four, bound));
    }
    if (values[1] * small.share >= values[0] || fours[1] * small.share >= fours[0]) return true;
  }
  return false;
}

/// A group's inputs as whole numbers: bytes into three planes, and the powers of two. Returns the
/// sum of its values.
inline float pack_group(__m512 x, std::byte* planes) {
  const __m512i of_four = largest_of_four(magnitude_of(x));
  // As numbers of 24 bits the largest is at least 2^22; what is below 2^-100 loses bits. Four
  // products with codes of six bits fit 32.
  static_assert((int64_t{4} * 63 << 23) < int64_t{1} << 31);
  constexpr int kBias = 127;
  constexpr int kBits = 22;
  const __m512i exponent =
      _mm512_max_epi32(_mm512_srli_epi32(of_four, 23), _mm512_set1_epi32(kBias - 100));
  const __m512i up =
      _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(2 * kBias + kBits), exponent), 23);
  const __m512i down = _mm512_slli_epi32(_mm512_sub_epi32(exponent, _mm512_set1_epi32(kBits)), 23);
  const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_castsi512_ps(up)));
  const __m512i number = _mm512_min_epi32(rounded, _mm512_set1_epi32((1 << 23) - 1));
  store_quarter(planes, _mm512_cvtepi32_epi8(_mm512_srli_epi32(number, 16)));
  store_quarter(planes + kLine, _mm512_cvtepi32_epi8(_mm512_srli_epi32(number, 8)));
  store_quarter(planes + 2 * kLine, _mm512_cvtepi32_epi8(number));
  const __m512i every_fourth = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  store_quarter(planes + 3 * kLine,
                _mm512_castsi512_si128(_mm512_permutexvar_epi32(every_fourth, down)));
  return _mm512_reduce_add_ps(x);
}

/// Of a chunk `count` values are there, and zeros after them.
template <const Order& kOrder>
inline void pack_chunk(const float* x, size_t count, std::byte* packed) {
  const uint32_t wild = is_wild(x, count) ? 1 : 0;
  std::memcpy(packed + kWildAt, &wild, sizeof(wild));
  if (wild != 0) {
    for (unsigned i = 0; i < kGroups; ++i) {
      std::memcpy(packed + i * kLine, x + kOrder.groups[i] * kGroup, kLine);
    }
    return;
  }
  float sums[kGroups];
  for (unsigned i = 0; i < kGroups; ++i) {
    const unsigned group = kOrder.groups[i];
    sums[group] = pack_group(_mm512_loadu_ps(x + group * kGroup),
                             packed + i / 4 * kVectorBytes + i % 4 * (kLine / 4));
  }
  constexpr unsigned kOfSum = kOrder.sum_values / kGroup;
  float lanes[kGroups] = {};
  for (unsigned i = 0; i < kGroups / kOfSum; ++i) {
    float sum = 0;
    for (unsigned j = 0; j < kOfSum; ++j) sum += sums[kOfSum * i + j];
    lanes[kOrder.first_lane + i] = kOrder.factor * sum;
  }
  std::memcpy(packed + kSumsAt, lanes, sizeof(lanes));
}
template <const Order& kOrder>
void pack(const float* x, size_t cols, std::byte* packed) {
  for (; cols >= kChunk; cols -= kChunk, x += kChunk, packed += kPackedBytes) {
    pack_chunk<kOrder>(x, kChunk, packed);
  }
  if (cols > 0) {
    float rest[kChunk] = {};
    std::memcpy(rest, x, cols * sizeof(float));
    pack_chunk<kOrder>(rest, cols, packed);
  }
}

/// Group i of a chunk in its order, with its minima: the very values of decode_values().
template <const Order& kOrder>
inline __m512 weights_of(const Unpacked& w, const std::byte* codes, unsigned i) {
  constexpr unsigned kOfSum = kOrder.sum_values / kGroup;
  const auto all_of = [](__m512 lanes, unsigned lane) {
    return _mm512_permutexvar_ps(_mm512_set1_epi32(static_cast<int>(lane)), lanes);
  };
  const __m512 minimum = _mm512_mul_ps(all_of(w.all, kOrder.first_lane + kOrder.groups[i] / kOfSum),
                                       _mm512_set1_ps(kOrder.factor));
  const __m512 scale = all_of(w.scale[i * kVectors / kGroups], i * kVectors % kGroups);
  const __m512i code = _mm512_cvtepu8_epi32(quarter_at(codes + i * kGroup));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), scale, minimum);
}

/// Adds the products of a chunk, or of its first vectors, with one input row to 16 sums.
template <unsigned kTaken>
inline __m512 add_products(__m512 sums, const Unpacked& w, const std::byte* packed) {
#pragma GCC unroll 4
  for (unsigned v = 0; v < kTaken; ++v) {
    const std::byte* x = packed + v * kVectorBytes;
    __m512i t = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.codes[v], line_at(x));
    t = _mm512_dpbusd_epi32(_mm512_slli_epi32(t, 8), line_at(x + kLine), w.codes[v]);
    t = _mm512_dpbusd_epi32(_mm512_slli_epi32(t, 8), line_at(x + 2 * kLine), w.codes[v]);
    const __m512 scale = _mm512_mul_ps(w.scale[v], _mm512_loadu_ps(x + 3 * kLine));
    sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(t), scale, sums);
  }
  return _mm512_fmadd_ps(w.all, _mm512_loadu_ps(packed + kSumsAt), sums);
}

/// Weight rows of which a chunk each is taken in turn, as in isa_blocks.inl: what they need of the
/// inputs is then in the first cache. What is asked for ahead is what is best there.
constexpr unsigned kRows = 8;
constexpr size_t kNearBytes = 512;
constexpr size_t kFarRows = 8;

inline bool holds_wild(const std::byte* packed) {
  return read<uint32_t>(packed + kWildAt) != 0;
}

/// Sums of R input rows with up to kRows weight rows.
template <const Order& kOrder, unsigned R>
struct Sums {
  /// Where no input row's chunk is wild.
  template <unsigned kTaken>
  inline void add_tame(unsigned n, const Unpacked& weights, const std::byte* packed,
                       size_t stride) {
    for (unsigned r = 0; r < R; ++r) {
      of[n][r] = add_products<kTaken>(of[n][r], weights, packed + r * stride);
    }
  }
  /// Where some are: in f32, weight by weight.
  template <unsigned kTaken>
  inline void add(unsigned n, const Unpacked& weights, const std::byte* packed, size_t stride) {
    bool wild = false;
    for (unsigned r = 0; r < R; ++r) {
      const std::byte* x = packed + r * stride;
      wild |= holds_wild(x);
      if (!holds_wild(x)) of[n][r] = add_products<kTaken>(of[n][r], weights, x);
    }
    if (!wild) return;
    std::byte codes[kTaken * kLine];
    for (unsigned v = 0; v < kTaken; ++v) _mm512_storeu_si512(codes + v * kLine, weights.codes[v]);
    constexpr unsigned kTakenGroups = kTaken * kGroups / kVectors;
    __m512 plain[kTakenGroups];
#pragma GCC unroll 16
    for (unsigned i = 0; i < kTakenGroups; ++i) plain[i] = weights_of<kOrder>(weights, codes, i);
    for (unsigned r = 0; r < R; ++r) {
      const std::byte* x = packed + r * stride;
      if (!holds_wild(x)) continue;
      __m512 sum = of[n][r];
#pragma GCC unroll 16
      for (unsigned i = 0; i < kTakenGroups; ++i) {
        sum = _mm512_fmadd_ps(plain[i], _mm512_loadu_ps(x + i * kLine), sum);
      }
      of[n][r] = sum;
    }
  }
  __m512 of[kRows][R];
};

template <typename Format>
inline void take_chunk(const std::byte* chunk, Unpacked& out) {
  if constexpr (requires { Format::kBlock; }) {
    Format::template take<2>(Whole<Format::kBlock>{chunk}, out);
  } else {
    Format::take(chunk, out);
  }
}
/// What follows the last whole chunk of `count` rows: fewer than eight blocks of each.
template <typename Format, unsigned R>
inline void add_rest(const std::byte* packed, size_t packed_stride, const std::byte* w,
                     unsigned count, size_t cols, size_t row_bytes, Sums<Format::kOrder, R>& sums) {
  if constexpr (requires { Format::kBlock; }) {
    const auto blocks = static_cast<unsigned>(cols / 32);
    for (unsigned n = 0; n < count; ++n) {
      const Rest<Format::kBlock> rest{w + n * row_bytes, blocks};
      Unpacked weights;
      if (blocks <= 4) {
        Format::template take<1>(rest, weights);
        sums.template add<2>(n, weights, packed, packed_stride);
      } else {
        Format::template take<2>(rest, weights);
        sums.template add<4>(n, weights, packed, packed_stride);
      }
    }
  }
}

/// Where weight rows of a tile have a chunk.
struct ChunkRows {
  const std::byte* first;
  size_t row_bytes;
  size_t near_bytes;  ///< to what comes after it
  unsigned count;
};
template <typename Format>
inline const std::byte* chunk_of(const ChunkRows& rows, unsigned n) {
  const std::byte* chunk = rows.first + n * rows.row_bytes;
  for (size_t line = 0; line < Format::kBytes; line += kLine) {
    __builtin_prefetch(chunk + kFarRows * rows.row_bytes + line, 0, 2);
    __builtin_prefetch(chunk + rows.near_bytes + line);
  }
  return chunk;
}
/// A function of its own: in the other loop nothing may need the registers of its constants.
template <typename Format, unsigned R>
[[gnu::noinline]] void add_wild_chunk(const std::byte* packed, size_t packed_stride,
                                      const ChunkRows& rows, Sums<Format::kOrder, R>& sums) {
  for (unsigned n = 0; n < rows.count; ++n) {
    Unpacked weights;
    take_chunk<Format>(chunk_of<Format>(rows, n), weights);
    sums.template add<kVectors>(n, weights, packed, packed_stride);
  }
}

template <typename Format, unsigned R>
inline void tile(const std::byte* packed, size_t packed_stride, const std::byte* w, unsigned count,
                 size_t cols, size_t row_bytes, float* out, size_t out_stride) {
  Sums<Format::kOrder, R> sums;
  for (auto& of_row : sums.of) {
    for (__m512& sum : of_row) sum = _mm512_setzero_ps();
  }
  size_t at = 0;
  for (; cols >= kChunk; cols -= kChunk, at += Format::kBytes, packed += kPackedBytes) {
    const bool row_ends = at + kNearBytes >= row_bytes;
    const size_t near_bytes = kNearBytes + (row_ends ? (count - 1) * row_bytes : 0);
    const ChunkRows rows{w + at, row_bytes, near_bytes, count};
    bool wild = false;
    for (unsigned r = 0; r < R; ++r) wild |= holds_wild(packed + r * packed_stride);
    if (wild) {
      add_wild_chunk<Format, R>(packed, packed_stride, rows, sums);
      continue;
    }
    for (unsigned n = 0; n < count; ++n) {
      Unpacked weights;
      take_chunk<Format>(chunk_of<Format>(rows, n), weights);
      sums.template add_tame<kVectors>(n, weights, packed, packed_stride);
    }
  }
  if (cols > 0) {
    add_rest<Format, R>(packed, packed_stride, w + at, count, cols, row_bytes, sums);
  }
  for (unsigned r = 0; r < R; ++r) {
    for (unsigned n = 0; n < count; ++n) {
      out[r * out_stride + n] = _mm512_reduce_add_ps(sums.of[n][r]);
    }
  }
}

template <typename Format>
inline size_t bytes_of_row(size_t cols) {
  if constexpr (requires { Format::kBlock; }) {
    return cols / 32 * Format::kBlock;
  } else {
    return cols / kChunk * Format::kBytes;
  }
}
template <typename Format, unsigned R>
void rows_of(const std::byte* packed, size_t packed_stride, const std::byte* w, unsigned w_rows,
             size_t cols, float* out, size_t out_stride) {
  const size_t bytes = bytes_of_row<Format>(cols);
  for (unsigned n = 0; n < w_rows; n += kRows) {
    const unsigned count = w_rows - n < kRows ? w_rows - n : kRows;
    tile<Format, R>(packed, packed_stride, w + n * bytes, count, cols, bytes, out + n, out_stride);
  }
}
template <typename Format>
void gemv(const std::byte* packed, size_t packed_stride, unsigned rows, const std::byte* w,
          unsigned w_rows, size_t cols, float* out, size_t out_stride) {
  switch (rows) {
    case 1:
      return rows_of<Format, 1>(packed, packed_stride, w, w_rows, cols, out, out_stride);
    case 2:
      return rows_of<Format, 2>(packed, packed_stride, w, w_rows, cols, out, out_stride);
    case 3:
      return rows_of<Format, 3>(packed, packed_stride, w, w_rows, cols, out, out_stride);
    default:
      return rows_of<Format, 4>(packed, packed_stride, w, w_rows, cols, out, out_stride);
  }
}

template <typename Format>
constexpr VnniKernels kKernels{pack<Format::kOrder>, gemv<Format>};

}  // namespace

uint64_t vnni_input_bytes(uint32_t cols) {
  return (uint64_t{cols} + kChunk - 1) / kChunk * kPackedBytes;
}

const VnniKernels* vnni_kernels(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ4_0:
      return &kKernels<Q4_0>;
    case WeightFormat::kQ4_1:
      return &kKernels<Q4_1>;
    case WeightFormat::kQ5_0:
      return &kKernels<Q5_0>;
    case WeightFormat::kQ5_1:
      return &kKernels<Q5_1>;
    case WeightFormat::kQ2_K:
      return &kKernels<Q2_K>;
    case WeightFormat::kQ3_K:
      return &kKernels<Q3_K>;
    case WeightFormat::kQ4_K:
      return &kKernels<Q4_K>;
    case WeightFormat::kQ5_K:
      return &kKernels<Q5_K>;
    case WeightFormat::kQ6_K:
      return &kKernels<Q6_K>;
    default:
      return nullptr;
  }
}

}  // namespace spillway
