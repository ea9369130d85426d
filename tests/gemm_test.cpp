// One product on many threads at once: the same bits as alone. An uninstrumented library hides its
// races from a race detector, so bits are compared.
#include "kernels/host/gemm.h"

#include <barrier>
#include <cstring>
#include <random>
#include <thread>

#include "core/buffer.h"
#include "kernels/host/cpu_features.h"
#include "tests/support.h"

namespace spillway {
namespace {

struct Shape {
  uint32_t rows;
  uint32_t w_rows;
  uint32_t cols;
  uint32_t out_stride;
};

/// A full block and tails of rows; panels whole, cut and of one row; dense outputs and wide ones.
std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (const uint32_t rows : {1u, 33u, 200u, 512u}) {
    for (const uint32_t w_rows : {1u, 37u, 64u}) {
      for (const uint32_t cols : {8u, 172u, 512u}) {
        for (const uint32_t stride : {w_rows, w_rows + 1, 1000u}) {
          all.push_back({rows, w_rows, cols, stride});
        }
      }
    }
  }
  return all;
}

class GemmTest : public ::testing::TestWithParam<DType> {
 protected:
  /// Operands of one thread; in f32, or the same bits read as bf16 pairs.
  struct Operands {
    std::vector<float> x;
    std::vector<float> w;
  };
  Operands operands(const Shape& shape, uint32_t thread) const {
    std::mt19937 random(static_cast<uint32_t>(test::run_seed()) + thread);
    std::normal_distribution<float> normal;
    Operands result;
    const auto fill = [&](std::vector<float>& values, uint64_t count) {
      values.resize(count);
      for (float& value : values) value = normal(random);
      if (GetParam() != DType::kBF16) return;
      std::vector<uint16_t> narrow(count);
      for (uint64_t i = 0; i < count; ++i) narrow[i] = bf16_from_f32(values[i]);
      std::memcpy(values.data(), narrow.data(), count * 2);
    };
    fill(result.x, uint64_t{shape.rows} * shape.cols);
    fill(result.w, uint64_t{shape.w_rows} * shape.cols);
    return result;
  }

  std::vector<float> product(Gemm& gemm, const Shape& shape, const Operands& in,
                             std::span<std::byte> scratch) const {
    std::vector<float> out(uint64_t{shape.rows} * shape.out_stride, -7777.0f);
    gemm.run(GetParam(), in.x.data(), in.w.data(), out.data(), shape.rows, shape.w_rows, shape.cols,
             shape.out_stride, scratch);
    return out;
  }
};

TEST_P(GemmTest, ManyThreadsGetTheBitsOfOne) {
  if (GetParam() == DType::kBF16 && !has_avx512_bf16()) GTEST_SKIP() << "no AVX512-BF16 here";
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  constexpr uint32_t kMostThreads = 8;
  constexpr uint32_t kRepeats = 4;
  Gemm gemm;
  uint64_t scratch_bytes = 0;
  for (const Shape& shape : shapes()) {
    scratch_bytes = std::max(scratch_bytes,
                             gemm.scratch_bytes(GetParam(), shape.rows, shape.w_rows, shape.cols));
  }
  std::vector<HugeBuffer> scratch;
  for (uint32_t t = 0; t < kMostThreads; ++t) scratch.emplace_back(scratch_bytes);
  const auto scratch_of = [&](uint32_t t) { return std::span(scratch[t].data(), scratch_bytes); };
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(::testing::Message() << shape.rows << "x" << shape.w_rows << "x" << shape.cols
                                      << " into rows of " << shape.out_stride);
    std::vector<Operands> inputs;
    std::vector<std::vector<float>> alone;
    for (uint32_t t = 0; t < kMostThreads; ++t) {
      inputs.push_back(operands(shape, t));
      alone.push_back(product(gemm, shape, inputs[t], scratch_of(t)));
    }
    for (const uint32_t threads : {2u, 3u, 8u}) {
      std::barrier start(threads);
      std::vector<uint32_t> wrong(threads);
      std::vector<std::thread> workers;
      for (uint32_t t = 0; t < threads; ++t) {
        workers.emplace_back([&, t] {
          start.arrive_and_wait();
          for (uint32_t i = 0; i < kRepeats; ++i) {
            wrong[t] += product(gemm, shape, inputs[t], scratch_of(t)) != alone[t] ? 1 : 0;
          }
        });
      }
      for (std::thread& worker : workers) worker.join();
      EXPECT_EQ(wrong, std::vector<uint32_t>(threads)) << "wrong results per thread";
    }
  }
}

/// The head of a model is cut where units end: a panel's sums must not depend on what it lies in.
TEST_P(GemmTest, SumsDoNotDependOnTheOutputsStride) {
  if (GetParam() == DType::kBF16 && !has_avx512_bf16()) GTEST_SKIP() << "no AVX512-BF16 here";
  Gemm gemm;
  for (Shape shape : shapes()) {
    const HugeBuffer scratch(gemm.scratch_bytes(GetParam(), shape.rows, shape.w_rows, shape.cols));
    const std::span area(scratch.data(), scratch.bytes());
    const Operands in = operands(shape, 0);
    const auto out = product(gemm, shape, in, area);
    const uint32_t stride = std::exchange(shape.out_stride, shape.w_rows);
    const auto dense = product(gemm, shape, in, area);
    for (uint32_t r = 0; r < shape.rows; ++r) {
      EXPECT_EQ(std::memcmp(&out[uint64_t{r} * stride], &dense[uint64_t{r} * shape.w_rows],
                            shape.w_rows * sizeof(float)),
                0)
          << shape.rows << "x" << shape.w_rows << "x" << shape.cols << " row " << r;
      for (uint32_t c = shape.w_rows; c < stride; ++c) {
        ASSERT_EQ(out[uint64_t{r} * stride + c], -7777.0f) << "written beside the output";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GemmTest, ::testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

}  // namespace
}  // namespace spillway
