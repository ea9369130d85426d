#include "probe/read_rate.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <span>
#include <thread>

#include "core/buffer.h"
#include "core/error.h"
#include "core/thread.h"
#include "core/units.h"
#include "core/user_path.h"
#include "io/read_pump.h"

namespace spillway {
namespace {

constexpr uint32_t kSweepRounds = 3;

namespace fs = std::filesystem;

constexpr uint64_t kMinFileBytes = 256 * kMiB;
constexpr uint64_t kTemporaryBytes = kGiB;

/// No read is smaller than the drive's alignment.
ReadShape on_blocks(ReadShape shape, const DirectFile& file) {
  shape.chunk_bytes = align_up(shape.chunk_bytes, file.info().alignment);
  return shape;
}

uint64_t room_chunks(const ReadShape& shape) {
  return std::max<uint64_t>(shape.depth, shape.room_bytes / shape.chunk_bytes);
}

/// The loop's state: as many reads as the shape has are in flight all the time.
class ReadLoop {
 public:
  /// `on_read`: told of bytes as they are read, from the first on; may be empty.
  ReadLoop(const DirectFile& file, const ReadShape& shape, const ReaderFactory& readers,
           const Clock& clock, std::function<void(uint64_t)> on_read = {})
      : file_(file),
        on_read_(std::move(on_read)),
        shape_(on_blocks(shape, file)),
        clock_(clock),
        chunks_(file.info().bytes / shape_.chunk_bytes),
        reader_(readers(shape.depth)),
        buffers_(*reader_, clock, room_chunks(shape_) * shape_.chunk_bytes),
        pump_(buffers_.pump()) {
    if (chunks_ == 0) {
      throw Error(fmt::format("{}: smaller than one read of {}; give a larger file, or a folder",
                              file.info().path, format_bytes(shape.chunk_bytes)));
    }
    if (!shape.huge_pages) madvise(buffers_.data(), buffers_.bytes(), MADV_NOHUGEPAGE);
    buffers_.memory().touch();
    const std::span<std::byte> all(buffers_.data(), buffers_.bytes());
    if (shape.registered) reader_->register_buffers({&all, 1});
    for (uint64_t i = 0; i < room_chunks(shape_); ++i) free_.push_back(i);
  }

  double run(const MeasureLimit& limit, const StopFlag& stop) {
    const StopSubscription wakes = stop.on_request([this] { pump_.wake(); });
    next_ = static_cast<uint64_t>(limit.begin_share * static_cast<double>(chunks_));
    const int64_t begin_ns = clock_.now_ns();
    for (uint32_t i = 0; i < shape_.depth; ++i) start();
    uint64_t warming = shape_.depth;  // reads that still belong to the first turn of the queue
    uint64_t bytes = 0;
    int64_t counted_from_ns = begin_ns;
    double elapsed = 0;
    const auto ends = [&] {  // one read at least: a rate of 0 is none
      return bytes > 0 && (elapsed >= limit.seconds || bytes >= limit.bytes);
    };
    while (!ends() && !stop.requested()) {
      const double left = limit.give_up_seconds - seconds(clock_.now_ns() - begin_ns);
      if (left <= 0) break;
      const auto finished = pump_.poll();
      const int64_t now_ns = clock_.now_ns();
      for (const uint64_t buffer : finished) {
        free_.push_back(buffer);
        start();
      }
      if (on_read_) on_read_(finished.size() * shape_.chunk_bytes);
      if (finished.empty()) {
        pump_.wait(left < 1e6 ? static_cast<int64_t>(left * 1e9) + 1 : BlockReader::kNoLimit);
      } else if (warming > 0) {
        warming -= std::min<uint64_t>(warming, finished.size());
        counted_from_ns = now_ns;
      } else {
        bytes += finished.size() * shape_.chunk_bytes;
        elapsed = seconds(now_ns - counted_from_ns);
      }
    }
    return elapsed > 0 ? static_cast<double>(bytes) / elapsed : 0;
  }

 private:
  /// Into the buffer that has been free for longest.
  void start() {
    const uint64_t buffer = free_.front();
    free_.pop_front();
    ReadRequest request;
    request.file = &file_.info();
    request.offset = next_++ % chunks_ * shape_.chunk_bytes;
    request.target = buffers_.data() + buffer * shape_.chunk_bytes;
    request.bytes = request.needed = static_cast<uint32_t>(shape_.chunk_bytes);
    request.tag = buffer;
    CHECK(pump_.start(request));
  }

  const DirectFile& file_;
  std::function<void(uint64_t)> on_read_;
  ReadShape shape_;
  const Clock& clock_;
  uint64_t chunks_;
  std::unique_ptr<BlockReader> reader_;
  PumpedBuffer buffers_;
  ReadPump& pump_;
  uint64_t next_ = 0;
  std::deque<uint64_t> free_;  // buffers; those that were read into first are first again
};

/// Compiled for each instruction set; the loader picks, with code that TSan's run-time library is
/// not yet there for.
#if defined(__SANITIZE_THREAD__)
#define SPILLWAY_VARIANTS
#else
#define SPILLWAY_VARIANTS __attribute__((target_clones("default", "avx2", "arch=skylake-avx512")))
#endif

/// Four streams a quarter apart, so that many cache lines are on their way at once.
SPILLWAY_VARIANTS uint64_t sum_words(const std::byte* data, uint64_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  const uint64_t quarter = bytes / 32;
  uint64_t sums[4][16] = {};
  for (uint64_t i = 0; i < quarter; i += 16) {
    for (uint64_t stream = 0; stream < 4; ++stream) {
      for (uint64_t lane = 0; lane < 16; ++lane) {
        sums[stream][lane] += words[stream * quarter + i + lane];
      }
    }
  }
  uint64_t total = 0;
  for (const auto& stream : sums) {
    for (const uint64_t sum : stream) total += sum;
  }
  return total;
}

fs::path largest_file(const fs::path& folder) {
  fs::path best;
  uint64_t best_bytes = 0;
  std::error_code error;
  const std::vector<fs::path> entries = entries_of(folder, error);
  if (error) {
    throw Error(fmt::format("--path {}: cannot be looked into: {}", folder.string(),
                            errno_text(error.value())));
  }
  for (const fs::path& entry : entries) {
    std::error_code ignored;
    if (!fs::is_regular_file(entry, ignored)) continue;
    const uint64_t bytes = fs::file_size(entry, ignored);
    if (ignored || bytes <= best_bytes) continue;
    best = entry;
    best_bytes = bytes;
  }
  return best_bytes >= kMinFileBytes ? best : fs::path();
}

/// Pseudo-random bytes: a drive that compresses or knows zeros must not look faster than it is.
void fill(int fd, const fs::path& path, const StopFlag& stop) {
  std::vector<uint64_t> block(kMiB / sizeof(uint64_t));
  uint64_t state = 0x9e3779b97f4a7c15u;
  for (uint64_t at = 0; at < kTemporaryBytes && !stop.requested(); at += kMiB) {
    for (uint64_t& word : block) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      word = state;
    }
    if (const int error = write_all(fd, {reinterpret_cast<const char*>(block.data()), kMiB})) {
      throw Error(
          fmt::format("{}: cannot write a file to read: {}; give --path a model on the drive",
                      path.string(), errno_text(error)));
    }
  }
  if (fsync(fd) != 0) throw Error(fmt::format("{}: {}", path.string(), errno_text(errno)));
}

/// A file without a name: whatever ends this process, its space is free again.
Descriptor write_temporary(const fs::path& folder, const StopFlag& stop) {
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (!error && space.available < 2 * kTemporaryBytes) {
    throw Error(fmt::format(
        "{}: no file of {} or more to read, and only {} free to write one; give --path a model",
        folder.string(), format_bytes(kMinFileBytes), format_bytes(space.available)));
  }
  std::string name = (folder / ".spillway-probe-XXXXXX").string();
  Descriptor file(mkostemp(name.data(), O_CLOEXEC));
  if (!file.valid()) {
    throw Error(fmt::format(
        "{}: no file of {} or more to read, and none can be written: {}; give --path a model",
        folder.string(), format_bytes(kMinFileBytes), errno_text(errno)));
  }
  unlink(name.c_str());
  fill(file.get(), name, stop);
  return file;
}

}  // namespace

double read_rate(const DirectFile& file, const ReadShape& shape, const MeasureLimit& limit,
                 const ReaderFactory& readers, const Clock& clock, const StopFlag& stop) {
  return ReadLoop(file, shape, readers, clock).run(limit, stop);
}

BackgroundReads::BackgroundReads(const DirectFile& file, const ReadShape& shape,
                                 const ReaderFactory& readers, const Clock& clock,
                                 const StopFlag& stop)
    : wakes_(stop.on_request([this] { end_waits(); })) {
  thread_ = start_thread("to read beside what is measured", [&, shape, this] {
    try {
      const MeasureLimit endless{std::numeric_limits<double>::infinity()};
      ReadLoop(file, shape, readers, clock, [this](uint64_t bytes) {
        add(bytes);
      }).run(endless, end_);
    } catch (...) {
      failed_ = std::current_exception();
    }
    end_waits();
  });
  wait_for(1, std::numeric_limits<double>::infinity());
}

void BackgroundReads::add(uint64_t bytes) {
  if (bytes == 0) return;
  const std::scoped_lock lock(mutex_);
  bytes_ += bytes;
  grown_.notify_all();
}

void BackgroundReads::end_waits() {
  const std::scoped_lock lock(mutex_);
  over_ = true;
  grown_.notify_all();
}

void BackgroundReads::wait_for(uint64_t bytes, double seconds) const {
  std::unique_lock lock(mutex_);
  const auto enough = [&] { return over_ || bytes_ >= bytes; };
  if (seconds == std::numeric_limits<double>::infinity()) return grown_.wait(lock, enough);
  grown_.wait_for(lock, std::chrono::duration<double>(seconds), enough);
}

void BackgroundReads::finish() {
  end_.request();
  thread_.join();
  if (failed_) std::rethrow_exception(failed_);
}

std::vector<ReadSample> sweep_reads(const DirectFile& file, double seconds,
                                    const ReaderFactory& readers, const Clock& clock,
                                    const StopFlag& stop,
                                    const std::function<void(uint32_t, uint32_t)>& progress) {
  std::vector<ReadShape> shapes;
  for (const uint64_t chunk : {256 * kKiB, kMiB, 4 * kMiB}) {
    for (const uint32_t depth : {2u, 8u, 32u})
      shapes.push_back({chunk, depth, true, true, kUsualRoomBytes});
  }
  // Shape after shape, round after round: a neighbour's burst hits all alike, and the median drops
  // it.
  const auto total = static_cast<uint32_t>(kSweepRounds * (shapes.size() + 1));
  uint32_t done = 0;
  const auto measure = [&](const ReadShape& shape) {
    const double rate =
        read_rate(file, shape, {seconds / kSweepRounds, UINT64_MAX}, readers, clock, stop);
    progress(++done, total);
    return rate;
  };
  const auto median = [](std::vector<double> rates) {
    std::nth_element(rates.begin(), rates.begin() + kSweepRounds / 2, rates.end());
    return rates[kSweepRounds / 2];
  };
  std::vector<std::vector<double>> rates(shapes.size());
  for (uint32_t round = 0; round < kSweepRounds; ++round) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      rates[i].push_back(stop.requested() ? 0 : measure(shapes[i]));
    }
  }
  std::vector<ReadSample> samples;
  for (size_t i = 0; i < shapes.size(); ++i) samples.push_back({shapes[i], median(rates[i])});
  const auto faster = [](const ReadSample& x, const ReadSample& y) {
    return x.bytes_per_second > y.bytes_per_second;
  };
  std::stable_sort(samples.begin(), samples.end(), faster);
  const ReadShape small_pages{samples[0].shape.chunk_bytes, samples[0].shape.depth, false, true,
                              kUsualRoomBytes};
  std::vector<double> small_page_rates;
  for (uint32_t round = 0; round < kSweepRounds; ++round) {
    small_page_rates.push_back(measure(small_pages));
  }
  samples.push_back({small_pages, median(small_page_rates)});
  std::stable_sort(samples.begin(), samples.end(), faster);
  return samples;
}

ProbeFile::ProbeFile(const fs::path& path, const StopFlag& stop) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (error || !fs::exists(status)) {
    throw Error(fmt::format("--path {}: no such file or folder; give one on the drive to measure",
                            path.string()));
  }
  const std::string system = file_system_name(path);
  if (system == "tmpfs") {
    throw Error(
        fmt::format("--path {}: lies in memory (tmpfs), not on a drive; give a folder that "
                    "does",
                    path.string()));
  }
  fs::path chosen = fs::is_directory(status) ? largest_file(path) : path;
  if (chosen.empty()) {
    temporary_ = write_temporary(path, stop);
    chosen = fmt::format("/proc/self/fd/{}", temporary_.get());
  }
  file_.emplace(chosen, DirectChoice::kAuto);
  if (!file_->info().direct) {
    throw Error(
        fmt::format("--path {}: {} refuses direct reads ({}), and a cached read is not the "
                    "drive's; give a folder on ext4 or xfs",
                    path.string(), system, file_->refused()));
  }
}

double memory_read_rate(uint32_t threads, double wanted_seconds, const Clock& clock,
                        const StopFlag& stop) {
  // More than caches hold, but no more than any machine has.
  const uint64_t bytes_each = std::clamp<uint64_t>(4 * kGiB / threads, 128 * kMiB, kGiB);
  std::vector<HugeBuffer> buffers;
  for (uint32_t i = 0; i < threads; ++i) {
    stop.check();
    buffers.emplace_back(bytes_each);
    std::memset(buffers.back().data(), 1, bytes_each);
  }
  std::atomic<uint64_t> bytes{0};
  std::atomic<uint64_t> sink{0};
  const int64_t begin_ns = clock.now_ns();
  {
    std::vector<std::jthread> workers;
    for (uint32_t i = 0; i < threads; ++i) {
      workers.push_back(start_thread("to measure memory with", [&, i] {
        uint64_t total = 0;
        do {  // once in any case: on a busy machine the time may be over when a thread begins
          total += sum_words(buffers[i].data(), bytes_each);
          bytes += bytes_each;
        } while (seconds(clock.now_ns() - begin_ns) < wanted_seconds && !stop.requested());
        sink += total;
      }));
    }
  }
  stop.check();
  CHECK(sink.load() != 0);
  return static_cast<double>(bytes.load()) / seconds(clock.now_ns() - begin_ns);
}

}  // namespace spillway
