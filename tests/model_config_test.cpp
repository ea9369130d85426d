#include "model/model_config.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "model/runtime.h"
#include "tests/run_helper.h"

namespace spillway {
namespace {

using Json = nlohmann::json;

Json good() {
  return Json::parse(R"({"architectures":["LlamaForCausalLM"],"hidden_size":64,
    "intermediate_size":128,"num_hidden_layers":2,"num_attention_heads":8,
    "num_key_value_heads":4,"vocab_size":512,"max_position_embeddings":256,"eos_token_id":[2,3]})");
}

TEST(ModelConfig, DefaultsAndDerivedFields) {
  const ModelConfig config = parse_model_config(good(), "c");
  EXPECT_EQ(config.head_dim, 8u);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.end_tokens, (std::vector<uint32_t>{2, 3}));
}

TEST(ModelConfig, ArchitecturesDiffer) {
  Json json = good();
  json["architectures"][0] = "Qwen2ForCausalLM";
  EXPECT_TRUE(parse_model_config(json, "c").qkv_bias);
  EXPECT_FALSE(parse_model_config(json, "c").output_bias);
  json["architectures"][0] = "Qwen3ForCausalLM";
  EXPECT_TRUE(parse_model_config(json, "c").qk_norm);
  json["architectures"][0] = "LlamaForCausalLM";
  json["attention_bias"] = json["mlp_bias"] = true;
  EXPECT_TRUE(parse_model_config(json, "c").mlp_bias);
  EXPECT_TRUE(parse_model_config(json, "c").output_bias);
}

struct WindowCase {
  const char* name;
  const char* architecture;
  Json patch;
  std::vector<uint32_t> windows;  ///< per layer, 0 = all
};

class Windows : public ::testing::TestWithParam<WindowCase> {};

TEST_P(Windows, AreReadAsTransformersReadsThem) {
  Json json = good();
  json["num_hidden_layers"] = 4;
  json["architectures"][0] = GetParam().architecture;
  for (const auto& [key, value] : GetParam().patch.items()) json[key] = value;
  const ModelConfig config = parse_model_config(json, "c");
  EXPECT_EQ(config.context, 256u) << "a window does not bound it";
  std::vector<uint32_t> windows;
  for (uint32_t i = 0; i < 4; ++i) windows.push_back(config.slides(i) ? *config.sliding_window : 0);
  EXPECT_EQ(windows, GetParam().windows);
}

const char* const kMistral = "MistralForCausalLM";
const char* const kQwen2 = "Qwen2ForCausalLM";
const char* const kQwen3 = "Qwen3ForCausalLM";
const std::vector<uint32_t> kAll(4, 0);

INSTANTIATE_TEST_SUITE_P(
    All, Windows,
    ::testing::Values(
        WindowCase{"mistral", kMistral, {{"sliding_window", 100}}, {100, 100, 100, 100}},
        WindowCase{"mistral_null", kMistral, {{"sliding_window", nullptr}}, kAll},
        WindowCase{"mistral_silent", kMistral, Json::object(), {4096, 4096, 4096, 4096}},
        WindowCase{
            "mistral_layer_types",
            kMistral,
            {{"sliding_window", 7},
             {"layer_types",
              {"sliding_attention", "full_attention", "sliding_attention", "full_attention"}}},
            {7, 0, 7, 0}},
        WindowCase{"gemma2_none",
                   "Gemma2ForCausalLM",
                   {{"sliding_window", nullptr}, {"layer_types", Json(4, "full_attention")}},
                   kAll},
        WindowCase{"gemma3_none",
                   "Gemma3ForCausalLM",
                   {{"sliding_window", nullptr}, {"layer_types", Json(4, "full_attention")}},
                   kAll},
        WindowCase{"gemma3_no_period",
                   "Gemma3ForCausalLM",
                   {{"sliding_window", nullptr}, {"sliding_window_pattern", 1}},
                   kAll},
        WindowCase{"mistral_none",
                   kMistral,
                   {{"sliding_window", nullptr}, {"layer_types", Json(4, "full_attention")}},
                   kAll},
        WindowCase{"qwen2_none",
                   kQwen2,
                   {{"sliding_window", nullptr}, {"layer_types", Json(4, "full_attention")}},
                   kAll},
        WindowCase{"llama", "LlamaForCausalLM", {{"sliding_window", 100}}, kAll},
        WindowCase{"qwen2_off", kQwen2, {{"sliding_window", 9}, {"max_window_layers", 1}}, kAll},
        WindowCase{"qwen2_on",
                   kQwen2,
                   {{"use_sliding_window", true}, {"sliding_window", 9}, {"max_window_layers", 3}},
                   {0, 0, 0, 9}},
        WindowCase{"qwen2_max_window_layers_silent",
                   kQwen2,
                   {{"use_sliding_window", true}, {"sliding_window", 9}},
                   kAll},
        WindowCase{
            "qwen3_null",
            kQwen3,
            {{"use_sliding_window", true}, {"sliding_window", nullptr}, {"max_window_layers", 0}},
            kAll},
        WindowCase{"qwen3_silent",
                   kQwen3,
                   {{"use_sliding_window", true}, {"max_window_layers", 2}},
                   {0, 0, 4096, 4096}},
        WindowCase{"qwen3_layer_types",
                   kQwen3,
                   {{"use_sliding_window", true},
                    {"sliding_window", 7},
                    {"max_window_layers", 4},
                    {"layer_types",
                     {"sliding_attention", "full_attention", "sliding_attention", "attention"}}},
                   {7, 0, 7, 0}}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(ModelConfig, GemmasLayersThatSlideWantAWindow) {
  Json json = good();
  json["architectures"][0] = "Gemma2ForCausalLM";
  json["sliding_window"] = nullptr;
  const std::string message = test::error_of([&] { parse_model_config(json, "c"); });
  EXPECT_NE(message.find("sliding_window: expected a whole number, since layers slide, got null"),
            std::string::npos)
      << message;
}

/// head_dim/2 speeds for a sequence of `length` tokens.
std::vector<float> frequencies(const Json& json, uint32_t length = 1) {
  const ModelConfig config = parse_model_config(json, "c");
  std::vector<float> result(config.head_dim / 2);
  const uint32_t regime = rope_regime(config.rope_scaling, length);
  rope_inverse_frequencies(config.rope_scaling, config.rope_theta, regime, result);
  return result;
}

/// Reference values computed by transformers 4.46 for Llama 3.1 8B (head_dim 128, theta 5e5,
/// factor 8) are: unscaled up to the high-frequency border, /8 past the low one, smooth between.
TEST(ModelConfig, RopeScalings) {
  Json json = good();
  json["head_dim"] = 128;
  json["rope_theta"] = 500000.0;
  const auto plain = frequencies(json);
  ASSERT_EQ(plain.size(), 64u);
  EXPECT_FLOAT_EQ(plain[1], static_cast<float>(std::pow(500000.0, -2.0 / 128)));
  json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  EXPECT_FLOAT_EQ(frequencies(json)[5], plain[5] / 4);
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 8192}};
  const auto scaled = frequencies(json);
  EXPECT_FLOAT_EQ(scaled[0], plain[0]);
  EXPECT_FLOAT_EQ(scaled[63], plain[63] / 8);
  int between = 0;
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_LE(scaled[i], plain[i] * 1.000001f);
    EXPECT_GE(scaled[i], plain[i] / 8 * 0.999999f);
    between += scaled[i] < plain[i] * 0.999f && scaled[i] > plain[i] / 8 * 1.001f ? 1 : 0;
  }
  EXPECT_GT(between, 0);
}

void expect_frequencies(const std::vector<float>& got, const std::map<size_t, double>& expected) {
  for (const auto& [i, value] : expected) EXPECT_NEAR(got[i] / value, 1, 1e-6) << "pair " << i;
}

/// Expected values by the formulas of transformers 5.24, worked out in Python:
/// DeepSeek-R1-0528-Qwen3 -8B (its attn_factor is no key of transformers), and a Qwen2.5 folder
/// made long as its card says.
TEST(ModelConfig, YarnOfRealModels) {
  Json json = good();
  json["architectures"] = {"Qwen3ForCausalLM"};
  json["head_dim"] = 128;
  json["rope_theta"] = 1000000;
  json["max_position_embeddings"] = 131072;
  json["rope_scaling"] = {{"rope_type", "yarn"},
                          {"factor", 4.0},
                          {"original_max_position_embeddings", 32768},
                          {"attn_factor", 0.8782488562869419}};
  const std::map<size_t, double> expected = {
      {0, 1},           {20, 0.0133352143},   {23, 0.00697830585},  {24, 0.00537532149},
      {30, 0.00106436}, {39, 6.49039432e-05}, {40, 4.44569853e-05}, {63, 3.1023444e-07}};
  ModelConfig config = parse_model_config(json, "c");
  EXPECT_DOUBLE_EQ(config.rope_scaling.attention_factor, 0.1 * std::log(4.0) + 1);
  EXPECT_EQ(config.context, 131072u);
  expect_frequencies(frequencies(json), expected);
  json["architectures"] = {"Qwen2ForCausalLM"};
  json["max_position_embeddings"] = 32768;
  json["rope_scaling"] = {
      {"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  EXPECT_EQ(parse_model_config(json, "c").context, 131072u) << "what the scaling is there for";
  expect_frequencies(frequencies(json), expected);
  json["rope_parameters"] = json["rope_scaling"];
  json["rope_parameters"]["rope_theta"] = 1000000;
  json.erase("rope_scaling");
  json.erase("rope_theta");
  expect_frequencies(frequencies(json), expected);
}

TEST(ModelConfig, YarnWithAllItsKeys) {
  Json json = good();
  json["head_dim"] = 128;
  json["max_position_embeddings"] = 163840;
  json["original_max_position_embeddings"] = 4096;  // beside the section: it counts
  json["rope_scaling"] = {{"type", "yarn"},    {"factor", nullptr},
                          {"mscale", 0.707},   {"mscale_all_dim", 1.0},
                          {"beta_fast", 16},   {"beta_slow", 2},
                          {"truncate", false}, {"original_max_position_embeddings", 77}};
  const ModelConfig config = parse_model_config(json, "c");
  EXPECT_EQ(config.rope_scaling.factor, 40) << "the ratio";
  EXPECT_NEAR(config.rope_scaling.attention_factor, 0.9210423553163399, 1e-12);
  expect_frequencies(frequencies(json), {{0, 1},
                                         {20, 0.0562341325},
                                         {30, 0.00952086063},
                                         {36, 0.00173821862},
                                         {40, 0.000123952369},
                                         {63, 2.88695496e-06}});
  json["rope_scaling"]["attention_factor"] = 0.5;
  EXPECT_EQ(parse_model_config(json, "c").rope_scaling.attention_factor, 0.5);
}

TEST(ModelConfig, DynamicScalingLooksAtTheLength) {
  Json json = good();
  json["head_dim"] = 128;
  json["max_position_embeddings"] = 2048;
  const auto plain = frequencies(json);
  json["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  EXPECT_EQ(parse_model_config(json, "c").context, 4096u);
  EXPECT_EQ(frequencies(json, 2048), plain);
  expect_frequencies(frequencies(json, 3000),
                     {{1, 0.856975608}, {32, 0.00716128138}, {63, 5.98429531e-05}});
  expect_frequencies(frequencies(json, 4096),
                     {{1, 0.850994291}, {32, 0.00572338151}, {63, 3.84927328e-05}});
}

TEST(ModelConfig, LongropeHasTwoSets) {
  Json json = good();  // head_dim 8
  json["max_position_embeddings"] = 131072;
  const auto plain = frequencies(json);
  json["rope_scaling"] = {{"type", "longrope"},
                          {"short_factor", {1, 1.5, 2, 2.5}},
                          {"long_factor", {1, 10, 20, 30}},
                          {"original_max_position_embeddings", 4096}};
  const ModelConfig config = parse_model_config(json, "c");
  EXPECT_EQ(config.context, 131072u);
  EXPECT_NEAR(config.rope_scaling.attention_factor, 1.1902380714238083, 1e-12);
  for (const size_t i : {0u, 1u, 2u, 3u}) {
    const double x = static_cast<double>(i);
    EXPECT_FLOAT_EQ(frequencies(json, 4096)[i], static_cast<float>(plain[i] / (1 + x / 2)));
    EXPECT_FLOAT_EQ(frequencies(json, 4097)[i],
                    static_cast<float>(plain[i] / (i == 0 ? 1 : 10 * x)));
  }
}

/// Files for two versions of transformers say it twice.
TEST(ModelConfig, RopeScalingMayStandBesideRopeParameters) {
  Json json = good();
  json["architectures"] = {"Gemma3ForCausalLM"};
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 8.0}};
  json["rope_parameters"] = {
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8}, {"rope_theta", 5e5}}},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 2e4}}}};
  const ModelConfig config = parse_model_config(json, "c");
  EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(config.rope_scaling.factor, 8);
  EXPECT_EQ(config.rope_theta, 5e5);
  EXPECT_EQ(config.local_rope_theta, 2e4);
}

/// Whoever decides in transformers decides here.
TEST(ModelConfig, TheModelTypeDecides) {
  const auto architecture = [](const Json& classes, const Json& type) {
    Json json = good();
    json["architectures"] = classes;
    json["model_type"] = type;
    return parse_model_config(json, "c").architecture;
  };
  EXPECT_EQ(architecture(nullptr, "llama"), "LlamaForCausalLM");
  EXPECT_EQ(architecture(Json::array(), "qwen2"), "Qwen2ForCausalLM");
  EXPECT_EQ(architecture({"LLaMAForCausalLM"}, "llama"), "LlamaForCausalLM");
  EXPECT_EQ(architecture({"Qwen3Model"}, "qwen3"), "Qwen3ForCausalLM");
  EXPECT_EQ(architecture({"LlamaForCausalLM"}, "mistral"), "MistralForCausalLM");
  EXPECT_EQ(architecture({"LlamaForCausalLM"}, nullptr), "LlamaForCausalLM");
  EXPECT_NE(test::error_of([&] {
              architecture({"LLaMAForCausalLM"}, nullptr);
            }).find("LLaMAForCausalLM is not supported"),
            std::string::npos);
  EXPECT_NE(test::error_of([&] { architecture(nullptr, "gpt2"); }).find("architectures"),
            std::string::npos);
  EXPECT_NE(test::error_of([&] {
              architecture({"LlamaForSequenceClassification"}, "llama");
            }).find("not supported"),
            std::string::npos);
}

TEST(ModelConfig, EndTokensThatNoTokenHas) {
  Json json = good();
  json["eos_token_id"] = -1;
  EXPECT_TRUE(parse_model_config(json, "c").end_tokens.empty());
  json["eos_token_id"] = {-1, 7, 4294967298, 9};
  EXPECT_EQ(parse_model_config(json, "c").end_tokens, (std::vector<uint32_t>{7, 9}));
  json["eos_token_id"] = nullptr;
  EXPECT_TRUE(parse_model_config(json, "c").end_tokens.empty());
}

Json good_gemma3() {
  Json json = good();
  json["architectures"] = {"Gemma3ForCausalLM"};
  json["num_hidden_layers"] = 7;
  return json;
}

/// What the configuration class of Gemma 3 has, and what others have instead.
TEST(ModelConfig, GemmaThreeMayLackItsShape) {
  Json json = good_gemma3();
  for (const char* key :
       {"num_attention_heads", "num_key_value_heads", "vocab_size", "max_position_embeddings"}) {
    json.erase(key);
  }
  const ModelConfig config = parse_model_config(json, "c");
  EXPECT_EQ(config.heads, 8u);
  EXPECT_EQ(config.kv_heads, 4u);
  EXPECT_EQ(config.head_dim, 256u);
  EXPECT_EQ(config.vocab, 262208u);
  EXPECT_EQ(config.context, 131072u);
  EXPECT_EQ(config.rms_epsilon, 1e-6);
  EXPECT_EQ(config.sliding_window, 4096u);
  EXPECT_EQ(config.sliding_layers, (std::vector<bool>{true, true, true, true, true, false, true}));
  EXPECT_EQ(config.score_scale, 0) << "1/sqrt(256), the width of a head";
  EXPECT_EQ(config.score_cap, 0);
  EXPECT_EQ(config.logit_cap, 0);
  EXPECT_EQ(config.norm_added, 1);
  EXPECT_TRUE(config.tied_embeddings && config.gelu && config.post_norms && config.qk_norm &&
              config.scaled_embeddings);
  json["architectures"] = {"Gemma2ForCausalLM"};
  for (const char* key : {"num_attention_heads", "vocab_size", "max_position_embeddings"}) {
    const auto message = test::error_of([&] { parse_model_config(json, "c"); });
    EXPECT_NE(message.find(std::string("c: ") + key), std::string::npos) << message;
    json[key] = 8;
  }
}

TEST(ModelConfig, GemmaTwoHasCapsUnlessTheyAreNull) {
  Json json = good();
  json["architectures"] = {"Gemma2ForCausalLM"};
  json.erase("num_key_value_heads");
  ModelConfig config = parse_model_config(json, "c");
  EXPECT_EQ(config.kv_heads, 4u);
  EXPECT_EQ(config.head_dim, 256u);
  EXPECT_EQ(config.score_cap, 50);
  EXPECT_EQ(config.logit_cap, 30);
  EXPECT_EQ(config.sliding_window, 4096u);
  EXPECT_EQ(config.sliding_layers, (std::vector<bool>{true, false}));
  EXPECT_FALSE(config.qk_norm);
  EXPECT_FALSE(config.local_rope_theta);
  json["attn_logit_softcapping"] = json["final_logit_softcapping"] = nullptr;
  json["query_pre_attn_scalar"] = 144;
  json["tie_word_embeddings"] = false;
  config = parse_model_config(json, "c");
  EXPECT_EQ(config.score_cap, 0);
  EXPECT_EQ(config.logit_cap, 0);
  EXPECT_FLOAT_EQ(config.score_scale, 1.0f / 12);
  EXPECT_FALSE(config.tied_embeddings);
}

/// transformers reads the key for Gemma 3 as well, and never uses it.
TEST(ModelConfig, ScoresOfGemmaTwoAreCapped) {
  Json json = good_gemma3();
  json["attn_logit_softcapping"] = 7;
  EXPECT_EQ(parse_model_config(json, "c").score_cap, 0);
  json["architectures"] = {"Gemma2ForCausalLM"};
  EXPECT_EQ(parse_model_config(json, "c").score_cap, 7);
}

/// Layers that slide want a window: null is none.
TEST(ModelConfig, NullIsNoWindowOfGemmaButOneOfPhi) {
  for (const char* architecture : {"Gemma2ForCausalLM", "Gemma3ForCausalLM"}) {
    Json json = good_gemma3();
    json["architectures"] = {architecture};
    json["sliding_window"] = nullptr;
    EXPECT_NE(test::error_of([&] {
                parse_model_config(json, "c");
              }).find("sliding_window: expected a whole number, since layers slide"),
              std::string::npos);
  }
  Json json = good();
  json["architectures"] = {"Phi3ForCausalLM"};
  const ModelConfig config = parse_model_config(json, "c");
  EXPECT_EQ(config.rms_epsilon, 1e-5);
  EXPECT_TRUE(config.fused);
  EXPECT_EQ(config.rotary_dim, 0u) << "all of a head";
  EXPECT_FALSE(config.slides(0)) << "nothing said is none";
  json["sliding_window"] = nullptr;
  EXPECT_FALSE(parse_model_config(json, "c").slides(0));
  json["sliding_window"] = 2047;
  EXPECT_TRUE(parse_model_config(json, "c").slides(0));
  EXPECT_TRUE(parse_model_config(json, "c").slides(1));
}

/// The names that Phi 3 had for it at first.
TEST(ModelConfig, PhiCallsLongropeSuOrYarn) {
  Json json = good();
  json["architectures"] = {"Phi3ForCausalLM"};
  json["max_position_embeddings"] = 131072;
  json["original_max_position_embeddings"] = 4096;
  json["rope_scaling"] = {{"short_factor", {1, 1.5, 2, 2.5}}, {"long_factor", {1, 10, 20, 30}}};
  for (const char* name : {"su", "yarn", "longrope"}) {
    json["rope_scaling"]["type"] = name;
    const RopeScaling scaling = parse_model_config(json, "c").rope_scaling;
    EXPECT_EQ(scaling.kind, RopeScaling::Kind::kLongRope) << name;
    EXPECT_EQ(scaling.original_max_positions, 4096);
    EXPECT_EQ(scaling.factor, 32) << "the ratio";
    EXPECT_EQ(scaling.long_factors, (std::vector<double>{1, 10, 20, 30}));
  }
  json["architectures"] = {"LlamaForCausalLM"};
  json["rope_scaling"]["type"] = "su";
  EXPECT_NE(
      test::error_of([&] { parse_model_config(json, "c"); }).find("rope_type su is not supported"),
      std::string::npos);
}

/// A section for each type of layers, and what earlier configurations say beside them.
TEST(ModelConfig, GemmaThreeTurnsByTheSectionsOfItsLayers) {
  Json json = good_gemma3();
  ModelConfig config = parse_model_config(json, "c");
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.local_rope_theta, 1e4);
  json["rope_theta"] = 2e6;
  json["rope_local_base_freq"] = 2e4;
  config = parse_model_config(json, "c");
  EXPECT_EQ(config.rope_theta, 2e6);
  EXPECT_EQ(config.local_rope_theta, 2e4);
  json["rope_parameters"] = {
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 3e4}}},
      {"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 3e6}}}};
  for (const bool both : {false, true}) {
    if (both) json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
    config = parse_model_config(json, "c");
    EXPECT_EQ(config.rope_theta, 3e6);
    EXPECT_EQ(config.local_rope_theta, 3e4);
    EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::kLinear);
    EXPECT_EQ(config.rope_scaling.factor, 8);
  }
  json["rope_parameters"]["sliding_attention"]["rope_type"] = "linear";
  const auto message = test::error_of([&] { parse_model_config(json, "c"); });
  EXPECT_NE(message.find("rope_parameters: sliding_attention: rope_type: expected default"),
            std::string::npos)
      << message;
}

/// Also where the quotient, rounded to a double, gives a product just below the whole number.
TEST(ModelConfig, EveryRotaryShareReadsBack) {
  uint32_t rounded_below = 0;
  for (uint32_t width = 4; width <= 1024; width += 2) {
    for (uint32_t turning = 2; turning < width; turning += 2) {
      ASSERT_EQ(static_cast<uint32_t>(rotary_share(turning, width) * width), turning) << width;
      const double quotient = static_cast<double>(turning) / width;
      rounded_below += static_cast<uint32_t>(quotient * width) != turning ? 1 : 0;
    }
    Json json = good();
    json["architectures"] = {"Phi3ForCausalLM"};
    json["head_dim"] = width;
    const uint32_t turning = std::max(width / 4 * 3 / 2 * 2, 2u);
    json["partial_rotary_factor"] = rotary_share(turning, width);
    const Json read = Json::parse(json.dump());
    EXPECT_EQ(parse_model_config(read, "c").rotary_dim, turning) << width;
  }
  EXPECT_GT(rounded_below, 0u);
}

/// Of a model of texts and images, whichever part names it.
TEST(ModelConfig, QuantizedTextPartsAreRefused) {
  const Json quantized = {{"bits", 4}};
  Json json = {{"architectures", {"Gemma3ForConditionalGeneration"}},
               {"text_config", good()},
               {"quantization_config", quantized}};
  const auto message = [&] { return test::error_of([&] { parse_model_config(json, "c"); }); };
  EXPECT_NE(message().find("c: quantized checkpoints are not supported"), std::string::npos);
  json.erase("quantization_config");
  json["text_config"]["quantization_config"] = quantized;
  EXPECT_NE(message().find("c: text_config: quantized checkpoints"), std::string::npos);
}

struct BadField {
  const char* name;
  Json patch;
  const char* expected;
};

class BadFields : public ::testing::TestWithParam<BadField> {};

TEST_P(BadFields, AreRefused) {
  Json json = good();
  json.merge_patch(GetParam().patch);
  const std::string message = test::error_of([&] { parse_model_config(json, "dir/config.json"); });
  EXPECT_NE(message.find(GetParam().expected), std::string::npos) << message;
  EXPECT_NE(message.find("dir/config.json"), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    All, BadFields,
    ::testing::Values(
        BadField{"unknown", {{"architectures", {"GPT2LMHeadModel"}}}, "Qwen3ForCausalLM"},
        BadField{"none", {{"architectures", nullptr}}, "architectures"},
        BadField{"layers", {{"num_hidden_layers", 0}}, "num_hidden_layers"},
        BadField{"negative", {{"hidden_size", -4}}, "hidden_size"},
        BadField{"text", {{"vocab_size", "many"}}, "vocab_size"},
        BadField{"groups", {{"num_key_value_heads", 3}}, "divisor"},
        BadField{"odd", {{"head_dim", 7}}, "head_dim"},
        BadField{"act", {{"hidden_act", "gelu"}}, "silu"},
        BadField{"rope", {{"rope_scaling", {{"type", "su"}}}}, "rope_type su is not supported"},
        BadField{
            "linear", {{"rope_scaling", {{"type", "linear"}}}}, "rope_scaling: factor: expected"},
        BadField{"dynamic", {{"rope_scaling", {{"type", "dynamic"}}}}, "factor: expected"},
        BadField{"yarn", {{"rope_scaling", {{"type", "yarn"}}}}, "factor: expected"},
        BadField{"llama3",
                 {{"rope_scaling", {{"type", "llama3"}, {"factor", 8}}}},
                 "low_freq_factor: expected"},
        BadField{
            "longrope",
            {{"rope_scaling",
              {{"type", "longrope"}, {"short_factor", {1, 2, 3, 4}}, {"long_factor", {1, 2}}}}},
            "long_factor: expected 4 numbers"},
        BadField{"rope_per_layer",
                 {{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}},
                 "one scaling for all layers"},
        BadField{
            "partial",
            {{"rope_scaling", {{"type", "linear"}, {"factor", 2}, {"partial_rotary_factor", 0.5}}}},
            "partial_rotary_factor"},
        BadField{"partial_beside", {{"partial_rotary_factor", 0.5}}, "only the heads of Phi 3"},
        BadField{"partial_gemma",
                 {{"architectures", {"Gemma3ForCausalLM"}}, {"partial_rotary_factor", 0.5}},
                 "only the heads of Phi 3"},
        BadField{"partial_local",
                 {{"architectures", {"Gemma3ForCausalLM"}},
                  {"rope_parameters",
                   {{"full_attention", {{"rope_type", "default"}}},
                    {"sliding_attention", {{"partial_rotary_factor", 0.5}}}}}},
                 "sliding_attention: partial_rotary_factor: expected 1"},
        BadField{"partial_more",
                 {{"architectures", {"Phi3ForCausalLM"}}, {"partial_rotary_factor", 1.5}},
                 "partial_rotary_factor: expected a number above 0, at most 1, got 1.5"},
        BadField{"partial_none",
                 {{"architectures", {"Phi3ForCausalLM"}}, {"partial_rotary_factor", 0}},
                 "partial_rotary_factor: expected a number above 0, at most 1, got 0"},
        BadField{"rope_twice",
                 {{"rope_scaling", {{"type", "linear"}, {"factor", 2}}},
                  {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}}},
                 "rope_scaling: expected what rope_parameters says, or only one of the two"},
        BadField{"rope_half",
                 {{"architectures", {"Gemma3ForCausalLM"}},
                  {"rope_parameters", {{"sliding_attention", {{"rope_type", "default"}}}}}},
                 "rope_parameters: full_attention: expected an object, got nothing"},
        BadField{"original",
                 {{"architectures", {"Phi3ForCausalLM"}},
                  {"original_max_position_embeddings", 1},
                  {"rope_scaling",
                   {{"type", "longrope"},
                    {"short_factor", {1, 1, 1, 1}},
                    {"long_factor", {1, 1, 1, 1}}}}},
                 "original_max_position_embeddings: expected a whole number from 2 to 1073741824, "
                 "got 1"},
        BadField{"quant", {{"quantization_config", {{"bits", 4}}}}, "quantized"},
        BadField{"eps", {{"rms_norm_eps", -1.0}}, "rms_norm_eps"},
        BadField{"eps_small",
                 {{"rms_norm_eps", 1e-300}},
                 "rms_norm_eps: expected a number above 0, of 1.2e-38 or more, got 1e-300"},
        BadField{"theta_large",
                 {{"rope_theta", 1e300}},
                 "rope_theta: expected a number above 0, of 3.4e+38 or less, got 1e+300"},
        BadField{"theta_small",
                 {{"head_dim", 64}, {"rope_theta", 2e-38}},
                 "rope_theta: expected a number with which rotations stay finite, got 2e-38"},
        BadField{"theta_in_section",
                 {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e-300}}}},
                 "rope_parameters: rope_theta: expected a number above 0, of 1.2e-38"},
        BadField{"linear_tiny",
                 {{"rope_scaling", {{"type", "linear"}, {"factor", 1e-300}}}},
                 "rope_scaling: factor: expected a number above 0, of 1.2e-38 or more"},
        BadField{"linear_small",
                 {{"rope_scaling", {{"type", "linear"}, {"factor", 2e-38}}}},
                 "rope_scaling: factor: expected a number with which rotations stay finite"},
        BadField{"mscale",
                 {{"rope_scaling",
                   {{"type", "yarn"}, {"factor", 8}, {"mscale", 1e-38}, {"mscale_all_dim", 1e38}}}},
                 "rope_scaling: mscale: expected"},
        BadField{"short_factors",
                 {{"rope_scaling",
                   {{"type", "longrope"},
                    {"short_factor", {2e-38, 1, 1, 1}},
                    {"long_factor", {1, 1, 1, 1}}}}},
                 "short_factor: expected a number with which rotations stay finite"},
        BadField{"long_factors",
                 {{"rope_scaling",
                   {{"type", "longrope"},
                    {"original_max_position_embeddings", 64},
                    {"short_factor", {1, 1, 1, 1}},
                    {"long_factor", {2e-38, 1, 1, 1}}}}},
                 "long_factor: expected a number with which rotations stay finite"},
        BadField{"query_scalar",
                 {{"architectures", {"Gemma2ForCausalLM"}}, {"query_pre_attn_scalar", 1e300}},
                 "query_pre_attn_scalar: expected a number above 0, of 3.4e+38 or less"},
        BadField{"cap_small",
                 {{"architectures", {"Gemma2ForCausalLM"}}, {"attn_logit_softcapping", 1e-300}},
                 "attn_logit_softcapping: expected a number above 0, of 1.2e-38 or more"},
        BadField{"cap_large",
                 {{"architectures", {"Gemma2ForCausalLM"}}, {"final_logit_softcapping", 3.5e38}},
                 "final_logit_softcapping: expected a number above 0, of 3.4e+38 or less"},
        BadField{"local_base",
                 {{"architectures", {"Gemma3ForCausalLM"}}, {"rope_local_base_freq", 1e-300}},
                 "rope_local_base_freq: expected a number above 0, of 1.2e-38 or more"},
        BadField{"local_base_small",
                 {{"architectures", {"Gemma3ForCausalLM"}}, {"rope_local_base_freq", 2e-38}},
                 "rope_local_base_freq: expected a number with which rotations stay finite"},
        BadField{"window",
                 {{"architectures", {"MistralForCausalLM"}}, {"sliding_window", 0}},
                 "sliding_window"},
        BadField{"layer_type",
                 {{"architectures", {"Qwen3ForCausalLM"}},
                  {"layer_types", {"full_attention", "linear_attention"}}},
                 "sliding_attention for every layer"},
        BadField{"layer_types",
                 {{"architectures", {"Qwen3ForCausalLM"}}, {"layer_types", {"full_attention"}}},
                 "a list of 2 layer types"},
        BadField{"no_window",
                 {{"architectures", {"Qwen2ForCausalLM"}},
                  {"layer_types", {"full_attention", "sliding_attention"}}},
                 "use_sliding_window"},
        BadField{"eos", {{"eos_token_id", "x"}}, "eos_token_id"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(WeightMap, MissingAndMisshapenTensors) {
  const test::TempDir dir;
  test::make_checkpoint(dir / "m", test::small_shape("LlamaForCausalLM"), DType::kBF16, 1, 0);
  const std::string config = test::read_file(dir / "m" / "config.json");
  test::Notices notices;
  const auto complaint = [&](const std::string& from, const std::string& to) {
    std::string changed = config;
    changed.replace(changed.find(from), from.size(), to);
    test::write_file(dir / "m" / "config.json", changed);
    return test::error_of([&] { open_model(dir / "m", DirectChoice::kAuto, notices.sink()); });
  };
  EXPECT_NE(complaint("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5")
                .find("model.layers.4.input_layernorm.weight is missing"),
            std::string::npos);
  EXPECT_NE(complaint("\"intermediate_size\": 768", "\"intermediate_size\": 700")
                .find("has shape [768, 256] but config.json asks for [700, 256]"),
            std::string::npos);
  EXPECT_NE(complaint("\"model_type\": \"llama\"", "\"model_type\": \"qwen3\"")
                .find("q_norm.weight is missing"),
            std::string::npos);
}

/// A checkpoint whose tensors a test renames, drops or adds.
class OddCheckpoint : public ::testing::Test {
 protected:
  void make(const std::string& architecture, bool tied) {
    ModelConfig shape = test::small_shape(architecture);
    shape.tied_embeddings = tied;
    shape.layers = 2;
    fit_to_shape(shape);
    test::make_checkpoint(dir_ / "m", shape, DType::kBF16, 1, 0);
  }
  std::string header(const std::string& name = "model.safetensors") {
    const std::string file = test::read_file(dir_ / "m" / name);
    uint64_t bytes = 0;
    std::memcpy(&bytes, file.data(), 8);
    return file.substr(8, bytes);
  }
  /// A header of the same length: offsets stay, and the payload where it is.
  void set_header(const std::string& header) {
    std::string file = test::read_file(dir_ / "m" / "model.safetensors");
    const size_t bytes = this->header().size();
    ASSERT_LE(header.size(), bytes);
    file.replace(8, bytes, header + std::string(bytes - header.size(), ' '));
    test::write_file(dir_ / "m" / "model.safetensors", file);
  }
  /// For names that are longer than those they replace.
  void make_room_in_header() {
    constexpr size_t kMore = 4096;
    const auto path = dir_ / "m" / "model.safetensors";
    std::string file = test::read_file(path);
    uint64_t bytes = 0;
    std::memcpy(&bytes, file.data(), 8);
    file.insert(8 + bytes, kMore, ' ');
    bytes += kMore;
    std::memcpy(file.data(), &bytes, 8);
    test::write_file(path, file);
  }
  void rename(const std::string& from, const std::string& to) {
    std::string text = header();
    text.erase(text.find_last_not_of(' ') + 1);
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
      text.replace(at, from.size(), to);
    }
    set_header(text);
  }
  void patch_config(const Json& patch) {
    const auto path = dir_ / "m" / "config.json";
    Json json = Json::parse(test::read_file(path));
    json.merge_patch(patch);
    test::write_file(path, json.dump());
  }
  Model open() { return open_model(dir_ / "m", DirectChoice::kAuto, notices_.sink()); }
  std::vector<float> logits() {
    Config config;
    config.device = "host";
    config.ram_bytes = uint64_t{1} << 30;
    config.max_new_tokens = 2;
    config.model_path = dir_ / "m";
    const std::vector<Prompt> prompts = {{"", {1, 2, 3}}};
    return test::run_model(config, &prompts).logits;
  }
  test::TempDir dir_;
  test::Notices notices_;
};

TEST_F(OddCheckpoint, MayLackThePrefixOfTheBareModel) {
  make("Qwen2ForCausalLM", true);
  const auto expected = logits();
  rename("\"model.", "\"");
  EXPECT_EQ(logits(), expected);
  EXPECT_TRUE(open().weights.unused.empty());
}

/// A model of texts and images: its text model's tensors have one prefix in older files, another
/// in newer ones, and its configuration is a section.
TEST_F(OddCheckpoint, MayHoldATextModelInside) {
  make("Gemma3ForCausalLM", true);
  const auto expected = logits();
  const auto path = dir_ / "m" / "config.json";
  Json text = Json::parse(test::read_file(path));
  text.erase("architectures");
  Json outer = {{"architectures", {"Gemma3ForConditionalGeneration"}},
                {"model_type", "gemma3"},
                {"text_config", text},
                {"vision_config", Json::object()}};
  test::write_file(path, outer.dump());
  EXPECT_EQ(logits(), expected) << "plain names";
  std::string before = "model.";
  for (const char* now : {"language_model.model.", "model.language_model."}) {
    make_room_in_header();
    rename("\"" + before, std::string("\"") + now);
    EXPECT_EQ(header().find("\"" + before + "layers"), std::string::npos);
    EXPECT_EQ(logits(), expected) << now;
    EXPECT_TRUE(open().weights.unused.empty());
    before = now;
  }
  outer.erase("text_config");
  test::write_file(path, outer.dump());
  EXPECT_NE(test::error_of([&] { open(); }).find("text_config: expected an object, got nothing"),
            std::string::npos);
}

TEST_F(OddCheckpoint, OfATiedModelMayHoldTheHeadAlone) {
  make("LlamaForCausalLM", true);
  const auto expected = logits();
  rename("model.embed_tokens.weight", "lm_head.weight");
  EXPECT_EQ(logits(), expected);
  EXPECT_TRUE(open().weights.tied);
}

/// transformers 5 ties only what is equal: a head beside the table is computed with.
TEST_F(OddCheckpoint, OfATiedModelMayHoldBoth) {
  make("LlamaForCausalLM", false);
  const auto expected = logits();
  patch_config({{"tie_word_embeddings", true}});
  EXPECT_FALSE(open().weights.tied);
  EXPECT_EQ(logits(), expected);
}

TEST_F(OddCheckpoint, MayRepeatAKeyOfItsConfigThatAgrees) {
  make("LlamaForCausalLM", false);
  const std::string config = test::read_file(dir_ / "m" / "config.json");
  const auto repeat = [&](const std::string& member) {
    test::write_file(dir_ / "m" / "config.json", "{" + member + "," + config.substr(1));
    open();
  };
  repeat("\"num_hidden_layers\": 2");
  EXPECT_NE(test::error_of([&] {
              repeat("\"num_hidden_layers\": 1");
            }).find("\"num_hidden_layers\" stands in one object twice, with different values"),
            std::string::npos);
}

/// An index that lists a head which no shard holds is no hindrance where the embeddings are tied.
TEST_F(OddCheckpoint, MayDisagreeWithItsIndexAboutWhatNobodyNeeds) {
  make("LlamaForCausalLM", true);
  const auto expected = logits();
  std::filesystem::rename(dir_ / "m" / "model.safetensors", dir_ / "m" / "one.safetensors");
  const Json stored = Json::parse(header("one.safetensors"));
  Json index;
  for (const auto& [name, value] : stored.items()) {
    if (name != "__metadata__") index["weight_map"][name] = "one.safetensors";
  }
  index["weight_map"]["lm_head.weight"] = "one.safetensors";
  const auto path = dir_ / "m" / "model.safetensors.index.json";
  test::write_file(path, index.dump());
  EXPECT_EQ(logits(), expected);
  index["weight_map"].erase("model.norm.weight");
  test::write_file(path, index.dump());
  EXPECT_NE(test::error_of([&] { open(); }).find("does not list tensor model.norm.weight"),
            std::string::npos);
}

TEST_F(OddCheckpoint, NamesWhatIsLeftUnused) {
  make("LlamaForCausalLM", false);
  open();
  EXPECT_TRUE(notices_.lines.empty());
  patch_config({{"num_hidden_layers", 1}});
  const Model model = open();
  EXPECT_EQ(model.weights.unused.size(), 9u);
  ASSERT_EQ(notices_.lines.size(), 1u);
  const std::string& note = notices_.lines[0];
  EXPECT_NE(note.find("1 layer) leaves 9 of the checkpoint's tensors unused: model.layers.1."),
            std::string::npos)
      << note;
  EXPECT_NE(note.find(" and 6 more"), std::string::npos) << note;
}

TEST(Synthetic, LeavesNothingBehindWhenStopped) {
  const test::TempDir dir;
  SyntheticOptions options;
  options.model = test::small_shape("LlamaForCausalLM");
  StopFlag stop;
  EXPECT_THROW(
      write_synthetic(dir / "new/m", options, stop, [&](uint64_t, uint64_t) { stop.request(); }),
      Stopped);
  EXPECT_FALSE(std::filesystem::exists(dir / "new")) << "nor the folders above";
}

std::set<std::string> names_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

/// A run that is killed leaves a marker; the next one goes on from there. Anything else in the
/// folder is not ours to touch.
TEST(Synthetic, ReplacesWhatAKilledRunLeft) {
  const test::TempDir dir;
  const auto write = [&] {
    test::make_checkpoint(dir / "m", test::small_shape("LlamaForCausalLM"), DType::kBF16, 2, 0);
  };
  write();
  const std::set<std::string> whole = names_in(dir / "m");
  EXPECT_FALSE(whole.contains(".spillway-synth"));
  EXPECT_NE(test::error_of(write).find("not empty"), std::string::npos);
  std::filesystem::remove(dir / "m/model.safetensors.index.json");
  test::write_file(dir / "m/model-00002-of-00002.safetensors.partial", "half");
  std::string marker = "spillway synth is writing these files\n";
  for (const std::string& name : whole) marker += name + "\n";
  test::write_file(dir / "m/.spillway-synth", marker);
  write();
  EXPECT_EQ(names_in(dir / "m"), whole);
  Checkpoint::open(dir / "m", DirectChoice::kOff, [](const std::string&) {});

  test::write_file(dir / "m/.spillway-synth", marker);
  test::write_file(dir / "m/notes.txt", "mine");
  EXPECT_NE(test::error_of(write).find("notes.txt"), std::string::npos);
  std::filesystem::remove(dir / "m/notes.txt");
  test::write_file(dir / "m/.spillway-synth", "of somebody else");
  EXPECT_NE(test::error_of(write).find("not empty"), std::string::npos);
  EXPECT_EQ(names_in(dir / "m").size(), whole.size() + 1);
}

TEST(Synthetic, TwoAtOnceDoNotMix) {
  const test::TempDir dir;
  SyntheticOptions options;
  options.model = test::small_shape("LlamaForCausalLM");
  std::string refusal;
  const auto second = [&](uint64_t, uint64_t) {
    if (!refusal.empty()) return;
    refusal = test::error_of(
        [&] { write_synthetic(dir / "m", options, StopFlag(), [](uint64_t, uint64_t) {}); });
  };
  write_synthetic(dir / "m", options, StopFlag(), second);
  EXPECT_NE(refusal.find("another spillway synth"), std::string::npos) << refusal;
  Checkpoint::open(dir / "m", DirectChoice::kOff, [](const std::string&) {});
}

TEST(Synthetic, RefusesAFolderInUse) {
  const test::TempDir dir;
  test::write_file(dir / "mine", "x");
  EXPECT_NE(test::error_of([&] {
              test::make_checkpoint(dir.path(), test::small_shape("LlamaForCausalLM"), DType::kBF16,
                                    1, 0);
            }).find("not empty"),
            std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(dir / "mine"));
}

TEST(Synthetic, TheSeedDecidesTheBytesWhateverTheShards) {
  const test::TempDir dir;
  const auto shape = test::small_shape("LlamaForCausalLM");
  test::make_checkpoint(dir / "a", shape, DType::kF16, 1, 5);
  test::make_checkpoint(dir / "b", shape, DType::kF16, 3, 5);
  Config config;
  config.device = "host";
  config.ram_bytes = uint64_t{1} << 30;
  config.max_new_tokens = 4;
  const std::vector<Prompt> prompts = {{"", {1, 2, 3}}};
  config.model_path = dir / "a";
  const auto one = test::run_model(config, &prompts);
  config.model_path = dir / "b";
  const auto three = test::run_model(config, &prompts);
  EXPECT_EQ(one.logits, three.logits);
}

}  // namespace
}  // namespace spillway
