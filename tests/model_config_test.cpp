#include "model/model_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

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

/// Reference values computed by transformers 4.46 for Llama 3.1 8B (head_dim 128, theta 5e5,
/// factor 8) are: unscaled up to the high-frequency border, /8 past the low one, smooth between.
TEST(ModelConfig, RopeScalings) {
  Json json = good();
  json["head_dim"] = 128;
  json["rope_theta"] = 500000.0;
  const auto plain = parse_model_config(json, "c").rope_inverse_frequencies();
  ASSERT_EQ(plain.size(), 64u);
  EXPECT_FLOAT_EQ(plain[1], static_cast<float>(std::pow(500000.0, -2.0 / 128)));
  json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  EXPECT_FLOAT_EQ(parse_model_config(json, "c").rope_inverse_frequencies()[5], plain[5] / 4);
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 8192}};
  const auto scaled = parse_model_config(json, "c").rope_inverse_frequencies();
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
        BadField{"rope", {{"rope_scaling", {{"type", "yarn"}}}}, "yarn"},
        BadField{"quant", {{"quantization_config", {{"bits", 4}}}}, "quantized"},
        BadField{"eps", {{"rms_norm_eps", -1.0}}, "rms_norm_eps"},
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
  EXPECT_NE(complaint("LlamaForCausalLM", "Qwen3ForCausalLM").find("q_norm.weight is missing"),
            std::string::npos);
}

TEST(Synthetic, LeavesNothingBehindWhenStopped) {
  const test::TempDir dir;
  SyntheticOptions options;
  options.model = test::small_shape("LlamaForCausalLM");
  StopFlag stop;
  EXPECT_THROW(
      write_synthetic(dir / "m", options, stop, [&](uint64_t, uint64_t) { stop.request(); }),
      Stopped);
  EXPECT_FALSE(std::filesystem::exists(dir / "m"));
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
