// Models from end to end: goldens of real checkpoints, the same bits from every placement.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <random>
#include <set>

#include "core/error.h"
#include "core/units.h"
#include "model/sweep.h"
#include "tests/run_helper.h"

namespace spillway {
namespace {

using test::make_checkpoint;
using test::roomy_config;
using test::run_model;
using test::RunOutcome;
using test::score_model;
using Json = nlohmann::json;

Json load(const std::filesystem::path& path) {
  return Json::parse(test::read_file(path));
}

struct GoldenCase {
  std::string model;
  uint32_t layers;
  test::PlacementCase placement;
};

std::vector<GoldenCase> golden_cases() {
  std::vector<GoldenCase> cases;
  for (const auto& placement : test::placement_cases(6)) {
    cases.push_back({"stories15M", 6, placement});
  }
  for (const auto& placement : test::placement_cases(5)) {
    cases.push_back({"stories260K", 5, placement});
  }
  if (!test::kCudaBuilt) return cases;
  for (const auto& placement : test::cuda_placement_cases(6)) {
    if (test::kCudaSimulated && placement.name != "cuda_three_tiers") continue;  // minutes each
    cases.push_back({"stories15M", 6, placement});
  }
  for (const auto& placement : test::cuda_placement_cases(5)) {
    cases.push_back({"stories260K", 5, placement});
  }
  return cases;
}

class Goldens : public ::testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override {
    SPILLWAY_NEEDS_TEST_DATA();
    directory_ = test::test_data() / "models" / GetParam().model;
    if (!std::filesystem::exists(directory_)) GTEST_SKIP() << directory_ << " is not there";
    config_ = roomy_config(directory_);
    GetParam().placement.apply(config_);
    if (config_.device == "cuda") SPILLWAY_NEEDS_CUDA();
  }
  std::filesystem::path directory_;
  Config config_;
};

TEST_P(Goldens, GreedyTokens) {
  const Json goldens = load(directory_ / "golden_greedy.json");
  const bool slow = test::kCudaSimulated && GetParam().model == "stories15M";
  config_.max_new_tokens = slow ? 5 : 64;
  config_.ignore_eos = true;
  for (const Json& golden : goldens) config_.prompts.push_back(golden["prompt"]);
  const auto outcome = run_model(config_);
  ASSERT_EQ(outcome.result.outputs.size(), goldens.size());
  for (size_t i = 0; i < goldens.size(); ++i) {
    auto expected = goldens[i]["output_token_ids"].get<std::vector<uint32_t>>();
    expected.resize(config_.max_new_tokens);
    EXPECT_EQ(outcome.result.outputs[i].ids, expected);
    if (slow) continue;
    EXPECT_EQ(outcome.result.outputs[i].text, goldens[i]["text"].get<std::string>());
  }
}

TEST_P(Goldens, MeanNll) {
  const Json golden = load(directory_ / "golden_logits_ids.json");
  const auto result = score_model(config_, {golden["token_ids"].get<std::vector<uint32_t>>()});
  EXPECT_NEAR(result.mean_nll, golden["mean_nll"].get<double>(), 1e-4);
  EXPECT_NEAR(result.perplexity, golden["perplexity"].get<double>(), 1e-3);
  EXPECT_EQ(result.tokens, golden["token_ids"].size() - 1);
}

INSTANTIATE_TEST_SUITE_P(All, Goldens, ::testing::ValuesIn(golden_cases()), [](const auto& test) {
  return test.param.model + "_" + test.param.placement.name;
});

struct BitCase {
  std::string name;
  bool cuda;
  const char* architecture;
  DType dtype;
  bool tied;
  uint32_t window = 0;  ///< in every layer, or every other one of Qwen
};

class SameEverywhere : public ::testing::TestWithParam<BitCase> {};

/// Decode and prompt logits, and scores, compared as bits; on a GPU also with the host's, as far as
/// the weights' dtype allows.
TEST_P(SameEverywhere, LogitsAreBitIdentical) {
  if (GetParam().cuda) SPILLWAY_NEEDS_CUDA();
  const test::TempDir dir;
  ModelConfig shape = test::small_shape(GetParam().architecture);
  shape.tied_embeddings = GetParam().tied;
  shape.vocab = 1024 + 37;  // the last tile is not whole
  if (GetParam().window > 0) shape.sliding_window = GetParam().window;
  for (uint32_t i = 0; i < shape.layers; ++i) {
    shape.sliding_layers.push_back(shape.architecture == "MistralForCausalLM" || i % 2 == 1);
  }
  make_checkpoint(dir / "m", shape, GetParam().dtype, 3, test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  std::vector<uint32_t> long_prompt;
  for (uint32_t i = 0; i < 70; ++i) long_prompt.push_back((i * 37 + 5) % shape.vocab);
  const std::vector<Prompt> prompts = {{"", long_prompt}, {"", {1, 2, 3}}, {"", {7}}};
  const std::vector<std::vector<uint32_t>> texts = {
      long_prompt, {9, 8, 7}, {long_prompt.begin() + 20, long_prompt.begin() + 60}};
  std::vector<float> logits;
  std::vector<std::vector<uint32_t>> ids;
  std::vector<std::vector<float>> logprobs;
  const auto placements = GetParam().cuda ? test::cuda_placement_cases(shape.layers)
                                          : test::placement_cases(shape.layers);
  for (const auto& placement : placements) {
    SCOPED_TRACE(placement.name);
    Config config = roomy_config(dir / "m");
    config.max_new_tokens = test::kCudaSimulated ? 3 : 6;
    config.prefill_chunk_tokens = 48;
    config.ignore_eos = true;
    placement.apply(config);
    const auto outcome = run_model(config, &prompts);
    if (config.io_engine != EngineChoice::kMmap) {
      config.prefill_sweep_tokens = 1000;
      const auto swept = run_model(config, &prompts);
      EXPECT_EQ(swept.plan.limits.sweep_rows, 74u) << "all prompts";
      EXPECT_EQ(swept.logits, outcome.logits);
      for (size_t i = 0; i < prompts.size(); ++i) {
        EXPECT_EQ(swept.result.outputs[i].ids, outcome.result.outputs[i].ids);
      }
      config.prefill_sweep_tokens.reset();
    }
    config.score_chunk_tokens = 32;
    const auto scores = score_model(config, texts);
    std::vector<std::vector<uint32_t>> outputs;
    for (const Output& output : outcome.result.outputs) outputs.push_back(output.ids);
    if (logits.empty()) {
      logits = outcome.logits;
      ids = outputs;
      logprobs = scores.logprobs;
    }
    EXPECT_EQ(outcome.logits, logits);
    EXPECT_EQ(outputs, ids);
    EXPECT_EQ(scores.logprobs, logprobs);
    if (config.io_engine == EngineChoice::kMmap) continue;
    for (const uint32_t sweep : {33u, 70u, 1000u}) {
      config.score_sweep_tokens = sweep;
      RunPlan plan;
      EXPECT_EQ(score_model(config, texts, &plan).logprobs, logprobs) << sweep;
      EXPECT_EQ(plan.limits.sweep_rows, sweep > 96 ? 113u : 96u) << "whole chunks, and texts";
      if (GetParam().cuda && test::kCudaSimulated) break;
    }
  }
  if (!GetParam().cuda) return;
  Config config = roomy_config(dir / "m");
  config.score_chunk_tokens = 32;
  const auto host = score_model(config, texts);
  const double allowed = GetParam().dtype == DType::kF32 ? 1e-4 : 5e-2;
  for (size_t t = 0; t < logprobs.size(); ++t) {
    ASSERT_EQ(logprobs[t].size(), host.logprobs[t].size());
    for (size_t i = 0; i < logprobs[t].size(); ++i) {
      EXPECT_NEAR(logprobs[t][i], host.logprobs[t][i], allowed) << "text " << t << " token " << i;
    }
  }
}

std::vector<BitCase> bit_cases() {
  std::vector<BitCase> cases;
  for (const bool cuda : {false, true}) {
    if (cuda && !test::kCudaBuilt) break;
    const std::string prefix = cuda ? "cuda_" : "";
    cases.push_back({prefix + "llama_bf16", cuda, "LlamaForCausalLM", DType::kBF16, false});
    cases.push_back({prefix + "llama_f16_tied", cuda, "LlamaForCausalLM", DType::kF16, true});
    cases.push_back({prefix + "mistral_f32", cuda, "MistralForCausalLM", DType::kF32, false});
    cases.push_back({prefix + "qwen2_bf16_tied", cuda, "Qwen2ForCausalLM", DType::kBF16, true});
    cases.push_back({prefix + "qwen3_bf16", cuda, "Qwen3ForCausalLM", DType::kBF16, false});
    cases.push_back(
        {prefix + "mistral_window", cuda, "MistralForCausalLM", DType::kBF16, false, 21});
    if (cuda && test::kCudaSimulated) continue;  // a minute each
    cases.push_back({prefix + "qwen2_window", cuda, "Qwen2ForCausalLM", DType::kF32, false, 40});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, SameEverywhere, ::testing::ValuesIn(bit_cases()),
                         [](const auto& test) { return test.param.name; });

/// What a scoring pass gives beside scores: the same everywhere, and what it says it is.
class Taps : public ::testing::TestWithParam<BitCase> {
 protected:
  void SetUp() override {
    if (GetParam().cuda) SPILLWAY_NEEDS_CUDA();
    shape_ = test::small_shape(GetParam().architecture);
    shape_.tied_embeddings = GetParam().tied;
    std::mt19937_64 random(test::run_seed());
    for (const size_t length : {70, 3, 45, 12}) {
      auto& text = texts_.emplace_back(length);
      for (uint32_t& id : text) id = static_cast<uint32_t>(random() % shape_.vocab);
    }
    if (!GetParam().cuda || !test::kCudaSimulated) texts_.push_back(texts_[0]);
  }
  void write_model() { make_checkpoint(dir_ / "m", shape_, GetParam().dtype, 1, test::run_seed()); }
  Config config() const {
    Config config = roomy_config(dir_ / "m");
    if (GetParam().cuda) config.device = "cuda";
    config.score_chunk_tokens = 32;
    return config;
  }
  std::vector<test::PlacementCase> placements() const {
    return GetParam().cuda ? test::cuda_placement_cases(shape_.layers)
                           : test::placement_cases(shape_.layers);
  }
  std::vector<uint32_t> all_layers() const {
    std::vector<uint32_t> layers(shape_.layers + 1);
    std::iota(layers.begin(), layers.end(), 0u);
    return layers;
  }

  testing::ScopedTrace trace_{__FILE__, __LINE__, test::seed_note(test::run_seed())};
  test::TempDir dir_;
  ModelConfig shape_;
  std::vector<std::vector<uint32_t>> texts_;
};

TEST_P(Taps, AreBitIdenticalEverywhere) {
  shape_.vocab = 1024 + 37;  // the last tile is not whole
  write_model();
  const test::Taps taps{20, all_layers()};
  std::optional<test::Tapped> first;
  for (const auto& placement : placements()) {
    SCOPED_TRACE(placement.name);
    Config config = this->config();
    placement.apply(config);
    const auto tapped = test::tap_model(config, texts_, taps);
    if (!first) first = tapped;
    EXPECT_EQ(tapped, *first);
    if (config.io_engine == EngineChoice::kMmap) continue;
    config.score_sweep_tokens = 100;
    RunPlan plan;
    EXPECT_EQ(test::tap_model(config, texts_, taps, &plan), *first);
    EXPECT_GT(plan.limits.sweep_rows, 96u);
  }
  ASSERT_EQ(first->hidden.size(), shape_.layers + 1);
  for (const auto& [layer, states] : first->hidden) {
    EXPECT_EQ(states.size(), first->ids.size() * shape_.hidden) << layer;
  }
  const auto plain = test::tap_model(config(), texts_, {});
  EXPECT_EQ(plain.logprobs, first->logprobs) << "taps change nothing";
  EXPECT_EQ(plain.log_sum_exp, first->log_sum_exp);
  EXPECT_EQ(plain.greedy, first->greedy);
  const test::Taps some{3, {1, shape_.layers}};
  const auto fewer = test::tap_model(config(), texts_, some);
  for (const uint32_t layer : some.hidden_layers) {
    EXPECT_EQ(fewer.hidden.at(layer), first->hidden.at(layer)) << layer;
  }
  EXPECT_EQ(fewer.hidden.size(), 2u);
  for (size_t i = 0; i < fewer.top_ids.size(); ++i) {
    ASSERT_EQ(fewer.top_ids[i], first->top_ids[i / 3 * 20 + i % 3]);
  }
}

/// With as many places as the vocabulary has ids.
TEST_P(Taps, AgreeWithLogProbabilities) {
  ASSERT_LE(shape_.vocab, kMaxTopK);
  write_model();
  const auto tapped = test::tap_model(config(), texts_, {kMaxTopK, {}});
  std::vector<float> scores;
  for (const auto& text : score_model(config(), texts_).logprobs) {
    scores.insert(scores.end(), text.begin(), text.end());
  }
  size_t scored = 0;
  size_t likeliest = 0;
  for (size_t r = 0; r < tapped.ids.size(); ++r) {
    const float* logits = tapped.top_logits.data() + r * kMaxTopK;
    const uint32_t* ids = tapped.top_ids.data() + r * kMaxTopK;
    double sum = 0;
    for (uint32_t i = 0; i < shape_.vocab; ++i) {
      sum += std::exp(double{logits[i]} - tapped.log_sum_exp[r]);
    }
    EXPECT_NEAR(sum, 1, 1e-5);
    EXPECT_EQ(std::set<uint32_t>(ids, ids + shape_.vocab).size(), shape_.vocab);
    EXPECT_TRUE(std::is_sorted(logits, logits + shape_.vocab, std::greater<>()));
    if (tapped.targets[r] == UINT32_MAX) {
      EXPECT_EQ(tapped.greedy[r], 0);
      EXPECT_EQ(tapped.logprobs[r], 0);
      continue;
    }
    ASSERT_LT(scored, scores.size());
    EXPECT_EQ(tapped.logprobs[r], scores[scored++]);
    const size_t place = std::find(ids, ids + shape_.vocab, tapped.targets[r]) - ids;
    ASSERT_LT(place, shape_.vocab);
    const float logit = logits[place];
    EXPECT_NEAR(logit - tapped.log_sum_exp[r], tapped.logprobs[r], 1e-5);
    EXPECT_EQ(tapped.greedy[r] == 1, logit == logits[0]);
    likeliest += tapped.greedy[r];
  }
  EXPECT_EQ(scored, scores.size());
  EXPECT_LT(likeliest, scored) << "of random targets hardly any";
}

/// Values of a matrix as the checkpoint has it.
std::vector<float> read_matrix(const Model& model, const TensorSpec& spec, WeightFormat format) {
  const std::string file = test::read_file(model.checkpoint.files()[spec.file].info().path);
  const auto* bytes = reinterpret_cast<const std::byte*>(file.data()) + spec.offset;
  std::vector<float> values(spec.rows * model.config.hidden);
  decode_values(format, bytes, values.size(), values.data());
  return values;
}

/// The first are rows of the table, and the last times the head are the logits.
TEST_P(Taps, HiddenStatesAreTheEndsOfTheModel) {
  write_model();
  const Model model = open_model(dir_ / "m", DirectChoice::kAuto, [](const std::string&) {});
  const auto tapped = test::tap_model(config(), texts_, {5, {0, shape_.layers}});
  const auto table =
      read_matrix(model, model.weights.embed.tensors[0], model.weights.embed_weight.format);
  const auto head = read_matrix(model, model.weights.layers.back().tensors.back(),
                                model.weights.weights.back().back().format);
  const uint32_t width = shape_.hidden;
  const float scale = shape_.scaled_embeddings ? std::sqrt(static_cast<float>(width)) : 1;
  const float* embedded = tapped.hidden.at(0).data();
  const float* last = tapped.hidden.at(shape_.layers).data();
  // Prompts may be multiplied in 16 bits.
  const double allowed = GetParam().dtype == DType::kF32 ? 1e-4 : 2e-2;
  for (size_t r = 0; r < tapped.ids.size(); ++r) {
    for (uint32_t i = 0; i < width; ++i) {
      ASSERT_EQ(embedded[r * width + i], table[size_t{tapped.ids[r]} * width + i] * scale);
    }
    for (size_t p = r * 5; p < r * 5 + 5; ++p) {
      double logit = 0;
      for (uint32_t i = 0; i < width; ++i) {
        logit += double{last[r * width + i]} * head[size_t{tapped.top_ids[p]} * width + i];
      }
      if (shape_.logit_cap > 0) logit = shape_.logit_cap * std::tanh(logit / shape_.logit_cap);
      ASSERT_NEAR(tapped.top_logits[p], logit, allowed * std::max(1.0, std::abs(logit)));
    }
  }
}

std::vector<BitCase> tap_cases() {
  std::vector<BitCase> cases;
  for (const bool cuda : {false, true}) {
    if (cuda && !test::kCudaBuilt) break;
    const std::string prefix = cuda ? "cuda_" : "";
    cases.push_back({prefix + "llama_bf16", cuda, "LlamaForCausalLM", DType::kBF16, false});
    cases.push_back({prefix + "gemma2_f32", cuda, "Gemma2ForCausalLM", DType::kF32, true});
    if (cuda && test::kCudaSimulated) continue;  // a minute each
    cases.push_back({prefix + "qwen3_f32_tied", cuda, "Qwen3ForCausalLM", DType::kF32, true});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, Taps, ::testing::ValuesIn(tap_cases()),
                         [](const auto& test) { return test.param.name; });

/// The bill has what they take, to the byte.
TEST(TapsOfAPlan, AreOnTheBill) {
  const test::TempDir dir;
  const ModelConfig shape = test::small_shape("LlamaForCausalLM");
  make_checkpoint(dir / "m", shape, DType::kBF16, 1, 1);
  const Model model = open_model(dir / "m", DirectChoice::kAuto, [](const std::string&) {});
  ForwardLimits limits;
  limits.max_rows = 64;
  limits.max_positions = 64;
  limits.scoring = true;
  const uint64_t plain = Forward::host_bytes(model.config, model.weights, limits);
  limits.hidden_layers = {1, 2};
  const uint64_t hidden = Forward::host_bytes(model.config, model.weights, limits);
  EXPECT_EQ(hidden - plain, 64u * shape.hidden * 4);
  limits.top_k = kMaxTopK;
  EXPECT_EQ(Forward::host_bytes(model.config, model.weights, limits) - hidden, 64u * kMaxTopK * 8);
}

/// Rows per pass, in which prompts and scores are computed.
class SameOnAnyThreads : public ::testing::TestWithParam<uint32_t> {
 protected:
  void SetUp() override {
    shape_ = test::small_shape("LlamaForCausalLM");
    shape_.layers = 2;
    shape_.kv_heads = 1;       // keys and values narrower than a panel: dense products
    shape_.vocab = 1024 + 37;  // and so is the head's last tile
    make_checkpoint(dir_ / "m", shape_, DType::kF32, 1, test::run_seed());
    config_ = roomy_config(dir_ / "m");
    config_.ignore_eos = true;
    config_.policy = PlacementPolicy::kNvme;
    config_.stream_unit_bytes = 64 * kKiB;
    config_.prefill_chunk_tokens = GetParam();
    config_.score_chunk_tokens = GetParam();
  }
  std::vector<uint32_t> random_ids(size_t count) {
    std::vector<uint32_t> ids(count);
    for (uint32_t& id : ids) id = static_cast<uint32_t>(random_() % shape_.vocab);
    return ids;
  }
  static std::vector<std::vector<uint32_t>> ids_of(const test::RunOutcome& outcome) {
    std::vector<std::vector<uint32_t>> ids;
    for (const Output& output : outcome.result.outputs) ids.push_back(output.ids);
    return ids;
  }
  const std::vector<uint32_t> threads_ = {2, 3, 8};
  test::TempDir dir_;
  ModelConfig shape_;
  Config config_;
  std::mt19937_64 random_{test::run_seed()};
};

/// Short texts by the hundred and some longer than a small chunk: on any number of threads the bits
/// of one, and within rounding those of another chunk.
TEST_P(SameOnAnyThreads, Scores) {
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  std::vector<std::vector<uint32_t>> texts;
  const uint32_t count = GetParam() == 1 ? 12 : GetParam() == 64 ? 200 : 1000;
  for (uint32_t t = 0; t < count; ++t) texts.push_back(random_ids(2 + random_() % 6));
  for (uint32_t t = 0; t < 4; ++t) texts.push_back(random_ids(GetParam() == 1 ? 20 : 120));
  config_.compute_threads = 1;
  const auto alone = score_model(config_, texts);
  for (const uint32_t threads : threads_) {
    SCOPED_TRACE(threads);
    config_.compute_threads = threads;
    EXPECT_EQ(score_model(config_, texts).logprobs, alone.logprobs);
    RunPlan sweeps;
    config_.score_sweep_tokens = GetParam() + 500;
    EXPECT_EQ(score_model(config_, texts, &sweeps).logprobs, alone.logprobs) << "in sweeps";
    EXPECT_GT(sweeps.limits.sweep_rows, GetParam() == 4096 ? 0u : GetParam());
    config_.score_sweep_tokens.reset();
    config_.policy = PlacementPolicy::kAuto;
    RunPlan plan;
    EXPECT_EQ(score_model(config_, texts, &plan).logprobs, alone.logprobs) << "in place";
    ASSERT_EQ(plan.stream.placement.nvme_bytes_per_pass, 0u);
    config_.policy = PlacementPolicy::kNvme;
  }
  config_.score_chunk_tokens = 96;
  const auto other = score_model(config_, texts);
  for (size_t t = 0; t < texts.size(); ++t) {
    ASSERT_EQ(other.logprobs[t].size(), texts[t].size() - 1);
    for (size_t i = 0; i + 1 < texts[t].size(); ++i) {
      ASSERT_NEAR(other.logprobs[t][i], alone.logprobs[t][i], 1e-4) << "text " << t;
    }
  }
}

TEST_P(SameOnAnyThreads, Decoding) {
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  std::vector<Prompt> prompts;
  const uint32_t count = GetParam() == 1 ? 4 : GetParam() == 64 ? 100 : 1500;
  for (uint32_t p = 0; p < count; ++p) prompts.push_back({"", random_ids(1 + random_() % 3)});
  config_.max_new_tokens = 3;
  std::vector<std::vector<uint32_t>> alone;
  std::vector<float> logits;
  for (const uint32_t threads : {1u, 2u, 8u}) {
    SCOPED_TRACE(threads);
    config_.compute_threads = threads;
    const auto streamed = run_model(config_, &prompts);
    if (alone.empty()) {
      alone = ids_of(streamed);
      logits = streamed.logits;
    }
    EXPECT_EQ(ids_of(streamed), alone);
    EXPECT_EQ(streamed.logits, logits);
    config_.policy = PlacementPolicy::kAuto;  // in place: units that follow each other at once
    const auto in_place = run_model(config_, &prompts);
    config_.policy = PlacementPolicy::kNvme;
    ASSERT_EQ(in_place.plan.stream.placement.nvme_bytes_per_pass, 0u);
    EXPECT_EQ(ids_of(in_place), alone);
    EXPECT_EQ(in_place.logits, logits);
  }
}

/// Heads whose last rows share a unit with the tile before them, and one of more tiles than are
/// multiplied at once.
TEST_P(SameOnAnyThreads, HeadsOfAnySize) {
  if (GetParam() != 64) GTEST_SKIP() << "the same for every chunk";
  config_.stream_unit_bytes = 96 * kKiB;  // a tile of 64 rows and half as much
  std::set<size_t> last_parts;
  for (const uint32_t vocab : {65u, 129u, 224u, 230u, 1025u, 70u * kPanelRows + 1}) {
    SCOPED_TRACE(vocab);
    shape_.vocab = vocab;
    make_checkpoint(dir_ / std::to_string(vocab), shape_, DType::kF32, 1, test::run_seed());
    config_.model_path = dir_ / std::to_string(vocab);
    config_.max_new_tokens = 3;
    const std::vector<Prompt> prompts = {{"", {1, 2, 3}}, {"", random_ids(100)}};
    config_.policy = PlacementPolicy::kNvme;
    const auto streamed = run_model(config_, &prompts);
    config_.policy = PlacementPolicy::kRam;
    for (const uint32_t threads : {1u, 4u, 8u}) {
      config_.compute_threads = threads;
      const auto in_place = run_model(config_, &prompts);
      EXPECT_EQ(ids_of(in_place), ids_of(streamed)) << threads;
      ASSERT_EQ(in_place.logits.size(), vocab);
      EXPECT_EQ(in_place.logits, streamed.logits) << threads;
    }
    last_parts.insert(streamed.plan.stream.units.back().parts.size());
  }
  EXPECT_EQ(last_parts.count(2), 1u) << "a tile and a rest";
}

INSTANTIATE_TEST_SUITE_P(Chunks, SameOnAnyThreads, ::testing::Values(1, 64, 512, 1024, 4096),
                         [](const auto& test) { return "rows" + std::to_string(test.param); });

class SmallModel : public ::testing::Test {
 protected:
  /// For what compares chunks: bf16 arithmetic rounds the inputs of more than a few rows, where a
  /// CPU has it, so that a text cut otherwise differs by that.
  void compute_in_f32() { config_.prompt_math = PromptMath::kF32; }
  void SetUp() override {
    make_checkpoint(dir_ / "m", test::small_shape("LlamaForCausalLM"), DType::kBF16, 1, 1);
    config_ = roomy_config(dir_ / "m");
    config_.max_new_tokens = 8;
    config_.ignore_eos = true;
  }
  test::TempDir dir_;
  Config config_;
};

TEST_F(SmallModel, ASequenceDoesNotDependOnItsNeighbours) {
  config_.prompts = {"alone"};
  const auto alone = run_model(config_);
  config_.prompts = {"something longer comes first", "alone", "x"};
  const auto together = run_model(config_);
  EXPECT_EQ(together.result.outputs[1].ids, alone.result.outputs[0].ids);
}

TEST_F(SmallModel, PassesReadWhatIsNotResidentAndNoMore) {
  config_.prompts = {"hello"};
  config_.policy = PlacementPolicy::kNvme;
  const auto outcome = run_model(config_);
  ASSERT_EQ(outcome.result.passes.size(), 8u);
  const uint64_t streamed = outcome.plan.stream.placement.nvme_bytes_per_pass;
  for (const PassRecord& pass : outcome.result.passes) {
    EXPECT_GE(pass.feed.nvme_bytes, streamed);
    EXPECT_LE(pass.feed.nvme_bytes, streamed + pass.tokens * 8192u) << "plus embedding rows";
  }
  EXPECT_EQ(outcome.result.passes[0].kind, PassRecord::Kind::kPrefill);
  EXPECT_EQ(outcome.result.passes[1].kind, PassRecord::Kind::kDecode);
}

TEST_F(SmallModel, LongPromptsRunInChunks) {
  config_.prompts = {std::string(100, 'a'), "b"};
  config_.prefill_chunk_tokens = 32;
  const auto chunked = run_model(config_);
  uint32_t prefills = 0;
  for (const PassRecord& pass : chunked.result.passes) {
    if (pass.kind == PassRecord::Kind::kPrefill) {
      ++prefills;
      EXPECT_LE(pass.tokens, 32u);
    }
  }
  EXPECT_EQ(prefills, 4u);  // 101 + 2 tokens
  config_.prefill_chunk_tokens = 512;
  const auto whole = run_model(config_);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(whole.result.outputs[i].ids, chunked.result.outputs[i].ids);
  }
}

TEST_F(SmallModel, SamplingIsSeeded) {
  config_.prompts = {"hello", "hello"};
  config_.temperature = 1.0;
  config_.top_k = 50;
  config_.top_p = 0.95;
  config_.seed = 3;
  const auto first = run_model(config_);
  EXPECT_EQ(run_model(config_).result.outputs[0].ids, first.result.outputs[0].ids);
  EXPECT_NE(first.result.outputs[0].ids, first.result.outputs[1].ids);
  config_.seed = 4;
  EXPECT_NE(run_model(config_).result.outputs[0].ids, first.result.outputs[0].ids);
}

/// One loaded model, many runs: the same texts and scores, bit for bit, as from one of its own.
class AgainAndAgain : public ::testing::TestWithParam<test::PlacementCase> {};

TEST_P(AgainAndAgain, OneRuntimeServesManyRuns) {
  const test::TempDir dir;
  make_checkpoint(dir / "m", test::small_shape("LlamaForCausalLM"), DType::kBF16, 1,
                  test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  Config config = roomy_config(dir / "m");
  GetParam().apply(config);
  if (config.device == "cuda") SPILLWAY_NEEDS_CUDA();
  config.max_new_tokens = 4;
  config.prefill_chunk_tokens = 8;
  config.ignore_eos = true;
  config.temperature = 1;
  const std::vector<Prompt> prompts = {{"", {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}, {"", {7}}};
  std::vector<std::vector<uint32_t>> ids;
  for (const Output& output : run_model(config, &prompts).result.outputs) ids.push_back(output.ids);
  for (const auto& again : test::generate_again(config, prompts, 3)) EXPECT_EQ(again, ids);
  config.score_chunk_tokens = 8;
  const std::vector<std::vector<uint32_t>> texts = {prompts[0].ids, {9, 8, 7}};
  const auto logprobs = score_model(config, texts).logprobs;
  for (const auto& again : test::score_again(config, texts, 3)) EXPECT_EQ(again, logprobs);
  if (config.io_engine == EngineChoice::kMmap) return;
  config.score_sweep_tokens = 100;  // broken off after a step of it
  for (const auto& again : test::score_again(config, texts, 3)) EXPECT_EQ(again, logprobs);
}

std::vector<test::PlacementCase> again_cases() {
  const uint32_t layers = test::small_shape("LlamaForCausalLM").layers;
  auto cases = test::placement_cases(layers);
  if (!test::kCudaBuilt) return cases;
  for (auto& placement : test::cuda_placement_cases(layers)) {
    if (placement.name == "cuda_three_tiers") cases.push_back(std::move(placement));
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, AgainAndAgain, ::testing::ValuesIn(again_cases()),
                         [](const auto& test) { return test.param.name; });

TEST_F(SmallModel, StopsAtTheContext) {
  config_.prompt_token_ids = {std::vector<int64_t>(1020, 5)};
  config_.max_new_tokens = 50;
  const auto outcome = run_model(config_);
  EXPECT_EQ(outcome.result.outputs[0].ids.size(), 4u);
  EXPECT_EQ(outcome.result.outputs[0].finish_reason, "context");
}

/// What a prompt says does not depend on how it is cut, nor on what lies behind all windows: with
/// two layers of 16 positions the last token sees 31 in all.
TEST(SlidingWindow, BoundsWhatATokenDependsOn) {
  const test::TempDir dir;
  ModelConfig shape = test::small_shape("MistralForCausalLM");
  shape.layers = 2;
  shape.sliding_window = 16;
  make_checkpoint(dir / "m", shape, DType::kF32, 1, 4);
  Config config = roomy_config(dir / "m");
  config.max_new_tokens = 12;
  config.ignore_eos = true;
  std::vector<uint32_t> prompt;
  for (uint32_t i = 0; i < 100; ++i) prompt.push_back((i * 37 + 5) % shape.vocab);
  const std::vector<Prompt> prompts = {{"", prompt}};
  const auto whole = run_model(config, &prompts);
  ASSERT_EQ(whole.result.outputs[0].ids.size(), 12u) << "the window is not the context";
  for (const uint32_t chunk : {1u, 7u, 33u}) {
    config.prefill_chunk_tokens = chunk;
    EXPECT_EQ(run_model(config, &prompts).result.outputs[0].ids, whole.result.outputs[0].ids);
  }
  config.prefill_chunk_tokens = 512;
  config.max_new_tokens = 1;
  const auto logits = run_model(config, &prompts).logits;
  for (uint32_t i = 0; i < 69; ++i) prompt[i] = (i * 11 + 3) % shape.vocab;
  const std::vector<Prompt> other_past = {{"", prompt}};
  EXPECT_EQ(run_model(config, &other_past).logits, logits);
  prompt[69]++;
  const std::vector<Prompt> other = {{"", prompt}};
  EXPECT_NE(run_model(config, &other).logits, logits);
}

/// Rotation that looks at lengths looks at whole prompts and texts, not at chunks, and two
/// sequences of different lengths do not disturb each other.
TEST_F(SmallModel, RotationByLengthDoesNotDependOnChunks) {
  Json json = load(dir_ / "m" / "config.json");
  json["max_position_embeddings"] = 40;
  json["rope_scaling"] = {{"type", "dynamic"}, {"factor", 4.0}};
  test::write_file(dir_ / "m" / "config.json", json.dump());
  compute_in_f32();
  config_.max_new_tokens = 20;
  std::vector<Prompt> prompts(3);
  for (uint32_t i = 0; i < 90; ++i) prompts[0].ids.push_back((i * 37 + 5) % 1024);
  for (uint32_t i = 0; i < 30; ++i) prompts[1].ids.push_back((i * 31 + 9) % 1024);
  for (uint32_t i = 0; i < 60; ++i) prompts[2].ids.push_back((i * 13 + 2) % 1024);
  const auto whole = run_model(config_, &prompts);
  for (const uint32_t chunk : {3u, 47u}) {
    config_.prefill_chunk_tokens = chunk;
    const auto cut = run_model(config_, &prompts);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(cut.result.outputs[i].ids, whole.result.outputs[i].ids) << i;
    }
  }
  const std::vector<Prompt> alone = {prompts[2]};
  EXPECT_EQ(run_model(config_, &alone).result.outputs[0].ids, whole.result.outputs[2].ids);
  const std::vector<uint32_t>& text = prompts[0].ids;
  config_.score_chunk_tokens = 512;
  const auto scored = score_model(config_, {text, prompts[1].ids});
  config_.score_chunk_tokens = 17;
  const auto cut = score_model(config_, {text, prompts[1].ids});
  for (size_t i = 0; i < scored.logprobs[0].size(); ++i) {
    EXPECT_NEAR(cut.logprobs[0][i], scored.logprobs[0][i], 2e-3) << i;
  }
  json.erase("rope_scaling");
  json["max_position_embeddings"] = 1024;
  test::write_file(dir_ / "m" / "config.json", json.dump());
  const auto plain = score_model(config_, {text, prompts[1].ids});
  EXPECT_EQ(plain.logprobs[1], cut.logprobs[1]) << "a short text is rotated plainly";
  EXPECT_NE(plain.logprobs[0], cut.logprobs[0]);
}

/// A model whose texts of more than 40 tokens turn by other factors.
class TwoFactors : public ::testing::Test {
 protected:
  static constexpr uint32_t kBorder = 40;

  void SetUp() override {
    const ModelConfig shape = test::small_shape("Phi3ForCausalLM");
    make_checkpoint(dir_ / "m", shape, DType::kF32, 1, 6);
    Json json = load(dir_ / "m" / "config.json");
    json["max_position_embeddings"] = 512;
    json["original_max_position_embeddings"] = kBorder;
    std::vector<double> long_factors;
    for (uint32_t i = 0; i < shape.rotary_pairs(); ++i) long_factors.push_back(4 + 2 * i);
    json["rope_scaling"] = {{"type", "longrope"},
                            {"short_factor", std::vector<double>(shape.rotary_pairs(), 1)},
                            {"long_factor", long_factors}};
    test::write_file(dir_ / "m" / "config.json", json.dump());
    config_ = roomy_config(dir_ / "m");
    config_.ignore_eos = true;
    config_.prompt_math = PromptMath::kF32;
    config_.max_new_tokens = 9;
  }

  static Prompt prompt_of(uint32_t length) {
    Prompt prompt;
    for (uint32_t i = 0; i < length; ++i) prompt.ids.push_back((i * 37 + length) % 1024);
    return prompt;
  }

  RunOutcome run(const std::vector<Prompt>& prompts) { return run_model(config_, &prompts); }

  test::TempDir dir_;
  Config config_;
};

/// What comes next depends on a text, not on how much of it was a prompt.
TEST_F(TwoFactors, AnswersCrossTheBorderAsPromptsDo) {
  for (const uint32_t chunk : {1u, 64u}) {
    for (const uint32_t length : {kBorder - 3, kBorder - 1, kBorder, kBorder + 1}) {
      SCOPED_TRACE(testing::Message() << length << " tokens, chunk " << chunk);
      config_.prefill_chunk_tokens = chunk;
      config_.max_new_tokens = 9;
      const Prompt prompt = prompt_of(length);
      const RunOutcome whole = run({prompt});
      const std::vector<uint32_t> ids = whole.result.outputs[0].ids;
      ASSERT_EQ(ids.size(), 9u);
      config_.max_new_tokens = 1;
      Prompt longer = prompt;
      RunOutcome fresh;
      for (const uint32_t id : ids) {
        fresh = run({longer});
        EXPECT_EQ(fresh.result.outputs[0].ids[0], id) << "after " << longer.ids.size();
        longer.ids.push_back(id);
      }
      for (size_t i = 0; i < fresh.logits.size(); ++i) {
        ASSERT_NEAR(whole.logits[i], fresh.logits[i], 1e-4) << i;
      }
      const auto scores = score_model(config_, {longer.ids}).logprobs[0];
      double sum = 0;
      for (const float logit : whole.logits) sum += std::exp(double{logit});
      EXPECT_NEAR(scores.back(), whole.logits[ids.back()] - std::log(sum), 1e-4);
    }
  }
}

/// Once, and only where the text will be longer than the border.
TEST_F(TwoFactors, TextsAreFedAgainOnce) {
  const auto prompt_tokens = [&](uint32_t length, uint32_t new_tokens) {
    config_.max_new_tokens = new_tokens;
    uint32_t tokens = 0;
    for (const PassRecord& pass : run({prompt_of(length)}).result.passes) {
      if (pass.kind == PassRecord::Kind::kPrefill) tokens += pass.tokens;
    }
    return tokens;
  };
  EXPECT_EQ(prompt_tokens(30, 11), 30u) << "the last token is not fed";
  EXPECT_EQ(prompt_tokens(30, 12), 30u + kBorder + 1);
  EXPECT_EQ(prompt_tokens(30, 60), 30u + kBorder + 1);
  EXPECT_EQ(prompt_tokens(kBorder, 1), kBorder);
  EXPECT_EQ(prompt_tokens(kBorder, 2), 2 * kBorder + 1);
  EXPECT_EQ(prompt_tokens(kBorder + 1, 60), kBorder + 1);
}

TEST_F(TwoFactors, SequencesCrossBesideEachOther) {
  const std::vector<Prompt> prompts = {prompt_of(38), prompt_of(50), prompt_of(35), prompt_of(36),
                                       prompt_of(3)};
  for (const double temperature : {0.0, 1.0}) {
    SCOPED_TRACE(temperature);
    config_.temperature = temperature;
    config_.prefill_chunk_tokens = 512;
    const RunOutcome together = run(prompts);
    config_.policy = PlacementPolicy::kNvme;
    config_.prefill_chunk_tokens = 5;
    const RunOutcome chunked = run(prompts);
    config_.policy = PlacementPolicy::kAuto;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto& ids = together.result.outputs[i].ids;
      EXPECT_EQ(ids.size(), 9u);
      EXPECT_EQ(chunked.result.outputs[i].ids, ids) << i;
      if (temperature > 0) continue;  // draws are a sequence's own
      EXPECT_EQ(run({prompts[i]}).result.outputs[0].ids, ids) << i;
    }
  }
}

/// Answers grow by one token a pass, in those that feed again when all of a text is fed.
TEST_F(TwoFactors, NoTokenIsToldTwice) {
  const std::vector<Prompt> prompts = {prompt_of(38), prompt_of(36)};
  uint32_t told = 0;
  config_.prefill_chunk_tokens = 16;
  const auto observer = [&](const GenerationProgress& progress) {
    told += static_cast<uint32_t>(progress.advanced.size());
    EXPECT_EQ(progress.new_tokens, told);
    EXPECT_EQ(progress.outputs[0].ids.size() + progress.outputs[1].ids.size(), told);
  };
  const auto result = test::watch_model(config_, prompts, observer);
  EXPECT_EQ(told, 18u);
  for (const Output& output : result.outputs) EXPECT_EQ(output.finish_reason, "length");
}

TEST_F(SmallModel, BadPromptsAreOneLine) {
  const auto complaint = [&](const std::function<void()>& change) {
    config_ = roomy_config(dir_ / "m");
    change();
    return test::error_of([&] { run_model(config_); });
  };
  EXPECT_NE(complaint([&] { config_.prompts = {""}; }).find("prompt 1 is empty"),
            std::string::npos);
  EXPECT_NE(complaint([] {}).find("nothing to do"), std::string::npos);
  EXPECT_NE(complaint([&] { config_.prompts = {"bad \xff\xfe"}; }).find("not valid UTF-8"),
            std::string::npos);
  EXPECT_NE(complaint([&] { config_.prompts = {std::string(2000, 'x')}; }).find("context is 1024"),
            std::string::npos);
  EXPECT_NE(complaint([&] {
              config_.prompt_token_ids = {{5, 99999}};
            }).find("99999 is outside the vocabulary of 1024"),
            std::string::npos);
}

/// The budget that a message says is needed.
uint64_t named_budget(const std::string& message) {
  const size_t at = message.find("at least ");
  EXPECT_NE(at, std::string::npos) << message;
  return at == std::string::npos ? 0 : std::stoull(message.substr(at + 9)) * kMiB;
}

TEST_F(SmallModel, ABudgetThatCannotWorkNamesTheSmallestThatDoes) {
  config_.prompts = {std::string(300, 'x')};
  for (const char* device : {"host", "host-discrete"}) {
    config_.device = device;
    config_.ram_bytes = 4 * kMiB;
    const uint64_t least = named_budget(test::error_of([&] { run_model(config_); }));
    config_.ram_bytes = least;
    const auto tight = run_model(config_);
    EXPECT_LE(tight.plan.stream.placement.ram_planned_bytes, least);
    if (config_.device == "host") {
      EXPECT_LT(tight.plan.limits.max_rows, 64u) << "prompt chunks gave way to the budget";
    }
    config_.ram_bytes = least - kHugePageBytes;
    EXPECT_EQ(named_budget(test::error_of([&] { run_model(config_); })), least);
  }
  config_.ram_bytes = kGiB;
  config_.gpu_bytes = 64 * kKiB;
  const std::string message = test::error_of([&] { run_model(config_); });
  EXPECT_NE(message.find("memory.gpu of 64.0 KiB"), std::string::npos) << message;
  config_.gpu_bytes = named_budget(message);
  EXPECT_LT(run_model(config_).plan.limits.max_rows, 64u);
}

/// What is not a matter of budgets is said as it is, at once.
TEST_F(SmallModel, WhatNoBudgetMendsIsNotRetried) {
  config_.prompts = {std::string(300, 'x')};
  config_.overrides = {{"", 0, 99, Tier::kRam}};
  EXPECT_NE(test::error_of([&] { run_model(config_); }).find("this model has layers 0 to"),
            std::string::npos);
}

/// Model, machine and texts of a scoring run that is only planned.
struct ScoringPlans {
  explicit ScoringPlans(const Config& config)
      : model(open_model(config.model_path, DirectChoice::kAuto, [](const std::string&) {})),
        machine(open_machine(config, [](const std::string&) {})) {}

  RunPlan plan(const Config& config, const std::vector<std::vector<uint32_t>>& texts) const {
    return plan_run(config, model, machine, scoring_workload(config, model, texts));
  }
  uint32_t rows(const Config& config, const std::vector<std::vector<uint32_t>>& texts) const {
    return plan(config, texts).limits.max_rows;
  }

  uint64_t least(Config config, const std::vector<std::vector<uint32_t>>& texts) const {
    config.ram_bytes = 0;
    const auto found = find_plan(config, model, machine, scoring_workload(config, model, texts));
    return std::get<Refusal>(found).needed_bytes;
  }

  /// Every pass of the plan must fit the cache that the plan pays for.
  void expect_fits(const Config& config, const std::vector<std::vector<uint32_t>>& texts) const {
    const auto found = find_plan(config, model, machine, scoring_workload(config, model, texts));
    const auto* plan = std::get_if<RunPlan>(&found);
    ASSERT_NE(plan, nullptr) << "at least the least budget";
    ASSERT_LE(plan->stream.placement.ram_planned_bytes, *config.ram_bytes);
    const AttentionShape shape = attention_shape(model.config, model.weights);
    const auto bytes_of = [&](const KvLengths& lengths) {
      return KvCache::bytes(*machine.ops, shape, kv_layers(model.config, plan->limits), lengths);
    };
    std::vector<TextShape> shapes;
    for (const auto& text : texts) shapes.push_back({static_cast<uint32_t>(text.size()), 1});
    const ScoreCut cut = score_cut(config, model, plan->limits.max_rows);
    for (const auto& batch : plan_scoring(shapes, cut)) {
      ASSERT_LE(bytes_of(batch.kv_lengths), bytes_of(plan->kv_lengths))
          << *config.ram_bytes << " bytes, chunk " << config.score_chunk_tokens;
    }
  }

  Model model;
  Machine machine;
};

TEST_F(SmallModel, EveryScoringPassFitsTheCacheOfItsPlan) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  const ScoringPlans plans(config_);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::vector<uint32_t>> texts = {{1, 2}};
    for (uint64_t i = 0; i < 1 + random() % 8; ++i) {
      if (random() % 2 == 0) {
        texts.emplace_back(random() % 700, 5);
      } else {  // a run of short ones, each of which takes a block of the cache
        texts.insert(texts.end(), random() % 90, std::vector<uint32_t>(2 + random() % 3, 5));
      }
    }
    config_.score_chunk_tokens = static_cast<uint32_t>(1 + random() % 600);
    if (random() % 2 == 0) {
      config_.score_context_tokens = static_cast<uint32_t>(2 + random() % 500);
    }
    config_.ram_bytes = plans.least(config_, texts) + random() % 8 * kHugePageBytes;
    plans.expect_fits(config_, texts);
    if (HasFatalFailure()) return;
  }
}

/// Budgets between the smallest and one that is plenty: passes get smaller, scores do not change.
TEST_F(SmallModel, ScoresInEveryBudget) {
  compute_in_f32();
  // A chunk of 512 holds 64 of the short texts, beside a long one; a chunk of 256 all of them.
  std::vector<std::vector<uint32_t>> texts(130, {7, 9});
  for (std::vector<uint32_t>* text : {&texts.front(), &texts.back()}) {
    text->clear();
    for (uint32_t i = 0; i < 384; ++i) text->push_back((i * 31) % 1024);
  }
  RunPlan plan;
  const auto plenty = score_model(config_, texts, &plan);
  EXPECT_EQ(plan.limits.max_rows, 512u);
  config_.ram_bytes = kMiB;
  uint64_t budget = named_budget(test::error_of([&] { score_model(config_, texts); }));
  const ScoringPlans plans(config_);
  std::vector<uint32_t> chunks = {0};
  for (; chunks.back() < 512; budget += kHugePageBytes) {
    config_.ram_bytes = budget;
    const uint32_t rows = plans.rows(config_, texts);
    ASSERT_GE(rows, chunks.back()) << "more memory never means smaller passes";
    if (rows == chunks.back()) continue;
    chunks.push_back(rows);
    EXPECT_NEAR(score_model(config_, texts).mean_nll, plenty.mean_nll, 1e-5) << budget;
  }
  EXPECT_TRUE(std::any_of(chunks.begin(), chunks.end(), [](uint32_t rows) {
    return (rows & (rows - 1)) != 0;
  })) << "not only halves";
}

TEST_F(SmallModel, ScoringWindowsCoverEveryTokenOnce) {
  compute_in_f32();
  std::vector<uint32_t> text(200);
  for (uint32_t i = 0; i < text.size(); ++i) text[i] = (i * 31) % 1024;
  config_.score_context_tokens = 64;
  config_.score_chunk_tokens = 40;
  const auto result = score_model(config_, {text, {1}, {2, 3}});
  EXPECT_EQ(result.logprobs[0].size(), 199u);
  EXPECT_EQ(result.logprobs[1].size(), 0u);
  EXPECT_EQ(result.logprobs[2].size(), 1u);
  EXPECT_EQ(result.tokens, 200u);
  // A chunk border changes nothing but rounding.
  config_.score_chunk_tokens = 512;
  const auto whole = score_model(config_, {text, {1}, {2, 3}});
  EXPECT_NEAR(result.mean_nll, whole.mean_nll, 1e-5);
  EXPECT_NE(test::error_of([&] { score_model(config_, {{1}}); }).find("nothing to score"),
            std::string::npos);
  config_.score_context_tokens = 1;  // windows overlap by one token: none would get on
  EXPECT_NE(test::error_of([&] { score_model(config_, {text}); }).find("a score takes two"),
            std::string::npos);
}

/// One read of the weights serves a sweep, and one layer's keys and values are kept.
TEST_F(SmallModel, SweepsReadOnceWhatPassesReadAgainAndAgain) {
  config_.policy = PlacementPolicy::kNvme;
  config_.score_chunk_tokens = 32;
  const std::vector<std::vector<uint32_t>> texts(20, std::vector<uint32_t>(30, 7));
  RunPlan passes;
  const auto in_passes = score_model(config_, texts, &passes);
  ASSERT_EQ(in_passes.passes.size(), 20u);
  config_.score_sweep_tokens = 320;
  RunPlan sweeps;
  const auto in_sweeps = score_model(config_, texts, &sweeps);
  ASSERT_EQ(in_sweeps.passes.size(), 2u) << "of ten texts, since eleven take 330 rows";
  EXPECT_EQ(in_sweeps.logprobs, in_passes.logprobs);
  EXPECT_EQ(in_sweeps.passes[0].tokens, 300u);
  for (const PassRecord& pass : in_sweeps.passes) {
    const uint64_t weights = sweeps.stream.placement.nvme_bytes_per_pass;
    EXPECT_GE(pass.feed.nvme_bytes, weights);
    EXPECT_LE(pass.feed.nvme_bytes, weights + 300 * 8192) << "and token rows";
  }
  const auto bill = [](const RunPlan& plan, const std::string& name) {
    for (const MemoryLine& line : plan.stream.placement.bill) {
      if (line.name == name) return line.bytes;
    }
    return uint64_t{0};
  };
  EXPECT_EQ(bill(passes, "hidden states"), 0u);
  const Model model =
      open_model(config_.model_path, DirectChoice::kAuto, [](const std::string&) {});
  EXPECT_EQ(bill(sweeps, "hidden states"),
            ram_cost(state_bytes(model.config.hidden, sweeps.limits)));
  EXPECT_EQ(sweeps.limits.sweep_rows, 320u);
}

/// Where keys and values of all layers leave no room for a chunk, those of one layer may.
TEST_F(SmallModel, SweepsFitWherePassesDoNot) {
  compute_in_f32();
  const std::vector<std::vector<uint32_t>> texts(700, {7, 9});  // each takes a block of the cache
  const auto plenty = score_model(config_, texts);
  const ScoringPlans plans(config_);
  uint64_t budget = plans.least(config_, texts);
  RunPlan plan;
  uint32_t sweeps = 0;
  uint64_t read_bytes = UINT64_MAX;
  uint32_t rows = 0;
  for (; plan.limits.max_rows < 512 || plan.limits.sweep_rows > 0; budget += kHugePageBytes) {
    config_.ram_bytes = budget;
    plan = plans.plan(config_, texts);
    EXPECT_GE(plan.limits.max_rows, rows) << "more memory never means smaller passes";
    rows = plan.limits.max_rows;
    const auto bytes = plan.stream.placement.nvme_bytes_per_pass;
    if (rows == 512 && read_bytes == 0) {
      EXPECT_EQ(bytes, 0u) << "nor reads where there were none";
    }
    if (rows == 512) read_bytes = bytes;
    if (plan.limits.sweep_rows == 0 || sweeps++ > 0) continue;
    EXPECT_NEAR(score_model(config_, texts).mean_nll, plenty.mean_nll, 1e-5);
  }
  EXPECT_GT(sweeps, 0u);
  config_.io_engine = EngineChoice::kMmap;
  config_.score_sweep_tokens = 5000;
  EXPECT_NE(test::error_of([&] {
              score_model(config_, {{1, 2}});
            }).find("leave score.sweep at auto"),
            std::string::npos)
      << "whatever the texts";
}

/// A chunk rounds otherwise than a shorter one; a sweep does not.
TEST_F(SmallModel, ASweepGivesWayBeforeAChunk) {
  config_.score_spill = SpillChoice::kNever;
  config_.policy = PlacementPolicy::kNvme;
  config_.score_chunk_tokens = 128;
  const std::vector<std::vector<uint32_t>> texts(4000, std::vector<uint32_t>(60, 7));
  const ScoringPlans plans(config_);
  config_.score_sweep_tokens = 512;
  config_.ram_bytes = plans.plan(config_, texts).stream.placement.ram_planned_bytes;
  config_.score_sweep_tokens = 240'000;
  const RunPlan plan = plans.plan(config_, texts);
  EXPECT_EQ(plan.limits.max_rows, 128u);
  EXPECT_GE(plan.limits.sweep_rows, 512u);
  EXPECT_LT(plan.limits.sweep_rows, 240'000u);
}

/// Of the chunk that the budget leaves, whatever was asked for; and as many as there is room for.
TEST_F(SmallModel, SweepsAreWholeChunksAndAsLongAsFits) {
  config_.score_spill = SpillChoice::kNever;
  config_.policy = PlacementPolicy::kNvme;
  config_.score_chunk_tokens = 128;
  const std::vector<std::vector<uint32_t>> texts(20'000, std::vector<uint32_t>(64, 7));
  const ScoringPlans plans(config_);
  config_.score_sweep_tokens = 300;
  EXPECT_EQ(plans.plan(config_, texts).limits.sweep_rows, 384u);
  config_.ram_bytes = plans.plan(config_, texts).stream.placement.ram_planned_bytes + 4 * kMiB;
  config_.score_sweep_tokens = 1'280'000;
  const uint32_t fits = plans.plan(config_, texts).limits.sweep_rows;
  EXPECT_EQ(fits % 128, 0u);
  EXPECT_LT(fits, 1'280'000u);
  config_.score_sweep_tokens = fits;
  EXPECT_EQ(plans.plan(config_, texts).limits.sweep_rows, fits);
  config_.score_sweep_tokens = fits + 2 * 128;
  EXPECT_EQ(plans.plan(config_, texts).limits.sweep_rows, fits) << "not less for more";
  config_.score_chunk_tokens = 4096;  // which is cut to what fits; a sweep is longer than that
  config_.score_sweep_tokens = 4096;
  const RunPlan cut = plans.plan(config_, texts);
  ASSERT_LT(cut.limits.max_rows, 4096u);
  EXPECT_GE(cut.limits.sweep_rows, 4096u);
}

TEST(Scoring, SweepsTileTheBatches) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int round = 0; round < 300; ++round) {
    std::vector<TextShape> shapes;
    for (uint64_t i = 0; i < 1 + random() % 12; ++i)
      shapes.push_back({static_cast<uint32_t>(2 + random() % 100), 1});
    const auto chunk = static_cast<uint32_t>(1 + random() % 40);
    const auto window = static_cast<uint32_t>(2 + random() % 60);
    const auto batches = plan_scoring(shapes, {chunk, window, window - 1});
    const auto rows =
        static_cast<uint32_t>(random() % 4 == 0 ? 0 : std::max(window, chunk) + random() % 200);
    SweepCounter counter(rows);
    for (const ScoreBatch& batch : batches) counter.add(batch);
    counter.finish();
    size_t next = 0;
    uint64_t sweeps = 0;
    size_t most_batches = 0;
    for (const auto& sweep : plan_sweeps(batches, rows)) {
      ++sweeps;
      most_batches = std::max(most_batches, sweep.size());
      ASSERT_EQ(sweep.data(), batches.data() + next) << "one after the other";
      ASSERT_FALSE(sweep.empty());
      next += sweep.size();
      if (rows == 0) {
        ASSERT_EQ(sweep.size(), 1u);
        continue;
      }
      uint64_t sum = 0;
      for (const ScoreBatch& batch : sweep) {
        for (const ScoreSlice& slice : batch.slices) sum += slice.count;
      }
      ASSERT_LE(sum, rows);
      ASSERT_EQ(sweep[0].slices[0].begin, sweep[0].slices[0].window_begin) << "windows are whole";
    }
    ASSERT_EQ(next, batches.size());
    ASSERT_EQ(counter.batches(), batches.size());
    ASSERT_EQ(counter.sweeps(), sweeps);
    ASSERT_EQ(counter.most_batches(), most_batches);
    ASSERT_GE(counter.most_within(), most_batches);
  }
}

/// One read of the weights serves the prompts of a sweep, whose answers are those of passes.
TEST(PromptSweeps, ReadTheWeightsOnce) {
  const test::TempDir dir;
  ModelConfig shape = test::small_shape("LlamaForCausalLM");
  make_checkpoint(dir / "m", shape, DType::kBF16, 1, 7);
  std::vector<Prompt> prompts;
  for (uint32_t p = 0; p < 7; ++p) {
    std::vector<uint32_t> ids;
    for (uint32_t i = 0; i < 5 + 9 * p; ++i) ids.push_back((i * 31 + p) % shape.vocab);
    prompts.push_back({"", ids});
  }
  Config config = roomy_config(dir / "m");
  config.policy = PlacementPolicy::kNvme;
  config.prefill_chunk_tokens = 16;
  config.max_new_tokens = 4;
  config.ignore_eos = true;
  config.temperature = 0.8;
  const auto passes = run_model(config, &prompts);
  for (const uint32_t sweep : {17u, 48u, 100u, 5000u}) {
    config.prefill_sweep_tokens = sweep;
    const auto swept = run_model(config, &prompts);
    const uint32_t rows = sweep == 17 ? 32 : sweep == 48 ? 48 : sweep == 100 ? 112 : 224;
    EXPECT_EQ(swept.plan.limits.sweep_rows, rows);
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(swept.result.outputs[i].ids, passes.result.outputs[i].ids) << sweep;
    }
    uint64_t tokens = 0;
    uint64_t prefills = 0;
    for (const PassRecord& pass : swept.result.passes) {
      if (pass.kind != PassRecord::Kind::kPrefill) continue;
      ++prefills;
      tokens += pass.tokens;
      EXPECT_GE(pass.feed.nvme_bytes, swept.plan.stream.placement.nvme_bytes_per_pass);
    }
    EXPECT_EQ(tokens, 224u);
    EXPECT_EQ(prefills, (224 + rows - 1) / rows);
    EXPECT_EQ(swept.result.passes.size(), prefills + 3);
  }
}

TEST(Sweeps, GoLayerByLayer) {
  const std::vector<uint32_t> rows = {5, 3, 9};
  const SweepSchedule steps(2, rows);
  ASSERT_EQ(steps.size(), 6u);
  const uint32_t first_rows[] = {0, 5, 8};
  for (uint32_t i = 0; i < 6; ++i) {
    EXPECT_EQ(steps[i].layer, i / 3);
    EXPECT_EQ(steps[i].batch, i % 3);
    EXPECT_EQ(steps[i].first_row, first_rows[i % 3]);
    EXPECT_EQ(steps[i].last_of_layer, i % 3 == 2);
  }
}

/// Every token from the first that is wanted is scored once, in a window of its text that holds
/// what the cut promises before it, and fed as new once.
TEST(Scoring, PlansTileTheTexts) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int round = 0; round < 400; ++round) {
    std::vector<TextShape> shapes;
    for (uint64_t i = 0; i < 1 + random() % 6; ++i) {
      const auto tokens = static_cast<uint32_t>(random() % 100);
      const auto from = static_cast<uint32_t>(random() % (tokens + 1));
      shapes.push_back({tokens, 1 + (random() % 2 == 0 ? from : 0)});
    }
    ScoreCut cut;
    cut.chunk = static_cast<uint32_t>(1 + random() % 40);
    cut.window = static_cast<uint32_t>(2 + random() % 60);
    cut.stride = static_cast<uint32_t>(1 + random() % (cut.window - 1));
    cut.feed_all = random() % 2 == 0;
    std::vector<std::vector<int>> scored(shapes.size());
    std::vector<std::vector<int>> fed(shapes.size());
    for (size_t t = 0; t < shapes.size(); ++t) {
      scored[t].resize(shapes[t].tokens);
      fed[t].resize(shapes[t].tokens);
    }
    uint64_t last_text = UINT64_MAX;
    for (const ScoreBatch& batch : plan_scoring(shapes, cut)) {
      ASSERT_LE(batch.rows(), cut.chunk);
      ASSERT_EQ(batch.begins_text, batch.slices[0].text != last_text);
      const SweepBatch made = make_batch(batch, [&](uint64_t text) {
        static std::vector<uint32_t> tokens;  // of the text: their numbers
        tokens.resize(shapes[text].tokens);
        for (uint32_t i = 0; i < tokens.size(); ++i) tokens[i] = i;
        return std::span<const uint32_t>(tokens);
      });
      size_t row = 0;
      for (size_t s = 0; s < batch.slices.size(); ++s) {
        const ScoreSlice& slice = batch.slices[s];
        last_text = slice.text;
        ASSERT_LE(slice.begin + slice.count, slice.window_begin + batch.kv_lengths[s]);
        ASSERT_LE(batch.kv_lengths[s], cut.window);
        for (uint64_t i = slice.begin; i < slice.begin + slice.count; ++i, ++row) {
          ASSERT_EQ(made.batch.ids[row], i);
          if (i >= slice.new_from) ++fed[slice.text][i];
          const uint32_t target = made.batch.targets[row];
          if (target == UINT32_MAX) continue;
          ASSERT_EQ(target, i + 1);
          ++scored[slice.text][target];
          ASSERT_GE(target - slice.window_begin,
                    std::min<uint64_t>(target, cut.window - cut.stride));
        }
      }
    }
    for (size_t t = 0; t < shapes.size(); ++t) {
      const TextCounts counts = counts_of(shapes[t], cut);
      uint64_t fed_tokens = 0;
      uint64_t scored_tokens = 0;
      for (size_t i = 0; i < shapes[t].tokens; ++i) {
        ASSERT_EQ(scored[t][i], i >= shapes[t].scored_from ? 1 : 0) << t << " " << i;
        ASSERT_LE(fed[t][i], 1);
        fed_tokens += fed[t][i];
        scored_tokens += scored[t][i];
      }
      ASSERT_EQ(counts.fed, fed_tokens);
      ASSERT_EQ(counts.scored, scored_tokens);
      if (!cut.feed_all || shapes[t].tokens == 0) continue;
      ASSERT_EQ(fed[t].back(), 1);
    }
  }
}

TEST(RealLogits, MatchTheReference) {
  SPILLWAY_NEEDS_TEST_DATA();
  for (const char* name : {"stories15M", "stories260K"}) {
    const auto directory = test::test_data() / "models" / name;
    const Json golden = load(directory / "golden_logits_ids.json");
    const auto ids = golden["token_ids"].get<std::vector<uint32_t>>();
    const std::string file = test::read_file(directory / "golden_logits.npy");
    const size_t vocab = golden["shape"][1];
    std::vector<float> reference(ids.size() * vocab);
    std::memcpy(reference.data(), file.data() + file.size() - reference.size() * 4,
                reference.size() * 4);
    Config config = roomy_config(directory);
    config.max_new_tokens = 1;
    const std::vector<Prompt> prompts = {{"", ids}};
    const auto logits = run_model(config, &prompts).logits;
    for (size_t i = 0; i < vocab; ++i) {
      ASSERT_NEAR(logits[i], reference[(ids.size() - 1) * vocab + i], 2e-3) << name << " " << i;
    }
  }
}

}  // namespace
}  // namespace spillway
