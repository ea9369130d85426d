// Synthetic checkpoints in GGUF, against those in safetensors.
#include "model/synthetic.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

#include "core/error.h"
#include "io/checkpoint.h"
#include "io/gguf.h"
#include "model/gguf_metadata.h"
#include "model/gguf_names.h"
#include "model/synthetic_values.h"
#include "tests/run_helper.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using test::write_model;

std::string bytes_at(const fs::path& file, uint64_t offset, uint64_t bytes) {
  std::ifstream in(file, std::ios::binary);
  std::string text(bytes, '\0');
  in.seekg(static_cast<std::streamoff>(offset));
  in.read(text.data(), static_cast<std::streamsize>(bytes));
  EXPECT_TRUE(in.good()) << file;
  return text;
}

GgufHeader header_of(const fs::path& file) {
  const GgufBytes read = [&](uint64_t offset, uint64_t bytes) {
    return bytes_at(file, offset, bytes);
  };
  return read_gguf_header(read, fs::file_size(file), file.string());
}

std::vector<float> values_at(const fs::path& file, const TensorEntry& entry) {
  const std::string bytes = bytes_at(file, entry.offset, entry.bytes);
  const FormatTraits& traits = traits_of(*entry.format);
  std::vector<float> values(entry.bytes / traits.block_bytes * traits.block_values);
  decode_values(*entry.format, reinterpret_cast<const std::byte*>(bytes.data()), values.size(),
                values.data());
  return values;
}

class SyntheticValuesOf : public testing::TestWithParam<FormatTraits> {};

TEST_P(SyntheticValuesOf, HaveMeanZeroAndTheDeviationOfPlainOnes) {
  const WeightFormat format = GetParam().format;
  const SyntheticValues source(format, 3);
  constexpr uint64_t kCols = 512;
  constexpr uint64_t kCount = 2048 * kCols;
  std::vector<std::byte> bytes(row_bytes(format, kCount));
  source.fill(7, false, 0, kCount, bytes.data());
  std::vector<float> values(kCount);
  decode_values(format, bytes.data(), kCount, values.data());
  double sum = 0;
  double squares = 0;
  std::vector<double> columns(kCols);
  for (uint64_t i = 0; i < kCount; ++i) {
    ASSERT_TRUE(std::isfinite(values[i]));
    sum += values[i];
    squares += double{values[i]} * values[i];
    columns[i % kCols] += values[i];
  }
  EXPECT_NEAR(sum / kCount, 0, 2e-4);
  EXPECT_NEAR(std::sqrt(squares / kCount), 0.02, 0.0006);
  for (const double column : columns) EXPECT_NEAR(column / 2048, 0, 0.0025);

  // Any part is what it is as part of the whole.
  const uint64_t unit = source.unit_values();
  std::vector<std::byte> part(source.unit_bytes() * 3);
  source.fill(7, false, 5 * unit, 3 * unit, part.data());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), bytes.begin() + 5 * source.unit_bytes()));
  source.fill(8, false, 0, 3 * unit, part.data());
  EXPECT_FALSE(std::equal(part.begin(), part.end(), bytes.begin()));
}

INSTANTIATE_TEST_SUITE_P(Formats, SyntheticValuesOf, testing::ValuesIn(kFormats),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(SyntheticValues, PlainNumbersMayBeginAnywhere) {
  const SyntheticValues source(WeightFormat::kBF16, 3);
  std::vector<std::byte> whole(2 * 64);
  std::vector<std::byte> part(whole.size());
  source.fill(1, false, 0, 64, whole.data());
  for (uint64_t first = 0; first < 9; ++first) {
    for (uint64_t count = 0; count < 11; ++count) {
      source.fill(1, false, first, count, part.data());
      EXPECT_TRUE(std::equal(part.data(), part.data() + 2 * count, whole.data() + 2 * first));
    }
  }
}

class SyntheticTwin : public testing::TestWithParam<std::string> {};

/// The same weights in both kinds of files, but for the order of rows that the kind asks for.
TEST_P(SyntheticTwin, HoldsTheSameWeights) {
  const ModelConfig model = test::small_shape(GetParam());
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const test::TempDir dir;
    const MatrixType type = matrix_type(format_of(dtype));
    write_model(dir / "m", model, type, CheckpointKind::kSafetensors);
    write_model(dir / "m.gguf", model, type, CheckpointKind::kGguf);
    const auto checkpoint =
        Checkpoint::open(dir / "m", DirectChoice::kOff, [](const std::string&) {});
    const GgufHeader header = header_of(dir / "m.gguf");
    ASSERT_EQ(header.tensors.size(), checkpoint.tensors().size());
    const bool interleaved = gguf_interleaves_heads(gguf_architecture(model.architecture));
    const auto names = test::hf_names(model);
    uint32_t moved = 0;
    for (const TensorEntry& entry : header.tensors) {
      const std::string& name = names.at(entry.name);
      const TensorEntry* other = checkpoint.find(name);
      ASSERT_NE(other, nullptr) << name;
      ASSERT_EQ(entry.shape, other->shape) << name;
      EXPECT_EQ(entry.format, entry.shape.size() == 1 ? WeightFormat::kF32 : type.format);
      const auto ours = values_at(dir / "m.gguf", entry);
      const auto theirs = values_at(checkpoint.files()[0].info().path, *other);
      const uint64_t cols = entry.shape.back();
      const bool rotated = interleaved && entry.shape.size() == 2 && has_rotated_rows(name);
      for (uint64_t row = 0; row < ours.size() / cols; ++row) {
        const uint64_t from = rotated ? hf_row(row, model.head_dim) : row;
        moved += from != row ? 1 : 0;
        ASSERT_TRUE(std::equal(ours.begin() + row * cols, ours.begin() + (row + 1) * cols,
                               theirs.begin() + from * cols))
            << name << " row " << row;
      }
    }
    EXPECT_EQ(moved > 0, interleaved);
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, SyntheticTwin,
                         testing::Values("LlamaForCausalLM", "MistralForCausalLM",
                                         "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
                         [](const auto& test) { return test.param; });

TEST(SyntheticGguf, SaysWhatTheModelIs) {
  const test::TempDir dir;
  ModelConfig model = test::small_shape("Qwen3ForCausalLM");
  model.head_dim = 2 * model.hidden / model.heads;
  write_model(dir / "m", model, *parse_matrix_type("q4_k_m"), CheckpointKind::kGguf);
  const GgufMetadata metadata = header_of(dir / "m/model.gguf").metadata;
  EXPECT_EQ(metadata.text("general.architecture"), "qwen3");
  EXPECT_EQ(metadata.whole("general.file_type"), 15u);
  EXPECT_EQ(metadata.whole("qwen3.block_count"), model.layers);
  EXPECT_EQ(metadata.whole("qwen3.context_length"), model.context);
  EXPECT_EQ(metadata.whole("qwen3.embedding_length"), model.hidden);
  EXPECT_EQ(metadata.whole("qwen3.feed_forward_length"), model.intermediate);
  EXPECT_EQ(metadata.whole("qwen3.attention.head_count"), model.heads);
  EXPECT_EQ(metadata.whole("qwen3.attention.head_count_kv"), model.kv_heads);
  EXPECT_EQ(metadata.whole("qwen3.attention.key_length"), model.head_dim);
  EXPECT_EQ(metadata.whole("qwen3.rope.dimension_count"), model.head_dim);
  EXPECT_EQ(metadata.number("qwen3.rope.freq_base"), model.rope_theta);
  EXPECT_NEAR(*metadata.number("qwen3.attention.layer_norm_rms_epsilon"), model.rms_epsilon, 1e-9);
  EXPECT_EQ(metadata.texts("tokenizer.ggml.tokens")->size(), model.vocab);
  EXPECT_EQ(metadata.wholes("tokenizer.ggml.token_type")->size(), model.vocab);
  EXPECT_TRUE(metadata.texts("tokenizer.ggml.merges")->empty());
  EXPECT_EQ(metadata.whole("tokenizer.ggml.eos_token_id"), 257u);
  EXPECT_FALSE(metadata.has("split.count"));
}

TEST(SyntheticGguf, PartsAreOneModel) {
  const test::TempDir dir;
  const ModelConfig model = test::small_shape("LlamaForCausalLM");
  const MatrixType type = matrix_type(WeightFormat::kF32);
  write_model(dir / "one.gguf", model, type, CheckpointKind::kGguf);
  write_model(dir / "three.gguf", model, type, CheckpointKind::kGguf, 3);
  const GgufHeader one = header_of(dir / "one.gguf");
  std::map<std::string, std::vector<float>> whole;
  for (const TensorEntry& entry : one.tensors) {
    whole[entry.name] = values_at(dir / "one.gguf", entry);
  }
  size_t tensors = 0;
  for (uint32_t part = 0; part < 3; ++part) {
    const fs::path file = dir / gguf_part_name("three.gguf", part, 3);
    const GgufHeader header = header_of(file);
    EXPECT_EQ(header.metadata.whole("split.no"), part);
    EXPECT_EQ(header.metadata.whole("split.count"), 3u);
    EXPECT_EQ(header.metadata.whole("split.tensors.count"), whole.size());
    EXPECT_EQ(header.metadata.has("general.architecture"), part == 0);
    for (const TensorEntry& entry : header.tensors) {
      EXPECT_EQ(values_at(file, entry), whole[entry.name]) << entry.name;
    }
    tensors += header.tensors.size();
  }
  EXPECT_EQ(tensors, whole.size());
}

TEST(SyntheticGguf, LeavesFilesOfOthersAlone) {
  const test::TempDir dir;
  const ModelConfig model = test::small_shape("LlamaForCausalLM");
  const MatrixType type = matrix_type(WeightFormat::kQ8_0);
  test::write_file(dir / "m-00002-of-00002.gguf", "mine");
  const std::string error =
      test::error_of([&] { write_model(dir / "m.gguf", model, type, CheckpointKind::kGguf, 2); });
  EXPECT_NE(error.find("m-00002-of-00002.gguf: exists"), std::string::npos) << error;
  write_model(dir / "m.gguf", model, type, CheckpointKind::kGguf);
  EXPECT_EQ(bytes_at(dir / "m-00002-of-00002.gguf", 0, 4), "mine");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 2);
}

TEST(SyntheticGguf, LeavesNothingBehindWhenStopped) {
  const test::TempDir dir;
  SyntheticOptions options;
  options.model = test::small_shape("LlamaForCausalLM");
  options.type = matrix_type(WeightFormat::kQ4_0);
  options.kind = CheckpointKind::kGguf;
  options.shards = 3;
  for (const char* name : {"m.gguf", "folder"}) {
    StopFlag stop;
    const auto late = [&](uint64_t done, uint64_t total) {
      if (done == total) stop.request();
    };
    EXPECT_THROW(write_synthetic(dir / name, options, stop, late), Stopped);
    EXPECT_TRUE(fs::is_empty(dir.path())) << name;
  }
}

TEST(MatrixType, MixesAndFallsBack) {
  ModelConfig model = preset_config("llama-2-7b");
  const MatrixType mix = *parse_matrix_type("Q4_K_M");
  const auto format = [&](const MatrixType& type, const std::string& name, uint32_t cols) {
    return format_in(type, model, {name, 8, cols, false}, true);
  };
  EXPECT_EQ(format(mix, "lm_head.weight", 4096), WeightFormat::kQ6_K);
  EXPECT_EQ(format(mix, "model.embed_tokens.weight", 4096), WeightFormat::kQ4_K);
  EXPECT_EQ(format(mix, "model.layers.4.self_attn.q_proj.weight", 4096), WeightFormat::kQ4_K);
  std::string more;  // of 32 layers: 0 to 3, every third from 6, 28 to 31
  for (uint32_t i = 0; i < 32; ++i) {
    const auto down =
        format(mix, "model.layers." + std::to_string(i) + ".mlp.down_proj.weight", 4096);
    EXPECT_EQ(format(mix, "model.layers." + std::to_string(i) + ".self_attn.v_proj.weight", 4096),
              down);
    more += down == WeightFormat::kQ6_K ? '6' : '4';
  }
  EXPECT_EQ(more, "66664464464464464464464464466666");
  EXPECT_EQ(format(mix, "lm_head.weight", 288), WeightFormat::kQ8_0);
  EXPECT_EQ(format(mix, "model.embed_tokens.weight", 288), WeightFormat::kQ5_0);
  EXPECT_EQ(format(mix, "model.embed_tokens.weight", 100), WeightFormat::kF16);
  EXPECT_EQ(format_for_row(WeightFormat::kIQ4_XS, 288), WeightFormat::kIQ4_NL);
  EXPECT_EQ(format_for_row(WeightFormat::kMXFP4, 8), WeightFormat::kF16);
  EXPECT_EQ(format_for_row(WeightFormat::kBF16, 7), WeightFormat::kBF16);
  model.tied_embeddings = true;
  EXPECT_EQ(format(mix, "model.embed_tokens.weight", 4096), WeightFormat::kQ6_K);
  EXPECT_FALSE(parse_matrix_type("Q4"));
  for (const FormatTraits& traits : kFormats) {
    EXPECT_EQ(parse_matrix_type(traits.name)->format, traits.format);
  }
}

TEST(GgufMetadata, RopeScalings) {
  ModelConfig model = preset_config("llama-3-8b");
  EXPECT_TRUE(rope_factors(model).empty());
  model.rope_scaling.kind = RopeScaling::Kind::kLlama3;
  model.rope_scaling.factor = 8;
  const auto factors = rope_factors(model);
  ASSERT_EQ(factors.size(), 1u);
  EXPECT_EQ(factors[0].name, kGgufRopeFactors);
  ASSERT_EQ(factors[0].values.size(), 64u);
  EXPECT_EQ(factors[0].values.front(), 1);
  EXPECT_FLOAT_EQ(factors[0].values.back(), 8);
  model.rope_scaling.kind = RopeScaling::Kind::kYarn;
  model.rope_scaling.attention_factor = yarn_attention_factor(8, 0, 0);
  GgufMetadata metadata;
  describe_model(model, "m", matrix_type(WeightFormat::kF16), metadata);
  EXPECT_EQ(metadata.text("llama.rope.scaling.type"), "yarn");
  EXPECT_EQ(metadata.number("llama.rope.scaling.factor"), 8);
  EXPECT_EQ(metadata.whole("llama.rope.scaling.original_context_length"), 8192u);
  EXPECT_FALSE(metadata.has("llama.rope.scaling.attn_factor"));
  model.rope_scaling.kind = RopeScaling::Kind::kDynamic;
  GgufMetadata other;
  EXPECT_THROW(describe_model(model, "m", matrix_type(WeightFormat::kF16), other), Error);
}

}  // namespace
}  // namespace spillway
