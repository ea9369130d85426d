#include "model/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "core/new_file.h"
#include "core/units.h"
#include "io/checkpoint.h"
#include "io/gguf_writer.h"
#include "model/gguf_names.h"
#include "model/runtime.h"
#include "model/synthetic.h"
#include "tests/run_helper.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kSmallestRam = 32 * kMiB;

QuantizeResult quantized(const fs::path& source, const fs::path& target, const char* type,
                         uint64_t ram = kSmallestRam, uint32_t threads = 2) {
  QuantizeOptions options;
  options.type = *parse_matrix_type(type);
  options.ram_bytes = ram;
  options.threads = threads;
  return quantize(
      source, target, options, StopFlag(), [](const std::string&) {}, [](uint64_t, uint64_t) {});
}

/// Every tensor of a model by its name, decoded.
std::map<std::string, std::vector<float>> all_values(const fs::path& model) {
  const auto checkpoint = Checkpoint::open(model, DirectChoice::kOff, [](const std::string&) {});
  std::map<std::string, std::vector<float>> values;
  for (const TensorEntry& entry : checkpoint.tensors()) {
    const std::string bytes = checkpoint.files()[entry.file].read_text(entry.offset, entry.bytes);
    const FormatTraits& traits = traits_of(*entry.format);
    auto& own = values[entry.name];
    own.resize(entry.bytes / traits.block_bytes * traits.block_values);
    decode_values(*entry.format, reinterpret_cast<const std::byte*>(bytes.data()), own.size(),
                  own.data());
  }
  return values;
}

/// What a tensor of the folder is to be in the GGUF file.
std::vector<float> as_converted(const std::string& name, std::vector<float> values,
                                const ModelConfig& model) {
  if (!gguf_interleaves_heads(gguf_architecture(model.architecture)) || !has_rotated_rows(name)) {
    return values;
  }
  const uint64_t rows =
      name.find(".q_proj.") != std::string::npos ? model.q_width() : model.kv_width();
  const uint64_t cols = values.size() / rows;
  std::vector<float> moved(values.size());
  for (uint64_t row = 0; row < rows; ++row) {
    std::copy_n(&values[hf_row(row, model.head_dim) * cols], cols, &moved[row * cols]);
  }
  return moved;
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double squares = 0;
  double changes = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    squares += double{a[i]} * a[i];
    changes += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  }
  return std::sqrt(changes / squares);
}

class QuantizedModel : public testing::TestWithParam<std::string> {};

TEST_P(QuantizedModel, HoldsTheWeightsOfItsSource) {
  const test::TempDir dir;
  const ModelConfig model = test::small_shape(GetParam());
  test::make_checkpoint(dir / "m", model, DType::kBF16, 2, 3);
  const auto source = all_values(dir / "m");
  const auto names = test::hf_names(model);
  for (const char* type : {"BF16", "F32", "Q8_0", "Q4_0", "Q4_K_M"}) {
    const fs::path file = dir / (std::string(type) + ".gguf");
    const QuantizeResult result = quantized(dir / "m", file, type);
    EXPECT_EQ(result.no_tokenizer, "");
    EXPECT_TRUE(result.unused.empty());
    EXPECT_EQ(result.file_bytes, fs::file_size(file));
    const auto values = all_values(file);
    ASSERT_EQ(values.size(), source.size());
    ASSERT_EQ(result.tensors.size(), source.size());
    for (const QuantizedTensor& tensor : result.tensors) {
      const std::string& name = names.at(tensor.name);
      const auto expected = as_converted(name, source.at(name), model);
      const std::vector<float>& got = values.at(tensor.name);
      ASSERT_EQ(got.size(), expected.size());
      if (!has_blocks(tensor.to) && tensor.to != WeightFormat::kF16) {
        EXPECT_EQ(got, expected) << tensor.name;
        EXPECT_EQ(tensor.error, 0);
      } else {
        EXPECT_NEAR(relative_error(expected, got), tensor.error, 1e-6) << tensor.name;
        EXPECT_LT(tensor.error, 0.11);
        EXPECT_GE(tensor.worst_row, tensor.error);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, QuantizedModel,
                         testing::Values("LlamaForCausalLM", "MistralForCausalLM",
                                         "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
                         [](const auto& test) { return test.param; });

TEST(Quantize, IsTheSameWhateverTheMemoryAndTheThreads) {
  const test::TempDir dir;
  test::write_streamed_model(dir / "m");
  quantized(dir / "m", dir / "a.gguf", "Q4_K_M", kSmallestRam, 1);
  const std::string first = test::read_file(dir / "a.gguf");
  quantized(dir / "m", dir / "b.gguf", "Q4_K_M", kGiB, 4);
  EXPECT_EQ(test::read_file(dir / "b.gguf"), first);
  const std::string error =
      test::error_of([&] { quantized(dir / "m", dir / "c.gguf", "Q4_K_M", kMiB); });
  EXPECT_NE(error.find("--ram 1.00 MiB"), std::string::npos) << error;
  EXPECT_FALSE(fs::exists(dir / "c.gguf"));
}

/// 20480 values make a task of one row, 64 one of 512 rows, which is more. Buffers are whole huge
/// pages.
TEST(Quantize, TheLeastMemoryIsWhatItTakes) {
  constexpr uint32_t kThreads = 32;
  const test::TempDir dir;
  ModelConfig model = test::small_shape("LlamaForCausalLM");
  model.hidden = 64;
  model.intermediate = 20480;
  model.layers = 1;
  test::make_checkpoint(dir / "m", model, DType::kBF16, 1, 3);
  const uint64_t least =
      NewFile::kBufferBytes + kThreads * 2 * sizeof(float) * 32 * kKiB + 3 * kHugePageBytes;
  const std::string error =
      test::error_of([&] { quantized(dir / "m", dir / "a.gguf", "F32", least - 1, kThreads); });
  EXPECT_NE(error.find(": " + format_bytes_up(least) + " are needed"), std::string::npos) << error;
  quantized(dir / "m", dir / "a.gguf", "F32", least, kThreads);
}

TEST(Quantize, SyntheticFilesAreWhatQuantizeMakes) {
  const test::TempDir dir;
  SyntheticOptions options;
  options.model = test::small_shape("LlamaForCausalLM");
  const auto ignore = [](uint64_t, uint64_t) {};
  write_synthetic(dir / "m", options, StopFlag(), ignore);
  options.kind = CheckpointKind::kGguf;
  fs::create_directory(dir / "n");
  write_synthetic(dir / "n/m.gguf", options, StopFlag(), ignore);
  quantized(dir / "m", dir / "m.gguf", "BF16");
  EXPECT_EQ(all_values(dir / "m.gguf"), all_values(dir / "n/m.gguf"));
  const auto keys = [](const fs::path& file) {
    const auto checkpoint = Checkpoint::open(file, DirectChoice::kOff, [](const std::string&) {});
    std::map<std::string, std::string> text;
    for (const auto& [key, value] : checkpoint.metadata()->values()) {
      text[key] = value.bytes;
      for (size_t i = 0; i < value.texts.size(); ++i) {
        (text[key] += value.texts[i]) += '\n';
      }
    }
    return text;
  };
  EXPECT_EQ(keys(dir / "m.gguf"), keys(dir / "n/m.gguf"));
}

/// Of an architecture that is none of ours: what is not known to be a matrix stays as it is.
TEST(Quantize, LeavesTheOtherTensorsOfForeignArchitectures) {
  const test::TempDir dir;
  GgufMetadata metadata;
  metadata.set("general.architecture", "gpt2");
  metadata.set("gpt2.block_count", uint32_t{1});
  const std::vector<GgufTensorSpec> specs = {
      {"blk.0.attn_qkv.weight", {32, 96}, WeightFormat::kF32},
      {"blk.0.ffn_gate_exps.weight", {32, 64, 4}, WeightFormat::kF32},
      {"blk.0.ffn_gate_inp.weight", {32, 4}, WeightFormat::kF32},
      {"position_embd.weight", {32, 16}, WeightFormat::kF32},
  };
  const GgufLayout layout = lay_out_gguf(metadata, specs);
  std::string file = layout.header;
  file.resize(layout.file_bytes);
  test::write_file(dir / "m.gguf", file);
  std::map<std::string, WeightFormat> formats;
  for (const QuantizedTensor& tensor : quantized(dir / "m.gguf", dir / "q.gguf", "Q8_0").tensors) {
    formats[tensor.name] = tensor.to;
  }
  EXPECT_EQ(formats["blk.0.attn_qkv.weight"], WeightFormat::kQ8_0);
  EXPECT_EQ(formats["blk.0.ffn_gate_exps.weight"], WeightFormat::kQ8_0);
  EXPECT_EQ(formats["blk.0.ffn_gate_inp.weight"], WeightFormat::kF32);
  EXPECT_EQ(formats["position_embd.weight"], WeightFormat::kF32);
}

/// They end answers in token ids, too.
TEST(Quantize, CarriesEndTokensWithoutATokenizer) {
  const test::TempDir dir;
  ModelConfig model = test::small_shape("LlamaForCausalLM");
  test::make_checkpoint(dir / "m", model, DType::kBF16, 1, 3);
  fs::remove(dir / "m/tokenizer.json");
  test::write_file(dir / "m/generation_config.json", R"({"eos_token_id": [7, 3, 9, 4, 5]})");
  QuantizeOptions options;
  options.type = *parse_matrix_type("Q8_0");
  options.ram_bytes = kSmallestRam;
  std::vector<std::string> notes;
  bool began = false;
  const QuantizeResult result = quantize(
      dir / "m", dir / "m.gguf", options, StopFlag(),
      [&](const std::string& note) {
        EXPECT_FALSE(began) << note;
        notes.push_back(note);
      },
      [&](uint64_t, uint64_t) { began = true; });
  EXPECT_EQ(result.no_tokenizer, "the model has none");
  EXPECT_EQ(result.lost_ends, (std::vector<uint32_t>{4, 5}));
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_NE(notes[0].find("the tokenizer cannot be carried: the model has none"), std::string::npos)
      << notes[0];
  EXPECT_NE(notes[1].find("goes on after 4, 5"), std::string::npos) << notes[1];
  const Checkpoint made =
      Checkpoint::open(dir / "m.gguf", DirectChoice::kOff, [](const std::string&) {});
  EXPECT_EQ(model_config_of(made).end_tokens, (std::vector<uint32_t>{3, 7, 9}));
}

TEST(Quantize, TakesGguf) {
  const test::TempDir dir;
  const ModelConfig model = test::small_shape("LlamaForCausalLM");
  test::write_model(dir / "m.gguf", model, matrix_type(WeightFormat::kF32), CheckpointKind::kGguf,
                    3);
  const fs::path parts = dir / "m-00001-of-00003.gguf";
  quantized(parts, dir / "q8.gguf", "Q8_0");
  const auto whole =
      Checkpoint::open(dir / "q8.gguf", DirectChoice::kOff, [](const std::string&) {});
  EXPECT_EQ(whole.metadata()->whole("general.file_type"), 7u);
  EXPECT_FALSE(whole.metadata()->has("split.count"));
  EXPECT_EQ(whole.metadata()->whole("llama.block_count"), model.layers);
  const auto before = all_values(parts);
  const auto after = all_values(dir / "q8.gguf");
  ASSERT_EQ(before.size(), after.size());
  for (const auto& [name, values] : before) {
    EXPECT_LT(relative_error(values, after.at(name)), 0.01) << name;
  }
  // Blocks that stay what they are stay bit by bit, of a kind that cannot be made, too.
  const QuantizeResult again = quantized(dir / "q8.gguf", dir / "again.gguf", "Q8_0");
  EXPECT_EQ(test::read_file(dir / "again.gguf"), test::read_file(dir / "q8.gguf"));
  for (const QuantizedTensor& tensor : again.tensors) EXPECT_EQ(tensor.error, 0);
}

TEST(Quantize, RefusesDamagedAndTooLargeValues) {
  const test::TempDir dir;
  const ModelConfig model = test::small_shape("LlamaForCausalLM");
  test::make_checkpoint(dir / "m", model, DType::kF32, 1, 3);
  const auto checkpoint =
      Checkpoint::open(dir / "m", DirectChoice::kOff, [](const std::string&) {});
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const uint64_t offset = checkpoint.find(name)->offset;
  const auto error_with = [&](float value, const char* type) {
    std::fstream file(dir / "m/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset + 400));
    file.write(reinterpret_cast<const char*>(&value), 4);
    file.close();
    return test::error_of([&] { quantized(dir / "m", dir / "m.gguf", type); });
  };
  for (const char* type : {"Q4_K", "F32", "F16"}) {
    const std::string error = error_with(NAN, type);
    EXPECT_NE(error.find(name + " holds a value that is not a finite"), std::string::npos) << error;
  }
  for (const char* type : {"Q4_K", "F16"}) {
    const std::string error = error_with(1e30f, type);
    EXPECT_NE(error.find(name + " holds a value that is too large"), std::string::npos) << error;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1) << "no file was kept";
}

TEST(Quantize, LeavesNothingWhenStoppedAndNeverReplaces) {
  const test::TempDir dir;
  test::write_streamed_model(dir / "m");
  QuantizeOptions options;
  options.type = *parse_matrix_type("Q8_0");
  options.ram_bytes = kSmallestRam;
  for (const bool at_end : {false, true}) {
    StopFlag stop;
    const auto progress = [&](uint64_t done, uint64_t total) {
      if (!at_end || done == total) stop.request();
    };
    EXPECT_THROW(quantize(
                     dir / "m", dir / "m.gguf", options, stop, [](const std::string&) {}, progress),
                 Stopped);
    EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
  }
  test::write_file(dir / "m.gguf", "mine");
  const std::string error = test::error_of([&] { quantized(dir / "m", dir / "m.gguf", "Q8_0"); });
  EXPECT_NE(error.find("m.gguf: exists"), std::string::npos) << error;
  EXPECT_EQ(test::read_file(dir / "m.gguf"), "mine");
  // Not even one that came while it was made.
  const auto late = [&](uint64_t done, uint64_t total) {
    if (done == total) test::write_file(dir / "n.gguf", "mine");
  };
  const std::string other = test::error_of([&] {
    quantize(
        dir / "m", dir / "n.gguf", options, StopFlag(), [](const std::string&) {}, late);
  });
  EXPECT_NE(other.find("cannot rename"), std::string::npos) << other;
  EXPECT_EQ(test::read_file(dir / "n.gguf"), "mine");
}

TEST(Quantize, TiedTablesAreWrittenOnce) {
  const test::TempDir dir;
  ModelConfig model = test::small_shape("Qwen2ForCausalLM");
  model.tied_embeddings = true;
  test::make_checkpoint(dir / "m", model, DType::kBF16, 1, 3);
  const QuantizeResult result = quantized(dir / "m", dir / "m.gguf", "Q4_K_M");
  size_t heads = 0;
  for (const QuantizedTensor& tensor : result.tensors) {
    heads += tensor.name == "output.weight" ? 1 : 0;
    if (tensor.name == "token_embd.weight") {
      EXPECT_EQ(tensor.to, format_for_row(WeightFormat::kQ6_K, model.hidden));
    }
  }
  EXPECT_EQ(heads, 0u);
}

}  // namespace
}  // namespace spillway
