#include "core/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "core/output_file.h"

namespace spillway {
namespace {

struct LaneName {
  const char* lane;
  const char* span;
};

LaneName lane_name(TraceLane lane) {
  switch (lane) {
    case TraceLane::kRead:
      return {"reads", "read unit"};
    case TraceLane::kCopy:
      return {"copies", "copy unit"};
    case TraceLane::kCompute:
      return {"compute", "layer"};
    case TraceLane::kStall:
      return {"stalls", "wait for unit"};
    case TraceLane::kPass:
      return {"passes", "pass"};
  }
  return {"?", "?"};
}

}  // namespace

OutputFormat trace_format() {
  return {"trace", R"({"displayTimeUnit":"ms","traceEvents":[)"};
}

Trace::Trace(const Clock& clock, size_t capacity)
    : clock_(clock),
      table_(table_bytes(capacity)),
      spans_(reinterpret_cast<Span*>(table_.data()), capacity) {
  table_.touch();
}

void Trace::span(TraceLane lane, uint32_t index, int64_t begin_ns, int64_t end_ns, uint64_t bytes) {
  if (spans_.empty()) return;
  const uint64_t slot = used_.fetch_add(1, std::memory_order_relaxed);
  if (slot < spans_.size()) spans_[slot] = {begin_ns, end_ns, bytes, index, lane};
}

uint64_t Trace::dropped() const {
  const uint64_t used = used_.load();
  return used > spans_.size() ? used - spans_.size() : 0;
}

void Trace::write(OutputFile& file) const {
  constexpr size_t kPieceBytes = size_t{1} << 18;
  std::string out = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  for (int lane = 0; lane <= static_cast<int>(TraceLane::kPass); ++lane) {
    out +=
        fmt::format(R"({{"ph":"M","pid":1,"tid":{},"name":"thread_name","args":{{"name":"{}"}}}},)"
                    "\n",
                    lane, lane_name(static_cast<TraceLane>(lane)).lane);
  }
  const size_t count = std::min<uint64_t>(used_.load(), spans_.size());
  int64_t origin_ns = 0;
  for (size_t i = 0; i < count; ++i) {
    if (i == 0 || spans_[i].begin_ns < origin_ns) origin_ns = spans_[i].begin_ns;
  }
  for (size_t i = 0; i < count; ++i) {
    const Span& span = spans_[i];
    out += fmt::format(R"({{"ph":"X","pid":1,"tid":{},"name":"{} {}","ts":{:.3f},"dur":{:.3f},)"
                       R"("args":{{"bytes":{}}}}},)"
                       "\n",
                       static_cast<int>(span.lane), lane_name(span.lane).span, span.index,
                       static_cast<double>(span.begin_ns - origin_ns) / 1e3,
                       static_cast<double>(span.end_ns - span.begin_ns) / 1e3, span.bytes);
    if (out.size() < kPieceBytes) continue;
    file.append(out);
    out.clear();
  }
  out += R"({"ph":"M","pid":1,"name":"process_name","args":{"name":"spillway"}})";
  out += fmt::format("],\"otherData\":{{\"dropped\":{}}}}}\n", dropped());
  file.write(out);
}

}  // namespace spillway
