#include "probe/prompt_layer.h"

#include <algorithm>

#include "core/error.h"
#include "core/units.h"
#include "core/weight_format.h"

namespace spillway {
namespace {

constexpr WeightFormat kLayerFormat = WeightFormat::kBF16;
constexpr uint32_t kHidden = 4096;
constexpr uint32_t kInner = 8192;
constexpr AttentionShape kHeads{32, 8, 128, DType::kBF16};
constexpr uint32_t kQWidth = kHeads.heads * kHeads.head_dim;
constexpr uint32_t kKvWidth = kHeads.kv_heads * kHeads.head_dim;

enum : uint32_t { kQ, kK, kV, kO, kGate, kUp, kDown };
struct Matrix {
  uint32_t outputs;
  uint32_t cols;
  uint64_t bytes() const { return outputs * row_bytes(kLayerFormat, cols); }
  /// As many whole panels as a unit holds.
  uint32_t tile_rows(uint64_t unit_bytes) const {
    const uint64_t fit = align_down(unit_bytes / row_bytes(kLayerFormat, cols), kPanelRows);
    return static_cast<uint32_t>(std::clamp<uint64_t>(fit, kPanelRows, outputs));
  }
};
constexpr Matrix kMatrices[] = {{kQWidth, kHidden}, {kKvWidth, kHidden}, {kKvWidth, kHidden},
                                {kHidden, kQWidth}, {kInner, kHidden},   {kInner, kHidden},
                                {kHidden, kInner}};
/// x, y, q, what was attended to, k, v, gate, up; and the rotations' speeds.
constexpr uint64_t kRowValues = 2 * kHidden + 2 * kQWidth + 2 * kKvWidth + 2 * kInner;

}  // namespace

PromptLayer::PromptLayer(Device& device, Ops& ops, Stream& stream, const std::byte* weights,
                         uint32_t rows)
    : ops_(ops),
      stream_(stream),
      weights_(weights),
      unit_bytes_(device.stream_unit_bytes()),
      rows_(rows),
      activations_(filled_memory(device, stream,
                                 (rows * kRowValues + kHeads.head_dim / 2) * sizeof(float))) {
  OpsLimits limits;
  limits.max_rows = rows;
  limits.max_cols = kInner;
  limits.max_positions = rows;
  limits.attention = kHeads;
  workspace_ = device.allocate(std::max<uint64_t>(1, ops.workspace_bytes(limits)));
  ops.bind_workspace({workspace_.data(), workspace_.bytes()}, limits);
  cache_ = device.allocate(ops.kv_bytes(kHeads, rows));
  x_ = take(kHidden);
  y_ = take(kHidden);
  q_ = take(kQWidth);
  attended_ = take(kQWidth);
  k_ = take(kKvWidth);
  v_ = take(kKvWidth);
  gate_ = take(kInner);
  up_ = take(kInner);
  speeds_ = reinterpret_cast<float*>(activations_.data() + taken_);
}

uint64_t PromptLayer::weight_bytes() {
  uint64_t bytes = 0;
  for (const Matrix& matrix : kMatrices) bytes += matrix.bytes();
  return bytes;
}

float* PromptLayer::take(uint64_t values_of_row) {
  auto* values = reinterpret_cast<float*>(activations_.data() + taken_);
  taken_ += rows_ * values_of_row * sizeof(float);
  return values;
}

void PromptLayer::multiply(uint32_t matrix, float* out) {
  const Matrix& shape = kMatrices[matrix];
  const std::byte* data = weights_;
  for (uint32_t i = 0; i < matrix; ++i) data += kMatrices[i].bytes();
  const uint32_t tile_rows = shape.tile_rows(unit_bytes_);
  for (uint32_t first = 0; first < shape.outputs; first += tile_rows) {
    const uint32_t count = std::min(tile_rows, shape.outputs - first);
    ops_.matmul(
        stream_,
        {data + first * row_bytes(kLayerFormat, shape.cols), kLayerFormat, count, shape.cols},
        out + first, shape.outputs);
  }
}

void PromptLayer::run() {
  const NormWeight norm{{weights_, kLayerFormat, 1, kHidden}, 1e-5f};
  const SequenceRows sequence{0, rows_, 0, cache_.data(), rows_, 0};
  ops_.norm_input(stream_, x_, y_, norm, rows_, y_);
  multiply(kQ, q_);
  multiply(kK, k_);
  multiply(kV, v_);
  ops_.rope_append(stream_, q_, k_, v_, kHeads, speeds_, {&sequence, 1});
  ops_.attention(stream_, q_, kHeads, {&sequence, 1}, attended_);
  ops_.set_input(stream_, attended_, rows_, kQWidth);
  multiply(kO, y_);
  ops_.norm_input(stream_, x_, y_, norm, rows_, y_);
  multiply(kGate, gate_);
  multiply(kUp, up_);
  ops_.gated_input(stream_, Activation::kSilu, gate_, up_, rows_, kInner);
  multiply(kDown, y_);
}

double PromptLayer::seconds_of_parts(const DeviceRates& rates, uint32_t rows, uint64_t unit_bytes) {
  const auto of_format =
      std::find_if(rates.matmuls.begin(), rates.matmuls.end(),
                   [](const MatmulRate& matmuls) { return matmuls.format == kLayerFormat; });
  CHECK(of_format != rates.matmuls.end() && of_format->rows.back().rows == rows);
  const MatmulRate::Rows& matmul = of_format->rows.back();
  double sum = 0;
  for (const Matrix& matrix : kMatrices) {
    const auto tiles = ceil_div(matrix.outputs, matrix.tile_rows(unit_bytes));
    sum += static_cast<double>(matrix.bytes()) / matmul.weight_bytes_per_second +
           static_cast<double>(tiles) * matmul.start_seconds +
           matrix.outputs * matmul.output_seconds;
  }
  const double seen = 0.5 * (rows + 1.0);
  const double scores = seen * rows * kHeads.heads;
  sum += scores * (2.0 * kHeads.head_dim * rates.attention_seconds + rates.score_seconds);
  constexpr double kInputs = 2.0 * kHidden + kQWidth + kInner;
  constexpr double kOthers = 2.0 * kHidden + kQWidth + 2.0 * kKvWidth;
  return sum + rows * ((kInputs + kOthers) * rates.value_seconds + kInner * rates.gated_seconds);
}

}  // namespace spillway
