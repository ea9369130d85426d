#include <cstring>

#include "core/buffer.h"
#include "core/device_arena.h"
#include "core/units.h"
#include "kernels/registry.h"
#include "tests/support.h"

namespace spillway {
namespace {

class Devices : public ::testing::TestWithParam<const char*> {};

TEST_P(Devices, CopiesInOrderBehindEvents) {
  if (std::string(GetParam()) == "cuda") SPILLWAY_NEEDS_CUDA();
  DeviceOptions options;
  options.gpu_bytes = 64 * kMiB;
  const auto device = open_device(GetParam(), options);
  const auto copy = device->make_stream(StreamKind::kCopy);
  const auto compute = device->make_stream(StreamKind::kCompute);
  const auto event = device->make_event();
  EXPECT_TRUE(event->done());
  const Memory pinned = device->allocate_pinned(4 * kMiB);
  const Memory there = device->allocate(4 * kMiB);
  const Memory back = device->allocate_pinned(4 * kMiB);
  for (int round = 0; round < 50; ++round) {
    std::memset(pinned.data(), round, pinned.bytes());
    copy->copy(there.data(), pinned.data(), pinned.bytes());
    copy->record(*event);
    compute->wait(*event);
    compute->copy(back.data(), there.data(), there.bytes());
    compute->sync();
    ASSERT_EQ(back.data()[4 * kMiB - 1], static_cast<std::byte>(round));
    EXPECT_TRUE(event->done());
    event->sync();
  }
  copy->sync();
}

TEST_P(Devices, PinsMemoryOfOthers) {
  if (std::string(GetParam()) == "cuda") SPILLWAY_NEEDS_CUDA();
  const auto device = open_device(GetParam(), {});
  const HugeBuffer buffer(8 * kMiB);
  std::string refusal;
  const Memory first = device->pin(buffer.data(), 2 * kMiB, &refusal);
  EXPECT_EQ(first.data(), buffer.data()) << refusal;
  const Memory second = device->pin(buffer.data() + 2 * kMiB, 6 * kMiB, &refusal);
  EXPECT_EQ(second.bytes(), 6 * kMiB) << refusal;
}

std::vector<const char*> device_names() {
  if (test::kCudaBuilt) return {"host", "host-discrete", "cuda"};
  return {"host", "host-discrete"};
}

INSTANTIATE_TEST_SUITE_P(All, Devices, ::testing::ValuesIn(device_names()), [](const auto& test) {
  const std::string name = test.param;
  return name == "host-discrete" ? "discrete" : name;
});

TEST(DeviceArenas, HandOutExactlyWhatTheyHave) {
  DeviceOptions options;
  options.gpu_bytes = 4 * kMiB;
  const auto device = open_device("host-discrete", options);
  DeviceArena arena(*device, kMiB);
  EXPECT_EQ(device->memory_info().free_bytes, 3 * kMiB) << "one allocation, at once";
  const Memory odd = arena.take(1000);
  const Memory rest = arena.take(kMiB - 1024);
  EXPECT_EQ(rest.data(), odd.data() + 1024);
  EXPECT_EQ(arena.left_bytes(), 0u);
  EXPECT_EQ(device->memory_info().free_bytes, 3 * kMiB);
}

TEST(DiscreteHost, EnforcesItsBudget) {
  DeviceOptions options;
  options.gpu_bytes = 4 * kMiB;
  const auto device = open_device("host-discrete", options);
  const Memory first = device->allocate(3 * kMiB);
  const std::string message = test::error_of([&] { device->allocate(2 * kMiB); });
  EXPECT_NE(message.find("asked for 2.00 MiB, 1.00 MiB of the 4.00 MiB"), std::string::npos)
      << message;
  { const Memory fits = device->allocate(kMiB); }
  EXPECT_EQ(device->memory_info().free_bytes, kMiB);
}

/// Where there is no such GPU, no driver, or no CUDA in this build.
TEST(Cuda, IsRefusedInOneLine) {
  const std::string message = test::error_of([] { open_device("cuda:77", {}); });
  EXPECT_NE(message.find("device cuda:77: "), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  const AutoDevice chosen = choose_device();
  EXPECT_EQ(chosen.name == "host", !chosen.reason.empty());
}

}  // namespace
}  // namespace spillway
