#include "compare/page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <vector>

#include "compare/answer.h"
#include "compare/figures.h"
#include "compare/svg.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr double kGiBBytes = static_cast<double>(kGiB);

const char* engine_name(const Arm& arm) {
  return arm.mapped ? "mmap" : "Spillway";
}

ChartPoint point_of(const ArmResult& result, double x) {
  const Spread seconds = result.seconds();
  return {x, seconds.median, seconds.low, seconds.high};
}

/// Measured arms of a sweep, as lines in the order in which `line_of` first names them.
std::vector<ChartLine> lines_of(const Comparison& comparison, Sweep sweep,
                                const std::function<std::string(const Arm&)>& line_of,
                                const std::function<ChartPoint(const ArmResult&)>& point) {
  std::vector<ChartLine> lines;
  for (const ArmResult& result : comparison.arms) {
    if (result.arm.sweep != sweep || !result.measured()) continue;
    const std::string name = line_of(result.arm);
    auto line = std::find_if(lines.begin(), lines.end(),
                             [&](const ChartLine& l) { return l.name == name; });
    if (line == lines.end()) line = lines.insert(lines.end(), ChartLine{name, {}, true});
    line->points.push_back(point(result));
  }
  for (ChartLine& line : lines) {
    std::sort(line.points.begin(), line.points.end(),
              [](const ChartPoint& a, const ChartPoint& b) { return a.x < b.x; });
  }
  return lines;
}

std::string table_row(const std::vector<std::string>& cells, const char* tag) {
  std::string row = "<tr>";
  for (const std::string& cell : cells) row += fmt::format("<{0}>{1}</{0}>", tag, escaped(cell));
  return row + "</tr>\n";
}

std::vector<std::string> cells_of(const ArmResult& result) {
  std::vector<std::string> cells = {result.arm.title()};
  if (!result.measured()) {
    cells.insert(cells.end(), 7, "-");
    cells.push_back(result.skipped);
    return cells;
  }
  const Spread seconds = result.seconds();
  for (const double value : {seconds.low, seconds.median, seconds.high}) {
    cells.push_back(figure_text(value));
  }
  cells.push_back(figure_text(result.tokens_per_second()));
  cells.push_back(format_bytes(static_cast<uint64_t>(result.nvme_bytes())));
  const double predicted = result.predicted_seconds();
  cells.push_back(predicted > 0 ? figure_text(predicted) : "-");
  cells.push_back(predicted > 0 ? deviation_text(seconds.median / predicted) : "-");
  cells.push_back(result.skipped);
  return cells;
}

std::string results_table(const Comparison& comparison) {
  std::string rows;
  for (const ArmResult& result : comparison.arms) rows += table_row(cells_of(result), "td");
  return "<div class=\"wide\"><table>\n" +
         table_row({"arm", "least s per pass", "median s", "most s", "tokens/s", "read per pass",
                    "predicted s", "median against predicted", "note"},
                   "th") +
         rows + "</table></div>\n";
}

std::string figure(const std::string& svg, const std::string& caption) {
  if (svg.empty()) return "";
  return fmt::format("<figure>{}<figcaption>{}</figcaption></figure>\n", svg, escaped(caption));
}

/// One column on a phone and on paper, two from 1100 px on.
constexpr const char* kPageStyle =
    "body{font:16px/1.5 system-ui,sans-serif;max-width:1500px;margin:0 auto;padding:16px;"
    "color:#222;background:#fff;overflow-wrap:anywhere}"
    "h1{font-size:1.5em;margin:.3em 0}h2{font-size:1.15em;margin-top:2em}"
    ".answer{font-size:1.3em;line-height:1.4;margin:.2em 0 1em;max-width:46em}"
    ".two{display:grid;grid-template-columns:minmax(0,1fr);gap:0 32px}"
    "@media(min-width:1100px){.two{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}}"
    "ul{padding-left:1.2em}figure{margin:1em 0}svg{display:block;width:100%;height:auto}"
    ".chart{max-width:760px}.wide svg{min-width:900px}figcaption{color:#666;font-size:.9em}"
    ".wide{overflow-x:auto}table{width:100%;border-collapse:collapse;font-size:.9em;"
    "white-space:nowrap;overflow-wrap:normal}"
    "td,th{padding:3px 14px 3px 0;text-align:right;border-bottom:1px solid #ddd}"
    "th{vertical-align:bottom;white-space:normal}td:first-child,th:first-child{text-align:left}"
    "td:last-child,th:last-child{text-align:left;white-space:normal;padding-right:0}"
    "td:last-child:not(:empty){min-width:16em}"
    "dl{display:grid;grid-template-columns:auto 1fr;gap:2px 14px;align-content:start}dd{margin:0}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#16181c}"
    "td,th{border-color:#33363d}figcaption{color:#9aa0a8}}"
    "@media print{body{max-width:none;color:#000;background:#fff;font-size:13px}"
    "figure{break-inside:avoid}figcaption{color:#444}.wide{overflow:visible}"
    ".wide svg{min-width:0}table{white-space:normal}td,th{padding-right:8px;border-color:#bbb}}";

/// What was measured on what, and what the figures say beyond the answer.
std::string facts(const Comparison& comparison) {
  std::string list;
  for (const auto& lines : {findings(comparison), comparison.notes}) {
    for (const std::string& line : lines) list += fmt::format("<li>{}</li>\n", escaped(line));
  }
  return fmt::format(
      "<div class=\"two\"><dl><dt>model</dt><dd>{}</dd><dt>machine</dt><dd>{}</dd><dt>measured</dt>"
      "<dd>{}, {} repeat{}{}</dd><dt>version</dt><dd>{}</dd></dl>\n<ul>{}</ul></div>\n",
      escaped(comparison.model), escaped(comparison.machine), escaped(comparison.measured_at),
      comparison.repeats, comparison.repeats == 1 ? "" : "s",
      comparison.interrupted ? ", stopped early" : "", escaped(comparison.version), list);
}

std::string charts(const Comparison& comparison) {
  return "<div class=\"two\">" +
         figure(chart_svg(memory_chart(comparison)),
                "The same kernels on the same bytes, each process in a memory control group of "
                "that size. mmap leaves the choice to the page cache.") +
         figure(chart_svg(share_chart(comparison)), "Bars: slowest and fastest repeat.") +
         figure(chart_svg(batch_chart(comparison)),
                "While the drive is the limit, more sequences cost little.") +
         figure(chart_svg(prediction_chart(comparison)),
                "On the dashed line: as predicted; between the thin ones: within 10 %.") +
         figure(chart_svg(score_chart(comparison)),
                "One read of the weights serves a sweep: the longer it is, the less the drive "
                "matters.") +
         "</div>\n";
}

}  // namespace

Chart memory_chart(const Comparison& comparison) {
  return {"One token, by memory",
          "memory, GiB",
          "seconds per token",
          lines_of(
              comparison, Sweep::kMemory, [](const Arm& arm) { return engine_name(arm); },
              [](const ArmResult& result) {
                return point_of(result, static_cast<double>(result.arm.memory_bytes) / kGiBBytes);
              }),
          {},
          false,
          false};
}

Chart share_chart(const Comparison& comparison) {
  Chart chart{"Decode throughput, by share in RAM",
              "share in RAM, %",
              "tokens per second",
              {},
              {0, 25, 50, 75, 100},
              false,
              false};
  chart.lines = lines_of(
      comparison, Sweep::kDecode, [](const Arm& arm) { return fmt::format("batch {}", arm.batch); },
      [](const ArmResult& result) {
        const Spread seconds = result.seconds();
        const double tokens = result.samples[0].tokens;
        return ChartPoint{100 * result.arm.ram_share, tokens / seconds.median,
                          tokens / seconds.high, tokens / seconds.low};
      });
  return chart;
}

Chart batch_chart(const Comparison& comparison) {
  Chart chart{
      "Time of a decode pass, by batch", "sequences", "seconds per pass", {}, {}, true, false};
  chart.lines = lines_of(
      comparison, Sweep::kDecode,
      [](const Arm& arm) { return fmt::format("{:.0f} % in RAM", 100 * arm.ram_share); },
      [](const ArmResult& result) { return point_of(result, result.arm.batch); });
  std::set<double> batches;
  for (const ChartLine& line : chart.lines) {
    for (const ChartPoint& point : line.points) batches.insert(point.x);
  }
  chart.x_ticks.assign(batches.begin(), batches.end());
  return chart;
}

Chart prediction_chart(const Comparison& comparison) {
  Chart chart{"Measured against predicted",
              "predicted seconds per pass",
              "measured seconds per pass",
              {},
              {},
              false,
              true};
  for (const Sweep sweep : {Sweep::kMemory, Sweep::kDecode}) {
    ChartLine line{sweep == Sweep::kMemory ? "memory sweep" : "shares and batches", {}, false};
    for (const ArmResult& result : comparison.arms) {
      if (result.arm.sweep != sweep || !result.measured()) continue;
      if (result.predicted_seconds() <= 0) continue;
      line.points.push_back(point_of(result, result.predicted_seconds()));
    }
    if (!line.points.empty()) chart.lines.push_back(std::move(line));
  }
  return chart;
}

Chart score_chart(const Comparison& comparison) {
  Chart chart{"Scoring throughput, by tokens per sweep",
              "tokens per sweep",
              "tokens per second",
              {},
              {},
              true,
              false};
  ChartLine measured{"Spillway", {}, true};
  ChartLine predicted{"predicted", {}, true};
  double in_ram = 0;  // tokens per second
  for (const ArmResult& result : comparison.arms) {
    if (result.arm.sweep != Sweep::kScore || !result.measured()) continue;
    if (result.arm.sweep_tokens == 0) {
      in_ram = result.tokens_per_second();
      continue;
    }
    const double tokens = result.samples[0].tokens;
    const Spread seconds = result.seconds();
    measured.points.push_back(
        {tokens, tokens / seconds.median, tokens / seconds.high, tokens / seconds.low});
    const double expected = result.predicted_seconds();
    if (expected > 0) predicted.points.push_back({tokens, tokens / expected, 0, 0});
  }
  if (measured.points.empty()) return chart;
  const double first = measured.points.front().x;
  const double last = measured.points.back().x;
  chart.lines = {measured};
  if (!predicted.points.empty()) chart.lines.push_back(predicted);
  if (in_ram > 0) {
    chart.lines.push_back(
        {"everything in RAM", {{first, in_ram, 0, 0}, {last, in_ram, 0, 0}}, true});
  }
  constexpr double kFar = 16;  // beyond what was measured
  const double crossing = crossing_tokens(comparison);
  if (crossing > first / kFar && crossing < last * kFar) {
    chart.mark = {crossing, fmt::format("computes longer than it reads from {} on",
                                        count_text(static_cast<uint64_t>(std::llround(crossing))))};
  }
  return chart;
}

std::string comparison_page(const Comparison& comparison) {
  const std::string timeline =
      comparison.timeline_svg.empty()
          ? ""
          : figure("<div class=\"wide\">" + comparison.timeline_svg + "</div>",
                   "One decode pass, half of the layers in RAM: reads, computing, waiting.");
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">"
      "<meta name=\"color-scheme\" content=\"light dark\"><title>RAM or NVMe</title>"
      "<style>{}</style></head><body>\n<h1>RAM or NVMe, and how much of each?</h1>\n"
      "<p class=\"answer\">{}</p>\n{}{}{}<h2>All figures</h2>\n{}</body></html>\n",
      kPageStyle, escaped(answer(comparison)), facts(comparison), charts(comparison), timeline,
      results_table(comparison));
}

}  // namespace spillway
