#include "core/block_encoding.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"

namespace spillway {
namespace {

using Out = std::byte*;

/// Above what any block holds (Q6_K: 65504 * 128 * 32); sums of squares below it stay finite.
constexpr float kMostInBlock = 3e8f;
/// Scales below are none: their inverses must be finite.
constexpr float kLeastScale = 1e-30f;
constexpr int kSearchSteps = 9;  // on either side of the plain scale
constexpr float kSearchStep = 0.1f;
constexpr int kRefits = 2;

constexpr float kOneAndAHalf2To23 = 12582912.0f;

/// To nearest, ties to even, for values well below 2^22; as fast as an addition.
float rounded(float value) {
  return (value + kOneAndAHalf2To23) - kOneAndAHalf2To23;
}
float limited(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}
float inverse_of(float scale) {
  return std::abs(scale) < kLeastScale ? 0.0f : 1 / scale;
}

void put_byte(Out at, uint32_t value) {
  *at = static_cast<std::byte>(value);
}
uint32_t get_byte(Out at) {
  return std::to_integer<uint32_t>(*at);
}

/// Four floats, that the compiler keeps in one register wherever there are such.
using Four = float __attribute__((vector_size(16)));
constexpr size_t kFour = 4;

Four load(const float* at) {
  Four values;
  std::memcpy(&values, at, sizeof(values));
  return values;
}
void store(float* at, Four values) {
  std::memcpy(at, &values, sizeof(values));
}
Four rounded(Four values) {
  return (values + kOneAndAHalf2To23) - kOneAndAHalf2To23;
}
Four limited(Four values, float low, float high) {
  const Four lows = {low, low, low, low};
  const Four highs = {high, high, high, high};
  values = values < lows ? lows : values;
  return values > highs ? highs : values;
}
float sum_of(Four values) {
  return (values[0] + values[1]) + (values[2] + values[3]);
}

/// Integers that a value can be stored as.
struct Range {
  float low = 0;
  float high = 0;
};

/// q = the nearest of the range to (x - offset) / scale.
template <size_t N>
void quantise(const float* x, float scale, float offset, Range range, float* q) {
  const float inverse = inverse_of(scale);
  for (size_t i = 0; i < N; i += kFour) {
    store(q + i, rounded(limited((load(x + i) - offset) * inverse, range.low, range.high)));
  }
}

/// Squared error of x against scale * q + offset.
template <size_t N>
float squared_error(const float* x, float scale, float offset, const float* q) {
  Four error{};
  for (size_t i = 0; i < N; i += kFour) {
    const Four difference = load(x + i) - (scale * load(q + i) + offset);
    error += difference * difference;
  }
  return sum_of(error);
}

/// Of integers q and of the values x that they stand for.
struct Sums {
  double q = 0;
  double qq = 0;
  double x = 0;
  double xq = 0;
};
template <size_t N>
Sums sums_of(const float* x, const float* q) {
  Four qs{};
  Four squares{};
  Four xs{};
  Four products{};
  for (size_t i = 0; i < N; i += kFour) {
    const Four own = load(q + i);
    const Four value = load(x + i);
    qs += own;
    squares += own * own;
    xs += value;
    products += value * own;
  }
  return {sum_of(qs), sum_of(squares), sum_of(xs), sum_of(products)};
}

/// With the nearest q.
template <size_t N>
float error_with(const float* x, float scale, float offset, Range range, float* q) {
  quantise<N>(x, scale, offset, range, q);
  return squared_error<N>(x, scale, offset, q);
}

/// The value that is farthest from 0.
template <size_t N>
float farthest(const float* x) {
  const auto* found =
      std::max_element(x, x + N, [](float a, float b) { return std::abs(a) < std::abs(b); });
  return *found;
}

/// The scale that leaves the least squared error, of those that the integers fit which slightly
/// different scales give; before it is rounded to what a block can hold.
template <size_t N>
float search_scale(const float* x, Range range) {
  const float most = farthest<N>(x);
  if (most == 0) return 0;
  float best_scale = most / range.low;
  float best_gain = 0;
  const auto attempt = [&](float inverse) {
    if (!std::isfinite(inverse)) return;
    Four products{};
    Four squares{};
    for (size_t i = 0; i < N; i += kFour) {
      const Four q = rounded(limited(load(x + i) * inverse, range.low, range.high));
      products += load(x + i) * q;
      squares += q * q;
    }
    const float product = sum_of(products);
    const float square = sum_of(squares);
    if (square == 0 || product * product <= best_gain * square) return;
    best_gain = product * product / square;
    best_scale = product / square;
  };
  for (int step = -kSearchSteps; step <= kSearchSteps; ++step) {
    attempt((range.low + kSearchStep * static_cast<float>(step)) / most);
    attempt((range.high + kSearchStep * static_cast<float>(step)) / most);
  }
  return best_scale;
}

struct Line {
  float scale = 0;
  float offset = 0;
};

/// The plain way: the smallest value is 0, the largest is `high`.
template <size_t N>
Line plain_line(const float* x, float high, bool below_zero) {
  const auto [low_at, high_at] = std::minmax_element(x, x + N);
  const float low = below_zero ? std::min(*low_at, 0.0f) : *low_at;
  return {(*high_at - low) / high, low};
}

/// The same search with an offset, which with `below_zero` is never above 0.
template <size_t N>
Line search_line(const float* x, float high, bool below_zero) {
  const Line plain = plain_line<N>(x, high, below_zero);
  const float span = plain.scale * high;
  if (span < kLeastScale) return {0, plain.offset};
  Four xs{};
  for (size_t i = 0; i < N; i += kFour) xs += load(x + i);
  const double sum_x = sum_of(xs);
  constexpr double kCount = N;
  Line best = plain;
  // Without the sum of squares of x, which is the same for all.
  double best_error = std::numeric_limits<double>::infinity();
  for (int step = -kSearchSteps; step <= kSearchSteps; ++step) {
    const float inverse = (high + kSearchStep * static_cast<float>(step)) / span;
    if (!std::isfinite(inverse)) continue;
    Four qs{};
    Four squares{};
    Four products{};
    for (size_t i = 0; i < N; i += kFour) {
      const Four q = rounded(limited((load(x + i) - plain.offset) * inverse, 0, high));
      qs += q;
      squares += q * q;
      products += load(x + i) * q;
    }
    const double sum_q = sum_of(qs);
    const double sum_qq = sum_of(squares);
    const double sum_xq = sum_of(products);
    const double determinant = kCount * sum_qq - sum_q * sum_q;
    if (determinant <= 0) continue;
    double scale = (kCount * sum_xq - sum_x * sum_q) / determinant;
    double offset = (sum_x - scale * sum_q) / kCount;
    if (below_zero && offset > 0) {
      offset = 0;
      scale = sum_xq / sum_qq;
    }
    const double error = scale * (scale * sum_qq - 2 * sum_xq) +
                         offset * (kCount * offset - 2 * sum_x) + 2 * scale * offset * sum_q;
    if (error < best_error) {
      best_error = error;
      best = {static_cast<float>(scale), static_cast<float>(offset)};
    }
  }
  return best;
}

constexpr uint16_t kInfiniteHalf = 0x7C00;  // its exponent; a number's is never that

bool fits_half(float value) {
  return (f16_from_f32(value) & kInfiniteHalf) != kInfiniteHalf;
}

/// Bits of the f16 numbers around a value, the nearest first; those that are infinite left out.
class HalvesNear {
 public:
  explicit HalvesNear(float value) {
    const uint16_t nearest = f16_from_f32(value);
    if ((nearest & kInfiniteHalf) == kInfiniteHalf) return;
    add(nearest);
    add(static_cast<uint16_t>(nearest + 1));
    if ((nearest & 0x7FFFu) != 0) add(static_cast<uint16_t>(nearest - 1));
  }
  const uint16_t* begin() const { return bits_.data(); }
  const uint16_t* end() const { return bits_.data() + count_; }

 private:
  void add(uint16_t bits) {
    if ((bits & kInfiniteHalf) != kInfiniteHalf) bits_[count_++] = bits;
  }
  std::array<uint16_t, 3> bits_{};
  size_t count_ = 0;
};

// ---- 32 values with a scale ---------------------------------------------------------------------

constexpr size_t kSmall = 32;

struct SmallBlock {
  uint16_t scale = 0;
  uint16_t offset = 0;
  std::array<float, kSmall> q{};
  float error = std::numeric_limits<float>::infinity();

  void attempt(const float* x, uint16_t scale_bits, uint16_t offset_bits, Range range) {
    std::array<float, kSmall> own;
    const float of_own = error_with<kSmall>(x, f32_from_f16(scale_bits), f32_from_f16(offset_bits),
                                            range, own.data());
    if (!(of_own < error)) return;
    scale = scale_bits;
    offset = offset_bits;
    q = own;
    error = of_own;
  }
};

EncodeResult choose_scale(const float* x, Range range, SmallBlock& block) {
  const float most = farthest<kSmall>(x);
  const float plain = most / range.low;
  if (!fits_half(plain)) return EncodeResult::kTooLarge;
  block.attempt(x, f16_from_f32(plain), 0, range);
  for (const uint16_t bits : HalvesNear(search_scale<kSmall>(x, range))) {
    block.attempt(x, bits, 0, range);
  }
  return EncodeResult::kDone;
}

EncodeResult choose_line(const float* x, float high, SmallBlock& block) {
  const Range range{0, high};
  const Line plain = plain_line<kSmall>(x, high, false);
  if (!fits_half(plain.scale) || !fits_half(plain.offset)) return EncodeResult::kTooLarge;
  block.attempt(x, f16_from_f32(plain.scale), f16_from_f32(plain.offset), range);
  const Line best = search_line<kSmall>(x, high, false);
  for (const uint16_t scale : HalvesNear(best.scale)) {
    for (const uint16_t offset : HalvesNear(best.offset)) block.attempt(x, scale, offset, range);
  }
  return EncodeResult::kDone;
}

/// 32 nibbles: the low halves of 16 bytes, then the high ones.
void put_nibbles(Out at, const float* q, float zero) {
  for (size_t i = 0; i < 16; ++i) {
    const auto low = static_cast<uint32_t>(q[i] + zero) & 15u;
    const auto high = static_cast<uint32_t>(q[i + 16] + zero) & 15u;
    put_byte(at + i, low | high << 4);
  }
}
void put_fifth_bits(Out at, const float* q, float zero) {
  uint32_t bits = 0;
  for (size_t i = 0; i < kSmall; ++i) {
    bits |= (static_cast<uint32_t>(q[i] + zero) >> 4 & 1u) << i;
  }
  std::memcpy(at, &bits, sizeof(bits));
}

EncodeResult encode_q8_0(const float* x, Out out) {
  SmallBlock block;
  const EncodeResult result = choose_scale(x, {-128, 127}, block);
  put_half(out, block.scale);
  for (size_t i = 0; i < kSmall; ++i) {
    put_byte(out + 2 + i, static_cast<uint8_t>(static_cast<int8_t>(block.q[i])));
  }
  return result;
}
EncodeResult encode_q4_0(const float* x, Out out) {
  SmallBlock block;
  const EncodeResult result = choose_scale(x, {-8, 7}, block);
  put_half(out, block.scale);
  put_nibbles(out + 2, block.q.data(), 8);
  return result;
}
EncodeResult encode_q5_0(const float* x, Out out) {
  SmallBlock block;
  const EncodeResult result = choose_scale(x, {-16, 15}, block);
  put_half(out, block.scale);
  put_fifth_bits(out + 2, block.q.data(), 16);
  put_nibbles(out + 6, block.q.data(), 16);
  return result;
}
EncodeResult encode_q4_1(const float* x, Out out) {
  SmallBlock block;
  const EncodeResult result = choose_line(x, 15, block);
  put_half(out, block.scale);
  put_half(out + 2, block.offset);
  put_nibbles(out + 4, block.q.data(), 0);
  return result;
}
EncodeResult encode_q5_1(const float* x, Out out) {
  SmallBlock block;
  const EncodeResult result = choose_line(x, 31, block);
  put_half(out, block.scale);
  put_half(out + 2, block.offset);
  put_fifth_bits(out + 4, block.q.data(), 0);
  put_nibbles(out + 8, block.q.data(), 0);
  return result;
}

// ---- 256 values, whose parts have whole multiples of a scale ------------------------------------

constexpr size_t kLarge = 256;

uint16_t half_or_largest(float value) {
  return f16_from_f32(limited(value, -65504, 65504));
}

/// Q4_K, Q5_K: eight parts of 32, each with a scale and a minimum of 6 bits.
class LineBlock {
 public:
  static constexpr size_t kParts = 8;
  static constexpr size_t kSize = kLarge / kParts;
  static constexpr int kMost = 63;

  LineBlock(const float* x, float high) : x_(x), range_{0, high} {}

  /// Multiples of the scales that bring the parts' lines closest.
  void take(const std::array<Line, kParts>& lines) {
    float scale = 0;
    float low = 0;
    for (const Line& line : lines) {
      scale = std::max(scale, line.scale);
      low = std::min(low, line.offset);
    }
    set_units(half_or_largest(scale / kMost), half_or_largest(-low / kMost));
    for (size_t p = 0; p < kParts; ++p) {
      scales_[p] = nearest(lines[p].scale, unit_);
      mins_[p] = nearest(-lines[p].offset, min_unit_);
      errors_[p] = error_with<kSize>(part(p), unit_ * to_float(scales_[p]),
                                     -min_unit_ * to_float(mins_[p]), range_, &q_[p * kSize]);
    }
  }

  /// The multiples next to the chosen ones, where they do better.
  void look_around() {
    std::array<float, kSize> q;
    for (size_t p = 0; p < kParts; ++p) {
      const int scale = scales_[p];
      const int min = mins_[p];
      for (int s = std::max(scale - 1, 0); s <= std::min(scale + 1, kMost); ++s) {
        for (int m = std::max(min - 1, 0); m <= std::min(min + 1, kMost); ++m) {
          const float error = error_with<kSize>(part(p), unit_ * to_float(s),
                                                -min_unit_ * to_float(m), range_, q.data());
          if (!(error < errors_[p])) continue;
          errors_[p] = error;
          scales_[p] = s;
          mins_[p] = m;
          std::copy(q.begin(), q.end(), &q_[p * kSize]);
        }
      }
    }
  }

  /// The two units that fit best to what the integers are; then new integers.
  void refit() {
    double aa = 0;
    double bb = 0;
    double ab = 0;
    double ax = 0;
    double bx = 0;
    for (size_t p = 0; p < kParts; ++p) {
      const Sums sums = sums_of<kSize>(part(p), &q_[p * kSize]);
      const double s = scales_[p];
      const double m = mins_[p];
      aa += s * s * sums.qq;
      bb += m * m * kSize;
      ab -= s * m * sums.q;
      ax += s * sums.xq;
      bx -= m * sums.x;
    }
    const double determinant = aa * bb - ab * ab;
    double unit = aa > 0 ? ax / aa : 0;
    double min_unit = 0;
    if (determinant > 1e-9 * aa * bb) {
      unit = (ax * bb - bx * ab) / determinant;
      min_unit = (bx * aa - ax * ab) / determinant;
    }
    set_units(half_or_largest(static_cast<float>(unit)),
              half_or_largest(static_cast<float>(min_unit)));
    for (size_t p = 0; p < kParts; ++p) {
      errors_[p] = error_with<kSize>(part(p), unit_ * to_float(scales_[p]),
                                     -min_unit_ * to_float(mins_[p]), range_, &q_[p * kSize]);
    }
  }

  double error() const {
    double sum = 0;
    for (const float one : errors_) sum += one;
    return sum;
  }
  const float* q() const { return q_.data(); }

  /// f16 unit, f16 unit of the minima, then 8 pairs of 6 bits in 12 bytes.
  void put_scales(Out out) const {
    put_half(out, unit_bits_);
    put_half(out + 2, min_unit_bits_);
    std::memset(out + 4, 0, 12);
    Out packed = out + 4;
    for (size_t p = 0; p < kParts; ++p) {
      const auto scale = static_cast<uint32_t>(scales_[p]);
      const auto min = static_cast<uint32_t>(mins_[p]);
      if (p < 4) {
        put_byte(packed + p, scale);
        put_byte(packed + p + 4, min);
      } else {
        put_byte(packed + p + 4, (scale & 15u) | (min & 15u) << 4);
        put_byte(packed + p - 4, get_byte(packed + p - 4) | scale >> 4 << 6);
        put_byte(packed + p, get_byte(packed + p) | min >> 4 << 6);
      }
    }
  }

 private:
  static float to_float(int value) { return static_cast<float>(value); }
  static int nearest(float value, float unit) {
    return static_cast<int>(rounded(limited(value * inverse_of(unit), 0, kMost)));
  }
  const float* part(size_t p) const { return x_ + p * kSize; }
  void set_units(uint16_t unit, uint16_t min_unit) {
    unit_bits_ = unit;
    min_unit_bits_ = min_unit;
    unit_ = f32_from_f16(unit);
    min_unit_ = f32_from_f16(min_unit);
  }

  const float* x_;
  Range range_;
  uint16_t unit_bits_ = 0;
  uint16_t min_unit_bits_ = 0;
  float unit_ = 0;
  float min_unit_ = 0;
  std::array<int, kParts> scales_{};
  std::array<int, kParts> mins_{};
  std::array<float, kParts> errors_{};
  std::array<float, kLarge> q_{};
};

/// Searches from a start, and keeps the best on the way.
template <typename Block>
void improve(Block& best, Block current) {
  for (int round = 0; round < kRefits; ++round) {
    current.look_around();
    if (current.error() < best.error()) best = current;
    current.refit();
    if (current.error() < best.error()) best = current;
  }
}

EncodeResult choose_lines(const float* x, LineBlock& block, float high) {
  std::array<Line, LineBlock::kParts> plain;
  std::array<Line, LineBlock::kParts> best;
  for (size_t p = 0; p < LineBlock::kParts; ++p) {
    plain[p] = plain_line<LineBlock::kSize>(x + p * LineBlock::kSize, high, true);
    best[p] = search_line<LineBlock::kSize>(x + p * LineBlock::kSize, high, true);
    const bool fits = fits_half(plain[p].scale / LineBlock::kMost) &&
                      fits_half(plain[p].offset / LineBlock::kMost);
    if (!fits) return EncodeResult::kTooLarge;
  }
  block.take(plain);
  LineBlock searched = block;
  searched.take(best);
  if (searched.error() < block.error()) block = searched;
  improve(block, searched);
  return EncodeResult::kDone;
}

/// 64 values in 32 bytes, low halves first.
void put_nibbles_of_256(Out at, const float* q) {
  for (size_t i = 0; i < kLarge / 2; ++i) {
    const size_t low_at = i / 32 * 64 + i % 32;
    const auto low = static_cast<uint32_t>(q[low_at]) & 15u;
    const auto high = static_cast<uint32_t>(q[low_at + 32]) & 15u;
    put_byte(at + i, low | high << 4);
  }
}

EncodeResult encode_q4_k(const float* x, Out out) {
  LineBlock block(x, 15);
  const EncodeResult result = choose_lines(x, block, 15);
  block.put_scales(out);
  put_nibbles_of_256(out + 16, block.q());
  return result;
}
EncodeResult encode_q5_k(const float* x, Out out) {
  LineBlock block(x, 31);
  const EncodeResult result = choose_lines(x, block, 31);
  block.put_scales(out);
  for (size_t i = 0; i < 32; ++i) {
    uint32_t bits = 0;
    for (size_t p = 0; p < 8; ++p) {
      bits |= (static_cast<uint32_t>(block.q()[p * 32 + i]) >> 4) << p;
    }
    put_byte(out + 16 + i, bits);
  }
  put_nibbles_of_256(out + 48, block.q());
  return result;
}

/// Q6_K: sixteen parts of 16, each with a scale of 8 bits.
class ScaleBlock {
 public:
  static constexpr size_t kParts = 16;
  static constexpr size_t kSize = kLarge / kParts;
  static constexpr Range kRange{-32, 31};
  static constexpr float kLowest = -128;
  static constexpr float kHighest = 127;

  explicit ScaleBlock(const float* x) : x_(x) {}

  /// The largest scale is the lowest multiple.
  void take(const std::array<float, kParts>& scales) {
    set_unit(half_or_largest(farthest<kParts>(scales.data()) / kLowest));
    const float inverse = inverse_of(unit_);
    for (size_t p = 0; p < kParts; ++p) {
      scales_[p] = rounded(limited(scales[p] * inverse, kLowest, kHighest));
      errors_[p] = error_with<kSize>(part(p), unit_ * scales_[p], 0, kRange, &q_[p * kSize]);
    }
  }

  void look_around() {
    std::array<float, kSize> q;
    for (size_t p = 0; p < kParts; ++p) {
      const float middle = scales_[p];
      for (const float scale : {middle - 1, middle + 1}) {
        if (scale < kLowest || scale > kHighest) continue;
        const float error = error_with<kSize>(part(p), unit_ * scale, 0, kRange, q.data());
        if (!(error < errors_[p])) continue;
        errors_[p] = error;
        scales_[p] = scale;
        std::copy(q.begin(), q.end(), &q_[p * kSize]);
      }
    }
  }

  void refit() {
    double squares = 0;
    double products = 0;
    for (size_t p = 0; p < kParts; ++p) {
      const Sums sums = sums_of<kSize>(part(p), &q_[p * kSize]);
      squares += double{scales_[p]} * scales_[p] * sums.qq;
      products += double{scales_[p]} * sums.xq;
    }
    if (squares == 0) return;
    set_unit(half_or_largest(static_cast<float>(products / squares)));
    for (size_t p = 0; p < kParts; ++p) {
      errors_[p] = error_with<kSize>(part(p), unit_ * scales_[p], 0, kRange, &q_[p * kSize]);
    }
  }

  double error() const {
    double sum = 0;
    for (const float one : errors_) sum += one;
    return sum;
  }

  void put(Out out) const {
    std::memset(out, 0, 192);
    for (size_t i = 0; i < kLarge; ++i) {
      const auto q = static_cast<uint32_t>(q_[i] - kRange.low);
      Out low = out + i / 128 * 64 + i % 64;
      Out high = out + 128 + i / 128 * 32 + i % 32;
      put_byte(low, get_byte(low) | (q & 15u) << (i % 128 < 64 ? 0 : 4));
      put_byte(high, get_byte(high) | (q >> 4) << (i % 128 / 32 * 2));
    }
    for (size_t p = 0; p < kParts; ++p) {
      put_byte(out + 192 + p, static_cast<uint8_t>(static_cast<int8_t>(scales_[p])));
    }
    put_half(out + 208, unit_bits_);
  }

 private:
  const float* part(size_t p) const { return x_ + p * kSize; }
  void set_unit(uint16_t bits) {
    unit_bits_ = bits;
    unit_ = f32_from_f16(bits);
  }

  const float* x_;
  uint16_t unit_bits_ = 0;
  float unit_ = 0;
  std::array<float, kParts> scales_{};
  std::array<float, kParts> errors_{};
  std::array<float, kLarge> q_{};
};

EncodeResult encode_q6_k(const float* x, Out out) {
  std::array<float, ScaleBlock::kParts> plain;
  std::array<float, ScaleBlock::kParts> best;
  for (size_t p = 0; p < ScaleBlock::kParts; ++p) {
    const float* part = x + p * ScaleBlock::kSize;
    plain[p] = farthest<ScaleBlock::kSize>(part) / ScaleBlock::kRange.low;
    best[p] = search_scale<ScaleBlock::kSize>(part, ScaleBlock::kRange);
    if (!fits_half(plain[p] / ScaleBlock::kLowest)) return EncodeResult::kTooLarge;
  }
  ScaleBlock block(x);
  block.take(plain);
  ScaleBlock searched(x);
  searched.take(best);
  if (searched.error() < block.error()) block = searched;
  improve(block, searched);
  block.put(out);
  return EncodeResult::kDone;
}

// ---- all formats --------------------------------------------------------------------------------

using Encode = EncodeResult (*)(const float*, Out);
Encode encoder_of(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ8_0:
      return encode_q8_0;
    case WeightFormat::kQ4_0:
      return encode_q4_0;
    case WeightFormat::kQ4_1:
      return encode_q4_1;
    case WeightFormat::kQ5_0:
      return encode_q5_0;
    case WeightFormat::kQ5_1:
      return encode_q5_1;
    case WeightFormat::kQ4_K:
      return encode_q4_k;
    case WeightFormat::kQ5_K:
      return encode_q5_k;
    case WeightFormat::kQ6_K:
      return encode_q6_k;
    default:
      return nullptr;
  }
}

EncodeResult check_values(const float* values, uint64_t count, float most) {
  EncodeResult result = EncodeResult::kDone;
  for (uint64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) return EncodeResult::kNotFinite;
    if (std::abs(values[i]) > most) result = EncodeResult::kTooLarge;
  }
  return result;
}

EncodeResult encode_plain(DType dtype, const float* values, uint64_t count, Out out) {
  constexpr float kMost = std::numeric_limits<float>::max();
  const EncodeResult result = check_values(values, count, kMost);
  if (result != EncodeResult::kDone) return result;
  if (dtype == DType::kF32) {
    std::memcpy(out, values, count * sizeof(float));
    return result;
  }
  const bool f16 = dtype == DType::kF16;
  const uint16_t exponent = f16 ? kInfiniteHalf : 0x7F80;
  for (uint64_t i = 0; i < count; ++i) {
    const uint16_t bits = f16 ? f16_from_f32(values[i]) : bf16_from_f32(values[i]);
    if ((bits & exponent) == exponent) return EncodeResult::kTooLarge;
    put_half(out + 2 * i, bits);
  }
  return result;
}

}  // namespace

bool can_encode(WeightFormat format) {
  return !has_blocks(format) || encoder_of(format) != nullptr;
}

EncodeResult encode_values(WeightFormat format, const float* values, uint64_t count,
                           std::byte* out) {
  const FormatTraits& traits = traits_of(format);
  CHECK(can_encode(format) && count % traits.block_values == 0);
  if (const auto dtype = plain_dtype(format)) return encode_plain(*dtype, values, count, out);
  const EncodeResult checked = check_values(values, count, kMostInBlock);
  if (checked != EncodeResult::kDone) return checked;
  const Encode encode = encoder_of(format);
  for (uint64_t i = 0; i < count; i += traits.block_values, out += traits.block_bytes) {
    const EncodeResult result = encode(values + i, out);
    if (result != EncodeResult::kDone) return result;
  }
  return EncodeResult::kDone;
}

}  // namespace spillway
