// What a drive gives a bare loop of direct reads, and the memory of this machine a bare loop of
// loads: the denominators of every ratio.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "core/descriptor.h"
#include "core/stop.h"
#include "core/units.h"
#include "io/direct_file.h"
#include "io/open_reader.h"

namespace spillway {

struct ReadShape {
  uint64_t chunk_bytes = 0;
  uint32_t depth = 0;
  bool huge_pages = true;
  bool registered = true;  ///< buffers, where the system allows it
  /// Memory that is read into, around and around, as passes read into their slots; as much as is in
  /// flight where that is more. Where a host copies what it read, little memory stays in its caches
  /// and the drive seems faster than it is to a pass.
  uint64_t room_bytes = 0;
};

/// As the slots of most plans have.
inline constexpr uint64_t kUsualRoomBytes = 32 * kMiB;

/// Where a measurement begins and when it ends: whichever comes first.
struct MeasureLimit {
  double seconds = 0;
  uint64_t bytes = UINT64_MAX;
  double give_up_seconds = std::numeric_limits<double>::infinity();  ///< of all, warming up as well
  double begin_share = 0;                                            ///< of the file
};

/// Bytes per second of reading `file` from there on, around and around, through a reader of
/// `readers`. Counted from when the queue turned over once, so that as much is in flight at the end
/// as was at the begin. 0 where nothing could be counted before it was given up. Throws Error when
/// a read fails or the file is smaller than a chunk. A stop request ends it early.
double read_rate(const DirectFile& file, const ReadShape& shape, const MeasureLimit& limit,
                 const ReaderFactory& readers, const Clock& clock, const StopFlag& stop);

/// Reads of one shape as somebody's background, as long as it lives. The thread that reads has its
/// reader to itself.
class BackgroundReads {
 public:
  /// Returns when the first read is there, has failed, or a stop was requested.
  BackgroundReads(const DirectFile& file, const ReadShape& shape, const ReaderFactory& readers,
                  const Clock& clock, const StopFlag& stop);
  ~BackgroundReads() { end_.request(); }
  BackgroundReads(const BackgroundReads&) = delete;
  /// Read so far. Any thread.
  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  /// Returns when `bytes` have been read, `seconds` are over, the reads end or a stop is requested.
  /// Any thread.
  void wait_for(uint64_t bytes, double seconds) const;
  /// Ends the reads. Throws Error when one failed.
  void finish();

 private:
  void add(uint64_t bytes);
  void end_waits();

  StopFlag end_;
  mutable std::mutex mutex_;  // of what waiting threads look at: bytes_ as it grows, and over_
  mutable std::condition_variable grown_;
  std::atomic<uint64_t> bytes_{0};
  bool over_ = false;  // nobody waits any more
  StopSubscription wakes_;
  std::exception_ptr failed_;  // written before the thread ends
  std::jthread thread_;        // joined first
};

struct ReadSample {
  ReadShape shape;
  double bytes_per_second = 0;
};

/// Chunks and depths for `seconds` each, the median of three rounds, then the best of them in 4 KiB
/// pages; best first.
/// `progress` is told what is done and what there is to do.
std::vector<ReadSample> sweep_reads(const DirectFile& file, double seconds,
                                    const ReaderFactory& readers, const Clock& clock,
                                    const StopFlag& stop,
                                    const std::function<void(uint32_t, uint32_t)>& progress);

/// A file to read on the drive under a path: the path itself, the largest file below it that is
/// large enough, or a temporary one without a name, gone with this object.
class ProbeFile {
 public:
  /// Throws Error where reads would not reach a drive (tmpfs, no O_DIRECT) or nothing large enough
  /// is there and none can be written.
  explicit ProbeFile(const std::filesystem::path& path, const StopFlag& stop);
  ProbeFile(const ProbeFile&) = delete;
  const DirectFile& file() const { return *file_; }
  bool temporary() const { return temporary_.valid(); }

 private:
  Descriptor temporary_;
  std::optional<DirectFile> file_;
};

/// Bytes per second that `threads` threads read of huge-page memory, up to a GiB each. Throws
/// Error, Stopped.
double memory_read_rate(uint32_t threads, double seconds, const Clock& clock, const StopFlag& stop);

}  // namespace spillway
