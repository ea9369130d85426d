#include "compare/timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "compare/figures.h"
#include "compare/svg.h"
#include "core/error.h"
#include "core/trace.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr auto kCompute = static_cast<size_t>(TraceLane::kCompute);
constexpr auto kStalls = static_cast<size_t>(TraceLane::kStall);
constexpr double kLabelWidth = 130;
constexpr double kPlotWidth = 850;
constexpr double kRowHeight = 14;
constexpr double kLaneGap = 16;
constexpr double kTop = 52;
constexpr double kShortestUs = 1e-3;
constexpr double kLongestUs = 1e15;  // thirty years, in which microseconds can still be told apart

struct TraceEvent {
  TimelineSpan span;
  uint64_t lane = 0;
};

/// The complete events of a trace; others only name things.
std::vector<TraceEvent> events_of(const nlohmann::json& trace, const std::string& where) {
  const auto refuse = [&](const std::string& why) {
    throw Error(fmt::format("{}: not a trace of spillway: {}; write one with run --trace FILE",
                            where, why));
  };
  if (!trace.is_object() || !trace.contains("traceEvents") || !trace["traceEvents"].is_array()) {
    refuse("no list traceEvents");
  }
  std::vector<TraceEvent> events;
  for (const auto& item : trace["traceEvents"]) {
    if (!item.is_object() || !item.contains("ph") || item["ph"] != "X") continue;
    for (const char* key : {"ts", "dur"}) {
      if (!item.contains(key) || !item[key].is_number()) {
        refuse(fmt::format("an event with no number {}", key));
      }
    }
    if (!item.contains("tid") || !item["tid"].is_number_unsigned()) {
      refuse("an event in no lane");
    }
    const double begin = item["ts"].get<double>();
    const double duration = item["dur"].get<double>();
    if (!(std::abs(begin) <= kLongestUs && duration >= 0 && duration <= kLongestUs)) {
      refuse("an event at no time of a run");
    }
    TraceEvent event;
    event.lane = item["tid"].get<uint64_t>();
    event.span.begin_us = begin;
    event.span.end_us = begin + duration;
    if (item.contains("name") && item["name"].is_string()) event.span.name = item["name"];
    if (item.contains("args") && item["args"].is_object() && item["args"].contains("bytes") &&
        item["args"]["bytes"].is_number_unsigned()) {
      event.span.bytes = item["args"]["bytes"].get<uint64_t>();
    }
    events.push_back(std::move(event));
  }
  return events;
}

bool earlier(const TimelineSpan& a, const TimelineSpan& b) {
  return a.begin_us < b.begin_us;
}

/// What is left of the spans outside of the gaps; bytes stay with a span's first piece. A layer's
/// span holds the waits for its units, in which nothing was computed.
std::vector<TimelineSpan> without(const std::vector<TimelineSpan>& spans,
                                  const std::vector<TimelineSpan>& gaps) {
  std::vector<TimelineSpan> pieces;
  for (TimelineSpan rest : spans) {
    for (const TimelineSpan& gap : gaps) {
      if (gap.end_us <= rest.begin_us || gap.begin_us >= rest.end_us) continue;
      if (gap.begin_us > rest.begin_us) {
        pieces.push_back(rest);
        pieces.back().end_us = gap.begin_us;
        rest.bytes = 0;
      }
      rest.begin_us = std::min(gap.end_us, rest.end_us);
    }
    if (rest.end_us > rest.begin_us) pieces.push_back(rest);
  }
  return pieces;
}

/// A row for each span, so that none covers another.
std::vector<size_t> pack_rows(const std::vector<TimelineSpan>& spans, size_t* rows) {
  std::vector<double> free_from;
  std::vector<size_t> row_of;
  for (const TimelineSpan& span : spans) {
    const auto row = std::find_if(free_from.begin(), free_from.end(),
                                  [&](double end) { return end <= span.begin_us; });
    row_of.push_back(static_cast<size_t>(row - free_from.begin()));
    if (row == free_from.end()) {
      free_from.push_back(span.end_us);
    } else {
      *row = span.end_us;
    }
  }
  *rows = std::max<size_t>(1, free_from.size());
  return row_of;
}

constexpr double kRightMargin = 40;  // the last label stands in the middle of its line

constexpr const char* kTimelineStyle =
    "<style>.lanes{font:13px system-ui,sans-serif;background:#fff}.lanes text{fill:#222}"
    ".lanes .g{stroke:#ddd}.l0{fill:#2f6fb7}.l1{fill:#8a5fbf}.l2{fill:#3b9461}.l3{fill:#c9622e}"
    "@media(prefers-color-scheme:dark){.lanes{background:#16181c}.lanes text{fill:#ddd}"
    ".lanes .g{stroke:#3a3d44}.l0{fill:#6aa7e8}.l1{fill:#b794e6}.l2{fill:#6cc495}"
    ".l3{fill:#ec9163}}"
    "@media print{.lanes{background:#fff;font-size:16px}.lanes text{fill:#222}"
    ".lanes .g{stroke:#ddd}}</style>\n";

}  // namespace

double Timeline::busy(size_t lane) const {
  double covered = 0;
  double until = begin_us;
  for (const TimelineSpan& span : lanes[lane]) {
    if (span.end_us <= until) continue;
    covered += span.end_us - std::max(span.begin_us, until);
    until = span.end_us;
  }
  return end_us > begin_us ? covered / (end_us - begin_us) : 0;
}

Timeline cut_timeline(const nlohmann::json& trace, uint32_t pass, const std::string& where) {
  const auto events = events_of(trace, where);
  std::vector<TimelineSpan> passes;
  for (const TraceEvent& event : events) {
    const bool is_pass = event.lane == static_cast<uint64_t>(TraceLane::kPass);
    if (is_pass && event.span.end_us - event.span.begin_us > kShortestUs)
      passes.push_back(event.span);
  }
  if (passes.empty())
    throw Error(fmt::format("{}: holds no whole pass; let a run get through one", where));
  std::sort(passes.begin(), passes.end(), earlier);
  if (pass > passes.size()) {
    throw Error(fmt::format("{}: holds {} passes, not {}; --pass takes 1 to {}", where,
                            passes.size(), pass, passes.size()));
  }
  Timeline timeline;
  timeline.passes = static_cast<uint32_t>(passes.size());
  timeline.pass = pass != 0 ? pass : timeline.passes / 2 + 1;
  timeline.begin_us = passes[timeline.pass - 1].begin_us;
  timeline.end_us = passes[timeline.pass - 1].end_us;
  for (const TraceEvent& event : events) {
    if (event.lane >= timeline.lanes.size()) continue;
    TimelineSpan span = event.span;
    span.begin_us = std::max(span.begin_us, timeline.begin_us);
    span.end_us = std::min(span.end_us, timeline.end_us);
    if (span.end_us > span.begin_us) timeline.lanes[event.lane].push_back(std::move(span));
  }
  for (auto& lane : timeline.lanes) std::stable_sort(lane.begin(), lane.end(), earlier);
  timeline.lanes[kCompute] = without(timeline.lanes[kCompute], timeline.lanes[kStalls]);
  return timeline;
}

std::string timeline_svg(const Timeline& timeline) {
  const double length = timeline.end_us - timeline.begin_us;
  const auto x_of = [&](double us) {
    return kLabelWidth + (us - timeline.begin_us) / length * kPlotWidth;
  };
  std::string body;
  double y = kTop;
  for (size_t lane = 0; lane < timeline.lanes.size(); ++lane) {
    if (timeline.lanes[lane].empty()) continue;
    size_t rows = 0;
    const auto row_of = pack_rows(timeline.lanes[lane], &rows);
    body += fmt::format("<text x=\"0\" y=\"{:.0f}\">{} {:.0f} %</text>\n", y + kRowHeight - 2,
                        kTimelineLanes[lane], 100 * timeline.busy(lane));
    for (size_t i = 0; i < row_of.size(); ++i) {
      const TimelineSpan& span = timeline.lanes[lane][i];
      const double x = x_of(span.begin_us);
      body += fmt::format(
          "<rect class=\"l{}\" x=\"{:.2f}\" y=\"{:.0f}\" width=\"{:.2f}\" height=\"{:.0f}\">"
          "<title>{}: {:.3f} ms, {}</title></rect>\n",
          lane, x, y + static_cast<double>(row_of[i]) * kRowHeight,
          std::max(0.3, x_of(span.end_us) - x), kRowHeight - 2, escaped(span.name),
          (span.end_us - span.begin_us) / 1e3, format_bytes(span.bytes));
    }
    y += static_cast<double>(rows) * kRowHeight + kLaneGap;
  }
  std::string grid;
  const double step = tick_step(length, 8);
  for (int tick = 0; tick * step <= length; ++tick) {
    const double at = tick * step;
    const double x = x_of(timeline.begin_us + at);
    grid += fmt::format(
        "<line class=\"g\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.0f}\" y2=\"{2:.0f}\"/>"
        "<text x=\"{0:.1f}\" y=\"{3:.0f}\" text-anchor=\"middle\">{4} ms</text>\n",
        x, kTop - 6, y, kTop - 10, tick_text(at / 1e3, step / 1e3));
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" class=\"lanes\" "
      "role=\"img\">\n{}"
      "<text x=\"0\" y=\"18\" font-weight=\"600\">pass {} of {}, {} s</text>\n{}{}</svg>\n",
      kLabelWidth + kPlotWidth + kRightMargin, y + 6, kTimelineStyle, timeline.pass,
      timeline.passes, figure_text(timeline.seconds()), grid, body);
}

}  // namespace spillway
