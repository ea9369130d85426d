#include "model/layer_program.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/run_helper.h"

namespace spillway {
namespace {

std::vector<Operation> operations_of(const LayerProgram& program) {
  std::vector<Operation> list;
  for (const Step& step : program.steps) list.push_back(step.operation);
  return list;
}

TEST(LayerProgram, WeightsComeInTheOrderOfTheirUse) {
  const ModelConfig config = test::small_shape("Qwen3ForCausalLM");
  std::vector<std::string> names;
  for (const WeightSpec& spec : decoder_weights(config, 2)) names.push_back(spec.name);
  const std::vector<std::string> expected = {
      "model.layers.2.input_layernorm.weight",  "model.layers.2.self_attn.q_proj.weight",
      "model.layers.2.self_attn.k_proj.weight", "model.layers.2.self_attn.v_proj.weight",
      "model.layers.2.self_attn.q_norm.weight", "model.layers.2.self_attn.k_norm.weight",
      "model.layers.2.self_attn.o_proj.weight", "model.layers.2.post_attention_layernorm.weight",
      "model.layers.2.mlp.gate_proj.weight",    "model.layers.2.mlp.up_proj.weight",
      "model.layers.2.mlp.down_proj.weight"};
  EXPECT_EQ(names, expected);
}

TEST(LayerProgram, GemmaNormsWhatBlocksLeave) {
  using enum Operation;
  const ModelProgram program = model_program(test::small_shape("Gemma2ForCausalLM"));
  const std::vector<Operation> expected = {kNormInput, kLinear, kLinear, kLinear,    kRopeAppend,
                                           kAttention, kLinear, kNorm,   kNormInput, kLinear,
                                           kLinear,    kGate,   kLinear, kNorm};
  EXPECT_EQ(operations_of(program.layer(0)), expected);
  EXPECT_EQ(program.kinds.size(), 2u);
  EXPECT_EQ(program.layer(0).window, 21u);
  EXPECT_EQ(program.layer(1).window, kNoWindow);
}

TEST(LayerProgram, GemmaThreeTurnsBySlidingOrNot) {
  ModelConfig config = test::small_shape("Gemma3ForCausalLM");
  config.layers = 12;
  config.sliding_layers = all_but_every(6, 12);
  const ModelProgram program = model_program(config);
  for (uint32_t i = 0; i < 12; ++i) {
    EXPECT_EQ(program.layer(i).local_rope, i % 6 != 5) << i;
    EXPECT_EQ(program.layer(i).window, i % 6 != 5 ? 21 : kNoWindow) << i;
  }
}

TEST(LayerProgram, PartsOfAFusedMatrixFollowEachOther) {
  const ModelConfig config = test::small_shape("Phi3ForCausalLM");
  std::vector<WeightSpec> parts;
  for (const WeightSpec& spec : decoder_weights(config, 0)) {
    if (spec.stored_rows > 0) parts.push_back(spec);
  }
  ASSERT_EQ(parts.size(), 5u);
  for (const size_t first : {size_t{0}, size_t{3}}) {
    uint32_t row = 0;
    for (size_t i = first; i < (first == 0 ? 3u : 5u); ++i) {
      EXPECT_EQ(parts[i].name, parts[first].name);
      EXPECT_EQ(parts[i].first_row, row);
      row += parts[i].rows;
    }
    EXPECT_EQ(row, parts[first].stored_rows);
  }
  std::set<std::string> names;
  for (const WeightSpec& spec : model_weights(config)) {
    EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
    EXPECT_EQ(spec.stored_rows, 0u);
  }
}

constexpr uint32_t kRows = 10;

/// Each of them whole, and none in another.
void expect_apart(const ModelProgram& program, const std::vector<Buffer>& together) {
  const BufferPlaces places = place_buffers(program, kRows, 256);
  std::map<Buffer, uint64_t> widths;  // the widest that any kind of layer has
  for (const LayerProgram& kind : program.kinds) {
    for (const Step& step : kind.steps) {
      widths[step.buffer] = std::max<uint64_t>(widths[step.buffer], step.width);
    }
  }
  const auto begin = [&](Buffer buffer) { return places.offsets[static_cast<size_t>(buffer)]; };
  const auto end = [&](Buffer buffer) { return begin(buffer) + 4 * kRows * widths[buffer]; };
  for (const Buffer one : together) {
    EXPECT_GT(end(one), begin(one));
    EXPECT_LE(end(one), places.bytes);
    for (const Buffer other : together) {
      EXPECT_TRUE(one == other || end(one) <= begin(other) || end(other) <= begin(one))
          << static_cast<int>(one) << " and " << static_cast<int>(other);
    }
  }
}

TEST(LayerProgram, BuffersOfTwoKindsOfLayersLieApart) {
  using enum Buffer;
  for (const char* architecture : {"Gemma2ForCausalLM", "Gemma3ForCausalLM", "Qwen3ForCausalLM"}) {
    SCOPED_TRACE(architecture);
    ModelConfig config = test::small_shape(architecture);
    config.sliding_window = 21;
    config.sliding_layers = all_but_every(2, config.layers);
    const ModelProgram program = model_program(config);
    ASSERT_EQ(program.kinds.size(), 2u);
    expect_apart(program, {kQuery, kKey, kValue});
    expect_apart(program, {kQuery, kAttended});
    expect_apart(program, {kGate, kUp});
    config.sliding_layers.assign(config.layers, true);
    const ModelProgram one = model_program(config);
    ASSERT_EQ(one.kinds.size(), 1u);
    EXPECT_EQ(place_buffers(program, kRows, 256).offsets, place_buffers(one, kRows, 256).offsets);
  }
}

/// Kinds that differ: one is wider, and computes gates before it attends.
TEST(LayerProgram, BuffersLieWhereEveryKindOfLayerCanUseThem) {
  using enum Buffer;
  const ModelConfig config = test::small_shape("LlamaForCausalLM");
  ModelConfig wide = config;
  wide.intermediate *= 2;
  wide.heads *= 2;
  LayerProgram early = model_program(wide).layer(0);
  const auto is_gate = [](const Step& step) {
    return step.operation == Operation::kLinear && (step.buffer == kGate || step.buffer == kUp);
  };
  std::stable_partition(early.steps.begin() + 1, early.steps.end(), is_gate);
  ModelProgram program = model_program(config);
  for (const bool first : {false, true}) {
    ModelProgram both = program;
    both.kinds.insert(first ? both.kinds.begin() : both.kinds.end(), early);
    expect_apart(both, {kQuery, kKey, kValue, kGate, kUp});
    expect_apart(both, {kQuery, kAttended, kGate, kUp});
    EXPECT_GT(place_buffers(both, kRows, 256).bytes, place_buffers(program, kRows, 256).bytes);
  }
}

TEST(LayerProgram, BuffersThatAreNeededTogetherLieApart) {
  ModelConfig config = test::small_shape("LlamaForCausalLM");
  const BufferPlaces places = place_buffers(model_program(config), 10, 256);
  const auto at = [&](Buffer buffer) { return places.offsets[static_cast<size_t>(buffer)]; };
  const uint64_t q = 10 * 4 * config.q_width();
  const uint64_t kv = 10 * 4 * config.kv_width();
  const uint64_t inner = 10 * 4 * config.intermediate;
  EXPECT_EQ(at(Buffer::kQuery), 0u);
  EXPECT_GE(at(Buffer::kKey), q);
  EXPECT_GE(at(Buffer::kValue), at(Buffer::kKey) + kv);
  EXPECT_GE(at(Buffer::kAttended), q);
  EXPECT_EQ(at(Buffer::kGate), 0u);
  EXPECT_GE(at(Buffer::kUp), inner);
  EXPECT_EQ(places.bytes, at(Buffer::kUp) + inner);
}

}  // namespace
}  // namespace spillway
