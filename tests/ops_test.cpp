// One body per operation, run for every instruction set, dtype and prompt mode this CPU has,
// against plain double-precision loops. Inputs are random at each run; outputs are poisoned before.
#include "kernels/ops.h"

#include <cmath>
#include <cstring>
#include <random>

#include "kernels/host/cpu_features.h"
#include "kernels/host/host_device.h"
#include "kernels/host/host_ops.h"
#include "tests/support.h"

namespace spillway {
namespace {

struct OpsCase {
  const char* name;
  Isa isa;
  PromptMath math;
};

class OpsTest : public ::testing::TestWithParam<OpsCase> {
 protected:
  void SetUp() override {
    if (GetParam().isa > detect_isa()) GTEST_SKIP() << "this CPU lacks the instruction set";
    if (GetParam().math == PromptMath::kBf16 && !has_avx512_bf16()) {
      GTEST_SKIP() << "this CPU lacks AVX512-BF16";
    }
    DeviceOptions options;
    options.threads = 2;
    options.prompt_math = GetParam().math;
    ops_ = make_host_ops(options, GetParam().isa);
    device_ = make_host_device();
    stream_ = device_->make_stream(StreamKind::kCompute);
    workspace_ = device_->allocate(ops_->workspace_bytes(kLimits));
    ops_->bind_workspace({workspace_.data(), workspace_.bytes()}, kLimits);
  }

  std::vector<float> random_floats(size_t count, float scale = 1.0f) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(count);
    for (float& value : values) value = normal(random_);
    return values;
  }

  /// A weight in `dtype` at an odd address, and its exact values.
  struct Weight {
    std::vector<std::byte> bytes;
    std::vector<float> values;
    WeightView view;
  };
  Weight random_weight(DType dtype, uint32_t rows, uint32_t cols) {
    Weight weight;
    weight.values = random_floats(size_t{rows} * cols, 0.1f);
    weight.bytes.resize(weight.values.size() * dtype_bytes(dtype) + 2);
    std::byte* data = weight.bytes.data() + 2;
    for (size_t i = 0; i < weight.values.size(); ++i) {
      if (dtype == DType::kF32) {
        std::memcpy(data + i * 4, &weight.values[i], 4);
      } else {
        const uint16_t raw = dtype == DType::kBF16 ? bf16_from_f32(weight.values[i])
                                                   : f16_from_f32(weight.values[i]);
        std::memcpy(data + i * 2, &raw, 2);
        weight.values[i] = load_f32(data, dtype, i);
      }
    }
    weight.view = {data, dtype, rows, cols};
    return weight;
  }

  static constexpr OpsLimits kLimits{40, 700};
  uint64_t seed_ = test::run_seed();
  std::mt19937_64 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, test::seed_note(seed_)};
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  Memory workspace_;
};

constexpr float kPoison = -7777.0f;

TEST_P(OpsTest, MatmulMatchesPlainLoops) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const uint32_t rows : {1u, 2u, 3u, 4u, 7u, 8u, 9u, 40u}) {
      for (const uint32_t cols : {64u, 172u, 288u, 700u}) {
        const uint32_t outputs = cols == 172 ? 5 : 301;
        const Weight w = random_weight(dtype, outputs, cols);
        const auto x = random_floats(size_t{rows} * cols);
        const uint32_t stride = outputs + 3;
        std::vector<float> out(size_t{rows} * stride, kPoison);
        ops_->set_input(*stream_, x.data(), rows, cols);
        ops_->matmul(*stream_, w.view, out.data(), stride);
        const bool rounds = GetParam().math == PromptMath::kBf16 && rows > 8;
        const float tolerance = rounds ? 0.05f : 2e-4f;
        for (uint32_t r = 0; r < rows; ++r) {
          for (uint32_t n = 0; n < outputs; ++n) {
            double expected = 0;
            for (uint32_t k = 0; k < cols; ++k) {
              expected += double{x[r * cols + k]} * w.values[n * cols + k];
            }
            ASSERT_NEAR(out[r * stride + n], expected, tolerance)
                << dtype_name(dtype) << " rows " << rows << " cols " << cols << " at " << r << ","
                << n;
          }
          EXPECT_EQ(out[r * stride + outputs], kPoison) << "wrote past the row";
        }
      }
    }
  }
}

/// Bit-identity over placements rests on this: cutting at panel borders, and the address of the
/// weights, change nothing; nor does the number of rows in decode.
TEST_P(OpsTest, MatmulIsBitIdenticalForTilesAddressesAndDecodeRows) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const uint32_t cols = 288;
    const uint32_t outputs = 3 * kPanelRows + 17;
    const Weight w = random_weight(dtype, outputs, cols);
    std::vector<std::byte> moved(w.bytes.size() + 64);
    const size_t bytes = size_t{outputs} * cols * dtype_bytes(dtype);
    std::memcpy(moved.data() + 38, w.view.data, bytes);
    for (const uint32_t rows : {1u, 6u, 33u}) {
      const auto x = random_floats(size_t{rows} * cols);
      std::vector<float> whole(size_t{rows} * outputs, kPoison);
      ops_->set_input(*stream_, x.data(), rows, cols);
      ops_->matmul(*stream_, w.view, whole.data(), outputs);
      std::vector<float> tiled(whole.size(), kPoison);
      for (uint32_t at = 0; at < outputs; at += 2 * kPanelRows) {
        WeightView tile = w.view;
        tile.data = moved.data() + 38 + size_t{at} * cols * dtype_bytes(dtype);
        tile.rows = std::min(2 * kPanelRows, outputs - at);
        ops_->matmul(*stream_, tile, tiled.data() + at, outputs);
      }
      EXPECT_EQ(whole, tiled) << dtype_name(dtype) << " " << rows;
      if (rows > 8) continue;
      std::vector<float> single(outputs);
      ops_->set_input(*stream_, x.data() + (rows - 1) * cols, 1, cols);
      ops_->matmul(*stream_, w.view, single.data(), outputs);
      for (uint32_t n = 0; n < outputs; ++n) {
        ASSERT_EQ(single[n], whole[(rows - 1) * outputs + n]);
      }
    }
  }
}

TEST_P(OpsTest, EmbedConvertsRows) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Weight w = random_weight(dtype, 10, 37);
    const std::vector<uint32_t> ids = {9, 0, 9, 3};
    std::vector<float> out(ids.size() * 37, kPoison);
    ops_->embed(*stream_, w.view, ids, out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(out[i], w.values[ids[i / 37] * 37 + i % 37]);
    }
  }
}

TEST_P(OpsTest, RmsnormAndBias) {
  const Weight w = random_weight(DType::kBF16, 1, 173);
  const auto x = random_floats(5 * 173);
  std::vector<float> out(x.size(), kPoison);
  ops_->rmsnorm(*stream_, x.data(), w.view, 5, 1e-5f, out.data());
  for (int r = 0; r < 5; ++r) {
    double sum = 0;
    for (int i = 0; i < 173; ++i) sum += double{x[r * 173 + i]} * x[r * 173 + i];
    const double scale = 1 / std::sqrt(sum / 173 + 1e-5);
    for (int i = 0; i < 173; ++i) {
      ASSERT_NEAR(out[r * 173 + i], x[r * 173 + i] * scale * w.values[i], 1e-5);
    }
  }
  std::vector<float> biased = x;
  ops_->add_bias(*stream_, biased.data(), 5, w.view);
  for (int i = 0; i < 5 * 173; ++i) ASSERT_EQ(biased[i], x[i] + w.values[i % 173]);
}

TEST_P(OpsTest, RopeRotatesPairs) {
  const uint32_t head_dim = 12;
  std::vector<float> frequencies;
  for (int i = 0; i < 6; ++i) frequencies.push_back(std::pow(10000.0f, -static_cast<float>(i) / 6));
  const auto x = random_floats(3 * 2 * head_dim);
  const std::vector<uint32_t> positions = {0, 5, 1000};
  std::vector<float> out = x;
  ops_->rope(*stream_, out.data(), 2, head_dim, positions, frequencies);
  for (uint32_t r = 0; r < 3; ++r) {
    for (uint32_t h = 0; h < 2; ++h) {
      for (uint32_t i = 0; i < 6; ++i) {
        const size_t at = (r * 2 + h) * head_dim + i;
        const double angle = double{static_cast<float>(positions[r]) * frequencies[i]};
        ASSERT_NEAR(out[at], x[at] * std::cos(angle) - x[at + 6] * std::sin(angle), 1e-5);
        ASSERT_NEAR(out[at + 6], x[at + 6] * std::cos(angle) + x[at] * std::sin(angle), 1e-5);
      }
    }
  }
}

TEST_P(OpsTest, SiluMulAndAdd) {
  for (const size_t count : {1u, 15u, 16u, 1000u, 40000u}) {
    auto gate = random_floats(count, 20.0f);
    const auto up = random_floats(count);
    gate[0] = -200.0f;
    std::vector<float> out = gate;
    ops_->silu_mul(*stream_, out.data(), up.data(), count);
    for (size_t i = 0; i < count; ++i) {
      const double expected = gate[i] / (1 + std::exp(-double{gate[i]})) * up[i];
      ASSERT_NEAR(out[i], expected, 1e-5 + std::abs(expected) * 1e-5) << gate[i];
    }
    std::vector<float> sum = gate;
    ops_->add(*stream_, sum.data(), up.data(), count);
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(sum[i], gate[i] + up[i]);
  }
}

/// Two sequences in one batch, one with a past; GQA and MHA; odd head sizes.
TEST_P(OpsTest, AttentionMatchesPlainLoops) {
  for (const AttentionShape shape : {AttentionShape{4, 2, 8}, AttentionShape{3, 3, 48},
                                     AttentionShape{8, 1, 20}, AttentionShape{40, 2, 64}}) {
    const uint32_t kv_width = shape.kv_heads * shape.head_dim;
    const uint32_t q_width = shape.heads * shape.head_dim;
    const uint32_t past = 21;
    const uint32_t rows = 19;
    const uint32_t capacity = 48;
    std::vector<Memory> kv;
    std::vector<std::vector<float>> keys(2);
    std::vector<std::vector<float>> values(2);
    for (int s = 0; s < 2; ++s) {
      kv.push_back(device_->allocate(ops_->kv_bytes(shape, capacity)));
      keys[s] = random_floats((past + rows) * kv_width);
      values[s] = random_floats((past + rows) * kv_width);
    }
    const SequenceRows history{0, past, 0, kv[0].data(), capacity};
    ops_->kv_append(*stream_, keys[0].data(), values[0].data(), shape, {&history, 1});
    // Sequence 0 goes on at its past with rows-1 rows, sequence 1 starts with one.
    const std::vector<SequenceRows> batch = {{0, rows - 1, past, kv[0].data(), capacity},
                                             {rows - 1, 1, 0, kv[1].data(), capacity}};
    std::vector<float> k(keys[0].begin() + past * kv_width, keys[0].end());
    std::vector<float> v(values[0].begin() + past * kv_width, values[0].end());
    std::copy_n(keys[1].begin(), kv_width, k.end() - kv_width);
    std::copy_n(values[1].begin(), kv_width, v.end() - kv_width);
    ops_->kv_append(*stream_, k.data(), v.data(), shape, batch);
    const auto q = random_floats(rows * q_width);
    std::vector<float> out(q.size(), kPoison);
    ops_->attention(*stream_, q.data(), shape, batch, out.data());
    for (uint32_t r = 0; r < rows; ++r) {
      const int s = r == rows - 1 ? 1 : 0;
      const uint32_t length = s == 1 ? 1 : past + r + 1;
      for (uint32_t h = 0; h < shape.heads; ++h) {
        const uint32_t kv_head = h / (shape.heads / shape.kv_heads);
        std::vector<double> p(length);
        double top = -1e300;
        for (uint32_t j = 0; j < length; ++j) {
          double dot = 0;
          for (uint32_t d = 0; d < shape.head_dim; ++d) {
            dot += double{q[r * q_width + h * shape.head_dim + d]} *
                   keys[s][j * kv_width + kv_head * shape.head_dim + d];
          }
          p[j] = dot / std::sqrt(static_cast<double>(shape.head_dim));
          top = std::max(top, p[j]);
        }
        double sum = 0;
        for (double& value : p) sum += value = std::exp(value - top);
        for (uint32_t d = 0; d < shape.head_dim; ++d) {
          double expected = 0;
          for (uint32_t j = 0; j < length; ++j) {
            expected += p[j] / sum * values[s][j * kv_width + kv_head * shape.head_dim + d];
          }
          ASSERT_NEAR(out[r * q_width + h * shape.head_dim + d], expected, 2e-5)
              << "row " << r << " head " << h;
        }
      }
    }
  }
}

TEST_P(OpsTest, FoldLogSoftmaxIsTheSameForEveryTile) {
  const uint32_t vocab = 5 * kPanelRows + 9;
  const uint32_t rows = 3;
  const auto logits = random_floats(size_t{rows} * vocab, 5.0f);
  const std::vector<uint32_t> targets = {0, vocab - 1, 300};
  std::vector<float> results[2];
  for (int way = 0; way < 2; ++way) {
    const uint32_t tile = way == 0 ? vocab : kPanelRows;
    std::vector<float> top(rows, -INFINITY);
    std::vector<float> sum(rows, 0.0f);
    std::vector<float> target(rows, kPoison);
    for (uint32_t at = 0; at < vocab; at += tile) {
      ops_->fold_log_softmax(*stream_, logits.data() + at, rows, std::min(tile, vocab - at), vocab,
                             at, targets, top.data(), sum.data(), target.data());
    }
    for (uint32_t r = 0; r < rows; ++r) {
      double exact = 0;
      for (uint32_t i = 0; i < vocab; ++i) exact += std::exp(double{logits[r * vocab + i]});
      results[way].push_back(target[r] - top[r] - std::log(sum[r]));
      EXPECT_NEAR(results[way].back(), logits[r * vocab + targets[r]] - std::log(exact), 1e-4);
    }
  }
  EXPECT_EQ(results[0], results[1]);
}

INSTANTIATE_TEST_SUITE_P(All, OpsTest,
                         ::testing::Values(OpsCase{"baseline", Isa::kBaseline, PromptMath::kF32},
                                           OpsCase{"avx2", Isa::kAvx2, PromptMath::kF32},
                                           OpsCase{"avx512", Isa::kAvx512, PromptMath::kF32},
                                           OpsCase{"avx512_bf16", Isa::kAvx512, PromptMath::kBf16}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace spillway
