#include <cstring>

#include "core/units.h"
#include "kernels/registry.h"
#include "tests/support.h"

namespace spillway {
namespace {

class Devices : public ::testing::TestWithParam<const char*> {};

TEST_P(Devices, CopiesInOrderBehindEvents) {
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

INSTANTIATE_TEST_SUITE_P(All, Devices, ::testing::Values("host", "host-discrete"),
                         [](const auto& test) {
                           return std::string(test.param) == "host" ? "host" : "discrete";
                         });

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

TEST(Cuda, IsRefusedInOneLine) {
  const std::string message = test::error_of([] { open_device("cuda:7", {}); });
  EXPECT_NE(message.find("device cuda:7"), std::string::npos) << message;
  EXPECT_NE(message.find("device: host"), std::string::npos) << message;
}

}  // namespace
}  // namespace spillway
