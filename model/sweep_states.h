// Where the hidden states of a sweep are between its layers: all of them in device memory, or on a
// drive and in a few buffers, each as large as a chunk, so that the batches that come next are read
// and those before are written while one computes. Owner: memory, file, reader and streams.
//
// One thread: the model's. It waits only where the drive is slower than the layers; a stop request
// ends that. Everything is allocated at start; after a sweep that was broken off the file is made
// anew.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "core/config.h"
#include "core/device_arena.h"
#include "core/stop.h"
#include "io/open_reader.h"
#include "kernels/ops.h"
#include "model/forward.h"
#include "model/sweep.h"

namespace spillway {

/// What spilling cost since the last take_stats().
struct SpillStats {
  uint64_t written_bytes = 0;
  uint64_t read_bytes = 0;
  int64_t wait_ns = 0;  ///< for the drive: all that was not overlapped
};

/// Buffers of hidden states beside a drive, at most. On unified memory one computes, one is read
/// and one written; the fourth takes up what either is late. A device is told two steps ahead, and
/// copies each way take their time before a buffer is free again.
uint32_t spill_buffers(bool unified);

/// Of one batch, as the drive moves it.
uint64_t spill_block_bytes(uint32_t hidden, const ForwardLimits& limits);
/// Whether more batches than there are buffers may come: otherwise nothing is written.
bool spills(const ForwardLimits& limits);
/// Device memory.
uint64_t state_bytes(uint32_t hidden, const ForwardLimits& limits);
/// Pinned memory between a discrete device and the drive.
uint64_t staged_state_bytes(uint32_t hidden, const ForwardLimits& limits, bool unified);
/// What the file's tables take.
uint64_t spill_table_bytes(const ForwardLimits& limits);

class SweepStates {
 public:
  virtual ~SweepStates() = default;
  /// `steps` outlives the sweep. Throws Error where its file cannot be made.
  virtual void begin(const SweepSchedule& steps) = 0;
  /// The hidden states of a step's batch, [rows, hidden] in device memory, for work put on the
  /// stream before give(): what the layer before left, or anything in the first layer. Steps in
  /// their order, each given back before the next one is taken. Both throw Error for what the drive
  /// refuses or delivers wrong; take() throws Stopped.
  virtual float* take(size_t step) = 0;
  virtual void give(size_t step) = 0;
  /// Ends what is under way, after an Error or a stop.
  virtual void break_off() noexcept = 0;
  virtual SpillStats take_stats() = 0;
  /// Why the page cache is in between although that was not wanted; else empty.
  virtual std::string refused() const { return {}; }
};

/// What they are made from; all outlives them.
struct SweepStatesParts {
  Device* device = nullptr;
  DeviceArena* arena = nullptr;
  Ops* ops = nullptr;
  Stream* stream = nullptr;  ///< computes
  ReaderFactory readers;
  const Clock* clock = nullptr;
  const StopFlag* stop = nullptr;
  std::filesystem::path folder;  ///< of the file, which has no name there
  DirectChoice direct = DirectChoice::kAuto;
};

/// Null where the limits have no sweeps. Throws Error where the folder takes no file.
std::unique_ptr<SweepStates> make_sweep_states(const SweepStatesParts& parts, uint32_t hidden,
                                               const ForwardLimits& limits);

}  // namespace spillway
