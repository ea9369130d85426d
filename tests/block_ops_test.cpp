// Operations on weights in blocks, against decode_values and plain double-precision loops: every
// format, every address, any number of rows. Blocks are random at each run.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <string>

#include "core/units.h"
#include "core/weight_format.h"
#include "kernels/host/cpu_features.h"
#include "kernels/host/host_ops.h"
#include "kernels/ops.h"
#include "kernels/registry.h"
#include "model/forward.h"
#include "tests/support.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace spillway {
namespace {

constexpr float kUnwritten = -7777.0f;
/// Input rows up to which CUDA multiplies weights as they are; with more it rounds to bf16.
constexpr uint32_t kExactRows = 8;
constexpr uint32_t kExactHostRows = 32;

std::vector<WeightFormat> block_formats() {
  std::vector<WeightFormat> formats;
  for (const FormatTraits& traits : kFormats) {
    if (has_blocks(traits.format)) formats.push_back(traits.format);
  }
  return formats;
}

/// What one rounding makes of a value that cuBLAS takes.
double as_bf16(double value) {
  return f32_from_bf16(bf16_from_f32(static_cast<float>(value)));
}

/// What scales of random blocks may be: any finite number, or such as models have.
enum class Scales { kAny, kSmall };

struct BlockCase {
  std::string name;
  std::string device;
  Isa isa = Isa::kBaseline;  ///< of a host
};

class BlockOps : public ::testing::TestWithParam<BlockCase> {
 protected:
  void SetUp() override {
    if (on_cuda()) SPILLWAY_NEEDS_CUDA();
    if (GetParam().isa > detect_isa()) GTEST_SKIP() << "this CPU lacks the instruction set";
    DeviceOptions options;
    options.threads = 2;
    device_ = open_device(GetParam().device, options);
    ops_ = on_cuda() ? make_ops(*device_, options) : make_host_ops(options, GetParam().isa);
    stream_ = device_->make_stream(StreamKind::kCompute);
  }

  static bool on_cuda() { return GetParam().device == "cuda"; }

  void bind(uint32_t max_rows, uint32_t max_cols, uint64_t block_values) {
    OpsLimits limits{max_rows, max_cols, 64, {8, 8, 64}, DType::kBF16};
    limits.block_values = block_values;
    stream_->sync();
    workspace_ = device_->allocate(ops_->workspace_bytes(limits) + 1);
    ops_->bind_workspace({workspace_.data(), workspace_.bytes()}, limits);
  }

  /// An array on the device, at `offset` from an aligned address. Where memory is checked, what
  /// lies before and behind it is out of bounds.
  class Array {
   public:
    Array(BlockOps& test, const void* data, size_t bytes, size_t offset = 0)
        : test_(test), bytes_(bytes), offset_(offset) {
      memory_ = test.device_->allocate(bytes + offset);
      const Memory host = test.device_->allocate_pinned(bytes);
      std::memcpy(host.data(), data, bytes);
      test.stream_->copy(this->data(), host.data(), bytes);
      test.stream_->sync();
      mark(true);
    }
    Array(const Array&) = delete;
    ~Array() { mark(false); }
    std::byte* data() const { return memory_.data() + offset_; }
    float* floats() const { return reinterpret_cast<float*>(data()); }
    uint32_t* ids() const { return reinterpret_cast<uint32_t*>(data()); }
    std::vector<float> read() const {
      std::vector<float> values(bytes_ / sizeof(float));
      const Memory host = test_.device_->allocate_pinned(bytes_);
      test_.stream_->copy(host.data(), data(), bytes_);
      test_.stream_->sync();
      std::memcpy(values.data(), host.data(), bytes_);
      return values;
    }

   private:
    void mark([[maybe_unused]] bool poisoned) const {
#if defined(__SANITIZE_ADDRESS__)  // of whole eights of bytes
      if (poisoned) __asan_poison_memory_region(memory_.data(), offset_ / 8 * 8);
      if (!poisoned) __asan_unpoison_memory_region(memory_.data(), offset_);
#endif
    }
    BlockOps& test_;
    size_t bytes_;
    size_t offset_;
    Memory memory_;
  };
  template <typename T>
  Array put(const std::vector<T>& values, size_t offset = 0) {
    return {*this, values.data(), values.size() * sizeof(T), offset};
  }
  Array poisoned(size_t count) { return put(std::vector<float>(count, kUnwritten)); }

  std::vector<float> random_floats(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(random_);
    return values;
  }

  uint16_t random_half(Scales scales) {
    if (scales == Scales::kSmall) {
      return f16_from_f32(std::normal_distribution<float>(0, 0.01f)(random_));
    }
    while (true) {
      const auto raw = static_cast<uint16_t>(random_());
      if ((raw & 0x7c00u) != 0x7c00u) return raw;
    }
  }

  /// A matrix of random blocks and its values.
  struct Weight {
    WeightFormat format;
    uint32_t rows;
    uint32_t cols;
    std::vector<std::byte> bytes;
    std::vector<float> values;

    WeightView view(const std::byte* data) const { return {data, format, rows, cols}; }
  };
  Weight random_weight(WeightFormat format, uint32_t rows, uint32_t cols,
                       Scales scales = Scales::kSmall) {
    Weight w{format, rows, cols, {}, std::vector<float>(size_t{rows} * cols)};
    w.bytes.resize(rows * row_bytes(format, cols));
    for (size_t i = 0; i < w.bytes.size(); i += 8) {
      const uint64_t bits = random_();
      std::memcpy(&w.bytes[i], &bits, std::min<size_t>(8, w.bytes.size() - i));
    }
    const auto places = test::half_places(format);
    for (size_t block = 0; block < w.bytes.size(); block += traits_of(format).block_bytes) {
      for (const size_t place : places) {
        const uint16_t half = random_half(scales);
        std::memcpy(&w.bytes[block + place], &half, 2);
      }
      if (format == WeightFormat::kMXFP4) {  // 255 is no number
        w.bytes[block] =
            static_cast<std::byte>(scales == Scales::kAny ? random_() % 255 : 118 + random_() % 4);
      }
    }
    decode_values(format, w.bytes.data(), w.values.size(), w.values.data());
    return w;
  }

  std::vector<float> multiply(const Weight& w, const WeightView& view, const Array& x,
                              uint32_t rows) {
    const Array out = poisoned(size_t{rows} * w.rows);
    ops_->set_input(*stream_, x.floats(), rows, w.cols);
    ops_->matmul(*stream_, view, out.floats(), w.rows);
    return out.read();
  }

  void expect_product(const Weight& w, const std::vector<float>& x, uint32_t rows,
                      const std::vector<float>& out) {
    const bool rounds =
        on_cuda() ? rows > kExactRows : rows > kExactHostRows && bf16_matmul_is_fast();
    for (uint32_t r = 0; r < rows; ++r) {
      for (uint32_t n = 0; n < w.rows; ++n) {
        double expected = 0;
        double size = 0;
        for (uint32_t k = 0; k < w.cols; ++k) {
          const double a = x[size_t{r} * w.cols + k];
          const double b = w.values[size_t{n} * w.cols + k];
          const double product = rounds ? as_bf16(a) * as_bf16(b) : a * b;
          expected += product;
          size += std::abs(product);
        }
        ASSERT_NEAR(out[size_t{r} * w.rows + n], expected, 1e-5 * size)
            << format_name(w.format) << " [" << w.rows << ", " << w.cols << "] rows " << rows
            << " at " << r << "," << n;
      }
    }
  }

  uint64_t seed_ = test::run_seed();
  std::mt19937_64 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, test::seed_note(seed_)};
  std::unique_ptr<Device> device_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Stream> stream_;
  Memory workspace_;
};

/// Bit for bit, whatever the scales are, at every distance from an aligned address.
TEST_P(BlockOps, EmbedDecodesExactly) {
  bind(1, 64, 0);
  const std::vector<uint32_t> from = {6, 0, 6, 3, 1, 5};
  const std::vector<uint32_t> to = {0, 3, 1, 4, 6, 5};
  const Array ids = put(from);
  const Array rows = put(to);
  for (const WeightFormat format : block_formats()) {
    for (uint32_t offset = 0; offset < 17; ++offset) {
      const uint32_t blocks = offset == 0 ? 2304 / traits_of(format).block_values : 1 + offset % 4;
      const uint32_t cols = blocks * traits_of(format).block_values;
      const Weight w = random_weight(format, 7, cols, Scales::kAny);
      const Array table = put(w.bytes, offset);
      const Array out = poisoned(size_t{7} * cols);
      ops_->embed(*stream_, w.view(table.data()), ids.ids(), rows.ids(), 6, out.floats());
      const auto result = out.read();
      std::vector<float> expected(result.size(), kUnwritten);
      for (size_t i = 0; i < from.size(); ++i) {
        std::copy_n(w.values.begin() + from[i] * cols, cols, expected.begin() + to[i] * cols);
      }
      for (size_t i = 0; i < result.size(); ++i) {
        ASSERT_EQ(std::bit_cast<uint32_t>(result[i]), std::bit_cast<uint32_t>(expected[i]))
            << format_name(format) << " offset " << offset << " value " << i << ": " << result[i]
            << " for " << expected[i];
      }
    }
  }
}

TEST_P(BlockOps, MatmulMatchesPlainLoops) {
  for (const WeightFormat format : block_formats()) {
    const uint32_t block = traits_of(format).block_values;
    for (const uint32_t rows : {1u, 2u, 3u, 4u, 5u, 7u, 8u, 9u, 33u}) {
      for (const uint32_t cols : {block, 3 * 256u, 2048u, 2048 + 5 * block}) {
        const uint32_t outputs = cols == 768 ? 67 : cols == 2048 ? 1 : 5;
        bind(rows, cols, uint64_t{outputs} * cols);
        const Weight w = random_weight(format, outputs, cols);
        const Array weight = put(w.bytes, random_() % 17);
        const auto x = random_floats(size_t{rows} * cols);
        const Array input = put(x);
        expect_product(w, x, rows, multiply(w, w.view(weight.data()), input, rows));
        if (HasFatalFailure()) return;
      }
    }
  }
}

/// Neither tiles nor addresses nor, in decode, the number of rows change a bit.
TEST_P(BlockOps, MatmulIsBitIdenticalForTilesAddressesAndDecodeRows) {
  for (const WeightFormat format : block_formats()) {
    const uint32_t cols = 2048 + 256;
    const uint32_t outputs = kPanelRows + 17;
    bind(kExactRows, cols, uint64_t{outputs} * cols);
    const Weight w = random_weight(format, outputs, cols);
    const Array weight = put(w.bytes);
    const Array x = put(random_floats(size_t{kExactRows} * cols));
    const auto all = multiply(w, w.view(weight.data()), x, kExactRows);
    for (const uint32_t rows : {1u, 2u, 3u, 6u}) {
      const Array moved = put(w.bytes, random_() % 17);
      const Array out = poisoned(size_t{rows} * outputs);
      ops_->set_input(*stream_, x.floats(), rows, cols);
      for (uint32_t at = 0; at < outputs; at += kPanelRows) {
        WeightView tile = w.view(moved.data() + at * row_bytes(format, cols));
        tile.rows = std::min(kPanelRows, outputs - at);
        ops_->matmul(*stream_, tile, out.floats() + at, outputs);
      }
      EXPECT_EQ(out.read(), std::vector<float>(all.begin(), all.begin() + rows * outputs))
          << format_name(format) << " rows " << rows;
    }
  }
}

/// Formats that take an input packed in different ways, one after the other; then other numbers,
/// beginning with the format before.
TEST_P(BlockOps, OneInputServesFormatsInTurn) {
  using enum WeightFormat;
  const uint32_t cols = 1024;
  const uint32_t outputs = 40;
  const uint32_t rows = 3;
  bind(rows, cols, uint64_t{outputs} * cols);
  const auto with_outliers = [&] {
    std::vector<float> x = random_floats(size_t{rows} * cols);
    for (size_t i = 0; i < x.size() / 2; i += 100) x[i] *= 1e4f;
    return x;
  };
  for (const std::vector<float>& x : {with_outliers(), with_outliers()}) {
    const Array shared = put(x);
    ops_->set_input(*stream_, shared.floats(), rows, cols);
    std::map<WeightFormat, Weight> weights;
    for (const WeightFormat format : {kQ4_K, kQ6_K, kQ5_K, kQ8_0, kMXFP4, kQ2_K, kQ4_0, kQ4_K}) {
      if (!weights.contains(format)) weights[format] = random_weight(format, outputs, cols);
      const Weight& w = weights[format];
      const Array weight = put(w.bytes);
      const Array out = poisoned(size_t{rows} * outputs);
      ops_->matmul(*stream_, w.view(weight.data()), out.floats(), outputs);
      expect_product(w, x, rows, out.read());
      if (HasFatalFailure()) return;
    }
  }
}

/// A tile that is made plain in two pieces.
TEST_P(BlockOps, PromptsTakeLargeTilesInPieces) {
  const uint32_t cols = 1 << 18;
  const uint32_t outputs = kPanelRows + 6;
  const uint32_t rows = kExactRows + 1;
  const WeightFormat format = WeightFormat::kQ4_K;
  bind(rows, cols, uint64_t{outputs} * cols);
  const Weight w = random_weight(format, outputs, cols);
  const Array weight = put(w.bytes);
  const auto x = random_floats(size_t{rows} * cols);
  const Array input = put(x);
  expect_product(w, x, rows, multiply(w, w.view(weight.data()), input, rows));
}

/// A part of a unit, not a whole matrix, is what there must be room for.
TEST(BlockLimits, TakeTheLargestTileOfAUnit) {
  const auto matrix = [](uint32_t rows, uint32_t cols, WeightFormat format) {
    const uint64_t bytes = row_bytes(format, cols);
    return std::pair{TensorSpec{"w", 0, 0, rows, bytes, kPanelRows},
                     Weight{{"w", rows, cols, false}, format}};
  };
  WeightMap map;
  map.layers.resize(1);
  map.weights.resize(1);
  for (const auto& [tensor, weight] :
       {matrix(5000, 512, WeightFormat::kBF16), matrix(100, 512, WeightFormat::kQ8_0),
        matrix(1000, 256, WeightFormat::kQ4_K)}) {
    map.layers[0].tensors.push_back(tensor);
    map.weights[0].push_back(weight);
  }
  const auto values = [&](uint64_t unit_bytes) {
    return Forward::ops_limits({}, map, {}, unit_bytes).block_values;
  };
  EXPECT_EQ(values(kMiB), 1000u * 256);
  EXPECT_EQ(values(kMiB / 16), kMiB / 16 / 144 * 256);
  EXPECT_EQ(values(kKiB), uint64_t{kPanelRows} * 512);  // tiles are cut no smaller
  map.weights[0].resize(1);
  EXPECT_EQ(values(kMiB), 0u);
}

std::vector<BlockCase> block_cases() {
  std::vector<BlockCase> cases = {{"baseline", "host", Isa::kBaseline},
                                  {"avx2", "host", Isa::kAvx2},
                                  {"avx512", "host", Isa::kAvx512},
                                  {"avx512_vnni", "host", Isa::kAvx512Vnni}};
  if (test::kCudaBuilt) cases.push_back({"cuda", "cuda"});
  return cases;
}
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BlockOps);
INSTANTIATE_TEST_SUITE_P(All, BlockOps, ::testing::ValuesIn(block_cases()),
                         [](const auto& test) { return test.param.name; });
}  // namespace
}  // namespace spillway
