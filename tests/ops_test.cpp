// One body per operation, run for every instruction set and prompt mode this CPU has and for CUDA
// (a GPU, or the simulated one), against plain double-precision loops. Inputs are random at each
// run; outputs are poisoned before.
#include "kernels/ops.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "core/units.h"
#include "kernels/host/cpu_features.h"
#include "kernels/host/host_device.h"
#include "kernels/host/host_ops.h"
#include "kernels/registry.h"
#include "tests/support.h"

namespace spillway {
namespace {

constexpr float kPoison = -7777.0f;
constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

struct OpsCase {
  const char* name;
  Isa isa = Isa::kBaseline;
  PromptMath math = PromptMath::kF32;
  bool cuda = false;
};

/// What one rounding to `dtype` may change of a value near 1.
double rounding(DType dtype) {
  return dtype == DType::kF32 ? 6e-8 : dtype == DType::kF16 ? 5e-4 : 4e-3;
}

class OpsTest : public ::testing::TestWithParam<OpsCase> {
 protected:
  void SetUp() override {
    DeviceOptions options;
    options.threads = 2;
    options.prompt_math = GetParam().math;
    if (GetParam().cuda) {
      SPILLWAY_NEEDS_CUDA();
      device_ = open_device("cuda", options);
      ops_ = make_ops(*device_, options);
    } else {
      if (GetParam().isa > detect_isa()) GTEST_SKIP() << "this CPU lacks the instruction set";
      if (GetParam().math == PromptMath::kBf16 && !has_avx512_bf16()) {
        GTEST_SKIP() << "this CPU lacks AVX512-BF16";
      }
      device_ = make_host_device();
      ops_ = make_host_ops(options, GetParam().isa);
    }
    stream_ = device_->make_stream(StreamKind::kCompute);
    bind({40, 768, 64, {8, 8, 64}, std::nullopt, uint64_t{301} * 768});
  }

  void bind(const OpsLimits& limits) {
    stream_->sync();
    workspace_ = device_->allocate(ops_->workspace_bytes(limits) + 1);
    ops_->bind_workspace({workspace_.data(), workspace_.bytes()}, limits);
  }

  std::vector<float> random_floats(size_t count, float scale = 1.0f) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(count);
    for (float& value : values) value = normal(random_);
    return values;
  }

  /// An array on the device, at any distance from an aligned address.
  template <typename T>
  class Array {
   public:
    Array(OpsTest& test, const std::vector<T>& values, size_t offset = 0)
        : test_(test), count_(values.size()), offset_(offset) {
      memory_ = test.device_->allocate(std::max<size_t>(1, bytes()) + offset);
      const Memory host = test.device_->allocate_pinned(std::max<size_t>(1, bytes()));
      std::memcpy(host.data(), values.data(), bytes());
      test.stream_->copy(memory_.data() + offset_, host.data(), bytes());
      test.stream_->sync();
    }
    T* data() const { return reinterpret_cast<T*>(memory_.data() + offset_); }
    std::vector<T> read() const {
      std::vector<T> values(count_);
      const Memory host = test_.device_->allocate_pinned(std::max<size_t>(1, bytes()));
      test_.stream_->copy(host.data(), memory_.data() + offset_, bytes());
      test_.stream_->sync();
      std::memcpy(values.data(), host.data(), bytes());
      return values;
    }

   private:
    size_t bytes() const { return count_ * sizeof(T); }
    OpsTest& test_;
    size_t count_;
    size_t offset_;
    Memory memory_;
  };
  Array<float> floats(const std::vector<float>& values) { return {*this, values}; }
  Array<float> poisoned(size_t count) { return floats(std::vector<float>(count, kPoison)); }
  Array<uint32_t> ids(const std::vector<uint32_t>& values) { return {*this, values}; }

  static float rounded(float value, DType dtype) {
    if (dtype == DType::kBF16) return f32_from_bf16(bf16_from_f32(value));
    if (dtype == DType::kF16) return f32_from_f16(f16_from_f32(value));
    return value;
  }

  /// Folds the vocabulary as one tile and in tiles: the same bits, and right.
  void expect_same_folds(uint32_t vocab, uint32_t small_tile) {
    const uint32_t rows = 3;
    auto logits = random_floats(size_t{rows} * vocab, 5.0f);
    for (uint32_t i = 0; i < vocab; ++i) logits[vocab + i] += 1e-3f * static_cast<float>(i);
    const auto on_device = floats(logits);
    const std::vector<uint32_t> targets = {0, vocab - 1, 300};
    const auto target_ids = ids(targets);
    std::vector<float> results[2];
    for (int way = 0; way < 2; ++way) {
      const uint32_t tile = way == 0 ? vocab : small_tile;
      const auto top = floats(std::vector<float>(rows, -INFINITY));
      const auto sum = floats(std::vector<float>(rows, 0.0f));
      const auto target = poisoned(rows);
      for (uint32_t at = 0; at < vocab; at += tile) {
        ops_->fold_log_softmax(*stream_, on_device.data() + at, rows, std::min(tile, vocab - at),
                               vocab, at, target_ids.data(), top.data(), sum.data(), target.data());
      }
      const auto tops = top.read();
      const auto sums = sum.read();
      const auto picked = target.read();
      for (uint32_t r = 0; r < rows; ++r) {
        double exact = 0;
        for (uint32_t i = 0; i < vocab; ++i) exact += std::exp(double{logits[r * vocab + i]});
        results[way].push_back(picked[r] - tops[r] - std::log(sums[r]));
        EXPECT_NEAR(results[way].back(), logits[r * vocab + targets[r]] - std::log(exact), 1e-4);
        results[way].push_back(tops[r]);
        results[way].push_back(sums[r]);
      }
    }
    EXPECT_EQ(results[0], results[1]);
  }

  /// A weight in `dtype` at an odd or an aligned address, and its exact values.
  struct Weight {
    std::vector<float> values;
    std::unique_ptr<Array<std::byte>> memory;
    WeightView view;
  };
  Weight random_weight(WeightFormat format, uint32_t rows, uint32_t cols, size_t offset = 2) {
    Weight weight;
    weight.values.resize(size_t{rows} * cols);
    const auto bytes = test::random_weights(format, weight.values.size(), 0.2f, random_);
    decode_values(format, bytes.data(), weight.values.size(), weight.values.data());
    // cuBLAS wants what the tiers give: aligned addresses.
    weight.memory = std::make_unique<Array<std::byte>>(*this, bytes, offset);
    weight.view = {weight.memory->data(), format, rows, cols};
    return weight;
  }
  Weight random_weight(DType dtype, uint32_t rows, uint32_t cols, size_t offset = 2) {
    return random_weight(format_of(dtype), rows, cols, offset);
  }

  /// What this device multiplies.
  static std::vector<WeightFormat> formats() {
    std::vector<WeightFormat> all;
    for (const FormatTraits& traits : kFormats) all.push_back(traits.format);
    return all;
  }
  /// The nearest width that is whole blocks.
  static uint32_t whole_blocks(WeightFormat format, uint32_t cols) {
    return static_cast<uint32_t>(align_up(cols, traits_of(format).block_values));
  }

  /// Input rows from which a matmul may round its input to 16 bits.
  uint32_t exact_rows() const { return GetParam().cuda ? 8 : 32; }
  /// Error that rounding the input may cause in a sum of `cols` products of about 0.1.
  double tolerance(DType dtype, uint32_t rows, uint32_t cols) const {
    const bool rounds = rows > exact_rows() && dtype != DType::kF32 &&
                        (GetParam().cuda || GetParam().math == PromptMath::kBf16);
    return 2e-4 + (rounds ? 0.6 * rounding(dtype) * std::sqrt(cols) : 0);
  }

  void expect_product(const std::vector<double>& x, const Weight& w, uint32_t rows,
                      const std::vector<float>& out, uint32_t stride, uint32_t all_rows = 0) {
    const uint32_t cols = w.view.cols;
    const double allowed = tolerance(compute_dtype(w.view.format), std::max(rows, all_rows), cols);
    for (uint32_t r = 0; r < rows; ++r) {
      for (uint32_t n = 0; n < w.view.rows; ++n) {
        double expected = 0;
        for (uint32_t k = 0; k < cols; ++k) expected += x[r * cols + k] * w.values[n * cols + k];
        ASSERT_NEAR(out[r * stride + n], expected, allowed)
            << format_name(w.view.format) << " rows " << rows << " cols " << cols << " at " << r
            << "," << n;
      }
    }
  }

  /// By the activation's own words.
  static double activated(Activation activation, double x) {
    if (activation == Activation::kSilu) return x / (1 + std::exp(-x));
    const double inner = 0.79788456080286536 * (x + 0.044715 * x * x * x);
    return 0.5 * x * (1 + std::tanh(inner));
  }

  uint64_t seed_ = test::run_seed();
  std::mt19937_64 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, test::seed_note(seed_)};
  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Stream> stream_;
  Memory workspace_;
};

TEST_P(OpsTest, MatmulMatchesPlainLoops) {
  const auto any = 1 + static_cast<uint32_t>(random_() % 40);
  for (const WeightFormat format : formats()) {
    for (const uint32_t rows : {1u, 2u, 3u, 4u, 7u, 8u, 9u, any, 40u}) {
      for (const uint32_t wanted : {64u, 172u, 288u, 700u}) {
        const uint32_t cols = whole_blocks(format, wanted);
        const uint32_t outputs = wanted == 172 ? 5 : 301;
        const size_t odd = has_blocks(format) ? wanted % 5 : wanted % 3 * 2;
        const size_t offset = rows > exact_rows() && GetParam().cuda ? 0 : odd;
        const Weight w = random_weight(format, outputs, cols, offset);
        const auto x = random_floats(size_t{rows} * cols);
        const uint32_t stride = outputs + 3;
        const auto input = floats(x);
        const auto output = poisoned(size_t{rows} * stride);
        ops_->set_input(*stream_, input.data(), rows, cols);
        ops_->matmul(*stream_, w.view, output.data(), stride);
        const auto out = output.read();
        expect_product({x.begin(), x.end()}, w, rows, out, stride);
        if (HasFatalFailure()) return;
        for (uint32_t r = 0; r < rows; ++r) {
          ASSERT_EQ(out[r * stride + outputs], kPoison) << "wrote past the row";
        }
      }
    }
  }
}

/// Bit-identity over placements rests on this: cutting at panel borders, and the address of the
/// weights, change nothing; nor does the number of rows in decode. Prompts on CUDA are multiplied
/// by cuBLAS, whose order of sums may depend on the shape: there units are the same everywhere.
TEST_P(OpsTest, MatmulIsBitIdenticalForTilesAddressesAndDecodeRows) {
  for (const WeightFormat format : formats()) {
    const uint32_t cols = whole_blocks(format, 288);
    const uint32_t outputs = 3 * kPanelRows + 17;
    const Weight w = random_weight(format, outputs, cols, 0);
    std::vector<std::byte> bytes = w.memory->read();
    const Array<std::byte> moved(*this, bytes, 38);
    for (const uint32_t rows : {1u, 6u, 33u}) {
      if (rows > exact_rows() && GetParam().cuda) continue;
      const auto x = floats(random_floats(size_t{rows} * cols));
      const auto whole = poisoned(size_t{rows} * outputs);
      ops_->set_input(*stream_, x.data(), rows, cols);
      ops_->matmul(*stream_, w.view, whole.data(), outputs);
      const auto tiled = poisoned(size_t{rows} * outputs);
      for (uint32_t at = 0; at < outputs; at += 2 * kPanelRows) {
        WeightView tile = w.view;
        tile.data = moved.data() + at * row_bytes(format, cols);
        tile.rows = std::min(2 * kPanelRows, outputs - at);
        ops_->matmul(*stream_, tile, tiled.data() + at, outputs);
      }
      const auto all = whole.read();
      EXPECT_EQ(all, tiled.read()) << format_name(format) << " " << rows;
      std::vector<WeightView> apart;  // all at once
      for (uint32_t at = 0; at < outputs; at += apart.back().rows) {
        apart.push_back(w.view);
        const std::byte* data = apart.size() % 2 == 0 ? w.view.data : moved.data();
        apart.back().data = data + at * row_bytes(format, cols);
        apart.back().rows = at == 0 ? 2 * kPanelRows : std::min(kPanelRows, outputs - at);
      }
      const auto joined = poisoned(size_t{rows} * outputs);
      ops_->matmul_tiles(*stream_, apart, joined.data(), outputs);
      EXPECT_EQ(all, joined.read()) << format_name(format) << " " << rows;
      if (rows > exact_rows()) continue;
      const auto single = poisoned(outputs);
      ops_->set_input(*stream_, x.data() + (rows - 1) * cols, 1, cols);
      ops_->matmul(*stream_, w.view, single.data(), outputs);
      const auto one = single.read();
      for (uint32_t n = 0; n < outputs; ++n) ASSERT_EQ(one[n], all[(rows - 1) * outputs + n]);
    }
  }
}

/// More rows than are multiplied at a time, and rests at every border.
TEST_P(OpsTest, LongPromptsMatchPlainLoops) {
  const uint32_t outputs = 5 * kPanelRows + 7;
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kF16, WeightFormat::kQ8_0,
                                    WeightFormat::kQ4_K, WeightFormat::kQ6_K}) {
    if (GetParam().cuda && has_blocks(format)) continue;
    for (const uint32_t rows : {33u, 48u, 512u, 545u}) {
      const uint32_t cols = whole_blocks(format, rows == 48 ? 172 : 544);
      bind({rows, cols, 64, {8, 8, 64}, std::nullopt});
      const Weight w = random_weight(format, outputs, cols, GetParam().cuda ? 0 : 6);
      const auto x = random_floats(size_t{rows} * cols);
      const auto input = floats(x);
      const auto output = poisoned(size_t{rows} * outputs);
      ops_->set_input(*stream_, input.data(), rows, cols);
      ops_->matmul(*stream_, w.view, output.data(), outputs);
      const auto out = output.read();
      const uint32_t shown = rows < 512 ? 0 : rows - 40;
      expect_product({x.begin() + shown * cols, x.end()}, w, rows - shown,
                     {out.begin() + shown * outputs, out.end()}, outputs, rows);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(OpsTest, EmbedConvertsRows) {
  for (const WeightFormat format : formats()) {
    const uint32_t cols = whole_blocks(format, 37);
    const Weight w = random_weight(format, 10, cols);
    const auto from = ids({9, 0, 9, 3});
    const auto to = ids({0, 3, 1, 4});
    const auto out = poisoned(size_t{5} * cols);
    ops_->embed(*stream_, w.view, from.data(), to.data(), 4, out.data());
    const auto result = out.read();
    const std::vector<int> expected = {9, 9, -1, 0, 3};
    for (size_t i = 0; i < result.size(); ++i) {
      const int id = expected[i / cols];
      ASSERT_EQ(result[i], id < 0 ? kPoison : w.values[id * cols + i % cols])
          << format_name(format);
    }
  }
}

TEST_P(OpsTest, RmsnormBiasAndAdd) {
  for (const DType dtype : kDTypes) {
    for (const uint32_t cols : {173u, 128u, 1000u}) {
      const uint32_t rows = 11;
      const Weight w = random_weight(dtype, 1, cols);
      const auto x = random_floats(rows * cols);
      const auto input = floats(x);
      const auto out = poisoned(x.size());
      ops_->rmsnorm(*stream_, input.data(), {w.view, 1e-5f}, rows, out.data());
      const auto result = out.read();
      for (uint32_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (uint32_t i = 0; i < cols; ++i) sum += std::pow(double{x[r * cols + i]}, 2);
        const double scale = 1 / std::sqrt(sum / cols + 1e-5);
        for (uint32_t i = 0; i < cols; ++i) {
          ASSERT_NEAR(result[r * cols + i], x[r * cols + i] * scale * w.values[i], 1e-5);
        }
      }
      ops_->rmsnorm(*stream_, input.data(), {w.view, 1e-5f}, rows, input.data());
      EXPECT_EQ(input.read(), result) << "in place";
      const auto again = floats(x);
      ops_->rmsnorm(*stream_, again.data(), {w.view, 1e-5f, 1.0f}, rows, again.data());
      const auto more = again.read();
      for (uint32_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (uint32_t i = 0; i < cols; ++i) sum += std::pow(double{x[r * cols + i]}, 2);
        const double scale = 1 / std::sqrt(sum / cols + 1e-5);
        for (uint32_t i = 0; i < cols; ++i) {
          const double expected = x[r * cols + i] * scale * (1 + double{w.values[i]});
          ASSERT_NEAR(more[r * cols + i], expected, 1e-5) << "with what is added to weights";
        }
      }
      const auto biased = floats(x);
      ops_->add_bias(*stream_, biased.data(), rows, w.view);
      const auto with_bias = biased.read();
      for (uint32_t i = 0; i < rows * cols; ++i) {
        ASSERT_EQ(with_bias[i], x[i] + w.values[i % cols]);
      }
      const auto sum = floats(x);
      ops_->add(*stream_, sum.data(), out.data(), x.size());
      const auto added = sum.read();
      for (uint32_t i = 0; i < rows * cols; ++i) ASSERT_EQ(added[i], x[i] + result[i]);
    }
  }
}

/// The operations that leave a matmul's input behind, seen through that matmul; with the dtype of
/// matrices known beforehand and not.
TEST_P(OpsTest, ProducersOfInputs) {
  for (const DType dtype : kDTypes) {
    for (const bool known : {false, true}) {
      OpsLimits limits{40, 700, 64, {8, 8, 64}, std::nullopt};
      if (known) limits.matrix_dtype = dtype;
      bind(limits);
      for (const uint32_t rows : {1u, 5u, 40u}) {
        const uint32_t cols = rows == 5 ? 173 : rows == 40 ? 700 : 256;
        const Weight norm = random_weight(DType::kBF16, 1, cols);
        const Weight w = random_weight(dtype, 70, cols, 0);
        const auto x = random_floats(size_t{rows} * cols);
        const auto y = random_floats(size_t{rows} * cols);
        for (const bool residual : {false, true}) {
          const float added = residual ? 1.0f : 0.0f;
          const auto input = floats(x);
          const auto scratch = floats(y);
          const auto out = poisoned(size_t{rows} * 70);
          ops_->norm_input(*stream_, input.data(), residual ? scratch.data() : nullptr,
                           {norm.view, 1e-5f, added}, rows, scratch.data());
          ops_->matmul(*stream_, w.view, out.data(), 70);
          std::vector<double> expected(x.begin(), x.end());
          const auto after = input.read();
          for (size_t i = 0; i < x.size(); ++i) {
            if (residual) expected[i] = double{x[i] + y[i]};
            ASSERT_EQ(after[i], static_cast<float>(expected[i]));
          }
          for (uint32_t r = 0; r < rows; ++r) {
            double sum = 0;
            for (uint32_t i = 0; i < cols; ++i) sum += std::pow(expected[r * cols + i], 2);
            const double scale = 1 / std::sqrt(sum / cols + 1e-5);
            for (uint32_t i = 0; i < cols; ++i) {
              expected[r * cols + i] *= scale * (added + norm.values[i]);
            }
          }
          expect_product(expected, w, rows, out.read(), 70);
          if (HasFatalFailure()) return;
        }
        for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
          auto gate = x;
          gate[0] = -200.0f;
          gate[1] = 12.0f;
          const auto gates = floats(gate);
          const auto ups = floats(y);
          const auto out = poisoned(size_t{rows} * 70);
          ops_->gated_input(*stream_, activation, gates.data(), ups.data(), rows, cols);
          ops_->matmul(*stream_, w.view, out.data(), 70);
          std::vector<double> expected(gate.size());
          for (size_t i = 0; i < gate.size(); ++i)
            expected[i] = activated(activation, gate[i]) * y[i];
          expect_product(expected, w, rows, out.read(), 70);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

/// The gate alone, seen through products with an identity: each value to a few roundings of f32,
/// also where it is small because x is negative.
TEST_P(OpsTest, GatesKeepTheirDigits) {
  const uint32_t cols = 64;
  bind({8, cols, 64, {8, 8, 64}, std::nullopt});
  std::vector<float> identity(size_t{cols} * cols);
  for (uint32_t i = 0; i < cols; ++i) identity[i * cols + i] = 1;
  const auto one = floats(identity);
  const WeightView view{reinterpret_cast<const std::byte*>(one.data()), WeightFormat::kF32, cols,
                        cols};
  std::vector<float> x(size_t{8} * cols);
  for (size_t i = 0; i < x.size(); ++i) x[i] = -5.0f + 0.02f * static_cast<float>(i);
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    const auto gate = floats(x);
    const auto up = floats(std::vector<float>(x.size(), 1.0f));
    const auto out = poisoned(x.size());
    ops_->gated_input(*stream_, activation, gate.data(), up.data(), 8, cols);
    ops_->matmul(*stream_, view, out.data(), cols);
    const auto result = out.read();
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = activated(activation, x[i]);
      // exp(y) of a y that was rounded: its error grows with |y|, which is below 20 here.
      ASSERT_NEAR(result[i], expected, 2e-6 * std::abs(expected) + 1e-12) << x[i];
    }
  }
}

TEST_P(OpsTest, ScaleMultipliesInF32) {
  for (const uint32_t count : {1u, 7u, 4096u, 40001u}) {
    const auto x = random_floats(count);
    const auto values = floats(x);
    ops_->scale(*stream_, values.data(), 45.254834f, count);
    const auto result = values.read();
    for (uint32_t i = 0; i < count; ++i) ASSERT_EQ(result[i], x[i] * 45.254834f);
  }
}

/// Over all sizes that a logit has: relative to the result a few roundings of f32, no more than the
/// cap, what is not a number stays none, and what lies between the rows stays.
TEST_P(OpsTest, SoftCapMatchesDouble) {
  for (const float cap : {30.0f, 50.0f, 0.7f}) {
    for (const uint32_t cols : {1u, 5u, 64u, 301u, 40003u}) {
      const uint32_t rows = 3;
      const uint32_t stride = cols + 2;
      auto x = random_floats(size_t{rows} * stride);
      for (size_t i = 0; i < x.size(); ++i) {
        x[i] *= cap * std::exp2(static_cast<float>(static_cast<int>(i % 44) - 40) * 0.5f);
      }
      x[0] = 1e30f;
      x[stride] = -1e30f;
      x[2 * stride] = NAN;
      const auto values = floats(x);
      ops_->soft_cap(*stream_, values.data(), cap, rows, cols, stride);
      const auto result = values.read();
      EXPECT_EQ(result[0], cap);
      EXPECT_EQ(result[stride], -cap);
      EXPECT_TRUE(std::isnan(result[2 * stride]));
      for (size_t i = 0; i < x.size(); ++i) {
        if (i % stride >= cols) {
          ASSERT_EQ(result[i], x[i]) << "wrote past the row";
        } else if (!std::isnan(x[i])) {
          const double expected = cap * std::tanh(double{x[i]} / cap);
          ASSERT_NEAR(result[i], expected, 6e-7 * std::abs(expected)) << x[i] << " of " << cap;
        }
      }
      const auto tiled = floats(x);
      for (uint32_t at = 0; at < cols; at += kPanelRows) {
        ops_->soft_cap(*stream_, tiled.data() + at, cap, rows, std::min(kPanelRows, cols - at),
                       stride);
      }
      const auto tiles = tiled.read();
      for (size_t i = 0; i < x.size(); ++i) {
        if (i == 2 * stride) continue;  // not a number
        ASSERT_EQ(tiles[i], result[i]) << "in tiles";
      }
    }
  }
}

/// The largest vocabulary there may be, whose pieces are more than a grid has rows.
TEST_P(OpsTest, SoftCapOfTheWidestRow) {
  const uint32_t cols = 1 << 24;
  const auto values = floats(std::vector<float>(cols, 3.0f));
  ops_->soft_cap(*stream_, values.data(), 0.7f, 1, cols, cols);
  const auto result = values.read();
  const double expected = 0.7 * std::tanh(3.0 / 0.7);
  for (uint32_t i = 0; i < cols; i += i < cols - 1000 ? 997 : 1) {
    ASSERT_NEAR(result[i], expected, 1e-6) << i;
  }
}

struct SequenceCase {
  uint32_t past;
  uint32_t rows;
};

/// Attention against plain loops over rotated keys and queries, after appending in two steps.
class AttentionTest : public OpsTest {
 protected:
  void check(const AttentionShape& shape, const std::vector<SequenceCase>& sequences,
             float frequency) {
    const uint32_t kv_width = shape.kv_heads * shape.head_dim;
    const uint32_t q_width = shape.heads * shape.head_dim;
    uint32_t rows = 0;
    uint32_t longest = 0;
    for (const SequenceCase& s : sequences) {
      rows += s.rows;
      longest = std::max(longest, s.past + s.rows);
    }
    bind({std::max(rows, 16u), q_width, longest, shape, std::nullopt});
    std::vector<float> frequencies;
    const uint32_t rotary_dim = shape.rotary_dim != 0 ? shape.rotary_dim : shape.head_dim;
    for (uint32_t i = 0; i < rotary_dim / 2; ++i) {
      frequencies.push_back(frequency / static_cast<float>(i + 1));
    }
    const auto speeds = floats(frequencies);
    std::vector<Memory> caches;
    std::vector<SequenceRows> batch;
    std::vector<std::vector<float>> keys;
    std::vector<std::vector<float>> values;
    std::vector<float> k;
    std::vector<float> v;
    for (const SequenceCase& s : sequences) {
      const auto capacity = static_cast<uint32_t>(align_up(s.past + s.rows, kKvBlockPositions));
      caches.push_back(device_->allocate(ops_->kv_bytes(shape, capacity)));
      ops_->zero(*stream_, caches.back().data(), caches.back().bytes());
      keys.push_back(random_floats(size_t{s.past + s.rows} * kv_width));
      values.push_back(random_floats(size_t{s.past + s.rows} * kv_width));
      if (s.past > 0) {
        const SequenceRows history{0, s.past, 0, caches.back().data(), capacity};
        const auto old_q = floats(random_floats(size_t{s.past} * q_width));
        const auto old_k = floats(keys.back());
        const auto old_v = floats(values.back());
        ops_->rope_append(*stream_, old_q.data(), old_k.data(), old_v.data(), shape, speeds.data(),
                          {&history, 1});
        stream_->sync();
      }
      batch.push_back({static_cast<uint32_t>(k.size() / kv_width), s.rows, s.past,
                       caches.back().data(), capacity});
      k.insert(k.end(), keys.back().begin() + s.past * kv_width, keys.back().end());
      v.insert(v.end(), values.back().begin() + s.past * kv_width, values.back().end());
    }
    const auto q = random_floats(size_t{rows} * q_width);
    const auto q_array = floats(q);
    const auto k_array = floats(k);
    const auto v_array = floats(v);
    const auto out = poisoned(q.size());
    ops_->rope_append(*stream_, q_array.data(), k_array.data(), v_array.data(), shape,
                      speeds.data(), batch);
    ops_->attention(*stream_, q_array.data(), shape, batch, out.data());
    const auto result = out.read();
    const auto turned = q_array.read();
    // The host keeps f32; scores of about 1, or as much more as their scale, and values of about 1
    // are rounded by others.
    const DType kept = GetParam().cuda ? shape.kv_dtype : DType::kF32;
    const double spread = std::max(1.0, shape.score_scale * std::sqrt(double(shape.head_dim)));
    const double allowed = spread * (kept == DType::kF32 ? 2e-5 : 6 * rounding(kept));
    for (size_t s = 0; s < sequences.size(); ++s) {
      std::vector<double> all_keys;
      for (uint32_t j = 0; j < sequences[s].past + sequences[s].rows; ++j) {
        const auto row = rotated(keys[s].data() + size_t{j} * kv_width, shape.kv_heads,
                                 shape.head_dim, j, frequencies);
        all_keys.insert(all_keys.end(), row.begin(), row.end());
      }
      for (uint32_t r = 0; r < sequences[s].rows; ++r) {
        const size_t row = batch[s].first_row + r;
        const auto query = rotated(q.data() + row * q_width, shape.heads, shape.head_dim,
                                   sequences[s].past + r, frequencies);
        for (uint32_t i = 0; i < q_width; ++i) {
          ASSERT_NEAR(turned[row * q_width + i], query[i], 2e-5) << "rotated q";
        }
        for (uint32_t h = 0; h < shape.heads; ++h) {
          const auto expected =
              attend(query.data() + h * shape.head_dim, all_keys, values[s], sequences[s].past + r,
                     shape, h / (shape.heads / shape.kv_heads));
          for (uint32_t d = 0; d < shape.head_dim; ++d) {
            ASSERT_NEAR(result[row * q_width + h * shape.head_dim + d], expected[d], allowed)
                << dtype_name(shape.kv_dtype) << " heads " << shape.heads << "/" << shape.kv_heads
                << " of " << shape.head_dim << ", window " << shape.window << ", cap "
                << shape.score_cap << ", sequence " << s << " row " << r << " head " << h;
          }
        }
      }
    }
  }

 private:
  static std::vector<double> rotated(const float* x, uint32_t heads, uint32_t head_dim,
                                     uint32_t position, const std::vector<float>& frequencies) {
    std::vector<double> out(x, x + size_t{heads} * head_dim);
    const auto half = static_cast<uint32_t>(frequencies.size());
    for (uint32_t h = 0; h < heads; ++h) {
      for (uint32_t i = 0; i < half; ++i) {
        const double angle = double{static_cast<float>(position) * frequencies[i]};
        const double low = x[h * head_dim + i];
        const double high = x[h * head_dim + i + half];
        out[h * head_dim + i] = low * std::cos(angle) - high * std::sin(angle);
        out[h * head_dim + i + half] = high * std::cos(angle) + low * std::sin(angle);
      }
    }
    return out;
  }

  static std::vector<double> attend(const double* query, const std::vector<double>& keys,
                                    const std::vector<float>& values, uint32_t position,
                                    const AttentionShape& shape, uint32_t kv_head) {
    const uint32_t head_dim = shape.head_dim;
    const uint32_t kv_width = shape.kv_heads * head_dim;
    const double scale =
        shape.score_scale != 0 ? double{shape.score_scale} : 1 / std::sqrt(double(head_dim));
    std::vector<double> p(position + 1);
    double top = -1e300;
    const auto visible = [&](uint32_t j) { return position - j < shape.window; };
    for (uint32_t j = 0; j <= position; ++j) {
      if (!visible(j)) continue;
      const double* key = keys.data() + size_t{j} * kv_width + kv_head * head_dim;
      p[j] = std::inner_product(query, query + head_dim, key, 0.0) * scale;
      if (shape.score_cap != 0) p[j] = shape.score_cap * std::tanh(p[j] / shape.score_cap);
      top = std::max(top, p[j]);
    }
    double sum = 0;
    for (uint32_t j = 0; j <= position; ++j) {
      if (visible(j)) sum += p[j] = std::exp(p[j] - top);
    }
    std::vector<double> out(head_dim);
    for (uint32_t j = 0; j <= position; ++j) {
      const float* value = values.data() + size_t{j} * kv_width + kv_head * head_dim;
      for (uint32_t d = 0; d < head_dim; ++d) out[d] += p[j] / sum * double{value[d]};
    }
    return out;
  }
};

/// Prompts that go on and that start, single rows, GQA, MQA and MHA; odd head sizes.
TEST_P(AttentionTest, MatchesPlainLoops) {
  for (const DType dtype : kDTypes) {
    for (AttentionShape shape :
         {AttentionShape{4, 2, 8}, AttentionShape{3, 3, 48}, AttentionShape{8, 1, 20},
          AttentionShape{40, 2, 64}, AttentionShape{4, 1, 96}, AttentionShape{6, 2, 128},
          AttentionShape{2, 1, 256}}) {
      shape.kv_dtype = dtype;
      check(shape, {{21, 18}, {0, 1}, {5, 1}, {0, 7}}, 0.3f);
      if (HasFatalFailure()) return;
    }
  }
}

/// Gemma's heads (wide, capped, scaled by other than their width, every other layer with a window)
/// and Phi's (96 wide, or 96 of 128 turning), prompts and single rows, short and over many tiles.
TEST_P(AttentionTest, CapsScalesAndHeadsThatTurnInPart) {
  for (const DType dtype : kDTypes) {
    AttentionShape gemma{4, 2, 256, dtype};
    gemma.score_scale = 1 / std::sqrt(224.0f);
    gemma.score_cap = 1.5f;  // scores are about 1: most of them bend
    AttentionShape phi3{4, 4, 96, dtype};
    AttentionShape phi4{6, 2, 128, dtype};
    phi4.rotary_dim = 96;
    AttentionShape narrow{4, 1, 20, dtype};
    narrow.rotary_dim = 8;
    narrow.score_cap = 0.5f;
    for (AttentionShape shape : {gemma, phi3, phi4, narrow}) {
      for (const uint32_t window : {kNoWindow, 9u, 40u}) {
        shape.window = window;
        check(shape, {{21, 18}, {0, 1}, {5, 1}, {0, 7}, {70, 1}}, 0.3f);
        if (HasFatalFailure()) return;
      }
    }
    phi3.score_cap = 50;
    phi3.score_scale = 0.25f;
    check(phi3, {{131, 80}, {300, 1}}, 0.01f);
    gemma.window = 48;
    check(gemma, {{40, 70}, {130, 1}}, 0.01f);
    if (HasFatalFailure()) return;
  }
}

/// A scale that says what is the default changes no bit; a cap far above every score hardly
/// anything; a row's bits do not depend on the rows beside it.
TEST_P(AttentionTest, CappedRowsAreTheSameInEveryChunk) {
  const uint32_t length = 90;
  for (const DType dtype : kDTypes) {
    AttentionShape shape{4, 2, 64, dtype};
    bind({length, 256, length, shape, std::nullopt});
    const auto capacity = static_cast<uint32_t>(align_up(length, kKvBlockPositions));
    const auto speeds = floats(std::vector<float>(32, 0.1f));
    const auto q = floats(random_floats(length * 256));
    const auto k = floats(random_floats(length * 128));
    const Memory cache = device_->allocate(ops_->kv_bytes(shape, capacity));
    ops_->zero(*stream_, cache.data(), cache.bytes());
    const SequenceRows all{0, length, 0, cache.data(), capacity};
    ops_->rope_append(*stream_, q.data(), k.data(), k.data(), shape, speeds.data(), {&all, 1});
    const auto attend = [&](uint32_t first, uint32_t rows) {
      const SequenceRows some{first, rows, first, cache.data(), capacity};
      const auto out = poisoned(length * 256);
      ops_->attention(*stream_, q.data(), shape, {&some, 1}, out.data());
      const auto result = out.read();
      return std::vector<float>(result.begin() + first * 256,
                                result.begin() + (first + rows) * 256);
    };
    const auto plain = attend(0, length);
    shape.score_scale = 0.125f;
    EXPECT_EQ(attend(0, length), plain);
    shape.score_cap = 1e5f;
    const auto hardly = attend(0, length);
    for (size_t i = 0; i < plain.size(); ++i) {
      ASSERT_NEAR(hardly[i], plain[i], GetParam().cuda ? 6 * rounding(dtype) + 1e-5 : 1e-5);
    }
    shape.score_cap = 2;
    shape.window = 50;
    const auto whole = attend(0, length);
    for (const uint32_t cut : {1u, 7u, 33u}) {
      if (cut == 1 && GetParam().cuda) continue;  // single rows have a kernel of their own
      for (uint32_t first = 0; first < length; first += cut) {
        const uint32_t rows = std::min(cut, length - first);
        if (rows == 1 && GetParam().cuda) continue;
        const auto part = attend(first, rows);
        ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first * 256)) << cut;
      }
    }
  }
}

/// More rows than a tile, more keys than several tiles, a past that ends inside of one.
TEST_P(AttentionTest, LongPrompts) {
  for (const DType dtype : kDTypes) {
    check({2, 1, 64, dtype}, {{131, 150}}, 0.01f);
    check({2, 2, 128, dtype}, {{0, 67}, {33, 64}}, 0.01f);
    check({1, 1, 256, dtype}, {{40, 70}}, 0.01f);
    if (HasFatalFailure()) return;
  }
}

/// Many splits, on both sides of the length at which their size changes, side by side.
TEST_P(AttentionTest, LongDecode) {
  for (const DType dtype : kDTypes) {
    check({4, 2, 16, dtype}, {{700, 1}, {63, 1}, {64, 1}, {4095, 1}, {4096, 1}, {4500, 1}}, 0.001f);
    if (HasFatalFailure()) return;
  }
}

/// Windows of one position, smaller than a tile, no multiple of a block, whole tiles, as long as
/// the longest sequence and longer.
TEST_P(AttentionTest, SlidingWindows) {
  for (const DType dtype : kDTypes) {
    for (const uint32_t window : {1u, 2u, 7u, 16u, 33u, 64u, 100u, 281u, 1000u}) {
      check({4, 2, 20, dtype, window}, {{21, 18}, {0, 1}, {40, 1}, {0, 37}}, 0.3f);
      check({2, 1, 64, dtype, window}, {{131, 150}}, 0.01f);
      if (HasFatalFailure()) return;
    }
    for (const uint32_t window : {5u, 40u}) {
      check({2, 2, 128, dtype, window}, {{0, 67}, {33, 64}}, 0.01f);
      check({1, 1, 256, dtype, window}, {{40, 70}}, 0.01f);
      if (HasFatalFailure()) return;
    }
  }
}

/// The same where rows decode: windows of one split and of many, and the border at which the size
/// of splits changes inside the window and behind it.
TEST_P(AttentionTest, SlidingWindowsInDecode) {
  for (const DType dtype : kDTypes) {
    for (const uint32_t window : {1u, 65u, 4097u}) {
      check({4, 2, 16, dtype, window}, {{700, 1}, {64, 1}, {4500, 1}}, 0.001f);
      if (HasFatalFailure()) return;
    }
  }
}

/// What lies behind the window is not read: were it, its NaN would show, since 0 * NaN is NaN. The
/// bits of a row are the same whether it runs alone or in a prompt.
TEST_P(AttentionTest, NothingBehindTheWindowTakesPart) {
  const uint32_t length = 200;
  const uint32_t window = 50;
  for (const DType dtype : kDTypes) {
    const AttentionShape whole{2, 1, 64, dtype};
    AttentionShape shape = whole;
    shape.window = window;
    bind({length, 128, length, shape, std::nullopt});
    const auto capacity = static_cast<uint32_t>(align_up(length, kKvBlockPositions));
    const auto speeds = floats(std::vector<float>(32, 0.1f));
    const auto q_values = random_floats(length * 128);
    auto k_values = random_floats(length * 64);
    auto v_values = random_floats(length * 64);
    const auto attend = [&](const AttentionShape& attended, uint32_t first, uint32_t rows) {
      const auto q = floats(q_values);
      const auto k = floats(k_values);
      const auto v = floats(v_values);
      const Memory cache = device_->allocate(ops_->kv_bytes(shape, capacity));
      ops_->zero(*stream_, cache.data(), cache.bytes());
      const SequenceRows all{0, length, 0, cache.data(), capacity};
      ops_->rope_append(*stream_, q.data(), k.data(), v.data(), shape, speeds.data(), {&all, 1});
      const SequenceRows some{first, rows, first, cache.data(), capacity};
      const auto out = poisoned(q_values.size());
      ops_->attention(*stream_, q.data(), attended, {&some, 1}, out.data());
      auto result = out.read();
      stream_->sync();
      return std::vector<float>(result.begin() + first * 128,
                                result.begin() + (first + rows) * 128);
    };
    const auto same = [](const std::vector<float>& tail, const std::vector<float>& all) {
      return std::equal(tail.rbegin(), tail.rend(), all.rbegin());
    };
    const auto prompt = attend(shape, 0, length);
    EXPECT_TRUE(same(attend(shape, 137, length - 137), prompt)) << "another chunk";
    AttentionShape long_window = whole;
    long_window.window = length;
    EXPECT_EQ(attend(long_window, 0, length), attend(whole, 0, length));
    const auto decoded = attend(shape, length - 1, 1);
    // The last rows see positions from 141 on; the rest of the tile that they lie in stays finite.
    std::fill_n(k_values.begin(), 128 * 64, NAN);
    std::fill_n(v_values.begin(), 128 * 64, NAN);
    EXPECT_EQ(attend(shape, length - 1, 1), decoded);
    EXPECT_TRUE(same(attend(shape, length - 10, 10), prompt)) << "read what lies behind";
  }
}

/// More sequences than one launch takes, and than the workspace holds at a time.
TEST_P(AttentionTest, ManySequences) {
  std::vector<SequenceCase> sequences;
  for (uint32_t i = 0; i < 70; ++i) sequences.push_back({i * 3, 1});
  check({2, 1, 32, DType::kBF16}, sequences, 0.1f);
}

/// A decoding sequence's bits do not depend on what runs beside it.
TEST_P(AttentionTest, DecodeIsBitIdenticalInAnyCompany) {
  AttentionShape shape{4, 2, 64, DType::kBF16};
  const uint32_t capacity = 320;
  bind({16, 256, capacity, shape, std::nullopt});
  const uint32_t kv_width = shape.kv_heads * shape.head_dim;
  const auto speeds = floats(std::vector<float>(32, 0.1f));
  std::vector<Memory> caches;
  std::vector<SequenceRows> batch;
  for (uint32_t s = 0; s < 3; ++s) {
    caches.push_back(device_->allocate(ops_->kv_bytes(shape, capacity)));
    ops_->zero(*stream_, caches.back().data(), caches.back().bytes());
    const uint32_t past = 100 + 90 * s;
    const auto q = floats(random_floats(past * 256));
    const auto k = floats(random_floats(size_t{past} * kv_width));
    const SequenceRows rows{0, past, 0, caches.back().data(), capacity};
    ops_->rope_append(*stream_, q.data(), k.data(), k.data(), shape, speeds.data(), {&rows, 1});
    stream_->sync();
    batch.push_back({s, 1, past - 1, caches.back().data(), capacity});
  }
  const auto q = floats(random_floats(3 * 256));
  const auto together = poisoned(3 * 256);
  const auto alone = poisoned(3 * 256);
  ops_->attention(*stream_, q.data(), shape, batch, together.data());
  for (const SequenceRows& rows : batch) {
    ops_->attention(*stream_, q.data(), shape, {&rows, 1}, alone.data());
  }
  EXPECT_EQ(together.read(), alone.read());
}

TEST_P(OpsTest, FoldLogSoftmaxIsTheSameForEveryTile) {
  struct Cut {
    uint32_t vocab;
    uint32_t tile;
  };
  for (const Cut cut :
       {Cut{133 * kPanelRows + 9, kPanelRows}, Cut{2100 * kPanelRows + 9, 190 * kPanelRows}}) {
    SCOPED_TRACE(cut.vocab);
    expect_same_folds(cut.vocab, cut.tile);
  }
}

/// Rows of logits, and what is kept of them.
struct TopKCase {
  uint32_t rows = 1;
  uint32_t vocab = 1;
  uint32_t k = 1;
  uint32_t stride = 1;
  std::vector<float> logits;
};
struct TopK {
  std::vector<float> values;
  std::vector<uint32_t> ids;
  bool operator==(const TopK&) const = default;
};

/// By a sort of each row; what is not a number left out.
TopK sorted_top_k(const TopKCase& of) {
  TopK top;
  for (uint32_t r = 0; r < of.rows; ++r) {
    const float* row = of.logits.data() + size_t{r} * of.stride;
    std::vector<uint32_t> ids;
    for (uint32_t i = 0; i < of.vocab; ++i) {
      if (!std::isnan(row[i])) ids.push_back(i);
    }
    const auto kept = static_cast<ptrdiff_t>(std::min<size_t>(of.k, ids.size()));
    std::partial_sort(ids.begin(), ids.begin() + kept, ids.end(), [&](uint32_t a, uint32_t b) {
      return row[a] > row[b] || (row[a] == row[b] && a < b);
    });
    ids.resize(of.k, UINT32_MAX);
    std::fill(ids.begin() + kept, ids.end(), UINT32_MAX);
    for (const uint32_t id : ids) top.values.push_back(id == UINT32_MAX ? -INFINITY : row[id]);
    top.ids.insert(top.ids.end(), ids.begin(), ids.end());
  }
  return top;
}

class TopKTest : public OpsTest {
 protected:
  /// Folded in tiles of at most `tile` columns; nothing may be written behind the lists.
  TopK fold(const TopKCase& of, uint32_t tile, size_t offset = 0) {
    constexpr size_t kGuard = 64;
    const size_t count = size_t{of.rows} * of.k;
    const Array<float> logits(*this, of.logits, offset);
    std::vector<float> start(count + kGuard, kPoison);
    std::fill_n(start.begin(), count, -INFINITY);
    std::vector<uint32_t> no_ids(count + kGuard, 4711);
    std::fill_n(no_ids.begin(), count, UINT32_MAX);
    const auto values = floats(start);
    const auto top_ids = ids(no_ids);
    for (uint32_t at = 0; at < of.vocab; at += tile) {
      ops_->fold_top_k(*stream_, logits.data() + at, of.rows, std::min(tile, of.vocab - at),
                       of.stride, at, of.k, values.data(), top_ids.data());
    }
    TopK top{values.read(), top_ids.read()};
    for (size_t i = count; i < count + kGuard; ++i) {
      EXPECT_EQ(top.values[i], kPoison);
      EXPECT_EQ(top.ids[i], 4711u);
    }
    top.values.resize(count);
    top.ids.resize(count);
    return top;
  }

  uint32_t up_to(uint32_t most) { return 1 + static_cast<uint32_t>(random_() % most); }

  TopKCase random_case(bool large) {
    TopKCase of;
    of.k = random_() % 4 == 0 ? kMaxTopK - up_to(4) + 1 : up_to(random_() % 2 == 0 ? 5 : 200);
    of.vocab = up_to(large ? 30000 : 900);
    of.rows = up_to(large ? 3 : 9);
    of.stride = of.vocab + static_cast<uint32_t>(random_() % 9);
    of.logits = random_floats(size_t{of.rows} * of.stride, 4.0f);
    for (uint32_t r = 0; r < of.rows; ++r) {
      shape_row({of.logits.data() + size_t{r} * of.stride, of.vocab});
      // Between rows lies what would be the likeliest.
      std::fill_n(of.logits.begin() + r * of.stride + of.vocab, of.stride - of.vocab, 1e30f);
    }
    return of;
  }

  /// Ties, ascending, descending, infinities, zeros of both signs, or as it is.
  void shape_row(std::span<float> row) {
    const size_t shape = random_() % 8;
    if (shape == 0) std::sort(row.begin(), row.end());
    if (shape == 1) std::sort(row.rbegin(), row.rend());
    for (float& logit : row) {
      if (shape == 2) logit = std::round(logit);
      if (shape == 3) logit = std::copysign(0.0f, logit);
      if (shape == 4 && logit < 1) logit = -INFINITY;
      if (shape == 5) logit = -17.25f;
    }
  }
};

TEST_P(TopKTest, IsThatOfASortForEveryShapeAndTile) {
  for (int round = 0; round < 40; ++round) {
    SCOPED_TRACE(round);
    const TopKCase of = random_case(round % 8 == 0);
    SCOPED_TRACE(testing::Message() << of.rows << " x " << of.vocab << ", k " << of.k);
    const TopK expected = sorted_top_k(of);
    const uint32_t tile = round % 4 == 1 ? up_to(of.vocab) : of.vocab / up_to(6) + 1;
    for (const TopK& folded : {fold(of, of.vocab), fold(of, tile, 4 * (random_() % 4))}) {
      ASSERT_EQ(folded.ids, expected.ids);
      ASSERT_EQ(folded.values, expected.values);
      for (const float value : folded.values) ASSERT_FALSE(value == 0 && std::signbit(value));
    }
  }
}

/// As many rows as there is work for threads, of a vocabulary as models have them.
TEST_P(TopKTest, HoldsForLargeVocabularies) {
  TopKCase of{GetParam().cuda ? 2u : 7u, 151'936, 64, 151'936, {}};
  of.logits = random_floats(size_t{of.rows} * of.vocab, 3.0f);
  const TopK expected = sorted_top_k(of);
  EXPECT_EQ(fold(of, of.vocab), expected);
  EXPECT_EQ(fold(of, 40'000), expected);
}

/// They take no place, whatever else is there, and lead nowhere.
TEST_P(TopKTest, WhatIsNotANumberTakesNoPlace) {
  for (const float share : {0.01f, 0.5f, 1.0f}) {
    SCOPED_TRACE(share);
    TopKCase of = random_case(false);
    std::uniform_real_distribution<float> uniform(0, 1);
    for (float& logit : of.logits) {
      if (uniform(random_) < share) logit = std::copysign(NAN, uniform(random_) - 0.5f);
    }
    const TopK expected = sorted_top_k(of);
    EXPECT_EQ(fold(of, of.vocab), expected);
    EXPECT_EQ(fold(of, of.vocab / 3 + 1), expected);
  }
}

/// Tokens kept by top_k, best first, and the sum of weights through each, in double.
struct Ranking {
  std::vector<uint32_t> ids;
  std::vector<double> through;
  Ranking(const float* logits, uint32_t vocab, const SampleRow& row) : ids(vocab) {
    std::iota(ids.begin(), ids.end(), 0u);
    std::stable_sort(ids.begin(), ids.end(),
                     [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
    if (row.top_k != 0 && row.top_k < vocab) ids.resize(row.top_k);
    double sum = 0;
    for (const uint32_t i : ids) {
      sum += std::exp((double{logits[i]} - logits[ids[0]]) / row.temperature);
      through.push_back(sum);
    }
  }
  /// The fewest whose share reaches top_p.
  size_t reach(double top_p) const {
    const auto end = std::lower_bound(through.begin(), through.end(), top_p * through.back());
    return std::min(ids.size(), static_cast<size_t>(end - through.begin()) + 1);
  }
  /// Whether `id` is the one of the first `count` at which the draw is passed, give or take
  /// `slack`.
  bool may_pick(uint32_t id, size_t count, double uniform, double slack) const {
    double before = 0;
    double weight = -1;
    for (size_t i = 0; i < count; ++i) {
      const double its = through[i] - (i == 0 ? 0 : through[i - 1]);
      if (ids[i] < id) before += its;
      if (ids[i] == id) weight = its;
    }
    const double kept = through[count - 1];
    return weight >= 0 && before <= (uniform + slack) * kept &&
           before + weight >= (uniform - slack) * kept;
  }
};

/// The pick must be the one in double; either neighbour will do where a share lies within 1e-9 of
/// top_p or of the draw.
void expect_picked(const float* logits, uint32_t vocab, const SampleRow& row, uint32_t id) {
  constexpr double kNear = 1e-9;
  const Ranking ranking(logits, vocab, row);
  if (row.temperature <= 0) {
    EXPECT_EQ(id, ranking.ids[0]);
    return;
  }
  const size_t most = row.top_p < 1 ? ranking.reach(row.top_p + kNear) : ranking.ids.size();
  const size_t least = row.top_p < 1 ? ranking.reach(row.top_p - kNear) : most;
  // Between the two all but the last together weigh less than 2 * kNear: only they blur the draw.
  const size_t inner = std::max(least, most - 1);
  const double blur =
      (ranking.through[inner - 1] - ranking.through[least - 1]) / ranking.through[least - 1];
  bool may = false;
  for (const size_t count : {least, inner, most}) {
    may |= ranking.may_pick(id, count, row.uniform, kNear + blur);
  }
  EXPECT_TRUE(may) << "token " << id << " of " << vocab << "; temperature " << row.temperature
                   << " top_k " << row.top_k << " top_p " << row.top_p << " uniform " << row.uniform
                   << ", " << least << " to " << most << " kept";
}

TEST_P(OpsTest, SamplePicksByRankAndDraw) {
  const uint32_t vocab = 1500;
  std::vector<SampleRow> rows = {{0, 0, 1, 0},          {1, 0, 1, 0.5f},     {0.7f, 5, 1, 0.99f},
                                 {1.5f, 0, 0.8f, 0.3f}, {2, 50, 0.9f, 0.7f}, {1, 1, 1, 0.9f},
                                 {1, 0, 1e-6f, 0.9f},   {1, 0, 1, 0},        {0, 0, 1, 0},
                                 {1, 3, 1, 0.5f}};
  for (int i = 0; i < 60; ++i) {
    SampleRow row{1, 0, 1, 0};
    row.temperature = 0.5f + static_cast<float>(random_() % 100) / 50;
    row.top_k = static_cast<uint32_t>(random_() % 100);
    row.top_p = 0.5f + static_cast<float>(random_() % 50) / 100;
    row.uniform = static_cast<float>(random_() % 1000) / 1000;
    rows.push_back(row);
  }
  auto logits = random_floats(rows.size() * vocab, 3.0f);
  // Ties: the lower id ranks first. Row 9 has four equal tops of which three are kept.
  for (const uint32_t i : {3u, 70u}) logits[8 * vocab + i] = 50;
  for (const uint32_t i : {4u, 9u, 1000u, 1499u}) logits[9 * vocab + i] = 60;
  const auto picked = ids(std::vector<uint32_t>(rows.size(), 4711));
  const auto on_device = floats(logits);
  ops_->sample(*stream_, on_device.data(), vocab, rows, picked.data());
  const auto chosen = picked.read();
  for (size_t r = 0; r < rows.size(); ++r) {
    SCOPED_TRACE(r);
    expect_picked(logits.data() + r * vocab, vocab, rows[r], chosen[r]);
  }
  EXPECT_EQ(chosen[8], 3u);
  EXPECT_EQ(chosen[9], 9u);
}

TEST_P(OpsTest, SampleHoldsForEveryVocabularyAndShapeOfLogits) {
  const auto any_of = [&](const auto& values) { return values[random_() % std::size(values)]; };
  const auto make_row = [&](uint32_t vocab) {
    const uint32_t some = 1 + static_cast<uint32_t>(random_() % vocab);
    const float draw = static_cast<float>(random_() % (1u << 24)) * 0x1p-24f;
    return SampleRow{any_of(std::array{1e-38f, 1e-3f, 0.3f, 0.8f, 1.0f, 100.0f, 1e30f}),
                     any_of(std::array{0u, 0u, 1u, 50u, some, vocab, vocab + 7}),
                     any_of(std::array{1.0f, 1.0f, 1e-30f, 0.5f, 0.95f, 0x1.fffffep-1f, draw}),
                     any_of(std::array{0.0f, 0x1.fffffep-1f, draw, draw, draw})};
  };
  const auto make_logits = [&](uint32_t vocab) {
    auto logits = random_floats(vocab, any_of(std::array{0.01f, 3.0f, 3.0f, 1e4f}));
    const size_t shape = random_() % 6;
    for (float& logit : logits) {
      if (shape == 0) logit = std::round(logit);  // ties, and zeros of both signs
      if (shape == 1) logit = std::copysign(0.0f, logit);
      if (shape == 2) logit = -17.25f;
      if (shape == 3) logit = std::copysign(std::numeric_limits<float>::max(), logit);
    }
    return logits;
  };
  std::vector<uint32_t> vocabs = {1, 1, 2, 3, 4, 5, 31, 33, 127, 129, 2047, 4096, 4099, 128256};
  for (int i = 0; i < 8; ++i) vocabs.push_back(1 + static_cast<uint32_t>(random_() % 9000));
  vocabs.push_back(100000 + static_cast<uint32_t>(random_() % 30000));
  for (const uint32_t vocab : vocabs) {
    std::vector<SampleRow> rows;
    std::vector<float> logits;
    for (int r = 0; r < (vocab > 50000 ? 5 : 12); ++r) {
      rows.push_back(make_row(vocab));
      const auto more = make_logits(vocab);
      logits.insert(logits.end(), more.begin(), more.end());
    }
    const auto picked = ids(std::vector<uint32_t>(rows.size() + 1, 4711));
    const auto on_device = floats(logits);
    ops_->sample(*stream_, on_device.data(), vocab, rows, picked.data());
    // The last row alone and at another address: the same bits.
    const Array<float> moved(*this, {logits.end() - vocab, logits.end()}, 4);
    ops_->sample(*stream_, moved.data(), vocab, {&rows.back(), 1}, picked.data() + rows.size());
    const auto chosen = picked.read();
    for (size_t r = 0; r < rows.size(); ++r) {
      expect_picked(logits.data() + r * vocab, vocab, rows[r], chosen[r]);
    }
    EXPECT_EQ(chosen[rows.size()], chosen[rows.size() - 1]);
  }
}

TEST_P(OpsTest, SampleIsExactWhereSharesAre) {
  // Eight equal tokens: half of them reach a half, and a draw on a boundary has not passed it.
  const std::vector<SampleRow> rows = {
      {1, 0, 1, 0}, {1, 0, 1, 0.5f}, {1, 0, 0.5f, 0.5f}, {100, 6, 0.5f, 0.999f}, {1, 4, 1, 0.75f}};
  const auto picked = ids(std::vector<uint32_t>(rows.size(), 4711));
  const auto on_device = floats(std::vector<float>(rows.size() * 8, -2.5f));
  ops_->sample(*stream_, on_device.data(), 8, rows, picked.data());
  EXPECT_EQ(picked.read(), (std::vector<uint32_t>{0, 4, 2, 2, 3}));
}

TEST_P(OpsTest, SampleRefusesWhatIsNotANumber) {
  const uint32_t vocab = 1100;
  auto logits = random_floats(3 * vocab);
  logits[vocab + 1099] = NAN;
  logits[2 * vocab] = INFINITY;
  const auto picked = ids({7, 7, 7});
  const std::vector<SampleRow> rows = {{0, 0, 1, 0}, {0, 0, 1, 0}, {1, 0, 1, 0.5f}};
  const auto on_device = floats(logits);
  ops_->sample(*stream_, on_device.data(), vocab, rows, picked.data());
  const auto chosen = picked.read();
  EXPECT_LT(chosen[0], vocab);
  EXPECT_EQ(chosen[1], kBadLogits);
  EXPECT_EQ(chosen[2], kBadLogits);
}

std::vector<OpsCase> cases() {
  std::vector<OpsCase> all = {{"baseline", Isa::kBaseline, PromptMath::kF32},
                              {"avx2", Isa::kAvx2, PromptMath::kF32},
                              {"avx512", Isa::kAvx512, PromptMath::kF32},
                              {"avx512_bf16", Isa::kAvx512, PromptMath::kBf16}};
  if (test::kCudaBuilt) all.push_back({"cuda", Isa::kBaseline, PromptMath::kF32, true});
  return all;
}
std::string case_name(const testing::TestParamInfo<OpsCase>& test) {
  return test.param.name;
}

INSTANTIATE_TEST_SUITE_P(All, OpsTest, ::testing::ValuesIn(cases()), case_name);
INSTANTIATE_TEST_SUITE_P(All, TopKTest, ::testing::ValuesIn(cases()), case_name);
INSTANTIATE_TEST_SUITE_P(All, AttentionTest, ::testing::ValuesIn(cases()), case_name);

}  // namespace
}  // namespace spillway
