#include "probe/compute_rates.h"

#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr uint32_t kCols = 4096;
constexpr uint64_t kWeightBytes = 512 * kMiB;  // more than caches hold
/// First touches, code made at run time, clocks that rise.
constexpr double kWarmUpShare = 0.3;
constexpr uint64_t kCopyBytes = 64 * kMiB;

class DeviceProbe {
 public:
  DeviceProbe(Device& device, Ops& ops, double seconds, const Clock& clock, const StopFlag& stop)
      : device_(device),
        ops_(ops),
        seconds_(seconds),
        clock_(clock),
        stop_(stop),
        stream_(device.make_stream(StreamKind::kCompute)) {}

  DeviceRates run(const std::function<void(const char*)>& progress) {
    DeviceRates rates;
    rates.device = device_.name();
    if (!device_.unified()) {
      progress("copies");
      measure_copies(rates);
    }
    progress("matmuls");
    weights_ = filled_memory(device_, *stream_, kWeightBytes);
    input_ = filled_memory(device_, *stream_, uint64_t{prompt_rows()} * kCols * sizeof(float));
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      progress(dtype == DType::kBF16 ? "bf16" : dtype == DType::kF16 ? "f16" : "f32");
      rates.matmuls.push_back(measure_matmul(dtype));
    }
    return rates;
  }

 private:
  /// Calls per second of `work`, which only puts something on the stream; a few are under way at a
  /// time.
  template <typename Work>
  double calls_per_second(const Work& work) {
    timed_calls(work, kWarmUpShare * seconds_);
    return timed_calls(work, seconds_);
  }

  template <typename Work>
  double timed_calls(const Work& work, double wanted_seconds) {
    const uint32_t batch = device_.unified() ? 1 : 16;
    uint64_t calls = 0;
    const int64_t begin_ns = clock_.now_ns();
    double elapsed = 0;
    do {
      for (uint32_t i = 0; i < batch; ++i) work();
      stream_->sync();
      calls += batch;
      elapsed = seconds(clock_.now_ns() - begin_ns);
    } while (elapsed < wanted_seconds && !stop_.requested());
    return static_cast<double>(calls) / elapsed;
  }

  double copy_rate(std::byte* target, const std::byte* source) {
    return static_cast<double>(kCopyBytes) *
           calls_per_second([&] { stream_->copy(target, source, kCopyBytes); });
  }

  void measure_copies(DeviceRates& rates) {
    const Memory there = device_.allocate(kCopyBytes);
    const Memory pinned = device_.allocate_pinned(kCopyBytes);
    HugeBuffer pageable(kCopyBytes);
    pageable.touch();
    rates.pinned_to_device = copy_rate(there.data(), pinned.data());
    rates.device_to_pinned = copy_rate(pinned.data(), there.data());
    rates.pageable_to_device = copy_rate(there.data(), pageable.data());
  }

  uint32_t prompt_rows() const { return device_.unified() ? 512 : 2048; }

  MatmulRate measure_matmul(DType dtype) {
    MatmulRate rate;
    rate.dtype = dtype;
    OpsLimits limits;
    limits.max_rows = prompt_rows();
    limits.max_cols = kCols;
    limits.max_positions = kKvBlockPositions;
    limits.attention = {1, 1, 64, dtype};
    const Memory workspace = device_.allocate(std::max<uint64_t>(1, ops_.workspace_bytes(limits)));
    ops_.bind_workspace({workspace.data(), workspace.bytes()}, limits);
    // Tiles as large as the units of a run: what starting a call costs is part of the rate.
    const auto outputs =
        static_cast<uint32_t>(device_.stream_unit_bytes() / kCols / dtype_bytes(dtype));
    const uint64_t tile_bytes = uint64_t{outputs} * kCols * dtype_bytes(dtype);
    const Memory output = device_.allocate(uint64_t{prompt_rows()} * outputs * sizeof(float));
    const auto rate_of = [&](uint32_t rows) {
      uint64_t tile = 0;
      ops_.set_input(*stream_, reinterpret_cast<float*>(input_.data()), rows, kCols);
      return calls_per_second([&] {
        const std::byte* data = weights_.data() + tile++ % (kWeightBytes / tile_bytes) * tile_bytes;
        ops_.matmul(*stream_, {data, dtype, outputs, kCols},
                    reinterpret_cast<float*>(output.data()), outputs);
      });
    };
    for (const uint32_t rows : {1u, 4u, 16u, 64u, prompt_rows()}) {
      rate.rows.push_back({rows, static_cast<double>(tile_bytes) * rate_of(rows)});
    }
    return rate;
  }

  Device& device_;
  Ops& ops_;
  double seconds_;
  const Clock& clock_;
  const StopFlag& stop_;
  std::unique_ptr<Stream> stream_;
  Memory weights_;
  Memory input_;
};

}  // namespace

Memory filled_memory(Device& device, Stream& stream, uint64_t bytes) {
  constexpr uint64_t kPeriod = 1999993;
  Memory memory = device.allocate(bytes);
  const Memory host = device.allocate_pinned(std::min(bytes, 2 * kPeriod));
  auto* values = reinterpret_cast<uint16_t*>(host.data());
  uint32_t state = 1;
  for (uint64_t i = 0; i < host.bytes() / 2; ++i) {
    state = state * 1664525u + 1013904223u;
    values[i] = static_cast<uint16_t>(0x3800u | (state >> 16 & 0x82ffu));
  }
  for (uint64_t at = 0; at < bytes; at += host.bytes()) {
    stream.copy(memory.data() + at, host.data(), std::min(host.bytes(), bytes - at));
  }
  stream.sync();
  return memory;
}

DeviceRates measure_device(Device& device, Ops& ops, double seconds, const Clock& clock,
                           const StopFlag& stop, const std::function<void(const char*)>& progress) {
  return DeviceProbe(device, ops, seconds, clock, stop).run(progress);
}

}  // namespace spillway
