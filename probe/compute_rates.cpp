#include "probe/compute_rates.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <span>
#include <thread>

#include "core/buffer.h"
#include "core/error.h"
#include "core/system_memory.h"
#include "core/units.h"
#include "probe/prompt_layer.h"

namespace spillway {
namespace {

constexpr uint32_t kCols = 4096;
/// Of the small calls: as many outputs as the large ones have, so that both are spread over cores
/// alike, on an eighth of the bytes.
constexpr uint32_t kSmallCols = 512;
/// As many outputs as short rows of weights have at the same bytes.
constexpr uint32_t kTallTimes = 8;
/// Outputs of so many large calls are written in turn on the host: in a run other operations come
/// between, and caches hold none of them.
constexpr uint64_t kOutputsInTurn = 64;
/// Of the time of a large call: short ones are many.
constexpr double kSmallShare = 0.25;
/// As models of today have them; a head's elements apart from what every score costs.
constexpr AttentionShape kWideHeads{8, 2, 128, DType::kBF16};
constexpr AttentionShape kNarrowHeads{8, 2, 64, DType::kBF16};
/// At least a quarter of a wide head's score is its elements: what looks otherwise is noise.
constexpr double kLeastAttentionShare = 8;
constexpr uint64_t kWeightBytes = 512 * kMiB;  // more than most caches hold
/// Of the free memory, that may be taken to be more than caches hold.
constexpr uint64_t kWidePart = 2;
/// Of a figure's time, beside which all of the memory is read once.
constexpr double kWideShare = 0.3;
/// What is read around and around is in none of them; next to nothing where each core of a virtual
/// machine has one of its own and the machine names the one.
constexpr uint64_t kLeastCaches = 4;
constexpr uint64_t kManyCaches = 8;
/// Beside reads nothing but the large calls is measured.
constexpr double kBesideShare = 0.6;
/// Of the time of a format of plain numbers.
constexpr double kBlocksShare = 0.2;
/// Of calls with reads, and of reads alone: shorter than drives change in, longer than a read.
constexpr double kTurnSeconds = 0.02;
/// Between waits for reads: what ends together in a queue of 8 MiB, and some.
constexpr uint64_t kCallsAtATime = 4;
/// A prompt's whole layer takes as long as hundreds of calls.
constexpr double kLayerShare = 3;
/// Decode passes, whose reads and matmuls weigh alike, hang on these most.
constexpr double kOneRowBesideShare = 2;
/// Less than that is a measurement too short for a read.
constexpr double kLeastReadShare = 0.01;
/// First touches, code made at run time, clocks that rise.
constexpr double kWarmUpShare = 0.3;
/// On cores that others use as well some calls take ten times as long.
constexpr uint64_t kSureCalls = 20;
/// Apart in time, so that a neighbour's burst falls on one of them. A device of one's own has none.
constexpr uint32_t kSharedRounds = 3;
constexpr uint64_t kCopyBytes = 64 * kMiB;
/// What filled_memory() takes beside, and what rounding up to huge pages does.
constexpr uint64_t kFillBytes = 16 * kMiB;
/// What filled memory repeats: bytes of plain numbers, blocks.
constexpr uint64_t kPeriod = 2 * 1999993;
constexpr uint64_t kBlocksPeriod = 235289;

/// Numbers of 16 bits, which as f16, as bf16 and as halves of f32 are small ones.
void put_numbers(std::span<std::byte> out) {
  uint32_t state = 1;
  for (uint64_t at = 0; at + 2 <= out.size(); at += 2) {
    state = state * 1664525u + 1013904223u;
    const auto value = static_cast<uint16_t>(0x3800u | (state >> 16 & 0x82ffu));
    std::memcpy(out.data() + at, &value, 2);
  }
}

/// Blocks of MXFP4 with the exponents of numbers about 0.02.
void put_exponents(std::span<std::byte> out) {
  constexpr uint64_t kBlockBytes = traits_of(WeightFormat::kMXFP4).block_bytes;
  uint32_t state = 1;
  for (uint64_t at = 0; at < out.size(); ++at) {
    state = state * 1664525u + 1013904223u;
    const uint32_t bits = state >> 16 & 0xffu;
    out[at] = static_cast<std::byte>(at % kBlockBytes == 0 ? 0x78u + bits % 4 : bits);
  }
}

/// A piece, again and again: of so many units that no tile of weights begins where another does.
void fill_memory(Device& device, Stream& stream, const Memory& memory, WeightFormat format) {
  const bool exponents = format == WeightFormat::kMXFP4;
  const uint64_t period = exponents ? kBlocksPeriod * traits_of(format).block_bytes : kPeriod;
  const uint64_t bytes = memory.bytes();
  const Memory host = device.allocate_pinned(std::min(bytes, period));
  const std::span<std::byte> piece(host.data(), std::min(bytes, period));
  exponents ? put_exponents(piece) : put_numbers(piece);
  for (uint64_t at = 0; at < bytes; at += piece.size()) {
    stream.copy(memory.data() + at, piece.data(), std::min<uint64_t>(piece.size(), bytes - at));
  }
  stream.sync();
}

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
        stream_(device.make_stream(StreamKind::kCompute)) {
    ops.stop_on(&stop);
  }
  ~DeviceProbe() { ops_.stop_on(nullptr); }
  DeviceProbe(const DeviceProbe&) = delete;

  DeviceRates run(uint64_t cache_bytes, const std::function<void(std::string_view)>& progress) {
    DeviceRates rates;
    rates.device = device_.name();
    if (!device_.unified()) {
      progress("copies");
      measure_copies(rates);
    }
    progress("matmuls");
    fill(kWeightBytes, prompt_rows(), WeightFormat::kBF16);
    rates.operation_seconds = measure_operation();
    std::vector<MatmulCalls> calls = {{WeightFormat::kBF16, {}}};  // what most models have first
    for (const FormatTraits& traits : kFormats) {
      if (traits.format != WeightFormat::kBF16) calls.push_back({traits.format, {}});
    }
    std::vector<double> wide;
    std::vector<double> narrow;
    std::vector<double> values;
    std::vector<double> gated;
    std::vector<double> layers;
    for (uint32_t round = 0; round < rounds(); ++round) {
      progress("attention");
      wide.push_back(seconds_per_score(kWideHeads));
      narrow.push_back(seconds_per_score(kNarrowHeads));
      values.push_back(seconds_per_value());
      gated.push_back(seconds_per_gated_value());
      if (device_.unified()) {
        progress("a prompt's layer");
        time_layer(layers);
      }
      for (MatmulCalls& of_format : calls) {
        progress(format_name(of_format.format));
        const bool other = of_format.format == WeightFormat::kMXFP4;
        if (other) fill_memory(device_, *stream_, weights_, of_format.format);
        measure_matmul(of_format);
        if (other) fill_memory(device_, *stream_, weights_, WeightFormat::kBF16);
      }
    }
    take_attention(rates, middle_of(wide), middle_of(narrow));
    rates.value_seconds = middle_of(values);
    rates.gated_seconds = middle_of(gated);
    for (const MatmulCalls& of_format : calls) rates.matmuls.push_back(rates_of(of_format));
    for (MatmulRate& rate : rates.matmuls) fill_beside_reads(rate);
    if (device_.unified()) {
      if (!layers.empty()) {
        rates.layer_share = layer_share_of(middle_of(layers), parts_of_layer(rates));
      }
      const uint64_t free_bytes = automatic_ram_budget(read_system_memory());
      if (const auto beyond = wide_memory_of(cache_bytes, free_bytes)) {
        progress("memory beyond caches");
        rates.wide_memory = measure_wide_memory(*beyond);
      }
    }
    return rates;
  }

  /// The large matmul alone, for each count of rows.
  std::vector<TimedCall> run_some(const MatmulsToTime& matmuls, uint64_t cache_bytes) {
    const auto caches = [&](uint64_t count) {
      return std::clamp(count * cache_bytes, device_.stream_unit_bytes(), kWeightBytes);
    };
    const auto beside_bytes = [&](uint32_t rows) {
      return ops_.workspace_bytes(limits_of(matmuls.format, rows)) +
             outputs_bytes(matmuls.format, rows) + input_bytes(rows) + kFillBytes;
    };
    std::vector<TimedCall> calls(matmuls.rows.size());
    std::vector<uint32_t> fitting = matmuls.rows;
    std::erase_if(fitting, [&](uint32_t rows) {
      return matmuls.memory_bytes < caches(kLeastCaches) + beside_bytes(rows);
    });
    if (fitting.empty()) return calls;
    const uint32_t most_rows = *std::max_element(fitting.begin(), fitting.end());
    const uint64_t weight_bytes =
        std::min(caches(kManyCaches), matmuls.memory_bytes - beside_bytes(most_rows));
    const Memory workspace = bind_workspace(matmuls.format, most_rows);
    const Memory& output = output_of(outputs_bytes(matmuls.format, most_rows));
    fill(weight_bytes, most_rows, matmuls.format);
    for (size_t i = 0; i < calls.size(); ++i) {
      const uint32_t rows = matmuls.rows[i];
      if (rows > most_rows) continue;
      calls[i] = time_call(matmuls.format, output, rows, outputs_of(matmuls.format), kCols, 1,
                           matmuls.least_calls);
    }
    return calls;
  }

 private:
  /// What was timed of matmuls of some rows, round for round.
  struct RowCalls {
    std::vector<TimedCall> small;
    std::vector<TimedCall> large;
    std::vector<TimedCall> tall;
    std::vector<BesideReads> beside;
  };
  struct MatmulCalls {
    WeightFormat format = WeightFormat::kF32;
    std::map<uint32_t, RowCalls> by_rows;
  };

  /// What a call of `work` takes, which only puts something on the stream; a few are under way at a
  /// time.
  template <typename Work>
  TimedCall time_calls(const Work& work, uint64_t weight_bytes, double share = 1,
                       uint64_t least_calls = 1) {
    repeat(work, kWarmUpShare * share * seconds_, 1);
    const double average = repeat(work, share * seconds_, least_calls);
    return {weight_bytes, average, middle_of(times_), times_.size(), 0};
  }

  /// Seconds per call on average; those of each batch are in times_.
  template <typename Work>
  double repeat(const Work& work, double wanted_seconds, uint64_t least_calls) {
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
    } while ((seconds(last_ns - begin_ns) < wanted_seconds || times_.size() < least_calls) &&
             !stop_.requested());
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

  void fill(uint64_t weight_bytes, uint32_t rows, WeightFormat format) {
    weights_ = filled_memory(device_, *stream_, weight_bytes, format);
    input_ = filled_memory(device_, *stream_, input_bytes(rows));
  }

  uint32_t rounds() const { return device_.unified() ? kSharedRounds : 1; }
  double round_share() const { return 1.0 / rounds(); }
  uint32_t prompt_rows() const { return device_.unified() ? 512 : 2048; }

  OpsLimits limits_of(WeightFormat format, uint32_t rows) const {
    OpsLimits limits;
    limits.max_rows = rows;
    limits.max_cols = kCols;
    limits.max_positions = kKvBlockPositions;
    limits.attention = {1, 1, 64, compute_dtype(format)};
    if (has_blocks(format)) limits.block_values = uint64_t{outputs_of(format)} * kCols;
    return limits;
  }

  /// Scratch for any operation of this probe; the last one bound counts.
  Memory bind_workspace(WeightFormat format, uint32_t rows) {
    return bind_workspace(limits_of(format, rows));
  }
  Memory bind_workspace(const OpsLimits& limits) {
    Memory workspace = device_.allocate(std::max<uint64_t>(1, ops_.workspace_bytes(limits)));
    ops_.bind_workspace({workspace.data(), workspace.bytes()}, limits);
    return workspace;
  }

  /// A norm of one short row, as it lies between the matmuls of every layer.
  double measure_operation() {
    const Memory workspace = bind_workspace(WeightFormat::kF32, 1);
    const Memory rows = device_.allocate(uint64_t{2} * kSmallCols * sizeof(float));
    ops_.zero(*stream_, rows.data(), rows.bytes());
    auto* x = reinterpret_cast<float*>(rows.data());
    const NormWeight norm{{weights_.data(), WeightFormat::kF32, 1, kSmallCols}, 1e-5f};
    const auto run = [&] { ops_.norm_input(*stream_, x, nullptr, norm, 1, x + kSmallCols); };
    return time_calls(run, 0, kSmallShare).median_seconds;
  }

  static double middle_of(std::vector<double> rounds) {
    const auto middle = rounds.begin() + static_cast<std::ptrdiff_t>(rounds.size() / 2);
    std::nth_element(rounds.begin(), middle, rounds.end());
    return *middle;
  }

  /// The line through what a score takes with wide and with narrow heads.
  static void take_attention(DeviceRates& rates, double wide, double narrow) {
    const double more = wide - std::min(wide, narrow);
    const double least = wide / kLeastAttentionShare;
    const double each = std::max(more, least) / (kWideHeads.head_dim - kNarrowHeads.head_dim);
    rates.attention_seconds = each / 2;
    rates.score_seconds = std::max(0.0, wide - each * kWideHeads.head_dim);
  }

  /// Of a prompt's attention to itself.
  double seconds_per_score(const AttentionShape& shape) {
    const uint32_t rows = prompt_rows();
    OpsLimits limits = limits_of(WeightFormat::kBF16, rows);
    limits.max_positions = rows;
    limits.attention = shape;
    const Memory workspace = bind_workspace(limits);
    const uint64_t q_values = uint64_t{rows} * shape.heads * shape.head_dim;
    const Memory activations = filled_memory(device_, *stream_, 4 * q_values * sizeof(float));
    const Memory speeds = device_.allocate(shape.head_dim / 2 * sizeof(float));
    const Memory cache = device_.allocate(ops_.kv_bytes(shape, rows));
    ops_.zero(*stream_, speeds.data(), speeds.bytes());
    auto* q = reinterpret_cast<float*>(activations.data());
    const SequenceRows sequence{0, rows, 0, cache.data(), rows, 0};
    ops_.rope_append(*stream_, q, q + q_values, q + 2 * q_values, shape,
                     reinterpret_cast<const float*>(speeds.data()), {&sequence, 1});
    const auto attend = [&] {
      ops_.attention(*stream_, q, shape, {&sequence, 1}, q + 3 * q_values);
    };
    const double seen = 0.5 * (rows + 1.0);
    return time_calls(attend, 0, round_share()).median_seconds / (seen * rows * shape.heads);
  }

  /// A norm of a prompt's rows and what was added to them, as between a layer's blocks.
  double seconds_per_value() {
    const uint32_t rows = prompt_rows();
    const Memory workspace = bind_workspace(WeightFormat::kF32, rows);
    const uint64_t values = uint64_t{rows} * kCols;
    const Memory activations = device_.allocate(2 * values * sizeof(float));
    ops_.zero(*stream_, activations.data(), activations.bytes());
    auto* x = reinterpret_cast<float*>(activations.data());
    const NormWeight norm{{weights_.data(), WeightFormat::kF32, 1, kCols}, 1e-5f};
    const auto run = [&] { ops_.norm_input(*stream_, x, x + values, norm, rows, x + values); };
    return time_calls(run, 0, kSmallShare * round_share()).median_seconds /
           static_cast<double>(2 * values);
  }

  /// The activation between an MLP's matmuls.
  double seconds_per_gated_value() {
    const uint32_t rows = prompt_rows();
    const Memory workspace = bind_workspace(WeightFormat::kBF16, rows);
    const uint64_t values = uint64_t{rows} * kCols;
    const Memory activations = device_.allocate(2 * values * sizeof(float));
    // Zeros stay as they are; other numbers would end as denormal ones, which are slow.
    ops_.zero(*stream_, activations.data(), activations.bytes());
    auto* gate = reinterpret_cast<float*>(activations.data());
    const auto activate = [&] {
      ops_.gated_input(*stream_, Activation::kSilu, gate, gate + values, rows, kCols);
    };
    return time_calls(activate, 0, kSmallShare * round_share()).median_seconds /
           static_cast<double>(values);
  }

  /// Of a large tile, as the units of a run are; of blocks as many, for the sake of a probe's
  /// length.
  uint32_t outputs_of(WeightFormat format) const {
    const WeightFormat plain = has_blocks(format) ? WeightFormat::kBF16 : format;
    return static_cast<uint32_t>(device_.stream_unit_bytes() / row_bytes(plain, kCols));
  }
  uint64_t output_bytes(WeightFormat format, uint32_t rows) const {
    return uint64_t{rows} * outputs_of(format) * sizeof(float);
  }
  /// What the calls of a measurement write to.
  uint64_t outputs_bytes(WeightFormat format, uint32_t rows) const {
    return output_bytes(format, rows) * (device_.unified() ? kOutputsInTurn : kTallTimes);
  }
  /// The same memory for all of them, written before it is timed: in a virtual machine the first
  /// touch of an output may take longer than what is computed into it.
  const Memory& output_of(uint64_t bytes) {
    if (output_.bytes() < bytes) {
      output_ = Memory();
      output_ = device_.allocate(bytes);
      ops_.zero(*stream_, output_.data(), output_.bytes());
      stream_->sync();
    }
    return output_;
  }
  static uint64_t input_bytes(uint32_t rows) { return uint64_t{rows} * kCols * sizeof(float); }

  struct TileMatmul {
    std::function<void()> multiply;  ///< the next tile of weights, around and around
    uint64_t weight_bytes = 0;
    uint32_t outputs = 0;
  };
  TileMatmul matmul_of(WeightFormat format, const Memory& output, uint32_t rows, uint32_t outputs,
                       uint32_t cols, uint64_t most_bytes = UINT64_MAX) {
    const uint64_t bytes = outputs * row_bytes(format, cols);
    const uint64_t tiles = std::min(most_bytes, weights_.bytes()) / bytes;
    const uint64_t target_bytes = uint64_t{rows} * outputs * sizeof(float);
    const uint64_t targets = output.bytes() / target_bytes;
    std::byte* target = output.data();
    ops_.set_input(*stream_, reinterpret_cast<float*>(input_.data()), rows, cols);
    const auto multiply = [=, this, call = uint64_t{0}]() mutable {
      const std::byte* data = weights_.data() + call % tiles * bytes;
      auto* out = reinterpret_cast<float*>(target + call % targets * target_bytes);
      ops_.matmul(*stream_, {data, format, outputs, cols}, out, outputs);
      ++call;
    };
    return {multiply, bytes, outputs};
  }
  TimedCall time_call(WeightFormat format, const Memory& output, uint32_t rows, uint32_t outputs,
                      uint32_t cols, double share, uint64_t least_calls = 1) {
    const TileMatmul matmul = matmul_of(format, output, rows, outputs, cols);
    TimedCall call = time_calls(matmul.multiply, matmul.weight_bytes, share, least_calls);
    call.outputs = outputs;
    return call;
  }

  /// One round. Of blocks the large calls alone are timed for more than a row, and shortly, since
  /// there are many of them: what starts and outputs cost is part of their rates.
  void measure_matmul(MatmulCalls& calls) {
    const WeightFormat format = calls.format;
    const bool whole = !has_blocks(format);
    const double part = round_share() * (whole ? 1 : kBlocksShare);
    const Memory workspace = bind_workspace(format, prompt_rows());
    const Memory& output = output_of(outputs_bytes(format, prompt_rows()));
    const uint32_t outputs = outputs_of(format);
    const auto call_of = [&](uint32_t rows, uint32_t wanted, uint32_t cols, double share) {
      const uint64_t least_calls = whole || rows == 1 ? kSureCalls : 1;
      return time_call(format, output, rows, wanted, cols, part * share, least_calls);
    };
    for (const uint32_t rows : {1u, 4u, 16u, 64u, prompt_rows()}) {
      stop_.check();
      RowCalls& of_rows = calls.by_rows[rows];
      of_rows.large.push_back(call_of(rows, outputs, kCols, 1));
      if (!whole && rows > 1) continue;
      of_rows.small.push_back(call_of(rows, outputs, kSmallCols, kSmallShare));
      of_rows.tall.push_back(call_of(rows, kTallTimes * outputs, kCols / kTallTimes, kSmallShare));
    }
    if (reads_ != nullptr) measure_beside_reads(calls, output, part);
  }

  /// Large matmuls while the drive reads, as a pass computes that waits for its reads. In turns
  /// with reads alone, since drives change within a second.
  void measure_beside_reads(MatmulCalls& calls, const Memory& output, double part) {
    BackgroundReads reads(*reads_->file, reads_->shape, *reads_->readers, clock_, stop_);
    for (auto& [rows, of_rows] : calls.by_rows) {
      if (has_blocks(calls.format) && rows != 1 && rows != prompt_rows()) continue;
      const double share = rows == 1 ? kOneRowBesideShare : kBesideShare;
      const TileMatmul matmul =
          matmul_of(calls.format, output, rows, outputs_of(calls.format), kCols);
      const double wanted_seconds = part * share * seconds_;
      BesideReads turns;
      while (turns.calls == 0 || turns.together.seconds < wanted_seconds) {
        stop_.check();
        const double before = turns.together.seconds;
        turns.together += read_during(reads, [&] { call_and_wait(matmul, reads, turns); });
        turns.alone += read_during(reads, [&] { pause(turns.together.seconds - before); });
      }
      of_rows.beside.push_back(turns);
    }
    reads.finish();
  }

  /// A few calls at a time, which then wait until their weights would have been read; no longer
  /// than they took, since of a plan's weights a part is there. In a pass, too, reads end a few
  /// units at a time: threads that sleep after each call come late to the next. For one turn.
  void call_and_wait(const TileMatmul& matmul, const BackgroundReads& reads, BesideReads& turns) {
    const int64_t begin_ns = clock_.now_ns();
    do {
      const int64_t calls_ns = clock_.now_ns();
      const uint64_t bytes_before = reads.bytes();
      uint64_t calls = 0;
      do {
        matmul.multiply();
      } while (++calls < kCallsAtATime && !stop_.requested());
      stream_->sync();
      turns.calls += calls;
      const double calls_seconds = seconds(clock_.now_ns() - calls_ns);
      turns.busy_seconds += calls_seconds;
      reads.wait_for(bytes_before + calls * matmul.weight_bytes, calls_seconds);
    } while (seconds(clock_.now_ns() - begin_ns) < kTurnSeconds && !stop_.requested());
  }

  /// What is read while `work` is done.
  template <typename Work>
  ReadAmount read_during(const BackgroundReads& reads, const Work& work) const {
    const uint64_t bytes_before = reads.bytes();
    const int64_t begin_ns = clock_.now_ns();
    work();
    return {static_cast<double>(reads.bytes() - bytes_before), seconds(clock_.now_ns() - begin_ns)};
  }

  /// In steps, so that a stop is seen soon.
  void pause(double wanted_seconds) const {
    constexpr double kStepSeconds = 0.05;
    for (double left = wanted_seconds; left > 0 && !stop_.requested(); left -= kStepSeconds) {
      std::this_thread::sleep_for(std::chrono::duration<double>(std::min(left, kStepSeconds)));
    }
  }

  /// Adds what it takes on average, as parts are counted; nothing where memory is short.
  void time_layer(std::vector<double>& layers) {
    try {
      CHECK(weights_.bytes() >= PromptLayer::weight_bytes());
      PromptLayer layer(device_, ops_, *stream_, weights_.data(), prompt_rows());
      const auto run = [&] { layer.run(); };
      if (layers.empty()) repeat(run, 0, 1);
      const double layer_seconds = repeat(run, kLayerShare * round_share() * seconds_, 1);
      stop_.check();
      layers.push_back(layer_seconds);
    } catch (const Error&) {
      // Predictions do without it.
    }
  }
  double parts_of_layer(const DeviceRates& rates) const {
    return PromptLayer::seconds_of_parts(rates, prompt_rows(), device_.stream_unit_bytes());
  }

  /// Large calls of one row over what all others are measured on, and over more, in turns. Nothing
  /// where there is no room for that.
  std::optional<WideMemory> measure_wide_memory(WideMemory wide) {
    try {
      weights_ = Memory();
      weights_ = device_.allocate(wide.bytes);
    } catch (const Error&) {  // addresses are limited
      return std::nullopt;
    }
    write_weights();
    const Memory workspace = bind_workspace(WeightFormat::kBF16, 1);
    const Memory& output = output_of(outputs_bytes(WeightFormat::kBF16, 1));
    std::vector<double> usual;
    std::vector<double> beyond;
    for (uint32_t round = 0; round < rounds(); ++round) {
      usual.push_back(seconds_per_byte_over(wide.usual_bytes, output));
      beyond.push_back(seconds_per_byte_over(wide.bytes, output));
    }
    wide.more_seconds_per_byte = std::max(0.0, middle_of(beyond) - middle_of(usual));
    return wide;
  }

  /// Of one row, around and around in the first `bytes` of the weights, all of which were read
  /// before.
  double seconds_per_byte_over(uint64_t bytes, const Memory& output) {
    constexpr WeightFormat kFormat = WeightFormat::kBF16;
    const TileMatmul matmul = matmul_of(kFormat, output, 1, outputs_of(kFormat), kCols, bytes);
    const uint64_t calls = bytes / matmul.weight_bytes;
    repeat(matmul.multiply, 0, calls);
    const double call_seconds = repeat(matmul.multiply, kWideShare * seconds_, calls);
    stop_.check();
    return call_seconds / static_cast<double>(matmul.weight_bytes);
  }

  /// A number into every page, each another than its neighbours': a host may keep pages once that
  /// are alike.
  void write_weights() {
    constexpr uint64_t kPageBytes = 4096;
    for (uint64_t at = 0; at < weights_.bytes(); at += kPageBytes) {
      if (at % (64 * kMiB) == 0) stop_.check();
      const auto number = static_cast<uint16_t>(0x3c00u + at / kPageBytes % 256);
      std::memcpy(weights_.data() + at, &number, sizeof(number));
    }
  }

  static MatmulRate rates_of(const MatmulCalls& calls) {
    MatmulRate rate{calls.format, {}};
    for (const auto& [rows, of_rows] : calls.by_rows) {
      const TimedCall large = median_round(of_rows.large);
      if (of_rows.small.empty()) {
        rate.rows.push_back({rows, static_cast<double>(large.weight_bytes) / large.seconds});
      } else {
        const TimedCall tall = of_rows.tall.empty() ? TimedCall{} : median_round(of_rows.tall);
        rate.rows.push_back(rate_of_calls(rows, median_round(of_rows.small), large, tall));
      }
      BesideReads sum;
      for (const BesideReads& turns : of_rows.beside) sum += turns;
      if (sum.calls == 0) continue;
      TimedCall call = of_rows.large[0];
      call.seconds = call.median_seconds = sum.busy_seconds / static_cast<double>(sum.calls);
      set_beside_reads(rate.rows.back(), call, read_share_of(sum));
    }
    return rate;
  }

  Device& device_;
  Ops& ops_;
  double seconds_;
  const DriveReads* reads_;  // null = nothing is read beside
  const Clock& clock_;
  const StopFlag& stop_;
  std::unique_ptr<Stream> stream_;
  std::vector<double> times_;
  Memory weights_;
  Memory input_;
  Memory output_;
};

}  // namespace

std::optional<WideMemory> wide_memory_of(uint64_t cache_bytes, uint64_t free_bytes) {
  const uint64_t bytes = kLeastCaches * cache_bytes;
  if (bytes < 2 * kWeightBytes || bytes > free_bytes / kWidePart) return std::nullopt;
  return WideMemory{kWeightBytes, bytes, 0};
}

Memory filled_memory(Device& device, Stream& stream, uint64_t bytes, WeightFormat format) {
  Memory memory = device.allocate(bytes);
  fill_memory(device, stream, memory, format);
  return memory;
}

TimedCall median_round(const std::vector<TimedCall>& rounds) {
  std::vector<TimedCall> sorted = rounds;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  const auto faster = [](const TimedCall& a, const TimedCall& b) { return a.seconds < b.seconds; };
  std::nth_element(sorted.begin(), middle, sorted.end(), faster);
  return *middle;
}

MatmulRate::Rows rate_of_calls(uint32_t rows, const TimedCall& small, const TimedCall& large,
                               const TimedCall& tall) {
  const auto small_bytes = static_cast<double>(small.weight_bytes);
  const auto large_bytes = static_cast<double>(large.weight_bytes);
  const double more_seconds = large.median_seconds - small.median_seconds;
  const double line =
      small.median_seconds - more_seconds * small_bytes / (large_bytes - small_bytes);
  MatmulRate::Rows rate;
  rate.rows = rows;
  const double most = std::min(small.median_seconds, large.seconds / 2);
  const bool sure = std::min(small.calls, large.calls) >= kSureCalls;
  if (sure && tall.calls >= kSureCalls) {
    rate.output_seconds = std::clamp((tall.median_seconds - large.median_seconds) /
                                         static_cast<double>(tall.outputs - large.outputs),
                                     0.0, most / large.outputs);
  }
  const double outputs_seconds = large.outputs * rate.output_seconds;
  if (sure)
    rate.start_seconds =
        std::clamp(line - outputs_seconds, 0.0, std::max(0.0, most - outputs_seconds));
  rate.weight_bytes_per_second =
      large_bytes / (large.seconds - rate.start_seconds - outputs_seconds);
  return rate;
}

double layer_share_of(double layer_seconds, double parts_seconds) {
  constexpr double kMost = 2;
  if (!(parts_seconds > 0) || layer_seconds > kMost * parts_seconds) return 0;
  return std::max(1.0, layer_seconds / parts_seconds);
}

double read_share_of(const BesideReads& turns) {
  if (!(turns.alone.bytes > 0) || !(turns.together.bytes > 0)) return 0;
  const double rate_share = turns.together.rate() / turns.alone.rate();
  const double busy_share = turns.busy_seconds / turns.together.seconds;
  return std::clamp((rate_share - (1 - busy_share)) / busy_share, kLeastReadShare, 1.0);
}

void set_beside_reads(MatmulRate::Rows& rows, const TimedCall& call, double read_share) {
  const double bytes_seconds =
      call.seconds - rows.start_seconds - call.outputs * rows.output_seconds;
  if (!(bytes_seconds > 0) || !(read_share > 0)) return;  // nothing was read in so short a time
  const double rate = static_cast<double>(call.weight_bytes) / bytes_seconds;
  rows.beside_reads = std::min(rate, rows.weight_bytes_per_second);
  rows.read_share = std::clamp(read_share, kLeastReadShare, 1.0);
}

void fill_beside_reads(MatmulRate& rate) {
  double slower = 0;  // beside reads, of the fewer rows that were measured
  double share = 0;
  for (MatmulRate::Rows& rows : rate.rows) {
    if (rows.beside_reads > 0) {
      slower = rows.beside_reads / rows.weight_bytes_per_second;
      share = rows.read_share;
    } else if (slower > 0) {
      rows.beside_reads = slower * rows.weight_bytes_per_second;
      rows.read_share = share;
    }
  }
}

std::vector<TimedCall> time_matmuls(Device& device, Ops& ops, const MatmulsToTime& matmuls,
                                    uint64_t cache_bytes, const Clock& clock,
                                    const StopFlag& stop) {
  auto calls = DeviceProbe(device, ops, matmuls.seconds, nullptr, clock, stop)
                   .run_some(matmuls, cache_bytes);
  stop.check();
  return calls;
}

DeviceRates measure_device(Device& device, Ops& ops, double seconds, uint64_t cache_bytes,
                           const DriveReads* reads, const Clock& clock, const StopFlag& stop,
                           const std::function<void(std::string_view)>& progress) {
  return DeviceProbe(device, ops, seconds, reads, clock, stop).run(cache_bytes, progress);
}

}  // namespace spillway
