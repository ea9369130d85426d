// Models in GGUF from end to end: the bits of their safetensors twins, the same bits from every
// placement, and blocks against the numbers that they stand for.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "core/error.h"
#include "core/units.h"
#include "io/checkpoint.h"
#include "model/gguf_names.h"
#include "tests/gguf_writer.h"
#include "tests/run_helper.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::vector<uint32_t>>;

/// Small, with sizes that end in the middle of tiles.
ModelConfig odd_shape(const std::string& architecture) {
  ModelConfig shape = test::small_shape(architecture);
  shape.layers = 2;
  shape.vocab = 512 + 37;
  shape.intermediate = 352;                                   // whole blocks of 32, not of 256
  if (architecture == "Gemma3ForCausalLM") shape.layers = 7;  // one that does not slide
  fit_to_shape(shape);
  return shape;
}

std::vector<uint32_t> some_ids(uint32_t count, uint32_t vocab) {
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < count; ++i) ids.push_back((i * 37 + 5) % vocab);
  return ids;
}

void put_plain(std::byte* out, WeightFormat format, uint64_t index, float value) {
  const uint16_t half = format == WeightFormat::kF16 ? f16_from_f32(value) : bf16_from_f32(value);
  if (format == WeightFormat::kF32) {
    std::memcpy(out + 4 * index, &value, 4);
  } else {
    std::memcpy(out + 2 * index, &half, 2);
  }
}

/// Synthetic vectors are ones, which hide where they are mixed up. These are numbers that every
/// format holds and no other vector has, in the order that the file asks for.
void vary_vectors(const fs::path& model, uint32_t head_dim, float added = 0) {
  const auto checkpoint = Checkpoint::open(model, DirectChoice::kOff, [](const std::string&) {});
  const GgufMetadata* gguf = checkpoint.metadata();
  const bool interleaved =
      gguf != nullptr && gguf_interleaves_heads(*gguf->text("general.architecture"));
  const auto names = test::hf_names(model_config_of(checkpoint));
  for (const TensorEntry& entry : checkpoint.tensors()) {
    if (entry.shape.size() != 1) continue;
    const std::string name = gguf != nullptr ? names.at(entry.name) : entry.name;
    std::mt19937_64 random(std::hash<std::string>()(name));
    std::vector<float> values(entry.shape[0]);
    const float middle = name.ends_with(".bias") ? 0.0f : 1.0f - added;
    for (float& value : values) value = middle + static_cast<float>(random() % 65) / 64 - 0.5f;
    std::string bytes(entry.bytes, '\0');
    for (uint64_t i = 0; i < values.size(); ++i) {
      const uint64_t from = interleaved && has_rotated_rows(name) ? hf_row(i, head_dim) : i;
      put_plain(reinterpret_cast<std::byte*>(bytes.data()), *entry.format, i, values[from]);
    }
    std::fstream file(checkpoint.files()[entry.file].info().path,
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(entry.offset));
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(file.good());
  }
}

/// What a configuration of safetensors says about biases, which synthetic ones do not.
void add_biases(const fs::path& folder) {
  auto json = nlohmann::json::parse(test::read_file(folder / "config.json"));
  json["attention_bias"] = json["mlp_bias"] = true;
  test::write_file(folder / "config.json", json.dump());
}

struct Answer {
  std::vector<float> logits;
  Texts ids;
  std::vector<std::vector<float>> logprobs;
};

Answer answer_of(Config config, uint32_t vocab, uint32_t rows) {
  const std::vector<Prompt> prompts = {{"", some_ids(rows, vocab)}, {"", {1, 2, 3}}, {"", {7}}};
  config.ignore_eos = true;
  config.max_new_tokens = test::kCudaSimulated ? 2 : 4;
  config.prefill_chunk_tokens = 24;
  config.score_chunk_tokens = 32;
  const auto outcome = test::run_model(config, &prompts);
  Answer answer;
  answer.logits = outcome.logits;
  for (const Output& output : outcome.result.outputs) answer.ids.push_back(output.ids);
  answer.logprobs = test::score_model(config, {prompts[0].ids, {9, 8, 7}}).logprobs;
  return answer;
}

void expect_same_bits(const Answer& answer, const Answer& expected) {
  EXPECT_EQ(answer.logits, expected.logits);
  EXPECT_EQ(answer.ids, expected.ids);
  EXPECT_EQ(answer.logprobs, expected.logprobs);
}

float largest_difference(const Answer& a, const Answer& b) {
  float largest = 0;
  const auto add = [&](const std::vector<float>& one, const std::vector<float>& other) {
    ASSERT_EQ(one.size(), other.size());
    for (size_t i = 0; i < one.size(); ++i) {
      ASSERT_TRUE(std::isfinite(one[i]) && std::isfinite(other[i])) << i;
      largest = std::max(largest, std::abs(one[i] - other[i]));
    }
  };
  EXPECT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t t = 0; t < a.logprobs.size(); ++t) add(a.logprobs[t], b.logprobs[t]);
  if (a.ids == b.ids) add(a.logits, b.logits);
  return largest;
}

/// Some of the placements that model tests compare.
std::vector<test::PlacementCase> placements_named(const std::vector<std::string>& names,
                                                  uint32_t layers) {
  auto all = test::placement_cases(layers);
  for (auto& placement : test::cuda_placement_cases(layers)) all.push_back(std::move(placement));
  std::vector<test::PlacementCase> some;
  for (const std::string& name : names) {
    const auto found = std::find_if(all.begin(), all.end(),
                                    [&](const auto& placement) { return placement.name == name; });
    CHECK(found != all.end());
    some.push_back(*found);
  }
  return some;
}

struct TwinCase {
  std::string name;
  std::string architecture;
  DType dtype;
  bool tied = false;
  bool biases = false;
  uint32_t kv_heads = 4;
  uint32_t head_dim = 32;
  uint32_t window = 0;
  bool cuda = false;
};

class GgufTwin : public ::testing::TestWithParam<TwinCase> {
 protected:
  void SetUp() override {
    if (GetParam().cuda) SPILLWAY_NEEDS_CUDA();
    shape_ = odd_shape(GetParam().architecture);
    shape_.tied_embeddings = GetParam().tied;
    shape_.kv_heads = GetParam().kv_heads;
    shape_.head_dim = GetParam().head_dim;
    if (GetParam().biases) shape_.qkv_bias = shape_.output_bias = shape_.mlp_bias = true;
    if (GetParam().window > 0) {
      shape_.sliding_window = GetParam().window;
      shape_.sliding_layers = {shape_.architecture == "MistralForCausalLM", true};
    }
    const MatrixType type = matrix_type(format_of(GetParam().dtype));
    test::write_model(dir_ / "m", shape_, type, CheckpointKind::kSafetensors, 1, test::run_seed());
    test::write_model(dir_ / "m.gguf", shape_, type, CheckpointKind::kGguf, 1, test::run_seed());
    vary_vectors(dir_ / "m", shape_.head_dim, shape_.norm_added);
    vary_vectors(dir_ / "m.gguf", shape_.head_dim);
    if (GetParam().biases) add_biases(dir_ / "m");
  }
  test::TempDir dir_;
  ModelConfig shape_;
};

TEST_P(GgufTwin, GivesTheSameBits) {
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  const std::vector<std::string> names =
      GetParam().cuda ? std::vector<std::string>{"cuda_three_tiers"}
                      : std::vector<std::string>{"ram", "nvme", "discrete_three_tiers"};
  for (const auto& placement : placements_named(names, shape_.layers)) {
    SCOPED_TRACE(placement.name);
    Config config = test::roomy_config(dir_ / "m");
    placement.apply(config);
    const uint32_t rows = GetParam().cuda ? 12 : 50;
    const Answer expected = answer_of(config, shape_.vocab, rows);
    config.model_path = dir_ / "m.gguf";
    expect_same_bits(answer_of(config, shape_.vocab, rows), expected);
  }
}

std::vector<TwinCase> twin_cases() {
  std::vector<TwinCase> cases = {
      {"llama_f32", "LlamaForCausalLM", DType::kF32},
      {"llama_f16", "LlamaForCausalLM", DType::kF16},
      {"llama_bf16_tied", "LlamaForCausalLM", DType::kBF16, true},
      {"llama_biases_f32", "LlamaForCausalLM", DType::kF32, false, true, 2, 40},
      {"llama_biases_bf16", "LlamaForCausalLM", DType::kBF16, false, true, 8, 20},
      {"mistral_window_bf16", "MistralForCausalLM", DType::kBF16, false, false, 1, 32, 21},
      {"qwen2_f32_tied", "Qwen2ForCausalLM", DType::kF32, true},
      {"qwen2_f16", "Qwen2ForCausalLM", DType::kF16},
      {"qwen2_window_bf16", "Qwen2ForCausalLM", DType::kBF16, false, false, 4, 32, 17},
      {"qwen3_f32", "Qwen3ForCausalLM", DType::kF32, false, false, 2, 48},
      {"qwen3_f16_tied", "Qwen3ForCausalLM", DType::kF16, true},
      {"qwen3_bf16", "Qwen3ForCausalLM", DType::kBF16},
      {"gemma2_f32", "Gemma2ForCausalLM", DType::kF32, true},
      {"gemma2_bf16", "Gemma2ForCausalLM", DType::kBF16, true, false, 8},
      {"gemma3_f16", "Gemma3ForCausalLM", DType::kF16, true, false, 1},
      {"gemma3_bf16", "Gemma3ForCausalLM", DType::kBF16, true},
      {"phi3_f32", "Phi3ForCausalLM", DType::kF32},
      {"phi3_bf16_tied", "Phi3ForCausalLM", DType::kBF16, true, false, 2},
  };
  if (!test::kCudaBuilt) return cases;
  const size_t host_cases = cases.size();
  for (size_t i = 0; i < host_cases; ++i) {
    TwinCase twin = cases[i];
    twin.name = "cuda_" + twin.name;
    twin.cuda = true;
    cases.push_back(std::move(twin));
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, GgufTwin, ::testing::ValuesIn(twin_cases()),
                         [](const auto& test) { return test.param.name; });

/// Every type that matrices may be written in, and on a GPU again.
struct TypeCase {
  std::string type;
  bool cuda = false;
};

std::vector<TypeCase> type_cases(bool with_cuda) {
  std::vector<TypeCase> cases;
  for (const std::string& name : matrix_type_names()) {
    if (has_blocks(parse_matrix_type(name)->format)) cases.push_back({name});
  }
  const size_t types = cases.size();
  for (size_t i = 0; with_cuda && test::kCudaBuilt && i < types; ++i) {
    cases.push_back({cases[i].type, true});
  }
  return cases;
}

std::string name_of(const ::testing::TestParamInfo<TypeCase>& test) {
  return (test.param.cuda ? "cuda_" : "") + test.param.type;
}

class GgufSameEverywhere : public ::testing::TestWithParam<TypeCase> {};

TEST_P(GgufSameEverywhere, LogitsAreBitIdentical) {
  if (GetParam().cuda) SPILLWAY_NEEDS_CUDA();
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  const test::TempDir dir;
  ModelConfig shape = odd_shape("LlamaForCausalLM");
  shape.tied_embeddings = GetParam().type.ends_with("_0");
  test::write_model(dir / "m.gguf", shape, *parse_matrix_type(GetParam().type),
                    CheckpointKind::kGguf, 1, test::run_seed());
  const uint32_t rows = GetParam().cuda ? 12 : 50;
  auto placements = GetParam().cuda
                        ? placements_named({"cuda_gpu", "cuda_nvme", "cuda_three_tiers"}, 2)
                        : test::placement_cases(2);
  std::optional<Answer> first;
  for (const auto& placement : placements) {
    SCOPED_TRACE(placement.name);
    Config config = test::roomy_config(dir / "m.gguf");
    placement.apply(config);
    const Answer answer = answer_of(config, shape.vocab, rows);
    if (!first) first = answer;
    expect_same_bits(answer, *first);
  }
  if (!GetParam().cuda) return;
  const Answer host = answer_of(test::roomy_config(dir / "m.gguf"), shape.vocab, rows);
  EXPECT_LT(largest_difference(*first, host), 5e-2);
}

INSTANTIATE_TEST_SUITE_P(All, GgufSameEverywhere, ::testing::ValuesIn(type_cases(true)), name_of);

class GgufOnAnyThreads : public ::testing::TestWithParam<TypeCase> {};

/// And from one file as from the parts of a split.
TEST_P(GgufOnAnyThreads, LogitsAreBitIdentical) {
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  const test::TempDir dir;
  const ModelConfig shape = odd_shape("Qwen3ForCausalLM");
  const MatrixType type = *parse_matrix_type(GetParam().type);
  test::write_model(dir / "m.gguf", shape, type, CheckpointKind::kGguf, 1, test::run_seed());
  test::write_model(dir / "parts", shape, type, CheckpointKind::kGguf, 3, test::run_seed());
  std::optional<Answer> first;
  for (const uint32_t threads : {1u, 2u, 5u}) {
    SCOPED_TRACE(threads);
    Config config = test::roomy_config(dir / (threads == 2 ? "parts" : "m.gguf"));
    config.policy = PlacementPolicy::kNvme;
    config.stream_unit_bytes = 64 * kKiB;
    config.compute_threads = threads;
    const Answer answer = answer_of(config, shape.vocab, 50);
    if (!first) first = answer;
    expect_same_bits(answer, *first);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufOnAnyThreads, ::testing::ValuesIn(type_cases(false)), name_of);

/// The model with its tensors the other way round, at multiples of `alignment`.
void write_rearranged(const fs::path& from, const fs::path& to, uint32_t alignment) {
  const auto checkpoint = Checkpoint::open(from, DirectChoice::kOff, [](const std::string&) {});
  test::GgufFile file;
  for (const auto& [key, value] : checkpoint.metadata()->values()) {
    file.metadata.emplace_back(key, value);
  }
  file.metadata.emplace_back("general.alignment", alignment);
  file.alignment = alignment;
  for (const TensorEntry& entry : checkpoint.tensors()) {
    file.tensors.push_back({entry.name,
                            {entry.shape.rbegin(), entry.shape.rend()},
                            traits_of(*entry.format).gguf_id,
                            checkpoint.files()[entry.file].read_text(entry.offset, entry.bytes)});
  }
  std::reverse(file.tensors.begin(), file.tensors.end());
  // An odd header: with an alignment of 1 no number lies where its size would have it.
  const std::string note((file.header().size() + 1) % 2, 'x');
  file.metadata.emplace_back("general.note", note);
  test::write_file(to, file.bytes());
}

class GgufAnyAlignment : public ::testing::TestWithParam<TypeCase> {};

TEST_P(GgufAnyAlignment, GivesTheSameBits) {
  if (GetParam().cuda) SPILLWAY_NEEDS_CUDA();
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  const test::TempDir dir;
  const ModelConfig shape = odd_shape("Qwen2ForCausalLM");
  test::write_model(dir / "m.gguf", shape, *parse_matrix_type(GetParam().type),
                    CheckpointKind::kGguf, 1, test::run_seed());
  const uint32_t rows = GetParam().cuda ? 12 : 50;
  const std::vector<std::string> names =
      GetParam().cuda ? std::vector<std::string>{"cuda_three_tiers"}
                      : std::vector<std::string>{"ram", "nvme", "discrete_nvme"};
  for (const auto& placement : placements_named(names, shape.layers)) {
    SCOPED_TRACE(placement.name);
    Config config = test::roomy_config(dir / "m.gguf");
    placement.apply(config);
    const Answer expected = answer_of(config, shape.vocab, rows);
    for (const uint32_t alignment : {1u, 8u, 4096u}) {
      SCOPED_TRACE(alignment);
      config.model_path = dir / "other.gguf";
      write_rearranged(dir / "m.gguf", config.model_path, alignment);
      expect_same_bits(answer_of(config, shape.vocab, rows), expected);
    }
  }
}

std::vector<TypeCase> alignment_cases() {
  std::vector<TypeCase> cases;
  for (const char* type : {"F32", "BF16", "Q8_0", "Q4_K_M", "MXFP4"}) {
    cases.push_back({type});
    if (test::kCudaBuilt) cases.push_back({type, true});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, GgufAnyAlignment, ::testing::ValuesIn(alignment_cases()), name_of);

/// The model with every block taken apart.
void write_decoded(const fs::path& from, const fs::path& to) {
  const auto checkpoint = Checkpoint::open(from, DirectChoice::kOff, [](const std::string&) {});
  test::GgufFile file;
  for (const auto& [key, value] : checkpoint.metadata()->values()) {
    file.metadata.emplace_back(key, value);
  }
  for (const TensorEntry& entry : checkpoint.tensors()) {
    const std::string bytes = checkpoint.files()[entry.file].read_text(entry.offset, entry.bytes);
    const FormatTraits& traits = traits_of(*entry.format);
    const uint64_t count = entry.bytes / traits.block_bytes * traits.block_values;
    std::string floats(count * 4, '\0');
    decode_values(*entry.format, reinterpret_cast<const std::byte*>(bytes.data()), count,
                  reinterpret_cast<float*>(floats.data()));
    file.tensors.push_back({entry.name,
                            {entry.shape.rbegin(), entry.shape.rend()},
                            traits_of(WeightFormat::kF32).gguf_id,
                            std::move(floats)});
  }
  test::write_file(to, file.bytes());
}

class GgufBlocks : public ::testing::TestWithParam<TypeCase> {};

/// Rows of 256 for all, of 352 and 288 for blocks of 32; heads that share keys and some that do
/// not.
TEST_P(GgufBlocks, AreTheNumbersThatTheyStandFor) {
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (const char* architecture : {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    SCOPED_TRACE(architecture);
    const test::TempDir dir;
    ModelConfig shape = odd_shape(architecture);
    if (shape.qkv_bias) shape.hidden = 288;
    if (shape.qk_norm) shape.intermediate = 512;
    if (shape.qk_norm) shape.kv_heads = 1;
    const auto path = dir / "m.gguf";
    test::write_model(path, shape, *parse_matrix_type(GetParam().type), CheckpointKind::kGguf, 1,
                      test::run_seed());
    vary_vectors(path, shape.head_dim);
    write_decoded(path, dir / "decoded.gguf");
    Config config = test::roomy_config(path);
    config.prompt_math = PromptMath::kF32;
    const Answer blocks = answer_of(config, shape.vocab, 70);
    config.model_path = dir / "decoded.gguf";
    EXPECT_LT(largest_difference(blocks, answer_of(config, shape.vocab, 70)), 1e-4);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufBlocks, ::testing::ValuesIn(type_cases(false)), name_of);

/// Caps are what the file says, none included; the first files of Gemma 2 say neither its own nor
/// its window.
TEST(GgufGemma, CapsAreKept) {
  const test::TempDir dir;
  const auto caps = [&](const fs::path& file) {
    const ModelConfig config =
        model_config_of(Checkpoint::open(file, DirectChoice::kOff, [](const std::string&) {}));
    return std::pair{config.score_cap, config.logit_cap};
  };
  ModelConfig shape = odd_shape("Gemma2ForCausalLM");
  for (const auto& [scores, logits] : {std::pair{50.0f, 30.0f}, {20.0f, 0.0f}, {0.0f, 10.0f}}) {
    shape.score_cap = scores;
    shape.logit_cap = logits;
    const fs::path file = dir / (std::to_string(static_cast<int>(scores)) + ".gguf");
    test::write_model(file, shape, matrix_type(WeightFormat::kBF16), CheckpointKind::kGguf);
    EXPECT_EQ(caps(file), (std::pair{scores, logits}));
  }
  const fs::path file = dir / "20.gguf";
  std::fstream bytes(file, std::ios::in | std::ios::out | std::ios::binary);
  std::string start(64 * kKiB, '\0');
  bytes.read(start.data(), static_cast<std::streamsize>(start.size()));
  for (const char* key :
       {"attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window"}) {
    const size_t at = start.find(key);
    ASSERT_NE(at, std::string::npos);
    bytes.clear();
    bytes.seekp(static_cast<std::streamoff>(at));
    bytes << 'x';  // a key of another name
  }
  bytes.close();
  EXPECT_EQ(caps(file), (std::pair{50.0f, 30.0f}));
  EXPECT_EQ(model_config_of(Checkpoint::open(file, DirectChoice::kOff, [](const std::string&) {}))
                .sliding_window,
            4096u);
}

}  // namespace
}  // namespace spillway
