// What can go wrong with a GPU, on the simulated one: what is missing, what is refused, what stops
// in mid-run. And what a run asks of the device when nothing does.
#include <gtest/gtest.h>

#include "core/units.h"
#include "kernels/registry.h"
#include "tests/run_helper.h"
#include "tests/sim/cuda/sim_cuda.h"

namespace spillway {
namespace {

class CudaFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    sim_cuda::reset(test::run_seed());
    test::make_checkpoint(dir_ / "m", test::small_shape("LlamaForCausalLM"), DType::kBF16, 2,
                          test::run_seed());
    config_.file = "test.yaml";
    config_.model_path = dir_ / "m";
    config_.device = "cuda";
    config_.ram_bytes = kGiB;
    config_.stream_unit_bytes = 128 * kKiB;
    config_.prompts = {"a prompt of some length"};
    config_.max_new_tokens = 4;
    config_.ignore_eos = true;
  }
  void TearDown() override { sim_cuda::reset(1); }  // checks that everything was freed

  void place_all_tiers() {
    config_.policy = PlacementPolicy::kNvme;
    config_.overrides = {
        {"", 0, 0, Tier::kGpu}, {"", 1, 1, Tier::kRam}, {"head", 0, 0, Tier::kRam}};
  }
  std::string refusal(const std::string& device) {
    return test::error_of([&] { open_device(device, {}); });
  }

  testing::ScopedTrace trace_{__FILE__, __LINE__, test::seed_note(test::run_seed())};
  test::TempDir dir_;
  Config config_;
};

TEST_F(CudaFaults, WhatIsMissingIsOneLine) {
  auto& machine = sim_cuda::machine();
  EXPECT_EQ(refusal("cuda:7"), "device cuda:7: this machine has 1 GPU: cuda:0");
  machine.devices = 3;
  EXPECT_EQ(refusal("cuda:7"), "device cuda:7: this machine has 3 GPUs: cuda:0 to cuda:2");
  machine.devices = 0;
  EXPECT_EQ(refusal("cuda"), "device cuda:0: the NVIDIA driver sees no GPU; use device: host");
  EXPECT_EQ(choose_device().name, "host");
  EXPECT_EQ(choose_device().reason, "the NVIDIA driver sees no GPU");
  machine.driver_version = 0;
  EXPECT_EQ(refusal("cuda"), "device cuda:0: no NVIDIA driver is loaded; use device: host");
  machine.devices = 1;
  machine.driver_version = 12020;
  EXPECT_EQ(refusal("cuda:0"),
            "device cuda:0: the NVIDIA driver is too old: it offers CUDA 12.2, this build needs "
            "13.0; use device: host");
  EXPECT_EQ(choose_device().name, "host");
  machine.driver_version = 13000;
  machine.major = 7;
  EXPECT_EQ(
      refusal("cuda"),
      "device cuda:0: Simulated GPU 0 has compute capability 7.0, and 8.0 or later is needed; "
      "use device: host");
  EXPECT_EQ(choose_device().name, "host");
  machine.major = 9;
  EXPECT_EQ(choose_device().name, "cuda:0");
  machine.has_code = false;
  const std::string message = test::error_of([&] { test::run_model(config_); });
  EXPECT_NE(message.find("no code for Simulated GPU 0"), std::string::npos) << message;
}

TEST_F(CudaFaults, AutoRunsOnTheGpu) {
  config_.device = "auto";
  const auto outcome = test::run_model(config_);
  EXPECT_GT(outcome.plan.gpu_budget_bytes, 0u);
  EXPECT_TRUE(outcome.notices.empty());
  sim_cuda::machine().devices = 0;
  const auto on_host = test::run_model(config_);
  ASSERT_EQ(on_host.notices.size(), 1u);
  EXPECT_EQ(on_host.notices[0],
            "device auto: computing on the host (the NVIDIA driver sees no GPU)");
}

/// Code that a driver translated does not wait for the stream: nothing may be launched early then.
TEST_F(CudaFaults, KernelsStartEarlyOnlyWhereTheirCodeWaits) {
  test::run_model(config_);
  EXPECT_GT(sim_cuda::counts().early_kernels, 0u);
  sim_cuda::reset(1);
  sim_cuda::machine().code_for = 80;
  test::run_model(config_);
  EXPECT_GT(sim_cuda::counts().kernels, 0u);
  EXPECT_EQ(sim_cuda::counts().early_kernels, 0u);
}

TEST_F(CudaFaults, ABudgetAboveFreeMemoryIsRefusedWithBothNumbers) {
  config_.gpu_bytes = 5 * kGiB;
  const std::string message = test::error_of([&] { test::run_model(config_); });
  EXPECT_NE(message.find("memory.gpu of 5.00 GiB"), std::string::npos) << message;
  EXPECT_NE(message.find("4.00 GiB that are free"), std::string::npos) << message;
  EXPECT_EQ(sim_cuda::counts().allocations, 0u) << "before anything is allocated";
}

TEST_F(CudaFaults, OutOfMemorySaysHowMuch) {
  DeviceOptions options;
  options.gpu_bytes = 3 * kGiB;
  const auto device = open_device("cuda", options);
  const Memory first = device->allocate(3 * kGiB / 2);
  const std::string message = test::error_of([&] { device->allocate(3 * kGiB); });
  EXPECT_EQ(
      message,
      "cuda:0 is out of memory: asked for 3.00 GiB, 2.50 GiB of 4.00 GiB are free, memory.gpu "
      "is 3.00 GiB; lower memory.gpu");
  const Memory second = device->allocate(kMiB);  // the failure is not reported again
  const auto stream = device->make_stream(StreamKind::kCompute);
  stream->copy(second.data(), first.data(), kMiB);
  stream->sync();
}

/// One arena, of exactly what the plan says, nothing that CUDA would make wait.
TEST_F(CudaFaults, TheBillIsWhatIsTaken) {
  place_all_tiers();
  const auto outcome = test::run_model(config_);
  const auto counts = sim_cuda::counts();
  EXPECT_EQ(counts.allocations, 1u);
  EXPECT_EQ(counts.pageable_copies, 0u);
  EXPECT_GT(counts.kernels, 0u);
  EXPECT_GT(outcome.plan.stream.placement.gpu_planned_bytes, 0u);
  // The arena alone fills the device: a byte less does not do.
  sim_cuda::machine().memory_bytes = outcome.plan.stream.placement.gpu_planned_bytes;
  config_.gpu_bytes = outcome.plan.stream.placement.gpu_planned_bytes;
  EXPECT_EQ(test::run_model(config_).logits, outcome.logits);
}

TEST_F(CudaFaults, TheSmallestBudgetRuns) {
  const auto free = test::run_model(config_);
  config_.stream_unit_bytes.reset();
  config_.gpu_bytes = kMiB;
  const std::string message = test::error_of([&] { test::run_model(config_); });
  const size_t at = message.find("at least ");
  ASSERT_NE(at, std::string::npos) << message;
  config_.gpu_bytes = std::stoull(message.substr(at + 9)) * kMiB;
  const auto tight = test::run_model(config_);
  EXPECT_EQ(tight.plan.stream.placement.slots, 2u);
  EXPECT_EQ(tight.result.outputs[0].ids.size(), free.result.outputs[0].ids.size());
}

/// A system that pins nothing but the slabs, or stops half way: the same bits, through the slabs.
TEST_F(CudaFaults, HomesThatCannotBePinnedGoThroughTheSlabs) {
  config_.policy = PlacementPolicy::kRam;
  config_.io_chunk_bytes = 64 * kKiB;
  const auto pinned = test::run_model(config_);
  EXPECT_TRUE(pinned.pin_refusal.empty());
  EXPECT_EQ(pinned.pinned_bytes, align_up(pinned.ram_home_bytes, kHugePageBytes));
  for (const uint64_t room : {0 * kMiB, 2 * kMiB}) {
    const uint64_t fixed = 2 * kHugePageBytes;  // slabs, and rows and results
    sim_cuda::machine().pin_limit_bytes = fixed + room;
    const auto refused = test::run_model(config_);
    EXPECT_EQ(refused.pinned_bytes, room);
    EXPECT_NE(refused.pin_refusal.find("cudaHostRegister of"), std::string::npos);
    EXPECT_EQ(refused.logits, pinned.logits);
    EXPECT_EQ(sim_cuda::counts().pageable_copies, 0u);
  }
  sim_cuda::machine().pin_limit_bytes = 0;
  sim_cuda::machine().refuse_host_alloc = true;
  const std::string message = test::error_of([&] { test::run_model(config_); });
  EXPECT_NE(message.find("cannot pin"), std::string::npos) << message;
  EXPECT_NE(message.find("ulimit -l"), std::string::npos) << message;
}

/// Registering is refused altogether: slabs and results lie in pinned memory of the driver's own,
/// so that a model wholly on the GPU runs as ever, and one in RAM through the slabs.
TEST_F(CudaFaults, WhereNothingCanBeRegisteredTheDriverAllocates) {
  for (const PlacementPolicy policy : {PlacementPolicy::kAuto, PlacementPolicy::kRam}) {
    config_.policy = policy;
    sim_cuda::machine().pin_limit_bytes.reset();
    const auto registered = test::run_model(config_);
    const uint64_t before = sim_cuda::counts().host_allocations;
    sim_cuda::machine().pin_limit_bytes = 0;
    const auto refused = test::run_model(config_);
    EXPECT_GT(sim_cuda::counts().host_allocations, before);
    EXPECT_EQ(refused.logits, registered.logits);
    EXPECT_EQ(sim_cuda::counts().pageable_copies, 0u);
  }
}

/// Wherever the device stops: one Error, every thread ends, everything is freed.
TEST_F(CudaFaults, ADeviceThatStopsIsOneError) {
  place_all_tiers();
  test::run_model(config_);
  const uint64_t kernels = sim_cuda::counts().kernels;
  std::mt19937_64 random(test::run_seed());
  for (int round = 0; round < 30; ++round) {
    sim_cuda::reset(random());
    const uint64_t at = random() % kernels;
    SCOPED_TRACE(at);
    sim_cuda::machine().fail_after_kernels = at;
    const std::string message = test::error_of([&] { test::run_model(config_); });
    EXPECT_NE(message.find("an illegal memory access"), std::string::npos) << message;
    EXPECT_NE(message.find("stopped at earlier work"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace spillway
