// spillway trace: one pass of a trace as a picture.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/report.h"
#include "cli/terminal.h"
#include "compare/svg.h"
#include "compare/timeline.h"
#include "core/units.h"
#include "io/json_strict.h"

namespace spillway {
namespace {

constexpr uint64_t kMaxTraceBytes = 256 * kMiB;

}  // namespace

int trace_command(const TraceOptions& options, StopFlag& stop) {
  FilesInUse in_use;
  in_use.add(options.file, "the trace to be drawn");
  in_use.check_stdout();
  stop.watch();  // opening tries whether a file can be made
  OutputFile picture(options.svg, svg_format("picture"), in_use);
  stop.unwatch();
  picture.heed(stop);
  const Timeline timeline =
      cut_timeline(load_json_strict(options.file, kMaxTraceBytes), options.pass, options.file);
  Failures failures;
  std::string text =
      fmt::format("pass {} of {}: {:.3f} s\n", timeline.pass, timeline.passes, timeline.seconds());
  Table table("lrrr");
  table.row({"lane", "spans", "bytes", "busy"});
  for (size_t lane = 0; lane < timeline.lanes.size(); ++lane) {
    uint64_t bytes = 0;
    for (const TimelineSpan& span : timeline.lanes[lane]) bytes += span.bytes;
    table.row({kTimelineLanes[lane], fmt::to_string(timeline.lanes[lane].size()),
               format_bytes(bytes), fmt::format("{:.0f} %", 100 * timeline.busy(lane))});
  }
  stop.watch();
  if (picture.wanted()) failures.attempt([&] { picture.write(timeline_svg(timeline)); });
  failures.attempt([&] { print_text(text + table.text(), stop); });
  failures.throw_if_any();
  return 0;
}

}  // namespace spillway
