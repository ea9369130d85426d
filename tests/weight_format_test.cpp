// Formats of weights against blocks that this test packs itself, value by value, from the layouts'
// description. tests/differential/blocks.py compares with another implementation.
#include "core/weight_format.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "tests/support.h"

namespace spillway {
namespace {

/// A block as bytes, with the fields that formats have.
class Block {
 public:
  explicit Block(WeightFormat format) : format_(format), bytes_(traits_of(format).block_bytes) {}

  void half(size_t at, float value) {
    const uint16_t bits = f16_from_f32(value);
    bytes_[at] = static_cast<uint8_t>(bits & 255u);
    bytes_[at + 1] = static_cast<uint8_t>(bits >> 8);
  }
  void byte(size_t at, int value) { bytes_[at] = static_cast<uint8_t>(value); }
  /// Sets `count` bits of a byte, from `bit` on.
  void bits(size_t at, unsigned bit, unsigned count, uint32_t value) {
    for (unsigned i = 0; i < count; ++i) {
      const auto one = static_cast<uint8_t>(1u << (bit + i));
      bytes_[at] = static_cast<uint8_t>(bytes_[at] & ~one);
      if ((value >> i & 1u) != 0) bytes_[at] = static_cast<uint8_t>(bytes_[at] | one);
    }
  }
  std::vector<float> values() const {
    std::vector<float> out(traits_of(format_).block_values);
    decode_values(format_, reinterpret_cast<const std::byte*>(bytes_.data()), out.size(),
                  out.data());
    return out;
  }

 private:
  WeightFormat format_;
  std::vector<uint8_t> bytes_;
};

class WeightFormatTest : public ::testing::Test {
 protected:
  uint32_t below(uint32_t limit) { return static_cast<uint32_t>(random_() % limit); }
  float scale() {
    return f32_from_f16(f16_from_f32((static_cast<float>(below(2000)) - 999.5f) / 64));
  }

  void expect(const Block& block, const std::vector<double>& expected) {
    const auto values = block.values();
    ASSERT_EQ(values.size(), expected.size());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(values[i], static_cast<float>(expected[i])) << "value " << i;
    }
  }
  /// 32 nibbles in 16 bytes from `at` on: value i and value i + 16 share a byte.
  void nibble(Block& block, size_t at, uint32_t i, uint32_t value) {
    block.bits(at + i % 16, i / 16 * 4, 4, value);
  }

  uint64_t seed_ = test::run_seed();
  std::mt19937_64 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, test::seed_note(seed_)};
};

constexpr double kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                             1,    13,   25,  38,  53,  69,  89,  113};
constexpr double kE2m1[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6};

TEST_F(WeightFormatTest, SizesAreThoseOfTheirBlocks) {
  uint64_t values = 0;
  for (const FormatTraits& traits : kFormats) {
    EXPECT_EQ(&traits_of(traits.format), &traits);
    EXPECT_EQ(parse_format(traits.name), traits.format);
    EXPECT_EQ(row_bytes(traits.format, 512), 512 / traits.block_values * traits.block_bytes);
    EXPECT_EQ(has_blocks(traits.format), traits.block_values > 1);
    EXPECT_EQ(has_blocks(traits.format), !plain_dtype(traits.format).has_value());
    values += traits.block_values;
  }
  EXPECT_EQ(values, 3u + 7 * 32 + 6 * 256);
  EXPECT_EQ(parse_format("Q4_K_M"), std::nullopt);
}

/// One block written out by hand.
TEST_F(WeightFormatTest, BlocksThatCanBeReadByEye) {
  Block q8(WeightFormat::kQ8_0);
  q8.half(0, 0.5f);
  q8.byte(2, -128);
  q8.byte(2 + 31, 127);
  EXPECT_EQ(q8.values()[0], -64.0f);
  EXPECT_EQ(q8.values()[31], 63.5f);

  Block q4(WeightFormat::kQ4_0);
  q4.half(0, -2.0f);
  q4.byte(2 + 3, 0xf1);
  EXPECT_EQ(q4.values()[3], 14.0f);
  EXPECT_EQ(q4.values()[19], -14.0f);
  EXPECT_EQ(q4.values()[0], 16.0f);

  Block mx(WeightFormat::kMXFP4);
  mx.byte(1, 0x97);  // 6 and -0.5
  for (const auto& [exponent, one] : {std::pair{127, 1.0f}, std::pair{128, 2.0f},
                                      std::pair{1, 0x1p-126f}, std::pair{0, 0x1p-127f}}) {
    mx.byte(0, exponent);
    EXPECT_EQ(mx.values()[0], 6 * one);
    EXPECT_EQ(mx.values()[16], -0.5f * one);
  }

  // Zero times a negative scale is a negative zero.
  Block zero(WeightFormat::kQ5_0);
  zero.half(0, -1.0f);
  zero.bits(2, 0, 1, 1);
  EXPECT_EQ(std::bit_cast<uint32_t>(zero.values()[0]), 0x80000000u);
  EXPECT_EQ(zero.values()[1], 16.0f);
}

TEST_F(WeightFormatTest, BlocksOf32) {
  for (int round = 0; round < 50; ++round) {
    const float d = scale();
    const float m = scale();
    const int exponent = 100 + static_cast<int>(below(50));
    Block q8_0(WeightFormat::kQ8_0);
    Block q4_0(WeightFormat::kQ4_0);
    Block q4_1(WeightFormat::kQ4_1);
    Block q5_0(WeightFormat::kQ5_0);
    Block q5_1(WeightFormat::kQ5_1);
    Block iq4_nl(WeightFormat::kIQ4_NL);
    Block mxfp4(WeightFormat::kMXFP4);
    for (Block* block : {&q8_0, &q4_0, &q4_1, &q5_0, &q5_1, &iq4_nl}) block->half(0, d);
    for (Block* block : {&q4_1, &q5_1}) block->half(2, m);
    mxfp4.byte(0, exponent);
    std::vector<double> of_q8_0, of_q4_0, of_q4_1, of_q5_0, of_q5_1, of_iq4_nl, of_mxfp4;
    for (uint32_t i = 0; i < 32; ++i) {
      const uint32_t q = below(256);
      q8_0.byte(2 + i, static_cast<int>(q) - 128);
      of_q8_0.push_back(double{d} * (double(q) - 128));
      const uint32_t four = q % 16;
      nibble(q4_0, 2, i, four);
      nibble(q4_1, 4, i, four);
      nibble(iq4_nl, 2, i, four);
      nibble(mxfp4, 1, i, four);
      of_q4_0.push_back(double{d} * (double(four) - 8));
      of_q4_1.push_back(double{d} * four + m);
      of_iq4_nl.push_back(double{d} * kIq4[four]);
      of_mxfp4.push_back(std::ldexp(kE2m1[four], exponent - 127));
      const uint32_t five = q % 32;
      nibble(q5_0, 6, i, five % 16);
      nibble(q5_1, 8, i, five % 16);
      q5_0.bits(2 + i / 8, i % 8, 1, five / 16);
      q5_1.bits(4 + i / 8, i % 8, 1, five / 16);
      of_q5_0.push_back(double{d} * (double(five) - 16));
      of_q5_1.push_back(double{d} * five + m);
    }
    expect(q8_0, of_q8_0);
    expect(q4_0, of_q4_0);
    expect(q4_1, of_q4_1);
    expect(q5_0, of_q5_0);
    expect(q5_1, of_q5_1);
    expect(iq4_nl, of_iq4_nl);
    expect(mxfp4, of_mxfp4);
  }
}

/// Scale and minimum j of Q4_K and Q5_K: six bits each in 12 bytes.
void put_pair(Block& block, uint32_t j, uint32_t scale, uint32_t min) {
  const size_t at = 4;
  if (j < 4) {
    block.bits(at + j, 0, 6, scale);
    block.bits(at + 4 + j, 0, 6, min);
  } else {
    block.bits(at + 4 + j, 0, 4, scale % 16);
    block.bits(at + 4 + j, 4, 4, min % 16);
    block.bits(at + j - 4, 6, 2, scale / 16);
    block.bits(at + j, 6, 2, min / 16);
  }
}

TEST_F(WeightFormatTest, BlocksOf256WithMinima) {
  for (int round = 0; round < 20; ++round) {
    const float d = scale();
    const float m = scale();
    Block q2_k(WeightFormat::kQ2_K);
    Block q4_k(WeightFormat::kQ4_K);
    Block q5_k(WeightFormat::kQ5_K);
    q2_k.half(80, d);
    q2_k.half(82, m);
    for (Block* block : {&q4_k, &q5_k}) {
      block->half(0, d);
      block->half(2, m);
    }
    std::vector<double> of_q2_k, of_q4_k, of_q5_k;
    uint32_t scale_of_16 = 0;
    uint32_t scale_of_32 = 0;
    for (uint32_t i = 0; i < 256; ++i) {
      if (i % 16 == 0) {
        scale_of_16 = below(256);
        q2_k.byte(i / 16, static_cast<int>(scale_of_16));
      }
      if (i % 32 == 0) {
        scale_of_32 = below(64 * 64);
        put_pair(q4_k, i / 32, scale_of_32 % 64, scale_of_32 / 64);
        put_pair(q5_k, i / 32, scale_of_32 % 64, scale_of_32 / 64);
      }
      const double by = double{d} * (scale_of_32 % 64);
      const double less = double{m} * (scale_of_32 / 64);
      const uint32_t q = below(32);
      q2_k.bits(16 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2, q % 4);
      of_q2_k.push_back(double{d} * (scale_of_16 % 16) * (q % 4) - double{m} * (scale_of_16 / 16));
      q4_k.bits(16 + i / 64 * 32 + i % 32, i % 64 / 32 * 4, 4, q % 16);
      of_q4_k.push_back(by * (q % 16) - less);
      q5_k.bits(48 + i / 64 * 32 + i % 32, i % 64 / 32 * 4, 4, q % 16);
      q5_k.bits(16 + i % 32, i / 32, 1, q / 16);
      of_q5_k.push_back(by * q - less);
    }
    expect(q2_k, of_q2_k);
    expect(q4_k, of_q4_k);
    expect(q5_k, of_q5_k);
  }
}

TEST_F(WeightFormatTest, BlocksOf256WithSignedScales) {
  for (int round = 0; round < 20; ++round) {
    const float d = scale();
    Block q3_k(WeightFormat::kQ3_K);
    Block q6_k(WeightFormat::kQ6_K);
    Block iq4_xs(WeightFormat::kIQ4_XS);
    q3_k.half(108, d);
    q6_k.half(208, d);
    iq4_xs.half(0, d);
    std::vector<double> of_q3_k, of_q6_k, of_iq4_xs;
    uint32_t of_16 = 0;
    uint32_t of_32 = 0;
    for (uint32_t i = 0; i < 256; ++i) {
      if (i % 16 == 0) {
        of_16 = below(256);
        const uint32_t j = i / 16;
        q6_k.byte(192 + j, static_cast<int>(of_16) - 128);
        q3_k.bits(96 + j % 8, j / 8 * 4, 4, of_16 % 16);
        q3_k.bits(104 + j % 4, j / 4 * 2, 2, of_16 / 16 % 4);
      }
      if (i % 32 == 0) {
        of_32 = below(64);
        const uint32_t j = i / 32;
        iq4_xs.bits(4 + j / 2, j % 2 * 4, 4, of_32 % 16);
        iq4_xs.bits(2 + j / 4, j % 4 * 2, 2, of_32 / 16);
      }
      const uint32_t q = below(64);
      q3_k.bits(32 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2, q % 4);
      q3_k.bits(i % 32, i / 32, 1, q / 4 % 2);
      of_q3_k.push_back(double{d} * (double(of_16 % 64) - 32) * (double(q % 8) - 4));
      q6_k.bits(i / 128 * 64 + i % 64, i % 128 / 64 * 4, 4, q % 16);
      q6_k.bits(128 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2, q / 16);
      of_q6_k.push_back(double{d} * (double(of_16) - 128) * (double(q) - 32));
      iq4_xs.bits(8 + i / 32 * 16 + i % 16, i % 32 / 16 * 4, 4, q % 16);
      of_iq4_xs.push_back(double{d} * (double(of_32) - 32) * kIq4[q % 16]);
    }
    expect(q3_k, of_q3_k);
    expect(q6_k, of_q6_k);
    expect(iq4_xs, of_iq4_xs);
  }
}

TEST_F(WeightFormatTest, PlainNumbersAndSeveralBlocks) {
  const float f32[] = {1.5f, -0.0f, 3e-45f};
  const uint16_t f16[] = {0x3e00, 0x8001};
  const uint16_t bf16[] = {0x3fc0, 0xff80};
  float out[3];
  decode_values(WeightFormat::kF32, reinterpret_cast<const std::byte*>(f32), 3, out);
  EXPECT_EQ(std::memcmp(out, f32, sizeof(out)), 0);
  decode_values(WeightFormat::kF16, reinterpret_cast<const std::byte*>(f16), 2, out);
  EXPECT_EQ(out[0], 1.5f);
  EXPECT_EQ(out[1], -0x1p-24f);
  decode_values(WeightFormat::kBF16, reinterpret_cast<const std::byte*>(bf16), 2, out);
  EXPECT_EQ(out[0], 1.5f);
  EXPECT_EQ(out[1], -INFINITY);

  for (const FormatTraits& traits : kFormats) {
    const uint64_t count = 3 * traits.block_values;
    const auto bytes = test::random_weights(traits.format, count, 1, random_);
    std::vector<float> all(count);
    decode_values(traits.format, bytes.data(), count, all.data());
    for (uint64_t i = 0; i < count; i += traits.block_values) {
      std::vector<float> one(traits.block_values);
      decode_values(traits.format, bytes.data() + row_bytes(traits.format, i), one.size(),
                    one.data());
      EXPECT_EQ(std::memcmp(one.data(), &all[i], one.size() * 4), 0) << traits.name;
    }
  }
}

}  // namespace
}  // namespace spillway
