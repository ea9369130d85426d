// What a device computes and copies, measured with the operations that a run uses.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/stop.h"
#include "core/weight_format.h"
#include "kernels/ops.h"
#include "probe/read_rate.h"

namespace spillway {

/// How fast a matmul gets through its weights, by its rows: few rows wait for the memory, many for
/// the arithmetic. A call takes `start_seconds`, `output_seconds` for every row of weights (which
/// is an output) and the time of its bytes.
struct MatmulRate {
  WeightFormat format = WeightFormat::kF32;
  struct Rows {
    uint32_t rows = 0;
    double weight_bytes_per_second = 0;
    double start_seconds = 0;
    double output_seconds = 0;  ///< 0 = not measured: part of the others
    /// The rate while the drive reads, too, and the share of its rate that it keeps during calls;
    /// 0 = not measured.
    double beside_reads = 0;
    double read_share = 0;
  };
  std::vector<Rows> rows;  ///< ascending, never empty
};

/// What a weight's byte costs a matmul of one row more where it runs over so much memory: of 512
/// MiB a server's last cache may hold a part.
struct WideMemory {
  uint64_t usual_bytes = 0;  ///< that all else was measured on
  uint64_t bytes = 0;        ///< more than that
  double more_seconds_per_byte = 0;
};
/// How much is measured on to be more than `cache_bytes` hold; nothing where the usual amount is
/// hardly less, or where it is more than half of `free_bytes`.
std::optional<WideMemory> wide_memory_of(uint64_t cache_bytes, uint64_t free_bytes);

/// Rates of one device; the copies are 0 on unified memory.
struct DeviceRates {
  std::string device;
  double pinned_to_device = 0;  ///< bytes/s
  double device_to_pinned = 0;
  double pageable_to_device = 0;
  double operation_seconds =
      0;  ///< an operation on a row so short that starting it is all it costs
  /// Of a prompt, beside its matmuls; 0 = not measured. A multiply-add of attention (two for every
  /// query, position it sees and element of a head), what each query and position cost beside, a
  /// value that a norm, a rotation or a conversion takes once, and one that is activated.
  double attention_seconds = 0;
  double score_seconds = 0;
  double value_seconds = 0;
  double gated_seconds = 0;
  /// How many times what these and its matmuls say a prompt's layer takes; 0 = not measured.
  double layer_share = 0;
  std::optional<WideMemory> wide_memory;  ///< empty = not measured
  std::vector<MatmulRate> matmuls;
};

/// What calls of one size took.
struct TimedCall {
  uint64_t weight_bytes = 0;
  double seconds = 0;         ///< on average
  double median_seconds = 0;  ///< without what a neighbour on the cores costs now and then
  uint64_t calls = 0;
  uint32_t outputs = 0;  ///< rows of weights
};
/// The round in the middle.
TimedCall median_round(const std::vector<TimedCall>& rounds);
/// An output costs what `tall` takes more than `large`, which has fewer of them on as many bytes.
/// Start and outputs are where the line through the medians of `small` and `large` begins; nothing
/// where that is below nothing or few calls give no sure median. The rest of the large call's
/// average is its bytes' time. `tall`: nothing timed where outputs cost nothing.
MatmulRate::Rows rate_of_calls(uint32_t rows, const TimedCall& small, const TimedCall& large,
                               const TimedCall& tall = {});

/// DeviceRates::layer_share: nothing is faster for what was computed before it, and what is more
/// than twice as slow was a neighbour's burst, not measured.
double layer_share_of(double layer_seconds, double parts_seconds);

/// Where no drive read beside matmuls, of blocks, they were slowed as with fewer rows.
void fill_beside_reads(MatmulRate& rate);

struct ReadAmount {
  double bytes = 0;
  double seconds = 0;
  double rate() const { return bytes / seconds; }
  ReadAmount& operator+=(const ReadAmount& more) {
    bytes += more.bytes;
    seconds += more.seconds;
    return *this;
  }
};
/// Calls while a drive reads, a few between waits for it, in turns with reads alone.
struct BesideReads {
  ReadAmount together;
  ReadAmount alone;
  double busy_seconds = 0;  ///< of those together, spent in calls
  uint64_t calls = 0;
  BesideReads& operator+=(const BesideReads& more) {
    together += more.together;
    alone += more.alone;
    busy_seconds += more.busy_seconds;
    calls += more.calls;
    return *this;
  }
};
/// Of its rate, what the drive gives during calls: in the pauses it is not slowed. 0 = nothing was
/// read in so short a time.
double read_share_of(const BesideReads& turns);

/// What a large call took while the drive kept `read_share` of its rate. Company makes neither
/// faster: what looks like it is noise.
void set_beside_reads(MatmulRate::Rows& rows, const TimedCall& call, double read_share);

/// Probe's large matmul, on its own.
struct MatmulsToTime {
  WeightFormat format = WeightFormat::kF32;
  std::vector<uint32_t> rows;
  uint64_t memory_bytes = 0;  ///< that all it needs may take
  double seconds = 0;         ///< for each, beside a third of that to warm up
  uint64_t least_calls = 1;   ///< of each, however long they take
};
/// What calls took, for each count of rows: nothing (0 calls) where memory is too small for weights
/// that are more than the caches, of `cache_bytes`, hold. Filling them, and the outputs, takes as
/// long as their first touch. Leaves `ops` without a workspace. Throws Error, Stopped.
std::vector<TimedCall> time_matmuls(Device& device, Ops& ops, const MatmulsToTime& matmuls,
                                    uint64_t cache_bytes, const Clock& clock, const StopFlag& stop);

/// That, of a device.
using MatmulTimer = std::function<std::vector<TimedCall>(const MatmulsToTime&)>;

/// Device memory to measure on: small values of either sign, since zeros may run faster than real
/// ones, and numbers that overflow slower. In any format but MXFP4, whose blocks begin with an
/// exponent; that has a filling of its own.
Memory filled_memory(Device& device, Stream& stream, uint64_t bytes,
                     WeightFormat format = WeightFormat::kBF16);

/// What a drive reads beside the matmuls of a device that shares its memory.
struct DriveReads {
  const DirectFile* file = nullptr;
  ReadShape shape;
  const ReaderFactory* readers = nullptr;
};

/// Takes a few seconds; `seconds` for each figure. `cache_bytes`: of the host's caches, all
/// together, beside which less memory than four times as much is no measure. `reads`: null, or for
/// unified memory what is read beside. Throws Stopped, and Error when a read fails.
DeviceRates measure_device(Device& device, Ops& ops, double seconds, uint64_t cache_bytes,
                           const DriveReads* reads, const Clock& clock, const StopFlag& stop,
                           const std::function<void(std::string_view)>& progress);

}  // namespace spillway
