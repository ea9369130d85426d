// Where scoring with a sweep turns from drive-bound to compute-bound, as the production planner and
// the simulated pipeline see it: a 70B model on the rates of an H100 and a 6.5 GB/s drive.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/units.h"
#include "model/prediction.h"
#include "model/score.h"
#include "model/synthetic.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr double kDriveRate = 6.5e9;  // bytes per second
constexpr double kFlopRate = 400e12;  // bf16
constexpr double kCopyRate = 50e9;
constexpr uint32_t kChunk = 2048;
constexpr uint32_t kDocument = 512;

/// A checkpoint whose header is true and whose 140 GB are a hole.
void write_hollow_model(const fs::path& folder, const ModelConfig& m) {
  nlohmann::ordered_json header;
  uint64_t end = 0;
  for (const WeightSpec& spec : model_weights(m)) {
    const uint64_t begin = end;
    end += 2 * uint64_t{spec.rows} * spec.cols;
    const auto shape =
        spec.vector ? nlohmann::json{spec.cols} : nlohmann::json{spec.rows, spec.cols};
    header[spec.name] = {{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {begin, end}}};
  }
  const std::string text = header.dump();
  const uint64_t bytes = text.size();
  std::string length(8, '\0');
  std::memcpy(length.data(), &bytes, 8);
  fs::create_directories(folder);
  test::write_file(folder / "model.safetensors", length + text);
  fs::resize_file(folder / "model.safetensors", 8 + bytes + end);
  const nlohmann::json config = {{"architectures", {m.architecture}},
                                 {"hidden_size", m.hidden},
                                 {"intermediate_size", m.intermediate},
                                 {"num_hidden_layers", m.layers},
                                 {"num_attention_heads", m.heads},
                                 {"num_key_value_heads", m.kv_heads},
                                 {"head_dim", m.head_dim},
                                 {"vocab_size", m.vocab},
                                 {"max_position_embeddings", m.context},
                                 {"rms_norm_eps", 1e-5},
                                 {"rope_theta", m.rope_theta},
                                 {"hidden_act", "silu"},
                                 {"tie_word_embeddings", false}};
  test::write_file(folder / "config.json", config.dump());
}

/// One row of weights does as many FLOP per byte of bf16 as there are rows of activations.
MachineRates h100() {
  MachineRates rates;
  rates.reads = {{128 * kKiB, 1, 1e9}, {16 * kMiB, 8, kDriveRate}};
  rates.copy_bytes = kCopyRate;
  rates.matmuls = {{kChunk, kFlopRate / kChunk}};
  rates.attention_seconds = 2 / kFlopRate;
  return rates;
}

class Crossing : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      write_hollow_model(dir_ / "model", preset_config("llama-3-70b"));
    } catch (const fs::filesystem_error& error) {
      GTEST_SKIP() << "the temporary folder holds no file of that length: " << error.what();
    }
    config_.model_path = dir_ / "model";
    config_.device = "host-discrete";
    config_.ram_bytes = 24 * kGiB;
    config_.gpu_bytes = 40 * kGiB;
    config_.policy = PlacementPolicy::kNvme;
    config_.stream_unit_bytes = 64 * kMiB;
    config_.io_chunk_bytes = 16 * kMiB;
    config_.io_depth = 8;
    config_.score_chunk_tokens = kChunk;
    model_ = std::make_unique<Model>(open_model(config_.model_path, DirectChoice::kAuto, silent_));
    machine_ = open_machine(config_, silent_);
  }

  Workload job(uint64_t tokens) const {
    const std::vector<std::vector<uint32_t>> texts(tokens / kDocument,
                                                   std::vector<uint32_t>(kDocument, 7));
    return scoring_workload(config_, *model_, texts);
  }
  /// Of a sweep among many alike.
  PassPrediction sweep(uint32_t tokens) {
    config_.score_sweep_tokens = tokens;
    const Workload workload = job(2 * uint64_t{tokens});
    plan_ = plan_run(config_, *model_, machine_, workload);
    const PassShape shape = prompt_shape(plan_, workload, work_amount(workload));
    EXPECT_EQ(shape.tokens(), tokens);
    return predict_pass(*model_, plan_, false, shape, h100());
  }
  /// Tokens per sweep at which computing takes as long as reading, in proportion from the shortest
  /// sweep of whole chunks with which it takes longer.
  double crossing() {
    uint32_t reads = 1;
    uint32_t computes = 128;
    while (computes - reads > 1) {
      const uint32_t middle = (reads + computes) / 2;
      (sweep(middle * kChunk).bottleneck == "compute" ? computes : reads) = middle;
    }
    const PassPrediction pass = sweep(computes * kChunk);
    EXPECT_GE(pass.compute_seconds, pass.read_seconds);
    return computes * kChunk * pass.read_seconds / pass.compute_seconds;
  }
  double not_resident() const {
    return static_cast<double>(plan_.stream.placement.nvme_bytes_per_pass) /
           static_cast<double>(model_->weights.pass_bytes());
  }

  test::TempDir dir_;
  NoticeSink silent_ = [](const std::string&) {};
  Config config_;
  std::unique_ptr<Model> model_;
  Machine machine_;
  RunPlan plan_;
};

/// bytes / drive = 2 · parameters · tokens / FLOP rate, with two bytes a parameter.
constexpr double kFormula = kFlopRate / kDriveRate;

TEST_F(Crossing, Of70BOnAnH100IsNear61500Tokens) {
  const double tokens = crossing();
  RecordProperty("tokens", static_cast<int>(tokens));
  EXPECT_NEAR(not_resident(), 1, 0.001);
  EXPECT_NEAR(tokens / kFormula, 1, 0.02) << tokens;
}

/// What lies on the GPU is not read: the crossing comes as much earlier.
TEST_F(Crossing, ComesEarlierByWhatIsResident) {
  config_.policy = PlacementPolicy::kAuto;
  config_.gpu_bytes = 76 * kGiB;
  config_.ram_bytes = 8 * kGiB;
  machine_ = open_machine(config_, silent_);
  const double tokens = crossing();
  RecordProperty("tokens", static_cast<int>(tokens));
  RecordProperty("not_resident", std::to_string(not_resident()));
  EXPECT_LT(not_resident(), 0.6);
  EXPECT_GT(not_resident(), 0.3);
  EXPECT_NEAR(tokens / (kFormula * not_resident()), 1, 0.03) << tokens << " " << not_resident();
}

/// Before it tokens per second grow with the sweep, after it nothing is gained; near it the
/// pipeline hides one behind the other.
TEST_F(Crossing, ThePipelineIsAsFastAsTheSlowerOfReadingAndComputing) {
  const double weights = static_cast<double>(model_->weights.pass_bytes());
  for (const uint32_t tokens : {8192u, 16384u, 32768u, 61440u, 65536u, 131072u}) {
    const PassPrediction pass = sweep(tokens);
    const double computing = weights * tokens / kFlopRate;
    EXPECT_NEAR(pass.compute_seconds / computing, 1, 0.03) << tokens;
    EXPECT_NEAR(pass.read_seconds / (weights / kDriveRate), 1, 0.03) << tokens;
    const double slower = std::max(pass.compute_seconds, pass.read_seconds);
    EXPECT_GE(pass.seconds, slower * 0.999);
    EXPECT_LE(pass.seconds, slower * 1.05) << tokens;
    RecordProperty("tokens_per_second_" + std::to_string(tokens),
                   std::to_string(tokens / pass.seconds));
  }
}

/// Left to itself the planner takes a sweep beyond the crossing, and none that is longer for
/// nothing.
TEST_F(Crossing, IsWhereThePlannerStops) {
  const Workload workload = job(262144);
  const ChosenPlan chosen =
      choose_plan(config_, *model_, machine_, workload, work_amount(workload), h100());
  EXPECT_EQ(chosen.plan.limits.sweep_rows, 65536u);
  EXPECT_EQ(chosen.prompt.bottleneck, "compute");
  EXPECT_LE(chosen.prompt.seconds, 1.05 * chosen.prompt.compute_seconds);
}

}  // namespace
}  // namespace spillway
