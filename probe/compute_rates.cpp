#include "probe/compute_rates.h"

#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr uint32_t kCols = 4096;
/// Of the small calls: as many outputs as the large ones have, so that both are spread over cores
/// alike, on an eighth of the bytes.
constexpr uint32_t kSmallCols = 512;
/// Of the time of a large call: short ones are many.
constexpr double kSmallShare = 0.25;
constexpr uint64_t kWeightBytes = 512 * kMiB;  // more than caches hold
/// Beside reads nothing but the large calls is measured.
constexpr double kBesideShare = 0.6;
/// Less than that is a measurement too short for a read.
constexpr double kLeastReadShare = 0.01;
/// First touches, code made at run time, clocks that rise.
constexpr double kWarmUpShare = 0.3;
/// On cores that others use as well some calls take ten times as long.
constexpr uint64_t kSureCalls = 20;
constexpr uint64_t kCopyBytes = 64 * kMiB;

class DeviceProbe {
 public:
  DeviceProbe(Device& device, Ops& ops, double seconds, const DriveReads* reads, const Clock& clock,
              const StopFlag& stop)
      : device_(device),
        ops_(ops),
        seconds_(seconds),
        reads_(device.unified() ? reads : nullptr),
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
    rates.operation_seconds = measure_operation();
    if (reads_ != nullptr) {
      const MeasureLimit short_time{kBesideShare * seconds_};
      read_alone_ =
          read_rate(*reads_->file, reads_->shape, short_time, *reads_->readers, clock_, stop_);
    }
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      progress(dtype == DType::kBF16 ? "bf16" : dtype == DType::kF16 ? "f16" : "f32");
      rates.matmuls.push_back(measure_matmul(dtype));
    }
    return rates;
  }

 private:
  /// What a call of `work` takes, which only puts something on the stream; a few are under way at a
  /// time.
  template <typename Work>
  TimedCall time_calls(const Work& work, uint64_t weight_bytes, double share = 1) {
    repeat(work, kWarmUpShare * share * seconds_);
    const double average = repeat(work, share * seconds_);
    const auto middle = times_.begin() + static_cast<std::ptrdiff_t>(times_.size() / 2);
    std::nth_element(times_.begin(), middle, times_.end());
    return {weight_bytes, average, *middle, times_.size()};
  }

  /// Seconds per call on average; those of each batch are in times_.
  template <typename Work>
  double repeat(const Work& work, double wanted_seconds) {
    const uint32_t batch = device_.unified() ? 1 : 16;
    times_.clear();
    const int64_t begin_ns = clock_.now_ns();
    int64_t last_ns = begin_ns;
    do {
      for (uint32_t i = 0; i < batch; ++i) work();
      stream_->sync();
      const int64_t now_ns = clock_.now_ns();
      times_.push_back(seconds(now_ns - last_ns) / batch);
      last_ns = now_ns;
    } while (seconds(last_ns - begin_ns) < wanted_seconds && !stop_.requested());
    return seconds(last_ns - begin_ns) / (static_cast<double>(times_.size()) * batch);
  }

  double copy_rate(std::byte* target, const std::byte* source) {
    const auto copy = [&] { stream_->copy(target, source, kCopyBytes); };
    return static_cast<double>(kCopyBytes) / time_calls(copy, 0).seconds;
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

  /// Scratch for any operation of this probe; the last one bound counts.
  Memory bind_workspace(DType dtype) {
    OpsLimits limits;
    limits.max_rows = prompt_rows();
    limits.max_cols = kCols;
    limits.max_positions = kKvBlockPositions;
    limits.attention = {1, 1, 64, dtype};
    Memory workspace = device_.allocate(std::max<uint64_t>(1, ops_.workspace_bytes(limits)));
    ops_.bind_workspace({workspace.data(), workspace.bytes()}, limits);
    return workspace;
  }

  /// A norm of one short row, as it lies between the matmuls of every layer.
  double measure_operation() {
    const Memory workspace = bind_workspace(DType::kF32);
    const Memory rows = device_.allocate(uint64_t{2} * kSmallCols * sizeof(float));
    ops_.zero(*stream_, rows.data(), rows.bytes());
    auto* x = reinterpret_cast<float*>(rows.data());
    const WeightView weight{weights_.data(), DType::kF32, 1, kSmallCols};
    const auto norm = [&] {
      ops_.norm_input(*stream_, x, nullptr, weight, 1, 1e-5f, x + kSmallCols);
    };
    return time_calls(norm, 0, kSmallShare).median_seconds;
  }

  MatmulRate measure_matmul(DType dtype) {
    MatmulRate rate;
    rate.dtype = dtype;
    const Memory workspace = bind_workspace(dtype);
    // Large tiles are the units of a run.
    const auto outputs =
        static_cast<uint32_t>(device_.stream_unit_bytes() / kCols / dtype_bytes(dtype));
    const Memory output = device_.allocate(uint64_t{prompt_rows()} * outputs * sizeof(float));
    const auto call_of = [&](uint32_t rows, uint32_t cols, double share) {
      uint64_t tile = 0;
      const uint64_t bytes = uint64_t{outputs} * cols * dtype_bytes(dtype);
      ops_.set_input(*stream_, reinterpret_cast<float*>(input_.data()), rows, cols);
      const auto multiply = [&] {
        const std::byte* data = weights_.data() + tile++ % (kWeightBytes / bytes) * bytes;
        ops_.matmul(*stream_, {data, dtype, outputs, cols}, reinterpret_cast<float*>(output.data()),
                    outputs);
      };
      return time_calls(multiply, bytes, share);
    };
    for (const uint32_t rows : {1u, 4u, 16u, 64u, prompt_rows()}) {
      stop_.check();
      const TimedCall large = call_of(rows, kCols, 1);
      rate.rows.push_back(rate_of_calls(rows, call_of(rows, kSmallCols, kSmallShare), large));
    }
    if (reads_ != nullptr && read_alone_ > 0) measure_beside_reads(rate, call_of);
    return rate;
  }

  /// `call_of`: times a large matmul of so many rows.
  template <typename CallOf>
  void measure_beside_reads(MatmulRate& rate, const CallOf& call_of) {
    BackgroundReads reads(*reads_->file, reads_->shape, *reads_->readers, clock_, stop_);
    for (MatmulRate::Rows& rows : rate.rows) {
      stop_.check();
      const uint64_t bytes_before = reads.bytes();
      const int64_t begin_ns = clock_.now_ns();
      const TimedCall call = call_of(rows.rows, kCols, kBesideShare);
      const double read = static_cast<double>(reads.bytes() - bytes_before);
      set_beside_reads(rows, call, read / seconds(clock_.now_ns() - begin_ns) / read_alone_);
    }
    reads.finish();
  }

  Device& device_;
  Ops& ops_;
  double seconds_;
  const DriveReads* reads_;  // null = nothing is read beside
  double read_alone_ = 0;
  const Clock& clock_;
  const StopFlag& stop_;
  std::unique_ptr<Stream> stream_;
  std::vector<double> times_;
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

MatmulRate::Rows rate_of_calls(uint32_t rows, const TimedCall& small, const TimedCall& large) {
  const auto small_bytes = static_cast<double>(small.weight_bytes);
  const auto large_bytes = static_cast<double>(large.weight_bytes);
  const double more_seconds = large.median_seconds - small.median_seconds;
  const double line =
      small.median_seconds - more_seconds * small_bytes / (large_bytes - small_bytes);
  const bool sure = std::min(small.calls, large.calls) >= kSureCalls;
  const double start =
      !sure ? 0 : std::clamp(line, 0.0, std::min(small.median_seconds, large.seconds / 2));
  return {rows, large_bytes / (large.seconds - start), start};
}

void set_beside_reads(MatmulRate::Rows& rows, const TimedCall& call, double read_share) {
  const double bytes_seconds = call.seconds - rows.start_seconds;
  if (!(bytes_seconds > 0) || !(read_share > 0)) return;  // nothing was read in so short a time
  const double rate = static_cast<double>(call.weight_bytes) / bytes_seconds;
  rows.beside_reads = std::min(rate, rows.weight_bytes_per_second);
  rows.read_share = std::clamp(read_share, kLeastReadShare, 1.0);
}

DeviceRates measure_device(Device& device, Ops& ops, double seconds, const DriveReads* reads,
                           const Clock& clock, const StopFlag& stop,
                           const std::function<void(const char*)>& progress) {
  return DeviceProbe(device, ops, seconds, reads, clock, stop).run(progress);
}

}  // namespace spillway
