#include "model/forward.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

/// Hands out 256-byte aligned pieces of an arena; with a null base it only counts.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  float* floats(uint64_t count) { return reinterpret_cast<float*>(bytes(count * sizeof(float))); }
  std::byte* bytes(uint64_t count) {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += align_up(count, 256);
    return at;
  }
  uint64_t used() const { return used_; }
  void rewind(uint64_t to) { used_ = to; }

 private:
  std::byte* base_;
  uint64_t used_ = 0;
};

/// Vocabulary rows of the widest tile of the head that one lease can hold.
uint64_t head_tile_rows(const WeightMap& weights, uint64_t unit_bytes) {
  const TensorSpec& table = weights.layers.back().tensors.back();
  const uint64_t rows = std::max<uint64_t>(unit_bytes / table.row_bytes, kPanelRows);
  return std::min(rows, table.rows);
}

}  // namespace

/// Walks the units of a pass in order and shows each part of each tensor once. A lease ends when
/// its last part was used.
class Forward::Cursor {
 public:
  Cursor(Forward& owner) : owner_(owner) {}

  /// use(view of the tile, first row) for every tile of the next tensor.
  template <typename Use>
  void next(const Use& use) {
    uint64_t rows_left = 0;
    do {
      if (part_ == 0) lease_ = owner_.engine_.acquire(unit_, owner_.stream_);
      const Unit& unit = owner_.plan_.units[unit_];
      const Part& part = unit.parts[part_];
      const Weight& weight = owner_.weights_.weights[unit.layer][part.tensor];
      if (part.first_row == 0) rows_left = weight.spec.rows;
      CHECK(rows_left >= part.rows);
      rows_left -= part.rows;
      use(WeightView{lease_.part(part_), weight.dtype, static_cast<uint32_t>(part.rows),
                     weight.spec.cols},
          static_cast<uint32_t>(part.first_row));
      if (++part_ == unit.parts.size()) {
        lease_ = LayerLease();
        part_ = 0;
        ++unit_;
      }
    } while (rows_left > 0);
  }
  /// A tensor that is never cut.
  template <typename Use>
  void whole(const Use& use) {
    next([&](const WeightView& view, uint32_t) { use(view); });
  }

 private:
  Forward& owner_;
  uint32_t unit_ = 0;
  size_t part_ = 0;
  LayerLease lease_;
};

uint64_t Forward::lay_out(const ModelConfig& config, const WeightMap& weights,
                          const ForwardLimits& limits, uint64_t unit_bytes, std::byte* base,
                          Buffers* buffers) {
  const uint64_t rows = limits.max_rows;
  Buffers b{};
  Carver carver(base);
  b.x = carver.floats(rows * config.hidden);
  b.norm = carver.floats(rows * config.hidden);
  // Attention, MLP and the scoring head never need their buffers at the same time.
  const uint64_t shared = carver.used();
  b.q = carver.floats(rows * config.q_width());
  b.k = carver.floats(rows * config.kv_width());
  b.v = carver.floats(rows * config.kv_width());
  b.attended = carver.floats(rows * config.q_width());
  uint64_t end = carver.used();
  carver.rewind(shared);
  b.gate = carver.floats(rows * config.intermediate);
  b.up = carver.floats(rows * config.intermediate);
  end = std::max(end, carver.used());
  carver.rewind(shared);
  b.raw_rows = carver.bytes(rows * weights.embed.tensors[0].row_bytes);
  end = std::max(end, carver.used());
  if (limits.scoring) {
    carver.rewind(shared);
    b.logits = carver.floats(rows * head_tile_rows(weights, unit_bytes));
    b.running = carver.floats(3 * rows);
    end = std::max(end, carver.used());
  } else {
    carver.rewind(end);
    b.logits = carver.floats(uint64_t{limits.max_logit_rows} * config.vocab);
    end = carver.used();
  }
  if (buffers != nullptr) *buffers = b;
  return end;
}

uint64_t Forward::activation_bytes(const ModelConfig& config, const WeightMap& weights,
                                   const ForwardLimits& limits, uint64_t unit_bytes) {
  return lay_out(config, weights, limits, unit_bytes, nullptr, nullptr);
}

uint64_t Forward::host_row_bytes(const WeightMap& weights, const ForwardLimits& limits) {
  return limits.max_rows * weights.embed.tensors[0].row_bytes;
}

uint64_t Forward::host_result_bytes(const ModelConfig& config, const ForwardLimits& limits) {
  const uint64_t floats = limits.scoring ? uint64_t{3} * limits.max_rows
                                         : uint64_t{limits.max_logit_rows} * config.vocab;
  return floats * sizeof(float);
}

OpsLimits Forward::ops_limits(const ModelConfig& config, const ForwardLimits& limits) {
  return {limits.max_rows, std::max({config.hidden, config.q_width(), config.intermediate})};
}

Forward::Forward(const ModelConfig& config, const WeightMap& weights, const StreamPlan& plan,
                 Engine& engine, Device& device, Ops& ops, Stream& stream, KvCache& cache,
                 Trace& trace, const ForwardLimits& limits, uint64_t unit_bytes)
    : config_(config),
      weights_(weights),
      plan_(plan),
      engine_(engine),
      ops_(ops),
      stream_(stream),
      cache_(cache),
      trace_(trace),
      shape_{config.heads, config.kv_heads, config.head_dim},
      inverse_frequencies_(config.rope_inverse_frequencies()),
      memory_(device.allocate(activation_bytes(config, weights, limits, unit_bytes))),
      host_rows_(device.allocate_pinned(host_row_bytes(weights, limits))),
      host_logits_(device.allocate_pinned(host_result_bytes(config, limits))) {
  lay_out(config, weights, limits, unit_bytes, memory_.data(), &buffers_);
  ops.zero(stream, memory_.data(), memory_.bytes());
  const OpsLimits ops_limit = ops_limits(config, limits);
  if (const uint64_t bytes = ops.workspace_bytes(ops_limit); bytes > 0) {
    workspace_ = device.allocate(bytes);
    ops.zero(stream, workspace_.data(), workspace_.bytes());
  }
  ops.bind_workspace({workspace_.data(), workspace_.bytes()}, ops_limit);
  positions_.reserve(limits.max_rows);
  row_numbers_.resize(limits.max_rows);
  std::iota(row_numbers_.begin(), row_numbers_.end(), 0u);
  log_probabilities_.reserve(limits.max_rows);
}

void Forward::run(const Batch& batch) {
  CHECK(!batch.ids.empty() && batch.ids.size() <= row_numbers_.size());
  positions_.clear();
  for (const BatchSequence& sequence : batch.sequences) {
    for (uint32_t i = 0; i < sequence.rows; ++i) {
      positions_.push_back(sequence.first_position + i);
    }
  }
  CHECK(positions_.size() == batch.ids.size());
  embed(batch);
  Cursor cursor(*this);
  for (uint32_t layer = 0; layer < config_.layers; ++layer) decoder_layer(cursor, layer, batch);
  head(cursor, batch);
  stream_.sync();
}

void Forward::embed(const Batch& batch) {
  engine_.gather_rows(batch.ids, host_rows_.data());
  const auto rows = static_cast<uint32_t>(batch.ids.size());
  const TensorSpec& table = weights_.embed.tensors[0];
  stream_.copy(buffers_.raw_rows, host_rows_.data(), rows * table.row_bytes);
  const WeightView view{buffers_.raw_rows, weights_.embed_weight.dtype, rows, config_.hidden};
  ops_.embed(stream_, view, std::span(row_numbers_).first(rows), buffers_.x);
}

void Forward::linear(Cursor& cursor, float* out, uint32_t rows, uint32_t outputs, bool bias) {
  cursor.next([&](const WeightView& tile, uint32_t first_row) {
    ops_.matmul(stream_, tile, out + first_row, outputs);
  });
  if (!bias) return;
  cursor.whole([&](const WeightView& view) { ops_.add_bias(stream_, out, rows, view); });
}

void Forward::decoder_layer(Cursor& cursor, uint32_t layer, const Batch& batch) {
  const int64_t begin_ns = trace_.on() ? trace_.now_ns() : 0;
  attention_block(cursor, layer, batch);
  mlp_block(cursor, static_cast<uint32_t>(batch.ids.size()));
  if (trace_.on()) {
    trace_.span(TraceLane::kCompute, layer, begin_ns, trace_.now_ns(),
                weights_.layers[layer].bytes());
  }
}

std::span<const SequenceRows> Forward::sequence_rows(uint32_t layer, const Batch& batch) {
  sequence_rows_.clear();
  for (const BatchSequence& s : batch.sequences) {
    sequence_rows_.push_back({s.first_row, s.rows, s.first_position,
                              cache_.layer(s.sequence, layer), cache_.capacity(s.sequence)});
  }
  return sequence_rows_;
}

void Forward::attention_block(Cursor& cursor, uint32_t layer, const Batch& batch) {
  const auto rows = static_cast<uint32_t>(batch.ids.size());
  const auto epsilon = static_cast<float>(config_.rms_epsilon);
  Buffers& b = buffers_;
  cursor.whole(
      [&](const WeightView& weight) { ops_.rmsnorm(stream_, b.x, weight, rows, epsilon, b.norm); });
  ops_.set_input(stream_, b.norm, rows, config_.hidden);
  linear(cursor, b.q, rows, config_.q_width(), config_.qkv_bias);
  linear(cursor, b.k, rows, config_.kv_width(), config_.qkv_bias);
  linear(cursor, b.v, rows, config_.kv_width(), config_.qkv_bias);
  if (config_.qk_norm) {  // per head: each head is a row of its own
    cursor.whole([&](const WeightView& weight) {
      ops_.rmsnorm(stream_, b.q, weight, rows * config_.heads, epsilon, b.q);
    });
    cursor.whole([&](const WeightView& weight) {
      ops_.rmsnorm(stream_, b.k, weight, rows * config_.kv_heads, epsilon, b.k);
    });
  }
  ops_.rope(stream_, b.q, config_.heads, config_.head_dim, positions_, inverse_frequencies_);
  ops_.rope(stream_, b.k, config_.kv_heads, config_.head_dim, positions_, inverse_frequencies_);
  const auto sequences = sequence_rows(layer, batch);
  ops_.kv_append(stream_, b.k, b.v, shape_, sequences);
  ops_.attention(stream_, b.q, shape_, sequences, b.attended);
  ops_.set_input(stream_, b.attended, rows, config_.q_width());
  linear(cursor, b.norm, rows, config_.hidden, config_.output_bias);
  ops_.add(stream_, b.x, b.norm, uint64_t{rows} * config_.hidden);
}

void Forward::mlp_block(Cursor& cursor, uint32_t rows) {
  const auto epsilon = static_cast<float>(config_.rms_epsilon);
  Buffers& b = buffers_;
  cursor.whole(
      [&](const WeightView& weight) { ops_.rmsnorm(stream_, b.x, weight, rows, epsilon, b.norm); });
  ops_.set_input(stream_, b.norm, rows, config_.hidden);
  linear(cursor, b.gate, rows, config_.intermediate, config_.mlp_bias);
  linear(cursor, b.up, rows, config_.intermediate, config_.mlp_bias);
  ops_.silu_mul(stream_, b.gate, b.up, uint64_t{rows} * config_.intermediate);
  ops_.set_input(stream_, b.gate, rows, config_.intermediate);
  linear(cursor, b.norm, rows, config_.hidden, config_.mlp_bias);
  ops_.add(stream_, b.x, b.norm, uint64_t{rows} * config_.hidden);
}

void Forward::head(Cursor& cursor, const Batch& batch) {
  const int64_t begin_ns = trace_.on() ? trace_.now_ns() : 0;
  if (!batch.targets.empty()) {
    scoring_head(cursor, batch);
  } else {
    generation_head(cursor, batch);
  }
  if (trace_.on()) {
    trace_.span(TraceLane::kCompute, config_.layers, begin_ns, trace_.now_ns(),
                weights_.layers.back().bytes());
  }
}

void Forward::generation_head(Cursor& cursor, const Batch& batch) {
  const auto rows = static_cast<uint32_t>(batch.logit_rows.size());
  Buffers& b = buffers_;
  for (uint32_t i = 0; i < rows; ++i) {
    if (batch.logit_rows[i] == i) continue;
    CHECK(batch.logit_rows[i] > i);  // ascending: no row is overwritten before it moved
    stream_.copy(
        reinterpret_cast<std::byte*>(b.x + uint64_t{i} * config_.hidden),
        reinterpret_cast<const std::byte*>(b.x + uint64_t{batch.logit_rows[i]} * config_.hidden),
        config_.hidden * sizeof(float));
  }
  cursor.whole([&](const WeightView& weight) {
    if (rows == 0) return;  // a prompt chunk that ends no prompt: the head only passes by
    ops_.rmsnorm(stream_, b.x, weight, rows, static_cast<float>(config_.rms_epsilon), b.norm);
    ops_.set_input(stream_, b.norm, rows, config_.hidden);
  });
  cursor.next([&](const WeightView& tile, uint32_t first_row) {
    if (rows > 0) ops_.matmul(stream_, tile, b.logits + first_row, config_.vocab);
  });
  if (rows == 0) return;
  stream_.copy(host_logits_.data(), reinterpret_cast<const std::byte*>(b.logits),
               uint64_t{rows} * config_.vocab * sizeof(float));
}

void Forward::scoring_head(Cursor& cursor, const Batch& batch) {
  const auto rows = static_cast<uint32_t>(batch.ids.size());
  CHECK(batch.targets.size() == rows);
  Buffers& b = buffers_;
  auto* host = reinterpret_cast<float*>(host_logits_.data());
  std::fill_n(host, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(host + rows, 2 * rows, 0.0f);
  cursor.whole([&](const WeightView& weight) {
    ops_.rmsnorm(stream_, b.x, weight, rows, static_cast<float>(config_.rms_epsilon), b.norm);
  });
  stream_.copy(reinterpret_cast<std::byte*>(b.running), host_logits_.data(),
               uint64_t{3} * rows * sizeof(float));
  ops_.set_input(stream_, b.norm, rows, config_.hidden);
  cursor.next([&](const WeightView& tile, uint32_t first_row) {
    ops_.matmul(stream_, tile, b.logits, tile.rows);
    ops_.fold_log_softmax(stream_, b.logits, rows, tile.rows, tile.rows, first_row, batch.targets,
                          b.running, b.running + rows, b.running + 2 * rows);
  });
  stream_.copy(host_logits_.data(), reinterpret_cast<const std::byte*>(b.running),
               uint64_t{3} * rows * sizeof(float));
  stream_.sync();
  log_probabilities_.assign(rows, 0.0f);
  for (uint32_t r = 0; r < rows; ++r) {
    if (batch.targets[r] == UINT32_MAX) continue;
    log_probabilities_[r] = host[2 * rows + r] - host[r] - std::log(host[rows + r]);
  }
}

std::span<const float> Forward::logits(uint32_t index) const {
  const auto* host = reinterpret_cast<const float*>(host_logits_.data());
  return {host + uint64_t{index} * config_.vocab, config_.vocab};
}

}  // namespace spillway
