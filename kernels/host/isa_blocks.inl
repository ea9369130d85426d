// Weights in blocks: the part of isa_kernels.inl that knows their layouts (core/weight_format.h).
//
// Every value is scale * code - minimum, and every product is exact in f32: an f16 scale, a scale
// of that scale and a code have 24 bits together at most. So the only rounding is that of the
// subtraction, and neither the order of products nor a fused multiply-subtract changes a bit: the
// values are those of decode_values().
//
// A format's prepare() makes scales ready, for several rows before the first of them is used: what
// waits for a scale would fill the core's queues. Its each() shows the values, in order, to a sink:
// take(at, a, b) gets 2 * kLanes values, which begin at value `at` of what each() was called for.

/// Values that each() shows in one go, where there are as many left.
constexpr size_t kChunk = 256;
/// Values that one 32-byte vector of codes stands for.
constexpr size_t kPart = 32;

using Bytes = uint8_t __attribute__((vector_size(32)));
using Pairs = uint16_t __attribute__((vector_size(32)));

template <typename T>
inline T read(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}
inline void store_bytes(int8_t* p, Bytes v) {
  std::memcpy(p, &v, sizeof(v));
}
/// Shifts whole pairs of bytes: what comes from the neighbour is for the caller to mask.
inline Bytes right(Bytes v, unsigned bits) {
  return reinterpret_cast<Bytes>(reinterpret_cast<Pairs>(v) >> bits);
}
inline Bytes left(Bytes v, unsigned bits) {
  return reinterpret_cast<Bytes>(reinterpret_cast<Pairs>(v) << bits);
}

/// kLanes bytes as integers.
inline Ints lanes_of(const uint8_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Ints>(
      _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  int32_t raw;
  std::memcpy(&raw, p, sizeof(raw));
  const __m128i zero = _mm_setzero_si128();
  return reinterpret_cast<Ints>(
      _mm_unpacklo_epi16(_mm_unpacklo_epi8(_mm_cvtsi32_si128(raw), zero), zero));
#endif
}
inline Ints lanes_of(const int8_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<Ints>(
      _mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  int32_t raw;
  std::memcpy(&raw, p, sizeof(raw));
  const __m128i twice = _mm_unpacklo_epi8(_mm_cvtsi32_si128(raw), _mm_cvtsi32_si128(raw));
  return reinterpret_cast<Ints>(_mm_srai_epi32(_mm_unpacklo_epi16(twice, twice), 24));
#endif
}
template <typename Byte>
inline Floats floats_of(const Byte* p) {
  return __builtin_convertvector(lanes_of(p), Floats);
}

/// What prepare() makes of up to kChunk values: their scales, and codes where they lie in pieces.
struct Ready {
  alignas(64) float scale[16];
  float min[16];
  int8_t codes[kChunk];
};

/// Scales go through memory: a load can broadcast one to all lanes at no cost in shuffles, of which
/// a core does one at a time.
template <unsigned kCount>
inline void keep_in_memory(float (&values)[kCount]) {
  asm("" : "+m"(values));
}

/// Four f16 numbers, the first in the lowest bits.
inline void floats_of_halves(uint64_t halves, float* out) {
#if defined(__F16C__)
  _mm_storeu_ps(out, _mm_cvtph_ps(_mm_cvtsi64_si128(static_cast<int64_t>(halves))));
#else
  std::byte raw[sizeof(halves)];
  std::memcpy(raw, &halves, sizeof(halves));
  store(out, F16::load_lanes(raw));
#endif
}
inline float float_of_half(const std::byte* p) {
  float out[4];
  floats_of_halves(read<uint16_t>(p), out);
  return out[0];
}
/// The f16 numbers at the beginning of each of some blocks.
template <unsigned kBlocks, size_t kStride>
inline void halves_of_blocks(const std::byte* b, float (&out)[16]) {
  for (unsigned i = 0; i < kBlocks; i += 4) {
    uint64_t halves = 0;
    for (unsigned j = 0; j < 4 && i + j < kBlocks; ++j) {
      halves |= uint64_t{read<uint16_t>(b + (i + j) * kStride)} << (16 * j);
    }
    floats_of_halves(halves, out + i);
  }
  keep_in_memory(out);
}
/// out[i] = factor * bytes[i], 16 of them.
inline void scaled(const int8_t* bytes, float factor, float (&out)[16]) {
  for (unsigned i = 0; i < 16; i += kLanes) store(out + i, factor * floats_of(bytes + i));
  keep_in_memory(out);
}
/// kLanes of 16 bytes in two registers; a load would wait for stores of half its size.
inline Ints lanes_of(uint64_t low, uint64_t high, unsigned first) {
#if defined(__AVX512F__)
  static_cast<void>(first);
  const __m128i bytes = _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low));
  return reinterpret_cast<Ints>(_mm512_maskz_cvtepu8_epi32(0xffff, bytes));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(
      _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(first == 0 ? low : high))));
#else
  const uint64_t eight = first < 8 ? low : high;
  const auto four = static_cast<int32_t>(eight >> (8 * (first % 8)) & 0xffffffffu);
  uint8_t bytes[4];
  std::memcpy(bytes, &four, sizeof(four));
  return lanes_of(bytes);
#endif
}
/// out[i] = factor * (byte i - zero).
inline void scaled(uint64_t low, uint64_t high, int zero, float factor, float (&out)[16]) {
  for (unsigned i = 0; i < 16; i += kLanes) {
    store(out + i, factor * __builtin_convertvector(lanes_of(low, high, i) - zero, Floats));
  }
  keep_in_memory(out);
}

/// A part's 32 codes times a scale for each half.
template <typename Sink>
[[gnu::always_inline]] inline void take_part(Sink& sink, size_t at, const int8_t* codes,
                                             float scale_0, float scale_1) {
  for (size_t i = 0; i < kPart; i += 2 * kLanes) {
    sink.take(at + i, floats_of(codes + i) * (i < 16 ? scale_0 : scale_1),
              floats_of(codes + i + kLanes) * (i + kLanes < 16 ? scale_0 : scale_1));
  }
}
/// The same less a minimum.
template <typename Sink>
[[gnu::always_inline]] inline void take_part(Sink& sink, size_t at, const int8_t* codes,
                                             float scale_0, float scale_1, float min_0,
                                             float min_1) {
  for (size_t i = 0; i < kPart; i += 2 * kLanes) {
    sink.take(at + i,
              floats_of(codes + i) * (i < 16 ? scale_0 : scale_1) - (i < 16 ? min_0 : min_1),
              floats_of(codes + i + kLanes) * (i + kLanes < 16 ? scale_0 : scale_1) -
                  (i + kLanes < 16 ? min_0 : min_1));
  }
}

/// What the sixteen nibbles stand for.
struct Counted {
  static constexpr int8_t kCodes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
};
struct Centered {
  static constexpr int8_t kCodes[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
};
struct Iq4 {
  static constexpr int8_t kCodes[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                        1,    13,   25,  38,  53,  69,  89,  113};
};
/// E2M1 times two.
struct TwiceE2m1 {
  static constexpr int8_t kCodes[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
};

#if defined(__AVX512F__)
/// Nibbles pick among the sixteen values that they can have: a permutation looks at the lowest four
/// bits of a lane and at nothing else.
inline Floats picked(Floats table, Ints nibbles) {
  return reinterpret_cast<Floats>(_mm512_maskz_permutexvar_ps(
      0xffff, reinterpret_cast<__m512i>(nibbles), reinterpret_cast<__m512>(table)));
}
template <typename Kind>
inline Floats table_of() {
  return floats_of(Kind::kCodes);
}

/// Two parts at once.
using Wide = uint8_t __attribute__((vector_size(64)));
using WidePairs = uint16_t __attribute__((vector_size(64)));
/// The same 32 bytes for both parts.
inline Wide twice(const std::byte* p) {
  return reinterpret_cast<Wide>(
      _mm512_maskz_broadcast_i64x4(0xff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
inline WidePairs counts(unsigned first, unsigned second) {
  const auto a = static_cast<uint16_t>(first);
  const auto b = static_cast<uint16_t>(second);
  return WidePairs{a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a,
                   b, b, b, b, b, b, b, b, b, b, b, b, b, b, b, b};
}
/// Shifts the parts by counts of their own; as above, the neighbour's bits come along.
inline Wide left(Wide v, unsigned first, unsigned second) {
  return reinterpret_cast<Wide>(reinterpret_cast<WidePairs>(v) << counts(first, second));
}
inline Wide right(Wide v, unsigned first, unsigned second) {
  return reinterpret_cast<Wide>(reinterpret_cast<WidePairs>(v) >> counts(first, second));
}
/// `ones` where mask has bits, `zeros` elsewhere.
inline Wide chosen(uint8_t mask, Wide ones, Wide zeros) {
  return reinterpret_cast<Wide>(_mm512_ternarylogic_epi32(reinterpret_cast<__m512i>(Wide{} + mask),
                                                          reinterpret_cast<__m512i>(ones),
                                                          reinterpret_cast<__m512i>(zeros), 0xca));
}
inline void store_bytes(int8_t* p, Wide v) {
  std::memcpy(p, &v, sizeof(v));
}
#endif

/// 16 bytes of nibbles as codes: all low halves, then all high ones.
template <typename Kind>
inline void codes_of_nibbles(const std::byte* p, int8_t* codes) {
#if defined(__AVX2__)
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(Kind::kCodes));
  const __m128i mask = _mm_set1_epi8(15);
  const __m128i low = _mm_shuffle_epi8(table, _mm_and_si128(raw, mask));
  const __m128i high = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(raw, 4), mask));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), low);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), high);
#else
  for (unsigned i = 0; i < 16; ++i) {
    const auto byte = static_cast<uint8_t>(p[i]);
    codes[i] = Kind::kCodes[byte & 15u];
    codes[i + 16] = Kind::kCodes[byte >> 4];
  }
#endif
}

/// A part of 16 bytes: 32 nibbles with one scale.
template <typename Kind, typename Sink>
[[gnu::always_inline]] inline void take_nibbles(Sink& sink, size_t at, const std::byte* p,
                                                float scale) {
#if defined(__AVX512F__)
  const Floats table = table_of<Kind>() * scale;
  const Ints raw = lanes_of(reinterpret_cast<const uint8_t*>(p));
  sink.take(at, picked(table, raw), picked(table, raw >> 4));
#else
  int8_t codes[kPart];
  codes_of_nibbles<Kind>(p, codes);
  take_part(sink, at, codes, scale, scale);
#endif
}
template <typename Kind, typename Sink>
[[gnu::always_inline]] inline void take_nibbles(Sink& sink, size_t at, const std::byte* p,
                                                float scale, float min) {
#if defined(__AVX512F__)
  const Floats table = table_of<Kind>() * scale - min;
  const Ints raw = lanes_of(reinterpret_cast<const uint8_t*>(p));
  sink.take(at, picked(table, raw), picked(table, raw >> 4));
#else
  int8_t codes[kPart];
  codes_of_nibbles<Kind>(p, codes);
  take_part(sink, at, codes, scale, scale, min, min);
#endif
}

struct Q8_0 {
  static constexpr WeightFormat kFormat = WeightFormat::kQ8_0;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    halves_of_blocks<kBlocks, 34>(b, ready.scale);
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    for (unsigned i = 0; i < kBlocks; ++i) {
      const float d = ready.scale[i];
      take_part(sink, i * kPart, reinterpret_cast<const int8_t*>(b + i * 34 + 2), d, d);
    }
  }
};

/// Q4_0 and IQ4_NL.
template <WeightFormat kOne, typename Kind>
struct Nibbles {
  static constexpr WeightFormat kFormat = kOne;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    halves_of_blocks<kBlocks, 18>(b, ready.scale);
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    for (unsigned i = 0; i < kBlocks; ++i) {
      take_nibbles<Kind>(sink, i * kPart, b + i * 18 + 2, ready.scale[i]);
    }
  }
};
using Q4_0 = Nibbles<WeightFormat::kQ4_0, Centered>;
using IQ4_NL = Nibbles<WeightFormat::kIQ4_NL, Iq4>;

struct Q4_1 {
  static constexpr WeightFormat kFormat = WeightFormat::kQ4_1;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    halves_of_blocks<kBlocks, 20>(b, ready.scale);
    halves_of_blocks<kBlocks, 20>(b + 2, ready.min);
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    for (unsigned i = 0; i < kBlocks; ++i) {
      take_nibbles<Counted>(sink, i * kPart, b + i * 20 + 4, ready.scale[i], -ready.min[i]);
    }
  }
};

struct MXFP4 {
  static constexpr WeightFormat kFormat = WeightFormat::kMXFP4;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    for (unsigned i = 0; i < kBlocks; ++i) {
      const auto exponent = static_cast<uint32_t>(b[i * 17]);
      const uint32_t bits = exponent == 0 ? 1u << 22 : exponent << 23;  // 2^(exponent - 127)
      float scale;
      std::memcpy(&scale, &bits, sizeof(scale));
      ready.scale[i] = 0.5f * scale;
    }
    keep_in_memory(ready.scale);
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    for (unsigned i = 0; i < kBlocks; ++i) {
      take_nibbles<TwiceE2m1>(sink, i * kPart, b + i * 17 + 1, ready.scale[i]);
    }
  }
};

/// 0x10 in byte i where bit i is set.
inline Bytes fifth_bits(uint32_t bits) {
#if defined(__AVX512F__)
  return reinterpret_cast<Bytes>(_mm256_maskz_set1_epi8(bits, 0x10));
#elif defined(__AVX2__)
  const __m256i which =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i copies = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int32_t>(bits)), which);
  const __m256i of_byte = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(copies, of_byte), of_byte);
  return reinterpret_cast<Bytes>(_mm256_and_si256(set, _mm256_set1_epi8(0x10)));
#else
  uint64_t spread[4];
  for (unsigned i = 0; i < 4; ++i) {
    const uint64_t copies = (bits >> (8 * i) & 255u) * 0x0101010101010101u;
    const uint64_t tops = (copies & 0x8040201008040201u) + 0x7f7f7f7f7f7f7f7fu;
    spread[i] = tops >> 3 & 0x1010101010101010u;
  }
  Bytes all;
  std::memcpy(&all, spread, sizeof(all));
  return all;
#endif
}
/// Numbers 0..31 from 16 bytes of nibbles and their fifth bits.
inline Bytes five_bits(const std::byte* nibbles, uint32_t fifth) {
#if defined(__AVX2__)
  const __m256i raw =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(nibbles)));
  const __m256i shifted = _mm256_srlv_epi64(raw, _mm256_setr_epi64x(0, 0, 4, 4));
  const auto low = reinterpret_cast<Bytes>(shifted) & 15;
#else
  Bytes low;
  codes_of_nibbles<Counted>(nibbles, reinterpret_cast<int8_t*>(&low));
#endif
  return low | fifth_bits(fifth);
}

struct Q5_0 {
  static constexpr WeightFormat kFormat = WeightFormat::kQ5_0;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    halves_of_blocks<kBlocks, 22>(b, ready.scale);
    for (unsigned i = 0; i < kBlocks; ++i) {
      const std::byte* block = b + i * 22;
      store_bytes(ready.codes + i * kPart, five_bits(block + 6, read<uint32_t>(block + 2)) - 16);
    }
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    static_cast<void>(b);
    for (unsigned i = 0; i < kBlocks; ++i) {
      take_part(sink, i * kPart, ready.codes + i * kPart, ready.scale[i], ready.scale[i]);
    }
  }
};

struct Q5_1 {
  static constexpr WeightFormat kFormat = WeightFormat::kQ5_1;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    halves_of_blocks<kBlocks, 24>(b, ready.scale);
    halves_of_blocks<kBlocks, 24>(b + 2, ready.min);
    for (unsigned i = 0; i < kBlocks; ++i) {
      const std::byte* block = b + i * 24;
      store_bytes(ready.codes + i * kPart, five_bits(block + 8, read<uint32_t>(block + 4)));
    }
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    static_cast<void>(b);
    for (unsigned i = 0; i < kBlocks; ++i) {
      take_part(sink, i * kPart, ready.codes + i * kPart, ready.scale[i], ready.scale[i],
                -ready.min[i], -ready.min[i]);
    }
  }
};

struct Q2_K {
  static constexpr WeightFormat kFormat = WeightFormat::kQ2_K;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    float d[4];
    floats_of_halves(read<uint32_t>(b + 80), d);
    for (unsigned i = 0; i < 16; i += kLanes) {
      const Ints both = lanes_of(reinterpret_cast<const uint8_t*>(b) + i);
      store(ready.scale + i, d[0] * __builtin_convertvector(both & 15, Floats));
      store(ready.min + i, d[1] * __builtin_convertvector(both >> 4, Floats));
    }
    keep_in_memory(ready.scale);
    keep_in_memory(ready.min);
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
#if defined(__AVX512F__)
    // Any four bits pick: the table repeats, and what the upper two say does not matter.
    const Floats table = floats_of(kTwoBits);
    for (unsigned half = 0; half < 2; ++half) {
      const auto* raw = reinterpret_cast<const uint8_t*>(b) + 16 + half * 32;
      const Ints first = lanes_of(raw);
      const Ints second = lanes_of(raw + 16);
      for (int i = 0; i < 4; ++i) {
        const float* s = ready.scale + 8 * half + 2 * i;
        const float* m = ready.min + 8 * half + 2 * i;
        sink.take((4 * half + i) * kPart, picked(table * s[0] - m[0], first >> 2 * i),
                  picked(table * s[1] - m[1], second >> 2 * i));
      }
    }
#else
    for (unsigned i = 0; i < 8; ++i) {
      const auto raw = read<Bytes>(b + 16 + i / 4 * 32);
      int8_t codes[kPart];
      store_bytes(codes, right(raw, i % 4 * 2) & 3);
      take_part(sink, i * kPart, codes, ready.scale[2 * i], ready.scale[2 * i + 1],
                ready.min[2 * i], ready.min[2 * i + 1]);
    }
#endif
  }
  static constexpr int8_t kTwoBits[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
};

struct Q3_K {
  static constexpr WeightFormat kFormat = WeightFormat::kQ3_K;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    // 16 scales of 6 bits in 12 bytes: four low bits of each in the first eight.
    const auto low = read<uint64_t>(b + 96);
    const uint64_t high = read<uint32_t>(b + 104);
    constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0f;
    constexpr uint64_t kHigh = 0x30303030;
    const uint64_t high_0 = (high << 4 & kHigh) | (high << 2 & kHigh) << 32;
    const uint64_t high_1 = (high & kHigh) | (high >> 2 & kHigh) << 32;
    scaled((low & kLow) | high_0, (low >> 4 & kLow) | high_1, 32, float_of_half(b + 108),
           ready.scale);
#if defined(__AVX512F__)
    const Wide mask = twice(b);
    for (unsigned half = 0; half < 2; ++half) {
      const Wide raw = twice(b + 32 + half * 32);
      int8_t* codes = ready.codes + half * 4 * kPart;
      const Wide third_0 = half == 0 ? left(mask, 2, 1) : right(mask, 2, 3);
      const Wide third_1 = half == 0 ? right(mask, 0, 1) : right(mask, 4, 5);
      store_bytes(codes, chosen(3, right(raw, 0, 2), third_0));
      store_bytes(codes + 2 * kPart, chosen(3, right(raw, 4, 6), third_1));
    }
#else
    const auto mask = read<Bytes>(b);
    for (unsigned i = 0; i < 8; ++i) {
      const Bytes two = right(read<Bytes>(b + 32 + i / 4 * 32), i % 4 * 2) & 3;
      const Bytes third = (i < 2 ? left(mask, 2 - i) : right(mask, i - 2)) & 4;
      store_bytes(ready.codes + i * kPart, (two | third) - 4);
    }
#endif
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    static_cast<void>(b);
    for (unsigned i = 0; i < 8; ++i) {
      const int8_t* codes = ready.codes + i * kPart;
      const float* scale = ready.scale + 2 * i;
#if defined(__AVX512F__)
      // Any four bits pick, of which three matter.
      const Floats table = floats_of(kThreeBits);
      sink.take(i * kPart, picked(table * scale[0], lanes_of(codes)),
                picked(table * scale[1], lanes_of(codes + 16)));
#else
      take_part(sink, i * kPart, codes, scale[0], scale[1]);
#endif
    }
  }
  static constexpr int8_t kThreeBits[16] = {-4, -3, -2, -1, 0, 1, 2, 3, -4, -3, -2, -1, 0, 1, 2, 3};
};

/// Scales and minima of Q4_K and Q5_K: 8 pairs of 6 bits in 12 bytes. The minima follow the scales.
inline void eight_pairs(const std::byte* b, Ready& ready) {
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
#if defined(__AVX512F__)
  const __m512 d =
      _mm512_castps128_ps512(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(b))));
  const __m512i which = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const auto factor = reinterpret_cast<Floats>(_mm512_maskz_permutexvar_ps(0xffff, which, d));
  store(ready.scale, factor * __builtin_convertvector(lanes_of(scales, minima, 0), Floats));
#else
  float d[4];
  floats_of_halves(read<uint32_t>(b), d);
  for (unsigned i = 0; i < 16; i += kLanes) {
    store(ready.scale + i,
          (i < 8 ? d[0] : d[1]) * __builtin_convertvector(lanes_of(scales, minima, i), Floats));
  }
#endif
  keep_in_memory(ready.scale);
}

struct Q4_K {
  static constexpr WeightFormat kFormat = WeightFormat::kQ4_K;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    eight_pairs(b, ready);
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    const float* min = ready.scale + 8;
    for (unsigned i = 0; i < 8; i += 2) {
      const std::byte* p = b + 16 + i * 16;
      const float* scale = ready.scale + i;
#if defined(__AVX512F__)
      const Floats low = table_of<Counted>() * scale[0] - min[i];
      const Floats high = table_of<Counted>() * scale[1] - min[i + 1];
      const Ints first = lanes_of(reinterpret_cast<const uint8_t*>(p));
      const Ints second = lanes_of(reinterpret_cast<const uint8_t*>(p) + 16);
      sink.take(i * kPart, picked(low, first), picked(low, second));
      sink.take((i + 1) * kPart, picked(high, first >> 4), picked(high, second >> 4));
#else
      const auto raw = read<Bytes>(p);
      int8_t codes[2 * kPart];
      store_bytes(codes, raw & 15);
      store_bytes(codes + kPart, right(raw, 4) & 15);
      take_part(sink, i * kPart, codes, scale[0], scale[0], min[i], min[i]);
      take_part(sink, (i + 1) * kPart, codes + kPart, scale[1], scale[1], min[i + 1], min[i + 1]);
#endif
    }
  }
};

struct Q5_K {
  static constexpr WeightFormat kFormat = WeightFormat::kQ5_K;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    eight_pairs(b, ready);
#if defined(__AVX512F__)
    const Wide fifth = twice(b + 16);
    for (unsigned half = 0; half < 2; ++half) {
      // Parts 0 and 2 are low nibbles of what lies side by side, 1 and 3 the high ones.
      const auto raw = read<Wide>(b + 48 + half * 64);
      int8_t* codes = ready.codes + half * 4 * kPart;
      const Wide fifth_0 = half == 0 ? left(fifth, 4, 2) : right(fifth, 0, 2);
      const Wide fifth_1 = half == 0 ? left(fifth, 3, 1) : right(fifth, 1, 3);
      store_bytes(codes, chosen(15, raw, fifth_0) & 31);
      store_bytes(codes + 2 * kPart, chosen(15, right(raw, 4, 4), fifth_1) & 31);
    }
#else
    const auto fifth = read<Bytes>(b + 16);
    for (unsigned i = 0; i < 8; ++i) {
      const Bytes low = right(read<Bytes>(b + 48 + i / 2 * 32), i % 2 * 4) & 15;
      const Bytes high = (i < 4 ? left(fifth, 4 - i) : right(fifth, i - 4)) & 16;
      store_bytes(ready.codes + place(i) * kPart, low | high);
    }
#endif
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    static_cast<void>(b);
    for (unsigned i = 0; i < 8; ++i) {
      const float scale = ready.scale[i];
      const float min = ready.scale[8 + i];
      take_part(sink, i * kPart, ready.codes + place(i) * kPart, scale, scale, min, min);
    }
  }
  /// Of part i among the codes.
  static constexpr unsigned place(unsigned i) {
    return i % 4 == 1 ? i + 1 : i % 4 == 2 ? i - 1 : i;
  }
};

struct Q6_K {
  static constexpr WeightFormat kFormat = WeightFormat::kQ6_K;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    scaled(reinterpret_cast<const int8_t*>(b + 192), float_of_half(b + 208), ready.scale);
#if defined(__AVX512F__)
    for (unsigned half = 0; half < 2; ++half) {
      const auto raw = read<Wide>(b + half * 64);
      const Wide high = twice(b + 128 + half * 32);
      int8_t* codes = ready.codes + half * 4 * kPart;
      store_bytes(codes, (chosen(15, raw, left(high, 4, 2)) & 63) - 32);
      store_bytes(codes + 2 * kPart, (chosen(15, right(raw, 4, 4), right(high, 0, 2)) & 63) - 32);
    }
#else
    for (unsigned i = 0; i < 8; ++i) {
      const Bytes low = right(read<Bytes>(b + i / 4 * 64 + i % 2 * 32), i % 4 / 2 * 4) & 15;
      const auto raw = read<Bytes>(b + 128 + i / 4 * 32);
      const Bytes high = (i % 4 < 2 ? left(raw, 4 - i % 4 * 2) : right(raw, i % 4 * 2 - 4)) & 48;
      store_bytes(ready.codes + i * kPart, (low | high) - 32);
    }
#endif
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    static_cast<void>(b);
    for (unsigned i = 0; i < 8; ++i) {
      const float* scale = ready.scale + 2 * i;
      take_part(sink, i * kPart, ready.codes + i * kPart, scale[0], scale[1]);
    }
  }
};

struct IQ4_XS {
  static constexpr WeightFormat kFormat = WeightFormat::kIQ4_XS;
  template <unsigned kBlocks>
  [[gnu::always_inline]] static inline void prepare(const std::byte* b, Ready& ready) {
    // Eight scales of 6 bits: four low ones in a nibble, two high ones apart; each into a byte.
    uint64_t low = read<uint32_t>(b + 4);
    low = (low | low << 16) & 0x0000ffff0000ffffu;
    low = (low | low << 8) & 0x00ff00ff00ff00ffu;
    low = (low | low << 4) & 0x0f0f0f0f0f0f0f0fu;
    uint64_t high = read<uint16_t>(b + 2);
    high = (high | high << 24) & 0x000000ff000000ffu;
    high = (high | high << 12) & 0x000f000f000f000fu;
    high = (high | high << 6) & 0x0303030303030303u;
    scaled(low | high << 4, 0, 32, float_of_half(b), ready.scale);
  }
  template <unsigned kBlocks, typename Sink>
  [[gnu::always_inline]] static inline void each(const std::byte* b, const Ready& ready,
                                                 Sink& sink) {
    for (unsigned i = 0; i < 8; ++i) {
      take_nibbles<Iq4>(sink, i * kPart, b + 8 + i * 16, ready.scale[i]);
    }
  }
};

template <typename Format>
constexpr size_t block_values() {
  return traits_of(Format::kFormat).block_values;
}
template <typename Format>
constexpr size_t block_bytes() {
  return traits_of(Format::kFormat).block_bytes;
}
template <typename Format>
constexpr unsigned chunk_blocks() {
  return kChunk / block_values<Format>();
}

/// Sums of R activation rows with one weight row.
template <unsigned R>
struct Sums {
  Floats of[R][2];
};
template <unsigned R>
struct Products {
  [[gnu::always_inline]] inline void take(size_t at, Floats a, Floats b) {
    for (unsigned r = 0; r < R; ++r) {
      sums.of[r][0] += load(x + r * x_stride + at) * a;
      sums.of[r][1] += load(x + r * x_stride + at + kLanes) * b;
    }
  }
  const float* x;
  size_t x_stride;
  Sums<R> sums;
};

/// R activation rows by `count` weight rows, a chunk of each in turn: what a chunk needs of the
/// activations is then in the first cache, and so many rows are on their way that memory is busy.
constexpr unsigned kBlockRows = 8;
/// What the first cache is asked for, and rows ahead that the second is: rows of blocks are short,
/// and a core that computes on them looks less far ahead itself.
constexpr size_t kBlockPrefetchBytes = 512;
constexpr size_t kFarRows = 8;
template <typename Format, unsigned R>
inline void block_tile(const float* x, size_t x_stride, const std::byte* w, unsigned count,
                       size_t cols, float* out, size_t out_stride) {
  constexpr size_t kValues = block_values<Format>();
  constexpr size_t kBytes = block_bytes<Format>();
  constexpr size_t kChunkBytes = chunk_blocks<Format>() * kBytes;
  const size_t row_bytes = cols / kValues * kBytes;
  const size_t far = kFarRows * row_bytes;
  Sums<R> sums[kBlockRows] = {};
  Ready ready[kBlockRows];
  size_t k = 0;
  size_t at = 0;
  for (; k + kChunk <= cols; k += kChunk, at += kChunkBytes) {
    const bool row_ends = at + kBlockPrefetchBytes >= row_bytes;
    const size_t near = kBlockPrefetchBytes + (row_ends ? (count - 1) * row_bytes : 0);
    for (unsigned n = 0; n < count; ++n) {
      const std::byte* block = w + n * row_bytes + at;
      Format::template prepare<chunk_blocks<Format>()>(block, ready[n]);
    }
    for (unsigned n = 0; n < count; ++n) {
      const std::byte* block = w + n * row_bytes + at;
      for (size_t line = 0; line < kChunkBytes; line += 64) {
        __builtin_prefetch(block + far + line, 0, 2);
        __builtin_prefetch(block + near + line);
      }
      Products<R> products{x + k, x_stride, sums[n]};
      Format::template each<chunk_blocks<Format>()>(block, ready[n], products);
      sums[n] = products.sums;
    }
  }
  for (; k < cols; k += kValues, at += kBytes) {
    for (unsigned n = 0; n < count; ++n) {
      const std::byte* block = w + n * row_bytes + at;
      Products<R> products{x + k, x_stride, sums[n]};
      Format::template prepare<1>(block, ready[n]);
      Format::template each<1>(block, ready[n], products);
      sums[n] = products.sums;
    }
  }
  for (unsigned r = 0; r < R; ++r) {
    for (unsigned n = 0; n < count; ++n) {
      out[r * out_stride + n] = sum_lanes(sums[n].of[r][0] + sums[n].of[r][1]);
    }
  }
}

template <typename Format, unsigned R>
void block_rows(const float* x, size_t x_stride, const std::byte* w, unsigned w_rows, size_t cols,
                float* out, size_t out_stride) {
  const size_t row_bytes = cols / block_values<Format>() * block_bytes<Format>();
  for (unsigned n = 0; n < w_rows; n += kBlockRows) {
    const unsigned count = w_rows - n < kBlockRows ? w_rows - n : kBlockRows;
    block_tile<Format, R>(x, x_stride, w + n * row_bytes, count, cols, out + n, out_stride);
  }
}

template <typename Format>
void block_gemv(const float* x, size_t x_stride, unsigned rows, const std::byte* w, unsigned w_rows,
                size_t cols, float* out, size_t out_stride) {
  switch (rows) {
    case 1:
      return block_rows<Format, 1>(x, x_stride, w, w_rows, cols, out, out_stride);
    case 2:
      return block_rows<Format, 2>(x, x_stride, w, w_rows, cols, out, out_stride);
    case 3:
      return block_rows<Format, 3>(x, x_stride, w, w_rows, cols, out, out_stride);
    default:
      return block_rows<Format, 4>(x, x_stride, w, w_rows, cols, out, out_stride);
  }
}

struct AsF32 {
  [[gnu::always_inline]] inline void take(size_t at, Floats a, Floats b) {
    store(out + at, a);
    store(out + at + kLanes, b);
  }
  inline void move(size_t values) { out += values; }
  float* out;
};

/// The upper halves of numbers rounded to nearest even; NaN stays NaN.
inline Words rounded_to_bf16(Floats v) {
  const auto bits = reinterpret_cast<Words>(v);
  const Words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const Words quiet = bits >> 16 | 0x40u;
  const auto nan = reinterpret_cast<Words>(v != v);
  return (nan & quiet) | (~nan & rounded);
}
/// Parts lie `stride` numbers apart.
struct AsBf16 {
  [[gnu::always_inline]] inline void take(size_t at, Floats a, Floats b) {
    uint16_t* target = out + at / kPart * stride + at % kPart;
    const Halves first = __builtin_convertvector(rounded_to_bf16(a), Halves);
    const Halves second = __builtin_convertvector(rounded_to_bf16(b), Halves);
    std::memcpy(target, &first, sizeof(first));
    std::memcpy(target + kLanes, &second, sizeof(second));
  }
  inline void move(size_t values) { out += values / kPart * stride; }
  uint16_t* out;
  size_t stride;
};

/// Shows the sink whole chunks, then what is left block by block.
template <typename Format, typename Sink>
[[gnu::always_inline]] inline void convert_blocks(const std::byte* source, Sink sink,
                                                  size_t count) {
  constexpr size_t kBytes = block_bytes<Format>();
  constexpr unsigned kBlocks = chunk_blocks<Format>();
  Ready ready;
  size_t i = 0;
  for (; i + kChunk <= count; i += kChunk, source += kBlocks * kBytes) {
    Format::template prepare<kBlocks>(source, ready);
    Format::template each<kBlocks>(source, ready, sink);
    sink.move(kChunk);
  }
  for (; i < count; i += block_values<Format>(), source += kBytes) {
    Format::template prepare<1>(source, ready);
    Format::template each<1>(source, ready, sink);
    sink.move(block_values<Format>());
  }
}
template <typename Format>
void blocks_to_f32(const std::byte* source, float* target, size_t count) {
  convert_blocks<Format>(source, AsF32{target}, count);
}
template <typename Format>
void blocks_to_bf16(const std::byte* source, uint16_t* target, size_t count, size_t part_stride) {
  convert_blocks<Format>(source, AsBf16{target, part_stride}, count);
}
