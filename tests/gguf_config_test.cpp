// What a GGUF file's metadata say of a model: as they were written, and wrong ones.
#include "model/gguf_config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "model/gguf_metadata.h"
#include "model/gguf_names.h"
#include "model/weight_map.h"
#include "tests/gguf_writer.h"
#include "tests/run_helper.h"
#include "tests/support.h"

namespace spillway {
namespace {

using test::TempDir;
using Kind = RopeScaling::Kind;

Checkpoint open_file(const std::filesystem::path& path) {
  return Checkpoint::open(path, DirectChoice::kOff, [](const std::string&) {});
}

/// Formats of tensors by their names in safetensors; F32 the others.
using Formats = std::map<std::string, WeightFormat>;

/// A file that says what `config` is: tensors of zeros, but for factors of rotations.
void write_described(const std::filesystem::path& path, const ModelConfig& config,
                     const Formats& formats = {}, std::optional<float> factor = {}) {
  GgufMetadata metadata;
  describe_model(config, "m", matrix_type(WeightFormat::kF32), metadata);
  if (factor)
    metadata.set(std::string(gguf_architecture(config.architecture)) + ".rope.scaling.factor",
                 *factor);
  std::vector<GgufTensorSpec> tensors;
  for (const WeightSpec& spec : model_weights(config)) {
    const auto format = formats.find(spec.name);
    tensors.push_back(
        gguf_tensor(config, spec, format != formats.end() ? format->second : WeightFormat::kF32));
  }
  const size_t weights = tensors.size();
  const std::vector<RopeFactors> factors = rope_factors(config);
  for (const RopeFactors& list : factors) {
    tensors.push_back({list.name, {list.values.size()}, WeightFormat::kF32});
  }
  const GgufLayout layout = lay_out_gguf(metadata, tensors);
  std::string bytes = layout.header;
  bytes.resize(layout.file_bytes);
  for (size_t i = 0; i < factors.size(); ++i) {
    const auto& values = factors[i].values;
    std::memcpy(bytes.data() + layout.offsets[weights + i], values.data(),
                values.size() * sizeof(float));
  }
  test::write_file(path, bytes);
}

ModelConfig small_model(const std::string& architecture) {
  ModelConfig config = test::small_shape(architecture);
  config.layers = 3;
  config.vocab = 64;
  config.intermediate = 64;
  fit_to_shape(config);
  return config;
}

ModelConfig read_back(const ModelConfig& config) {
  const TempDir dir;
  write_described(dir / "m.gguf", config);
  return gguf_model_config(open_file(dir / "m.gguf"));
}

std::vector<float> frequencies(const ModelConfig& config, uint32_t regime) {
  std::vector<float> result(config.rotary_pairs());
  rope_inverse_frequencies(config.rope_scaling, config.rope_theta, regime, result);
  return result;
}

void expect_same(const ModelConfig& read, const ModelConfig& config) {
  EXPECT_EQ(gguf_architecture(read.architecture), gguf_architecture(config.architecture));
  EXPECT_EQ(read.layers, config.layers);
  EXPECT_EQ(read.hidden, config.hidden);
  EXPECT_EQ(read.intermediate, config.intermediate);
  EXPECT_EQ(read.heads, config.heads);
  EXPECT_EQ(read.kv_heads, config.kv_heads);
  EXPECT_EQ(read.head_dim, config.head_dim);
  EXPECT_EQ(read.vocab, config.vocab);
  EXPECT_EQ(read.context, config.context);
  EXPECT_EQ(read.qk_norm, config.qk_norm);
  EXPECT_EQ(read.qkv_bias, config.qkv_bias);
  EXPECT_EQ(read.tied_embeddings, config.tied_embeddings);
  EXPECT_NEAR(read.rms_epsilon, config.rms_epsilon, 1e-12);
  EXPECT_EQ(read.rope_theta, config.rope_theta);
  EXPECT_EQ(read.local_rope_theta, config.local_rope_theta);
  for (uint32_t layer = 0; layer < config.layers; ++layer) {
    EXPECT_EQ(read.slides(layer), config.slides(layer)) << layer;
  }
  const auto& slides = config.sliding_layers;
  if (std::find(slides.begin(), slides.end(), true) != slides.end()) {
    EXPECT_EQ(read.sliding_window, config.sliding_window);
  }
  EXPECT_NEAR(read.rope_scaling.attention_factor, config.rope_scaling.attention_factor, 1e-6);
  for (const uint32_t length : {1u, config.context}) {
    const uint32_t regime = rope_regime(config.rope_scaling, length);
    EXPECT_EQ(rope_regime(read.rope_scaling, length), regime);
    const auto expected = frequencies(config, regime);
    const auto got = frequencies(read, regime);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i] / expected[i], 1, 1e-6) << i;
  }
}

class GgufRoundTrip : public testing::TestWithParam<std::string> {
 protected:
  ModelConfig config_ = small_model(GetParam());
};

TEST_P(GgufRoundTrip, Windows) {
  expect_same(read_back(config_), config_);
  for (const auto& slides : std::vector<std::vector<bool>>{
           {true, true, true}, {true, false, true}, {false, false, true}, {false, false, false}}) {
    const bool some = slides.front() != slides.back() || slides.front() != slides[1];
    if (some && config_.fused) continue;  // all layers of Phi slide, or none
    config_.sliding_window = 48;
    config_.sliding_layers = slides;
    expect_same(read_back(config_), config_);
  }
}

TEST_P(GgufRoundTrip, RopeScalings) {
  RopeScaling& scaling = config_.rope_scaling;
  scaling.factor = 4;
  scaling.original_max_positions = config_.context / 4.0;
  for (const Kind kind : {Kind::kLinear, Kind::kLlama3}) {
    scaling.kind = kind;
    expect_same(read_back(config_), config_);
  }
  scaling.kind = Kind::kYarn;
  for (const double more : {1.0, 1.25}) {
    scaling.attention_factor = more * yarn_attention_factor(4, 0, 0);
    expect_same(read_back(config_), config_);
  }
  scaling.kind = Kind::kLongRope;
  scaling.attention_factor = 1.5;
  for (uint32_t i = 0; i < config_.rotary_pairs(); ++i) {
    scaling.short_factors.push_back(1 + i / 64.0);
    scaling.long_factors.push_back(2 + i / 16.0);
  }
  expect_same(read_back(config_), config_);
  scaling.kind = Kind::kFactors;
  scaling.attention_factor = 1;
  expect_same(read_back(config_), config_);
}

/// A checkpoint and the file made of it turn heads alike, to the last bit.
TEST(GgufConfig, SpeedsOfRotationsAreTheSameBits) {
  using Json = nlohmann::json;
  const auto llama3 = [](double factor, double low, double high, int original) {
    return Json{{"rope_type", "llama3"},
                {"factor", factor},
                {"low_freq_factor", low},
                {"high_freq_factor", high},
                {"original_max_position_embeddings", original}};
  };
  const std::vector<Json> scalings = {
      Json::object(),
      llama3(8, 1, 4, 8192),
      llama3(32, 1, 4, 8192),
      llama3(3.3, 1.1, 4.7, 1000),
      llama3(1e-3, 0.01, 100, 77),
      llama3(1e6, 1, 1.0001, 512),
      {{"rope_type", "linear"}, {"factor", 2.7}},
      {{"rope_type", "yarn"}, {"factor", 4.1}, {"beta_fast", 31.3}, {"beta_slow", 1.7}},
      {{"rope_type", "longrope"},
       {"factor", 4},
       {"short_factor", std::vector<double>(64, 1.1)},
       {"long_factor", std::vector<double>(64, 7.7)}}};
  for (const double theta : {10000.0, 500000.0, 123456.789, 1.1}) {
    for (const Json& scaling : scalings) {
      const Json json = {{"architectures", {"LlamaForCausalLM"}},
                         {"hidden_size", 256},
                         {"intermediate_size", 64},
                         {"num_hidden_layers", 1},
                         {"num_attention_heads", 2},
                         {"vocab_size", 64},
                         {"max_position_embeddings", 256},
                         {"rope_theta", theta},
                         {"rope_scaling", scaling}};
      const ModelConfig config = parse_model_config(json, "c");
      const ModelConfig read = read_back(config);
      for (const uint32_t regime : {0u, 1u}) {
        EXPECT_EQ(frequencies(read, regime), frequencies(config, regime)) << json.dump();
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, GgufRoundTrip,
                         testing::Values("LlamaForCausalLM", "MistralForCausalLM",
                                         "Qwen2ForCausalLM", "Qwen3ForCausalLM",
                                         "Gemma2ForCausalLM", "Gemma3ForCausalLM",
                                         "Phi3ForCausalLM"),
                         [](const auto& test) { return test.param; });

/// Llama's files that name a window and list no layers are Mistral's; Qwen's mean none by it.
TEST(GgufConfig, AWindowWithoutAList) {
  for (const char* architecture : {"LlamaForCausalLM", "Qwen2ForCausalLM"}) {
    ModelConfig config = small_model(architecture);
    config.sliding_window = 48;
    config.sliding_layers.assign(config.layers, true);
    const TempDir dir;
    write_described(dir / "m.gguf", config);
    std::string bytes = test::read_file(dir / "m.gguf");
    const size_t at = bytes.find("sliding_window_pattern");
    if (at != std::string::npos) bytes[at] = 'x';
    test::write_file(dir / "m.gguf", bytes);
    const ModelConfig read = gguf_model_config(open_file(dir / "m.gguf"));
    EXPECT_EQ(read.slides(0), architecture == std::string("LlamaForCausalLM"));
  }
}

/// What `config` reads as where the file does not name its window.
std::optional<uint32_t> window_unsaid(const ModelConfig& config) {
  const TempDir dir;
  write_described(dir / "m.gguf", config);
  std::string bytes = test::read_file(dir / "m.gguf");
  const std::string key = "attention.sliding_window";
  for (size_t at = 0; (at = bytes.find(key, at)) != std::string::npos;) bytes[at] = 'x';
  test::write_file(dir / "m.gguf", bytes);
  const ModelConfig read = gguf_model_config(open_file(dir / "m.gguf"));
  for (uint32_t i = 1; i < read.layers; ++i) {
    EXPECT_EQ(read.slides(i),
              read.architecture == "Gemma2ForCausalLM" ? i % 2 == 0 : read.slides(0));
  }
  return read.slides(0) ? read.sliding_window : std::nullopt;
}

/// The first files of Phi 3 say nothing of the window that models of 4096 positions have.
TEST(GgufConfig, TheFirstFilesOfPhiSlide) {
  ModelConfig config = small_model("Phi3ForCausalLM");
  for (const uint32_t layers : {32u, 40u}) {
    config.layers = layers;
    config.context = 4096;
    EXPECT_EQ(window_unsaid(config), 2047u) << layers;
    EXPECT_FALSE(read_back(config).slides(0)) << "what has no window says so";
    config.context = 131072;
    EXPECT_EQ(window_unsaid(config), std::nullopt) << layers;
  }
  config.layers = 24;
  config.context = 4096;
  EXPECT_EQ(window_unsaid(config), std::nullopt);
  EXPECT_EQ(window_unsaid(small_model("Gemma2ForCausalLM")), 4096u);
}

/// llama.cpp's converter leaves the key out where no layer slides.
TEST(GgufConfig, AFileOfGemmaThreeWithoutAWindowSlidesNowhere) {
  ModelConfig config = small_model("Gemma3ForCausalLM");
  EXPECT_EQ(window_unsaid(config), std::nullopt);
  EXPECT_TRUE(read_back(config).slides(0));
  config.sliding_window.reset();
  EXPECT_FALSE(read_back(config).slides(0));
}

/// Readers that scale by any factor they find would scale what the lists scale already.
TEST(GgufConfig, LongRopeNamesNoFactor) {
  ModelConfig config = small_model("LlamaForCausalLM");
  config.rope_scaling.kind = Kind::kLongRope;
  config.rope_scaling.factor = 4;
  GgufMetadata metadata;
  describe_model(config, "m", matrix_type(WeightFormat::kF32), metadata);
  EXPECT_EQ(metadata.text("llama.rope.scaling.type"), "longrope");
  EXPECT_FALSE(metadata.has("llama.rope.scaling.factor"));
  config.rope_scaling.original_max_positions = 64;
  config.rope_scaling.short_factors.assign(config.rotary_pairs(), 1);
  config.rope_scaling.long_factors.assign(config.rotary_pairs(), 2);
  const TempDir dir;
  write_described(dir / "m.gguf", config, {}, 1.0f);
  EXPECT_EQ(gguf_model_config(open_file(dir / "m.gguf")).rope_scaling.kind, Kind::kLongRope);
  write_described(dir / "m.gguf", config, {}, 4.0f);
  const std::string message = test::error_of([&] { gguf_model_config(open_file(dir / "m.gguf")); });
  EXPECT_NE(message.find("none beside tensor rope_factors_long.weight, got 4"), std::string::npos)
      << message;
}

TEST(GgufConfig, VectorsInBlocksAreRefused) {
  const TempDir dir;
  const ModelConfig config = small_model("LlamaForCausalLM");
  for (const char* name : {"model.norm.weight", "model.layers.1.input_layernorm.weight"}) {
    write_described(dir / "m.gguf", config, {{name, WeightFormat::kQ8_0}});
    const Checkpoint checkpoint = open_file(dir / "m.gguf");
    const ModelConfig read = gguf_model_config(checkpoint);
    const std::string message = test::error_of([&] { map_weights(read, checkpoint); });
    EXPECT_NE(message.find("Q8_0"), std::string::npos) << message;
    EXPECT_NE(message.find("vectors"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

/// Key-values of a model of two layers, to be changed.
using Values = std::map<std::string, GgufMetadata::Value>;

Values good_values() {
  return {{"general.architecture", "llama"},
          {"llama.block_count", uint32_t{2}},
          {"llama.context_length", uint32_t{128}},
          {"llama.embedding_length", uint32_t{64}},
          {"llama.feed_forward_length", uint32_t{96}},
          {"llama.attention.head_count", uint32_t{4}},
          {"llama.attention.head_count_kv", uint32_t{2}},
          {"llama.attention.layer_norm_rms_epsilon", 1e-5F},
          {"llama.rope.freq_base", 10000.0F}};
}

void write_values(const std::filesystem::path& path, const Values& values, bool factors = false) {
  test::GgufFile file;
  file.metadata.assign(values.begin(), values.end());
  file.tensors = {{"token_embd.weight", {64, 32}, 0, std::string(64 * 32 * 4, '\0')}};
  if (factors) {
    std::string ones;
    for (int i = 0; i < 8; ++i) ones += test::packed(1.0F);
    file.tensors.push_back({"rope_freqs.weight", {8}, 0, ones});
  }
  test::write_file(path, file.bytes());
}

struct BadValue {
  const char* name;
  const char* key;                           ///< below "llama."
  std::optional<GgufMetadata::Value> value;  ///< none: the key is missing
  const char* says;
  bool factors = false;  ///< beside a tensor of factors
};

class BadGgufConfigs : public testing::TestWithParam<BadValue> {};

TEST_P(BadGgufConfigs, AreRefusedInALine) {
  const BadValue& bad = GetParam();
  Values values = good_values();
  const std::string key = bad.key == std::string("general.architecture")
                              ? std::string(bad.key)
                              : std::string("llama.") + bad.key;
  values.erase(key);
  if (bad.value) values.emplace(key, *bad.value);
  const TempDir dir;
  write_values(dir / "m.gguf", values, bad.factors);
  const std::string message = test::error_of([&] { gguf_model_config(open_file(dir / "m.gguf")); });
  EXPECT_NE(message.find((dir / "m.gguf").string()), std::string::npos) << message;
  EXPECT_NE(message.find(bad.says), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 300 + dir.path().string().size()) << message;
}

using Wholes = std::vector<uint32_t>;
INSTANTIATE_TEST_SUITE_P(
    Cases, BadGgufConfigs,
    testing::Values(
        BadValue{"no_layers", "block_count", {}, "got nothing"},
        BadValue{"layers_zero", "block_count", uint32_t{0}, "from 1 to 10000, got 0"},
        BadValue{"layers_many", "block_count", uint64_t{1} << 40, "got 1099511627776"},
        BadValue{"layers_negative", "block_count", int32_t{-2}, "is -2; expected 0 or more"},
        BadValue{"layers_text", "block_count", "two", "is of type text"},
        BadValue{"layers_number", "block_count", 2.0F, "is of type f32"},
        BadValue{"layers_list", "block_count", Wholes{2}, "a single value"},
        BadValue{"no_width", "embedding_length", {}, "got nothing"},
        BadValue{"width_zero", "embedding_length", uint32_t{0}, "got 0"},
        BadValue{"width_large", "embedding_length", uint32_t{1} << 30, "got 1073741824"},
        BadValue{"no_inner_width", "feed_forward_length", {}, "got nothing"},
        BadValue{"inner_widths", "feed_forward_length", Wholes{96, 64}, "the same number"},
        BadValue{"inner_none", "feed_forward_length", Wholes{}, "the same number"},
        BadValue{"inner_endless", "feed_forward_length", std::vector<uint8_t>(1 << 20, 96),
                 "the same number"},
        BadValue{"inner_flags", "feed_forward_length",
                 GgufMetadata::Value(GgufType::kBool, true, std::string(2, '\1')), "whole numbers"},
        BadValue{"no_heads", "attention.head_count", {}, "got nothing"},
        BadValue{"heads_zero", "attention.head_count", uint32_t{0}, "got 0"},
        BadValue{"heads_no_divisor", "attention.head_count", uint32_t{6}, "a divisor"},
        BadValue{"kv_heads_zero", "attention.head_count_kv", uint32_t{0}, "got 0"},
        BadValue{"kv_heads_no_divisor", "attention.head_count_kv", uint32_t{3}, "a divisor"},
        BadValue{"key_length_odd", "attention.key_length", uint32_t{17}, "an even number"},
        BadValue{"key_length_large", "attention.key_length", uint32_t{4096}, "got 4096"},
        BadValue{"value_length", "attention.value_length", uint32_t{8}, "16, the width of a head"},
        BadValue{"turning", "rope.dimension_count", uint32_t{8}, "16, the width of a head"},
        BadValue{"no_context", "context_length", {}, "got nothing"},
        BadValue{"context_zero", "context_length", uint32_t{0}, "got 0"},
        BadValue{"experts", "expert_count", uint32_t{8}, "mixtures of experts"},
        BadValue{"epsilon_zero", "attention.layer_norm_rms_epsilon", 0.0F, "a number above 0"},
        BadValue{"epsilon_nan", "attention.layer_norm_rms_epsilon", NAN, "finite numbers"},
        BadValue{"epsilon_small", "attention.layer_norm_rms_epsilon", 1e-300,
                 "a number above 0, of 1.2e-38 or more, got 1e-300"},
        BadValue{"base_small", "rope.freq_base", 1e-45F, "a number above 0, of 1.2e-38 or more"},
        BadValue{"base_large", "rope.freq_base", 1e300, "a number above 0, of 3.4e+38 or less"},
        BadValue{"factor_small", "rope.scaling.factor", 1e-300, "of 1.2e-38 or more, got 1e-300"},
        BadValue{"factor_turns", "rope.scaling.factor", 2e-38F, "rotations stay finite, got 2"},
        BadValue{"linear_turns", "rope.scale_linear", 2e-38F,
                 "rope.scale_linear: expected a number with which rotations"},
        BadValue{"base_negative", "rope.freq_base", -1.0F, "a number above 0"},
        BadValue{"base_text", "rope.freq_base", "1e4", "is of type text"},
        BadValue{"scaling", "rope.scaling.type", "ntk\x1b[31m", "none, linear or yarn"},
        BadValue{"scaling_number", "rope.scaling.type", uint32_t{1}, "expected a text"},
        BadValue{"no_lists", "rope.scaling.type", "longrope", "none, linear or yarn"},
        BadValue{"factor_zero", "rope.scaling.factor", 0.0F, "a number above 0"},
        BadValue{"factor_beside_factors", "rope.scaling.factor", 2.0F,
                 "none beside tensor rope_freqs.weight, got 2", true},
        BadValue{"linear_beside_factors", "rope.scale_linear", 2.0F, "rope.scal", true},
        BadValue{"architecture", "general.architecture", "mamba\n", "is not supported"},
        BadValue{"no_architecture", "general.architecture", {}, "got nothing"},
        BadValue{"architecture_kind", "general.architecture", uint32_t{5}, "expected a text"}),
    [](const auto& test) { return std::string(test.param.name); });

Values good_values_of(const std::string& architecture) {
  Values values = {{"general.architecture", architecture}};
  for (const auto& [name, value] : good_values()) {
    if (name.starts_with("llama.")) values.emplace(architecture + name.substr(5), value);
  }
  return values;
}

using Layers = std::vector<int32_t>;

/// Flags, or 0 and 1 in their place; a number is a period, of Gemma's layers alone.
TEST(GgufConfig, PatternsOfWindows) {
  const TempDir dir;
  const auto read = [&](const std::string& architecture, const GgufMetadata::Value& pattern) {
    Values values = good_values_of(architecture);
    values.emplace(architecture + ".attention.sliding_window", uint32_t{48});
    values.emplace(architecture + ".attention.sliding_window_pattern", pattern);
    write_values(dir / "m.gguf", values);
    return gguf_model_config(open_file(dir / "m.gguf"));
  };
  const auto slides = [&](const std::string& architecture, const GgufMetadata::Value& pattern) {
    const ModelConfig config = read(architecture, pattern);
    return std::pair{config.slides(0), config.slides(1)};
  };
  for (const char* architecture : {"llama", "qwen2", "qwen3", "gemma2", "gemma3"}) {
    EXPECT_EQ(slides(architecture, Layers{0, 1}), (std::pair{false, true})) << architecture;
    EXPECT_EQ(slides(architecture, std::vector<uint8_t>{1, 0}), (std::pair{true, false}));
  }
  EXPECT_EQ(slides("phi3", Layers{1, 1}), (std::pair{true, true}));
  EXPECT_EQ(slides("gemma2", uint32_t{1}), (std::pair{false, false}));
  EXPECT_EQ(slides("phi3", uint32_t{1}), (std::pair{true, true}));
  const auto refused = [&](const GgufMetadata::Value& pattern, const std::string& says,
                           const std::string& architecture = "llama") {
    const std::string message = test::error_of([&] { read(architecture, pattern); });
    EXPECT_NE(message.find(architecture + ".attention.sliding_window_pattern"), std::string::npos);
    EXPECT_NE(message.find(says), std::string::npos) << message;
  };
  refused(Layers{0, -1}, "expected flags, or 0 and 1, got -1");
  refused(Layers{2, 1}, "expected flags, or 0 and 1, got 2");
  refused(Layers{1}, "expected 2 flags, got 1");
  refused(std::vector<float>{2.5F, 1}, "array of f32");
  refused(std::vector<std::string>{"a", "b"}, "array of text");
  for (const char* architecture : {"llama", "gemma3", "phi3"}) {
    refused("all", "is of type text", architecture);
    refused(int32_t{-1}, "is -1; expected 0 or more", architecture);
    refused(2.5F, "is of type f32", architecture);
  }
  refused(uint32_t{0}, "from 1 to", "gemma3");
  refused(Layers{1, 0}, "all of such a model slide", "phi3");
}

/// A number that becomes 0 as a float would mean that there is none.
TEST(GgufConfig, NumbersOfGemmaAreFloats) {
  const TempDir dir;
  const auto refusal = [&](const char* key, double number) {
    Values values = good_values_of("gemma3");
    values.insert_or_assign(std::string("gemma3.") + key, number);
    write_values(dir / "m.gguf", values);
    return test::error_of([&] { gguf_model_config(open_file(dir / "m.gguf")); });
  };
  for (const char* key : {"attention.scale", "final_logit_softcapping", "rope.freq_base_swa"}) {
    const auto says = [&](double number, const std::string& expected) {
      const std::string message = refusal(key, number);
      EXPECT_NE(message.find(key + (": expected a number above 0, of " + expected)),
                std::string::npos)
          << message;
    };
    says(1e-300, "1.2e-38 or more, got 1e-300");
    says(1e300, "3.4e+38 or less, got 1e+300");
    says(3.5e38, "3.4e+38 or less, got 3.5e+38");
  }
}

/// Whatever a file says: no program caps the scores of Gemma 3.
TEST(GgufConfig, ScoresOfGemmaTwoAreCapped) {
  const TempDir dir;
  for (const auto& [name, expected] : {std::pair{"gemma2", 7.0f}, {"gemma3", 0.0f}}) {
    Values values = good_values_of(name);
    values.insert_or_assign(name + std::string(".attn_logit_softcapping"), 7.0);
    write_values(dir / "m.gguf", values);
    EXPECT_EQ(gguf_model_config(open_file(dir / "m.gguf")).score_cap, expected) << name;
  }
}

TEST(GgufConfig, GoodValuesAreRead) {
  const TempDir dir;
  write_values(dir / "m.gguf", good_values(), true);
  const ModelConfig config = gguf_model_config(open_file(dir / "m.gguf"));
  EXPECT_EQ(config.head_dim, 16u);
  EXPECT_EQ(config.vocab, 32u);
  EXPECT_EQ(config.rope_scaling.kind, Kind::kFactors);
}

/// A factor that names no kind is linear, and scales nothing where the kind is none.
TEST(GgufConfig, AFactorIsLinear) {
  const TempDir dir;
  Values values = good_values();
  const auto kind = [&] {
    write_values(dir / "m.gguf", values);
    return gguf_model_config(open_file(dir / "m.gguf")).rope_scaling.kind;
  };
  values.emplace("llama.rope.scaling.factor", 2.0F);
  EXPECT_EQ(kind(), Kind::kLinear);
  values.emplace("llama.rope.scaling.type", "none");
  EXPECT_EQ(kind(), Kind::kNone);
  values.erase("llama.rope.scaling.type");
  values.erase("llama.rope.scaling.factor");
  values.emplace("llama.rope.scale_linear", 2.0F);
  EXPECT_EQ(kind(), Kind::kLinear);
}

}  // namespace
}  // namespace spillway
