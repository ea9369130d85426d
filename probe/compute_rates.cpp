#include "probe/compute_rates.h"

#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr uint32_t kCols = 4096;
constexpr uint32_t kOutputs = 2048;
constexpr uint64_t kWeightBytes = 512 * kMiB;  // more than caches hold
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
    output_ = device_.allocate(uint64_t{prompt_rows()} * kOutputs * sizeof(float));
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
    const uint32_t batch = device_.unified() ? 1 : 16;
    work();
    stream_->sync();
    uint64_t calls = 0;
    const int64_t begin_ns = clock_.now_ns();
    double elapsed = 0;
    while (elapsed < seconds_ && !stop_.requested()) {
      for (uint32_t i = 0; i < batch; ++i) work();
      stream_->sync();
      calls += batch;
      elapsed = spillway::seconds(clock_.now_ns() - begin_ns);
    }
    return elapsed > 0 ? static_cast<double>(calls) / elapsed : 0;
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
    rate.prompt_rows = prompt_rows();
    OpsLimits limits;
    limits.max_rows = rate.prompt_rows;
    limits.max_cols = kCols;
    limits.max_positions = kKvBlockPositions;
    limits.attention = {1, 1, 64, dtype};
    const Memory workspace = device_.allocate(std::max<uint64_t>(1, ops_.workspace_bytes(limits)));
    ops_.bind_workspace({workspace.data(), workspace.bytes()}, limits);
    const uint64_t tile_bytes = uint64_t{kOutputs} * kCols * dtype_bytes(dtype);
    const auto rate_of = [&](uint32_t rows) {
      uint64_t tile = 0;
      return calls_per_second([&] {
        const std::byte* data = weights_.data() + tile++ % (kWeightBytes / tile_bytes) * tile_bytes;
        ops_.set_input(*stream_, reinterpret_cast<float*>(input_.data()), rows, kCols);
        ops_.matmul(*stream_, {data, dtype, kOutputs, kCols},
                    reinterpret_cast<float*>(output_.data()), kOutputs);
      });
    };
    rate.decode_bytes_per_second = static_cast<double>(tile_bytes) * rate_of(1);
    rate.prompt_flops = 2.0 * rate.prompt_rows * kOutputs * kCols * rate_of(rate.prompt_rows);
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
  Memory output_;
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
