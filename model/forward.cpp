#include "model/forward.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/units.h"
#include "model/sweep.h"
#include "model/sweep_states.h"

namespace spillway {
namespace {

/// Hands out 256-byte aligned pieces of an arena; with a null base it only counts.
class Carver {
 public:
  static constexpr uint64_t kAlignment = 256;
  explicit Carver(std::byte* base) : base_(base) {}
  float* floats(uint64_t count) { return reinterpret_cast<float*>(bytes(count * sizeof(float))); }
  uint32_t* ids(uint64_t count) {
    return reinterpret_cast<uint32_t*>(bytes(count * sizeof(uint32_t)));
  }
  std::byte* bytes(uint64_t count) {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += align_up(count, kAlignment);
    return at;
  }
  uint64_t used() const { return used_; }
  void rewind(uint64_t to) { used_ = to; }

 private:
  std::byte* base_;
  uint64_t used_ = 0;
};

/// Rows of the largest tile of a matrix that one lease can hold.
uint64_t largest_tile_rows(const TensorSpec& matrix, uint64_t unit_bytes) {
  const uint64_t rows = std::max<uint64_t>(unit_bytes / matrix.row_bytes, kPanelRows);
  return std::min(rows, matrix.rows);
}

/// Vocabulary rows of the widest tile of the head.
uint64_t head_tile_rows(const WeightMap& weights, uint64_t unit_bytes) {
  return largest_tile_rows(weights.layers.back().tensors.back(), unit_bytes);
}

/// Values of the largest tile of a matrix in blocks.
uint64_t block_tile_values(const WeightMap& map, uint64_t unit_bytes) {
  uint64_t most = 0;
  for (size_t l = 0; l < map.layers.size(); ++l) {
    for (size_t t = 0; t < map.weights[l].size(); ++t) {
      const Weight& weight = map.weights[l][t];
      if (!has_blocks(weight.format)) continue;
      const uint64_t rows = largest_tile_rows(map.layers[l].tensors[t], unit_bytes);
      most = std::max(most, rows * weight.spec.cols);
    }
  }
  return most;
}

}  // namespace

/// A batch on its way through one layer or all.
struct Forward::Walk {
  Walk(const Batch& of, size_t index, float* states, const ForwardObserver* told)
      : batch(of),
        number(index),
        observer(told),
        x(states),
        rows(static_cast<uint32_t>(of.ids.size())) {}
  const Batch& batch;
  size_t number;                    ///< of the batch in its sweep
  const ForwardObserver* observer;  ///< may be null
  float* x;                         ///< hidden states, [rows, hidden]
  uint32_t rows;
  uint32_t layer = 0;
  bool result = false;  ///< a block left one that was not added to x yet
};

namespace {

/// Tables of inverse frequencies that sequences choose from: that of short ones, and one per longer
/// sequence. The table of layers with a base of their own comes after them.
uint32_t sequence_tables(const ModelConfig& config, const ForwardLimits& limits) {
  return rope_has_regimes(config.rope_scaling) ? 1 + limits.max_rows : 1;
}

/// Values of all tables.
uint64_t rope_values(const ModelConfig& config, const ForwardLimits& limits) {
  const uint64_t tables = sequence_tables(config, limits) + (config.local_rope_theta ? 1 : 0);
  return tables * config.rotary_pairs();
}

}  // namespace

uint64_t Forward::lay_out(const ModelConfig& config, const WeightMap& weights,
                          const ForwardLimits& limits, uint64_t unit_bytes, std::byte* base,
                          Buffers* buffers) {
  const uint64_t rows = limits.max_rows;
  Buffers b{};
  Carver carver(base);
  if (!keeps_one_layer(limits)) b.x = carver.floats(rows * config.hidden);
  b.of_steps[static_cast<size_t>(Buffer::kResult)] = carver.floats(rows * config.hidden);
  b.inverse_frequencies = carver.floats(rope_values(config, limits));
  b.indices = carver.ids(3 * rows);
  b.picked = carver.ids(limits.max_logit_rows);
  // Layers, embedding and the scoring head never need their buffers at the same time.
  const uint64_t shared = carver.used();
  const BufferPlaces places = place_buffers(weights.program, rows, Carver::kAlignment);
  std::byte* steps = carver.bytes(places.bytes);
  for (size_t i = 0; i < kBuffers; ++i) {
    if (i == static_cast<size_t>(Buffer::kResult) || steps == nullptr) continue;
    b.of_steps[i] = reinterpret_cast<float*>(steps + places.offsets[i]);
  }
  uint64_t end = carver.used();
  carver.rewind(shared);
  b.raw_rows = carver.bytes(rows * weights.embed.tensors[0].row_bytes);
  end = std::max(end, carver.used());
  if (limits.scoring) {
    carver.rewind(shared);
    b.logits = carver.floats(rows * head_tile_rows(weights, unit_bytes));
    b.running = carver.floats(3 * rows);
    b.top_logits = carver.floats(rows * limits.top_k);
    b.top_ids = carver.ids(rows * limits.top_k);
    end = std::max(end, carver.used());
  } else {
    carver.rewind(end);
    b.logits = carver.floats(uint64_t{limits.max_logit_rows} * config.vocab);
    end = carver.used();
  }
  if (buffers != nullptr) *buffers = b;
  return end;
}

uint64_t Forward::lay_out_host(const ModelConfig& config, const WeightMap& weights,
                               const ForwardLimits& limits, std::byte* base, HostBuffers* buffers) {
  const uint64_t rows = limits.max_rows;
  HostBuffers b{};
  Carver carver(base);
  b.raw_rows = carver.bytes(rows * weights.embed.tensors[0].row_bytes);
  b.indices = carver.ids(3 * rows);
  b.inverse_frequencies = carver.floats(rope_values(config, limits));
  b.picked = carver.ids(limits.max_logit_rows);
  if (limits.scoring) b.running = carver.floats(3 * rows);
  if (limits.keep_logits) b.logits = carver.floats(uint64_t{limits.max_logit_rows} * config.vocab);
  b.top_logits = carver.floats(rows * limits.top_k);
  b.top_ids = carver.ids(rows * limits.top_k);
  if (!limits.hidden_layers.empty()) b.hidden = carver.floats(rows * config.hidden);
  if (buffers != nullptr) *buffers = b;
  return carver.used();
}

uint64_t Forward::activation_bytes(const ModelConfig& config, const WeightMap& weights,
                                   const ForwardLimits& limits, uint64_t unit_bytes) {
  return lay_out(config, weights, limits, unit_bytes, nullptr, nullptr);
}

uint64_t Forward::host_bytes(const ModelConfig& config, const WeightMap& weights,
                             const ForwardLimits& limits) {
  return lay_out_host(config, weights, limits, nullptr, nullptr);
}

OpsLimits Forward::ops_limits(const ModelConfig& config, const WeightMap& weights,
                              const ForwardLimits& limits, uint64_t unit_bytes) {
  OpsLimits ops;
  ops.max_rows = limits.max_rows;
  ops.max_cols = std::max({config.hidden, config.q_width(), config.intermediate});
  ops.max_positions = limits.max_positions;
  ops.attention = attention_shape(config, weights);
  ops.matrix_dtype = weights.matrix_dtype();
  ops.block_values = block_tile_values(weights, unit_bytes);
  return ops;
}

AttentionShape attention_shape(const ModelConfig& config, const WeightMap& weights) {
  AttentionShape shape;
  shape.heads = config.heads;
  shape.kv_heads = config.kv_heads;
  shape.head_dim = config.head_dim;
  shape.kv_dtype = weights.kv_dtype();
  shape.rope_scale = static_cast<float>(config.rope_scaling.attention_factor);
  shape.interleaved = config.interleaved_heads;
  shape.score_scale = config.score_scale;
  shape.score_cap = config.score_cap;
  shape.rotary_dim = config.rotary_dim;
  return shape;
}

Forward::Forward(const Parts& parts, const ForwardLimits& limits, uint64_t unit_bytes)
    : config_(*parts.config),
      weights_(*parts.weights),
      plan_(*parts.plan),
      engine_(*parts.engine),
      ops_(*parts.ops),
      stream_(*parts.stream),
      cache_(*parts.cache),
      states_(parts.states),
      trace_(*parts.trace),
      shape_(attention_shape(config_, weights_)),
      limits_(limits),
      cursor_(engine_, stream_, plan_, weights_),
      memory_(parts.arena->take(activation_bytes(config_, weights_, limits, unit_bytes))),
      host_memory_(parts.device->allocate_pinned(host_bytes(config_, weights_, limits))) {
  const std::vector<uint32_t>& told = limits_.hidden_layers;
  CHECK(limits_.scoring || (limits_.top_k == 0 && told.empty()));
  CHECK(limits_.top_k <= kMaxTopK);
  CHECK(std::is_sorted(told.begin(), told.end()));
  CHECK(told.empty() || told.back() <= config_.layers);
  for (auto& end : step_ends_) end = parts.device->make_event();
  lay_out(config_, weights_, limits, unit_bytes, memory_.data(), &buffers_);
  lay_out_host(config_, weights_, limits, host_memory_.data(), &host_);
  const OpsLimits ops_limit = ops_limits(config_, weights_, limits, unit_bytes);
  if (const uint64_t bytes = ops_.workspace_bytes(ops_limit); bytes > 0) {
    workspace_ = parts.arena->take(bytes);
    ops_.zero(stream_, workspace_.data(), workspace_.bytes());
  }
  ops_.bind_workspace({workspace_.data(), workspace_.bytes()}, ops_limit);
  ops_.zero(stream_, memory_.data(), memory_.bytes());
  rope_regimes_.reserve(sequence_tables(config_, limits_));
  rope_tables_.reserve(limits.max_rows);
  rope_regimes_.push_back(0);
  make_rope_table(0, config_.rope_scaling, config_.rope_theta, 0);
  local_rope_table_ = sequence_tables(config_, limits_);
  if (config_.local_rope_theta) {
    make_rope_table(local_rope_table_, {}, *config_.local_rope_theta, 0);
  }
  copy(buffers_.inverse_frequencies, host_.inverse_frequencies, rope_values(config_, limits_));
  stream_.sync();
  embed_groups_.reserve(plan_.units.size() + 1);
  gathered_ids_.reserve(limits.max_rows);
  on_device_.reserve(limits.max_rows);
  log_probabilities_.reserve(limits.max_rows);
  log_sum_exp_.reserve(limits.max_rows);
  greedy_.reserve(limits.max_rows);
}

template <typename T>
void Forward::copy(T* target, const T* source, uint64_t count) {
  stream_.copy(reinterpret_cast<std::byte*>(target), reinterpret_cast<const std::byte*>(source),
               count * sizeof(T));
}

void Forward::make_rope_table(uint32_t table, const RopeScaling& scaling, double theta,
                              uint32_t regime) {
  const uint64_t pairs = config_.rotary_pairs();
  rope_inverse_frequencies(scaling, theta, regime,
                           {host_.inverse_frequencies + table * pairs, pairs});
}

/// Finds the table of every sequence, and makes those that this batch needs. The first is that of
/// short sequences and always there.
void Forward::choose_rope_tables(const Batch& batch) {
  rope_tables_.assign(batch.sequences.size(), 0);
  if (!rope_has_regimes(config_.rope_scaling)) return;
  rope_regimes_.resize(1);
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const uint32_t regime = rope_regime(config_.rope_scaling, batch.sequences[s].length);
    const auto known = std::find(rope_regimes_.begin(), rope_regimes_.end(), regime);
    const auto table = static_cast<uint32_t>(known - rope_regimes_.begin());
    rope_tables_[s] = table;
    if (known != rope_regimes_.end()) continue;
    rope_regimes_.push_back(regime);
    make_rope_table(table, config_.rope_scaling, config_.rope_theta, regime);
  }
  copy(buffers_.inverse_frequencies, host_.inverse_frequencies,
       rope_regimes_.size() * config_.rotary_pairs());
}

namespace {

/// Leases of a walk that an error ends early are given back with it.
struct EndsLeases {
  explicit EndsLeases(UnitCursor& of) : cursor(of) {}
  ~EndsLeases() { cursor.give_back(); }
  EndsLeases(const EndsLeases&) = delete;
  UnitCursor& cursor;
};

/// Of a sweep: where an error ends it, what its hidden states still wait for is ended, too.
struct UsesStates {
  UsesStates(SweepStates& of, const SweepSchedule& steps) : states(of) { states.begin(steps); }
  ~UsesStates() {
    if (!done) states.break_off();
  }
  UsesStates(const UsesStates&) = delete;
  SweepStates& states;
  bool done = false;
};

}  // namespace

void Forward::run(const Batch& batch, const ForwardObserver* observer) {
  CHECK(!batch.ids.empty() && batch.ids.size() <= limits_.max_rows && !keeps_one_layer(limits_));
  const EndsLeases ends(cursor_);
  choose_rope_tables(batch);
  Walk walk(batch, 0, buffers_.x, observer);
  embed(walk);
  for (uint32_t layer = 0; layer < config_.layers; ++layer) {
    cursor_.begin(layer, false);
    decoder_layer(walk, layer);
    const bool last = layer + 1 == config_.layers;
    if (last || tells_hidden(walk, layer + 1)) add_result(walk);
    if (!last) tell_hidden(walk, layer + 1, walk.x);
  }
  cursor_.begin(config_.layers, false);
  head(walk);
  stream_.sync();
  if (observer != nullptr && observer->scored && !batch.targets.empty()) observer->scored(0);
}

void Forward::sweep(std::span<const SweepBatch> batches, const ForwardObserver& observer) {
  const EndsLeases ends(cursor_);
  std::vector<uint32_t> rows;
  for (const SweepBatch& of : batches) rows.push_back(static_cast<uint32_t>(of.batch.ids.size()));
  const SweepSchedule steps(config_.layers + 1, rows);
  UsesStates states(*states_, steps);
  for (size_t done = 0; done < steps.size(); ++done) {
    const SweepStep step = steps[done];
    engine_.check_stop();  // a layer that is there acquires nothing
    Event& before_last = *step_ends_[done % step_ends_.size()];
    before_last.sync();  // so far may a device be behind what it was told
    const SweepBatch& of = batches[step.batch];
    CHECK(of.batch.ids.size() <= limits_.max_rows);
    CHECK(step.first_row + of.batch.ids.size() <= limits_.sweep_rows);
    const bool tables = rope_has_regimes(config_.rope_scaling);
    if (step.layer == 0 || tables) stream_.sync();  // host memory of the batch before is free
    choose_rope_tables(of.batch);
    if (keeps_one_layer(limits_)) cache_.assign(of.kv_lengths);
    Walk walk(of.batch, step.batch, states_->take(done), &observer);
    if (step.layer == 0) embed(walk);
    cursor_.begin(step.layer, !step.last_of_layer);
    if (step.layer < config_.layers) {
      decoder_layer(walk, step.layer);
      add_result(walk);
      if (step.layer + 1 < config_.layers) tell_hidden(walk, step.layer + 1, walk.x);
    } else {
      head(walk);
      if (!limits_.scoring) stream_.sync();  // what was picked is there
      if (observer.scored) observer.scored(step.batch);
    }
    states_->give(done);
    stream_.record(before_last);
    if (observer.stepped) observer.stepped(done + 1, steps.size());
  }
  stream_.sync();
  states.done = true;
}

/// Rows of the table that lie on the device are gathered there; the others come from RAM or file.
void Forward::group_rows(const Batch& batch) {
  const TensorSpec& table = weights_.embed.tensors[0];
  const WeightFormat format = weights_.embed_weight.format;
  const auto count = static_cast<uint32_t>(batch.ids.size());
  uint32_t* ids = host_.indices;
  uint32_t* rows = ids + limits_.max_rows;
  uint32_t filled = 0;
  embed_groups_.clear();
  on_device_.assign(count, false);
  for (const DeviceRows& span : engine_.device_rows()) {
    const uint32_t begin = filled;
    for (uint32_t i = 0; i < count; ++i) {
      if (batch.ids[i] < span.first_row || batch.ids[i] - span.first_row >= span.rows) continue;
      ids[filled] = static_cast<uint32_t>(batch.ids[i] - span.first_row);
      rows[filled++] = i;
      on_device_[i] = true;
    }
    const WeightView view{span.data, format, static_cast<uint32_t>(span.rows), config_.hidden};
    if (filled > begin) embed_groups_.push_back({view, begin, filled - begin});
  }
  gathered_ids_.clear();
  const uint32_t begin = filled;
  for (uint32_t i = 0; i < count && filled < count; ++i) {
    if (on_device_[i]) continue;
    ids[filled] = static_cast<uint32_t>(gathered_ids_.size());
    rows[filled++] = i;
    gathered_ids_.push_back(batch.ids[i]);
  }
  CHECK(filled == count);
  if (gathered_ids_.empty()) return;
  engine_.gather_rows(gathered_ids_, host_.raw_rows);
  copy(buffers_.raw_rows, host_.raw_rows, gathered_ids_.size() * table.row_bytes);
  const WeightView view{buffers_.raw_rows, format, static_cast<uint32_t>(gathered_ids_.size()),
                        config_.hidden};
  embed_groups_.push_back({view, begin, filled - begin});
}

void Forward::embed(const Walk& walk) {
  group_rows(walk.batch);
  copy(buffers_.indices, host_.indices, uint64_t{2} * limits_.max_rows);
  for (const EmbedGroup& group : embed_groups_) {
    const uint32_t* ids = buffers_.indices + group.begin;
    ops_.embed(stream_, group.table, ids, ids + limits_.max_rows, group.count, walk.x);
  }
  if (config_.scaled_embeddings) {
    const auto factor = static_cast<float>(std::sqrt(static_cast<double>(config_.hidden)));
    ops_.scale(stream_, walk.x, factor, uint64_t{config_.hidden} * walk.rows);
  }
  tell_hidden(walk, 0, walk.x);
}

bool Forward::tells_hidden(const Walk& walk, uint32_t layer) const {
  const std::vector<uint32_t>& told = limits_.hidden_layers;
  return walk.observer != nullptr && walk.observer->hidden &&
         std::binary_search(told.begin(), told.end(), layer);
}

/// Where they are wanted: waits for the device.
void Forward::tell_hidden(const Walk& walk, uint32_t layer, const float* states) {
  if (!tells_hidden(walk, layer)) return;
  const uint64_t count = uint64_t{walk.rows} * config_.hidden;
  copy(host_.hidden, states, count);
  stream_.sync();
  walk.observer->hidden(walk.number, layer, {host_.hidden, count});
}

void Forward::decoder_layer(Walk& walk, uint32_t layer) {
  const int64_t begin_ns = trace_.on() ? trace_.now_ns() : 0;
  walk.layer = layer;
  for (const Step& step : weights_.program.layer(layer).steps) run_step(walk, step);
  if (trace_.on()) {
    trace_.span(TraceLane::kCompute, layer, begin_ns, trace_.now_ns(),
                weights_.layers[layer].bytes());
  }
}

void Forward::run_step(Walk& walk, const Step& step) {
  const Buffers& b = buffers_;
  switch (step.operation) {
    case Operation::kNormInput:
      return norm_input(walk, walk.rows);
    case Operation::kLinear:
      return linear(walk, step);
    case Operation::kNorm:
      return norm(walk, step);
    case Operation::kRopeAppend:
      return ops_.rope_append(stream_, b[Buffer::kQuery], b[Buffer::kKey], b[Buffer::kValue],
                              layer_shape(walk.layer), b.inverse_frequencies,
                              sequence_rows(walk.layer, walk.batch));
    case Operation::kAttention:
      return attention(walk, step);
    case Operation::kGate:
      return ops_.gated_input(stream_, config_.gelu ? Activation::kGeluTanh : Activation::kSilu,
                              b[Buffer::kGate], b[Buffer::kUp], walk.rows, step.width);
  }
}

/// The next norm's weight applied to x, after what the block before left was added to it.
void Forward::norm_input(Walk& walk, uint32_t rows) {
  float* scratch = buffers_[Buffer::kResult];
  const float* added = std::exchange(walk.result, false) ? scratch : nullptr;
  cursor_.whole([&](const WeightView& weight) {
    ops_.norm_input(stream_, walk.x, added, norm_weight(weight), rows, scratch);
  });
}

NormWeight Forward::norm_weight(const WeightView& weight) const {
  return {weight, static_cast<float>(config_.rms_epsilon), config_.norm_added};
}

void Forward::norm(Walk& walk, const Step& step) {
  float* x = buffers_[step.buffer];
  cursor_.whole([&](const WeightView& weight) {
    ops_.rmsnorm(stream_, x, norm_weight(weight), walk.rows * (step.width / weight.cols), x);
  });
}

void Forward::linear(Walk& walk, const Step& step) {
  float* out = buffers_[step.buffer];
  cursor_.next_tiles([&](std::span<const WeightView> tiles, uint32_t first_row) {
    ops_.matmul_tiles(stream_, tiles, out + first_row, step.width);
  });
  if (step.tensors.size() > 1) {
    cursor_.whole([&](const WeightView& bias) { ops_.add_bias(stream_, out, walk.rows, bias); });
  }
  if (step.buffer == Buffer::kResult) walk.result = true;
}

void Forward::attention(Walk& walk, const Step& step) {
  float* out = buffers_[step.buffer];
  ops_.attention(stream_, buffers_[Buffer::kQuery], layer_shape(walk.layer),
                 sequence_rows(walk.layer, walk.batch), out);
  ops_.set_input(stream_, out, walk.rows, step.width);
}

std::span<const SequenceRows> Forward::sequence_rows(uint32_t layer, const Batch& batch) {
  const bool local = weights_.program.layer(layer).local_rope;
  sequence_rows_.clear();
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const BatchSequence& s = batch.sequences[i];
    sequence_rows_.push_back({s.first_row, s.rows, s.first_position,
                              cache_.layer(s.sequence, keeps_one_layer(limits_) ? 0 : layer),
                              cache_.capacity(s.sequence),
                              local ? local_rope_table_ : rope_tables_[i]});
  }
  return sequence_rows_;
}

AttentionShape Forward::layer_shape(uint32_t layer) const {
  AttentionShape shape = shape_;
  const LayerProgram& program = weights_.program.layer(layer);
  shape.window = program.window;
  if (program.local_rope) shape.rope_scale = 1;
  return shape;
}

/// What the last block of a layer left.
void Forward::add_result(Walk& walk) {
  CHECK(std::exchange(walk.result, false));
  ops_.add(stream_, walk.x, buffers_[Buffer::kResult], uint64_t{walk.rows} * config_.hidden);
}

void Forward::head(Walk& walk) {
  CHECK(!walk.result);
  const int64_t begin_ns = trace_.on() ? trace_.now_ns() : 0;
  if (!walk.batch.targets.empty()) {
    scoring_head(walk);
  } else {
    generation_head(walk);
  }
  if (trace_.on()) {
    trace_.span(TraceLane::kCompute, config_.layers, begin_ns, trace_.now_ns(),
                weights_.layers.back().bytes());
  }
}

/// Those [rows, cols] that lie in the buffer.
void Forward::cap_logits(uint32_t rows, uint32_t cols) {
  if (config_.logit_cap == 0) return;
  ops_.soft_cap(stream_, buffers_.logits, config_.logit_cap, rows, cols, cols);
}

void Forward::generation_head(Walk& walk) {
  const Batch& batch = walk.batch;
  const auto rows = static_cast<uint32_t>(batch.logit_rows.size());
  Buffers& b = buffers_;
  for (uint32_t i = 0; i < rows; ++i) {
    if (batch.logit_rows[i] == i) continue;
    CHECK(batch.logit_rows[i] > i);  // ascending: no row is overwritten before it moved
    stream_.copy(
        reinterpret_cast<std::byte*>(walk.x + uint64_t{i} * config_.hidden),
        reinterpret_cast<const std::byte*>(walk.x + uint64_t{batch.logit_rows[i]} * config_.hidden),
        config_.hidden * sizeof(float));
  }
  if (rows > 0) {
    norm_input(walk, rows);
  } else {  // a prompt chunk that ends no prompt: the head only passes by
    cursor_.whole([](const WeightView&) {});
  }
  cursor_.next_tiles([&](std::span<const WeightView> tiles, uint32_t first_row) {
    if (rows > 0) ops_.matmul_tiles(stream_, tiles, b.logits + first_row, config_.vocab);
  });
  if (rows == 0) return;
  cap_logits(rows, config_.vocab);
  CHECK(batch.samples.size() == rows);
  ops_.sample(stream_, b.logits, config_.vocab, batch.samples, b.picked);
  copy(host_.picked, b.picked, rows);
  if (limits_.keep_logits) copy(host_.logits, b.logits, uint64_t{rows} * config_.vocab);
}

void Forward::scoring_head(Walk& walk) {
  const uint32_t rows = walk.rows;
  CHECK(walk.batch.targets.size() == rows);
  const Buffers& b = buffers_;
  const uint32_t* targets = b.indices + 2 * limits_.max_rows;
  scoring_norm(walk);
  begin_scores(walk.batch);
  cursor_.next([&](const WeightView& tile, uint32_t first_row) {
    ops_.matmul(stream_, tile, b.logits, tile.rows);
    cap_logits(rows, tile.rows);
    ops_.fold_log_softmax(stream_, b.logits, rows, tile.rows, tile.rows, first_row, targets,
                          b.running, b.running + rows, b.running + 2 * rows);
    if (limits_.top_k == 0) return;
    ops_.fold_top_k(stream_, b.logits, rows, tile.rows, tile.rows, first_row, limits_.top_k,
                    b.top_logits, b.top_ids);
  });
  read_scores(walk.batch);
}

/// The head's input; before it, in the buffer where it may come to lie, the states that are told.
void Forward::scoring_norm(Walk& walk) {
  float* scratch = buffers_[Buffer::kResult];
  cursor_.whole([&](const WeightView& weight) {
    if (tells_hidden(walk, config_.layers)) {
      ops_.rmsnorm(stream_, walk.x, norm_weight(weight), walk.rows, scratch);
      tell_hidden(walk, config_.layers, scratch);
    }
    ops_.norm_input(stream_, walk.x, nullptr, norm_weight(weight), walk.rows, scratch);
  });
}

/// Targets go to the device, and what the folds start with.
void Forward::begin_scores(const Batch& batch) {
  const Buffers& b = buffers_;
  const size_t rows = batch.ids.size();
  const uint64_t kept = rows * limits_.top_k;
  std::copy(batch.targets.begin(), batch.targets.end(), host_.indices + 2 * limits_.max_rows);
  copy(b.indices + 2 * limits_.max_rows, host_.indices + 2 * limits_.max_rows, rows);
  std::fill_n(host_.running, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(host_.running + rows, 2 * rows, 0.0f);
  copy(b.running, host_.running, 3 * rows);
  if (kept == 0) return;
  std::fill_n(host_.top_logits, kept, -std::numeric_limits<float>::infinity());
  std::fill_n(host_.top_ids, kept, UINT32_MAX);
  copy(b.top_logits, host_.top_logits, kept);
  copy(b.top_ids, host_.top_ids, kept);
}

void Forward::read_scores(const Batch& batch) {
  const size_t rows = batch.ids.size();
  const uint64_t kept = rows * limits_.top_k;
  copy(host_.running, buffers_.running, 3 * rows);
  if (kept > 0) {
    copy(host_.top_logits, buffers_.top_logits, kept);
    copy(host_.top_ids, buffers_.top_ids, kept);
  }
  stream_.sync();
  log_probabilities_.assign(rows, 0.0f);
  log_sum_exp_.assign(rows, 0.0f);
  greedy_.assign(rows, 0);
  for (size_t r = 0; r < rows; ++r) {
    const float top = host_.running[r];
    const float log_sum = std::log(host_.running[rows + r]);
    const float target = host_.running[2 * rows + r];
    log_sum_exp_[r] = top + log_sum;
    if (batch.targets[r] == UINT32_MAX) continue;
    log_probabilities_[r] = target - top - log_sum;
    greedy_[r] = target == top ? 1 : 0;
  }
}

std::span<const uint32_t> Forward::top_k_ids() const {
  CHECK(limits_.top_k > 0);
  return {host_.top_ids, log_probabilities_.size() * limits_.top_k};
}

std::span<const float> Forward::top_k_logits() const {
  CHECK(limits_.top_k > 0);
  return {host_.top_logits, log_probabilities_.size() * limits_.top_k};
}

std::span<const float> Forward::logits(uint32_t index) const {
  CHECK(limits_.keep_logits);
  return {host_.logits + uint64_t{index} * config_.vocab, config_.vocab};
}

}  // namespace spillway
