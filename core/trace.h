// Spans of work for a Chrome/Perfetto timeline. Thread-safe; never blocks; drops when full.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "core/buffer.h"
#include "core/clock.h"

namespace spillway {

class OutputFile;
struct OutputFormat;

/// How a trace begins, for OutputFile.
OutputFormat trace_format();

enum class TraceLane : uint8_t { kRead, kCopy, kCompute, kStall, kPass };

/// Spans that `trace` keeps: minutes of a large model.
inline constexpr size_t kTraceSpans = size_t{1} << 18;

/// Records spans into a table allocated at start. With capacity 0 it is off and costs a compare.
class Trace {
 public:
  Trace(const Clock& clock, size_t capacity);
  /// What the table takes: a line of the memory bill.
  static uint64_t table_bytes(size_t capacity) { return capacity * sizeof(Span); }

  bool on() const { return !spans_.empty(); }
  int64_t now_ns() const { return clock_.now_ns(); }
  /// `index` is the lane's own number (unit, layer or pass), shown beside the name.
  void span(TraceLane lane, uint32_t index, int64_t begin_ns, int64_t end_ns, uint64_t bytes);
  /// Spans that did not fit the table.
  uint64_t dropped() const;
  /// Writes Chrome trace JSON, piece by piece. Call when no thread records any more. Throws Error.
  void write(OutputFile& file) const;

 private:
  struct Span {
    int64_t begin_ns;
    int64_t end_ns;
    uint64_t bytes;
    uint32_t index;
    TraceLane lane;
  };
  const Clock& clock_;
  HugeBuffer table_;
  std::span<Span> spans_;  // in the table
  std::atomic<uint64_t> used_{0};
};

}  // namespace spillway
