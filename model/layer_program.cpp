#include "model/layer_program.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

WeightSpec vector_of(std::string name, uint32_t size) {
  return {std::move(name), 1, size, true};
}

Step norm_input_step(const ModelConfig& config, const char* name) {
  return {Operation::kNormInput, Buffer::kResult, config.hidden, {vector_of(name, config.hidden)}};
}

Step norm_step(Buffer buffer, uint32_t width, const char* name, uint32_t size) {
  return {Operation::kNorm, buffer, width, {vector_of(name, size)}};
}

Step linear_step(Buffer buffer, const std::string& name, uint32_t outputs, uint32_t inputs,
                 bool bias) {
  Step step{Operation::kLinear, buffer, outputs, {{name + ".weight", outputs, inputs, false}}};
  if (bias) step.tensors.push_back(vector_of(name + ".bias", outputs));
  return step;
}

using Steps = std::vector<Step>;

/// A part of a matrix that others share: its rows follow theirs.
Step part_step(Buffer buffer, const char* name, uint32_t inputs, uint32_t first, uint32_t rows,
               uint32_t all) {
  return {Operation::kLinear, buffer, rows, {{name, rows, inputs, false, first, all}}};
}

void add_projections(const ModelConfig& config, Steps& steps) {
  const uint32_t q = config.q_width();
  const uint32_t kv = config.kv_width();
  const uint32_t inputs = config.hidden;
  if (config.fused) {
    const char* name = "self_attn.qkv_proj.weight";
    const uint32_t all = q + 2 * kv;
    steps.push_back(part_step(Buffer::kQuery, name, inputs, 0, q, all));
    steps.push_back(part_step(Buffer::kKey, name, inputs, q, kv, all));
    steps.push_back(part_step(Buffer::kValue, name, inputs, q + kv, kv, all));
    return;
  }
  const bool bias = config.qkv_bias;
  steps.push_back(linear_step(Buffer::kQuery, "self_attn.q_proj", q, inputs, bias));
  steps.push_back(linear_step(Buffer::kKey, "self_attn.k_proj", kv, inputs, bias));
  steps.push_back(linear_step(Buffer::kValue, "self_attn.v_proj", kv, inputs, bias));
}

void add_attention(const ModelConfig& config, Steps& steps) {
  const uint32_t q = config.q_width();
  steps.push_back(norm_input_step(config, "input_layernorm.weight"));
  add_projections(config, steps);
  if (config.qk_norm) {
    const uint32_t head = config.head_dim;
    steps.push_back(norm_step(Buffer::kQuery, q, "self_attn.q_norm.weight", head));
    steps.push_back(norm_step(Buffer::kKey, config.kv_width(), "self_attn.k_norm.weight", head));
  }
  steps.push_back({Operation::kRopeAppend, Buffer::kQuery, q, {}});
  steps.push_back({Operation::kAttention, Buffer::kAttended, q, {}});
  steps.push_back(
      linear_step(Buffer::kResult, "self_attn.o_proj", config.hidden, q, config.output_bias));
}

void add_gates(const ModelConfig& config, Steps& steps) {
  const uint32_t inner = config.intermediate;
  const uint32_t inputs = config.hidden;
  if (config.fused) {
    const char* name = "mlp.gate_up_proj.weight";
    steps.push_back(part_step(Buffer::kGate, name, inputs, 0, inner, 2 * inner));
    steps.push_back(part_step(Buffer::kUp, name, inputs, inner, inner, 2 * inner));
    return;
  }
  steps.push_back(linear_step(Buffer::kGate, "mlp.gate_proj", inner, inputs, config.mlp_bias));
  steps.push_back(linear_step(Buffer::kUp, "mlp.up_proj", inner, inputs, config.mlp_bias));
}

void add_mlp(const ModelConfig& config, const char* norm_name, Steps& steps) {
  const uint32_t inner = config.intermediate;
  steps.push_back(norm_input_step(config, norm_name));
  add_gates(config, steps);
  steps.push_back({Operation::kGate, Buffer::kGate, inner, {}});
  steps.push_back(
      linear_step(Buffer::kResult, "mlp.down_proj", config.hidden, inner, config.mlp_bias));
}

/// What a block leaves, before it is added.
Step post_norm_step(const ModelConfig& config, const char* name) {
  return norm_step(Buffer::kResult, config.hidden, name, config.hidden);
}

LayerProgram layer_program(const ModelConfig& config, bool slides) {
  LayerProgram program;
  Steps& steps = program.steps;
  add_attention(config, steps);
  if (config.post_norms) {
    steps.push_back(post_norm_step(config, "post_attention_layernorm.weight"));
    add_mlp(config, "pre_feedforward_layernorm.weight", steps);
    steps.push_back(post_norm_step(config, "post_feedforward_layernorm.weight"));
  } else {
    add_mlp(config, "post_attention_layernorm.weight", steps);
  }
  if (slides) program.window = *config.sliding_window;
  program.local_rope = slides && config.local_rope_theta;
  return program;
}

/// A stored tensor for each of its parts, which follow each other.
void add_stored(std::vector<WeightSpec> parts, std::vector<WeightSpec>& all) {
  for (WeightSpec& part : parts) {
    if (part.first_row > 0) continue;
    if (part.stored_rows > 0) part.rows = std::exchange(part.stored_rows, 0);
    all.push_back(std::move(part));
  }
}

/// From the step that first writes a buffer to the last that needs what it holds.
struct BufferLife {
  Buffer buffer = Buffer::kResult;
  uint64_t width = 0;
  size_t first = 0;
  size_t last = 0;
};

class BufferLives {
 public:
  explicit BufferLives(const LayerProgram& program) {
    for (size_t s = 0; s < program.steps.size(); ++s) add(program.steps[s], s);
  }
  const std::vector<BufferLife>& list() const { return lives_; }

 private:
  void add(const Step& step, size_t at) {
    touch(step.buffer, step.width, at);
    switch (step.operation) {
      case Operation::kNormInput:
        input_ = Buffer::kResult;
        break;
      case Operation::kLinear:  // reads the input wherever it is held
        touch(input_, 0, at);
        break;
      case Operation::kNorm:
        break;
      case Operation::kRopeAppend:
        touch(Buffer::kKey, 0, at);
        touch(Buffer::kValue, 0, at);
        break;
      case Operation::kAttention:
        touch(Buffer::kQuery, 0, at);
        input_ = step.buffer;
        break;
      case Operation::kGate:
        touch(Buffer::kUp, 0, at);
        input_ = step.buffer;
        break;
    }
  }
  void touch(Buffer buffer, uint64_t width, size_t at) {
    if (buffer == Buffer::kResult) return;
    const auto known = std::find_if(lives_.begin(), lives_.end(),
                                    [&](const BufferLife& life) { return life.buffer == buffer; });
    if (known == lives_.end()) {
      CHECK(width > 0);  // nothing is read that was not written
      lives_.push_back({buffer, width, at, at});
      return;
    }
    known->width = std::max(known->width, width);
    known->last = at;
  }

  std::vector<BufferLife> lives_;
  Buffer input_ = Buffer::kResult;
};

/// The union of the lives over all kinds of layers.
std::vector<BufferLife> buffer_lives(const ModelProgram& program) {
  std::vector<BufferLife> all;
  for (const LayerProgram& kind : program.kinds) {
    const BufferLives lives(kind);
    for (const BufferLife& life : lives.list()) {
      const auto known = std::find_if(all.begin(), all.end(), [&](const BufferLife& other) {
        return other.buffer == life.buffer;
      });
      if (known == all.end()) {
        all.push_back(life);
        continue;
      }
      known->width = std::max(known->width, life.width);
      known->first = std::min(known->first, life.first);
      known->last = std::max(known->last, life.last);
    }
  }
  return all;
}

}  // namespace

ModelProgram model_program(const ModelConfig& config) {
  ModelProgram program;
  std::array<int64_t, 2> kinds = {-1, -1};  // of layers that see all, and that slide
  for (uint32_t i = 0; i < config.layers; ++i) {
    const bool slides = config.slides(i);
    int64_t& kind = kinds[slides ? 1 : 0];
    if (kind < 0) {
      kind = static_cast<int64_t>(program.kinds.size());
      program.kinds.push_back(layer_program(config, slides));
    }
    program.kind_of.push_back(static_cast<uint32_t>(kind));
  }
  return program;
}

std::vector<WeightSpec> decoder_weights(const ModelProgram& program, uint32_t index) {
  const std::string prefix = fmt::format("model.layers.{}.", index);
  std::vector<WeightSpec> list;
  for (const Step& step : program.layer(index).steps) {
    for (WeightSpec spec : step.tensors) {
      spec.name.insert(0, prefix);
      list.push_back(std::move(spec));
    }
  }
  return list;
}

std::vector<WeightSpec> decoder_weights(const ModelConfig& config, uint32_t index) {
  return decoder_weights(model_program(config), index);
}

std::vector<WeightSpec> head_weights(const ModelConfig& config) {
  std::vector<WeightSpec> list = {vector_of("model.norm.weight", config.hidden)};
  list.push_back(config.tied_embeddings
                     ? embedding_weight(config)
                     : WeightSpec{"lm_head.weight", config.vocab, config.hidden, false});
  return list;
}

WeightSpec embedding_weight(const ModelConfig& config) {
  return {"model.embed_tokens.weight", config.vocab, config.hidden, false};
}

std::vector<WeightSpec> model_weights(const ModelConfig& config) {
  const ModelProgram program = model_program(config);
  std::vector<WeightSpec> all = {embedding_weight(config)};
  for (uint32_t i = 0; i < config.layers; ++i) add_stored(decoder_weights(program, i), all);
  add_stored(head_weights(config), all);
  if (all.back().name == all.front().name) all.pop_back();
  return all;
}

/// In the order of their first use, each at the lowest place that nothing takes meanwhile.
BufferPlaces place_buffers(const ModelProgram& program, uint64_t rows, uint64_t alignment) {
  struct Placed {
    BufferLife life;
    uint64_t begin;
    uint64_t end;
  };
  BufferPlaces places;
  std::vector<Placed> placed;  // by where they begin
  for (const BufferLife& life : buffer_lives(program)) {
    const uint64_t bytes = align_up(rows * life.width * sizeof(float), alignment);
    uint64_t begin = 0;
    for (const Placed& other : placed) {
      const bool together = life.first <= other.life.last && other.life.first <= life.last;
      if (together && begin < other.end && other.begin < begin + bytes) begin = other.end;
    }
    places.offsets[static_cast<size_t>(life.buffer)] = begin;
    places.bytes = std::max(places.bytes, begin + bytes);
    const auto after = std::find_if(placed.begin(), placed.end(),
                                    [&](const Placed& other) { return other.begin > begin; });
    placed.insert(after, {life, begin, begin + bytes});
  }
  return places;
}

}  // namespace spillway
