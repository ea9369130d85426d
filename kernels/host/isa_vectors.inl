// The vectors of an instruction set, and numbers that become such: what isa_kernels.inl and
// isa_blocks.inl are written in. Included in an unnamed namespace.

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

struct Bf16 {
  static constexpr size_t kBytes = 2;
  static Floats load_lanes(const std::byte* p) {
    Halves raw;
    std::memcpy(&raw, p, sizeof(raw));
    const Words wide = __builtin_convertvector(raw, Words) << 16;
    return reinterpret_cast<Floats>(wide);
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
    Halves raw;
    std::memcpy(&raw, p, sizeof(raw));
    const Words wide = __builtin_convertvector(raw, Words);
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
