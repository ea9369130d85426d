#include "compare/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "compare/svg.h"

namespace spillway {
namespace {

// Narrow, so that the text is still read on a phone's screen.
constexpr double kWidth = 480;
constexpr double kPlotHeight = 230;
constexpr double kLeft = 48;
constexpr double kRight = 16;
constexpr double kBottom = 48;
constexpr double kLegendTop = 36;
constexpr double kLegendRow = 19;
constexpr size_t kColours = 8;

constexpr const char* kStyle =
    "<style>"
    "svg{font:13px system-ui,sans-serif;background:#fff}text{fill:#222}.m{fill:#666}"
    ".g{stroke:#e3e3e3}.d{stroke:#999;stroke-dasharray:5 4}"
    ".s{fill:none;stroke-width:2.5}.e{stroke-width:1.5}"
    ".c0{--c:#2f6fb7}.c1{--c:#c9622e}.c2{--c:#3b9461}.c3{--c:#8a5fbf}.c4{--c:#a8842c}"
    ".c5{--c:#c2497c}.c6{--c:#4aa3a2}.c7{--c:#7a7a7a}.s,.e{stroke:var(--c)}circle{fill:var(--c)}"
    "@media(prefers-color-scheme:dark){svg{background:#16181c}text{fill:#ddd}.m{fill:#9aa0a8}"
    ".g{stroke:#33363d}.d{stroke:#777}.c0{--c:#6aa7e8}.c1{--c:#ec9163}.c2{--c:#6cc495}"
    ".c3{--c:#b794e6}.c4{--c:#d9b65c}.c5{--c:#ea86b0}.c6{--c:#7fd0cf}"
    ".c7{--c:#b0b0b0}}"
    "@media print{svg{background:#fff}text{fill:#222}}"
    "</style>\n";

/// Where the name of each line stands, row after row.
struct Legend {
  struct Place {
    double x;
    double y;
  };
  std::vector<Place> places;
  double bottom = kLegendTop;
};

Legend lay_out_legend(const Chart& chart) {
  Legend legend;
  double x = kLeft;
  for (const ChartLine& line : chart.lines) {
    const double width = 30 + 7.2 * static_cast<double>(line.name.size());
    if (x > kLeft && x + width > kWidth) {
      x = kLeft;
      legend.bottom += kLegendRow;
    }
    legend.places.push_back({x, legend.bottom});
    x += width;
  }
  return legend;
}

/// Data to picture.
class Scale {
 public:
  Scale(const Chart& chart, double top) : log2_x_(chart.log2_x), top_(top) {
    low_x_ = INFINITY;
    high_x_ = -INFINITY;
    for (const ChartLine& line : chart.lines) {
      for (const ChartPoint& point : line.points) {
        low_x_ = std::min(low_x_, along(point.x));
        high_x_ = std::max(high_x_, along(point.x));
        high_y_ = std::max({high_y_, point.y, point.high});
      }
    }
    if (!log2_x_) low_x_ = std::min(low_x_, 0.0);
    if (chart.diagonal) high_x_ = high_y_ = std::max(high_x_, high_y_);
    if (high_x_ <= low_x_) high_x_ = low_x_ + 1;
    if (high_y_ <= 0) high_y_ = 1;
    y_step_ = tick_step(high_y_, 6);
    high_y_ = y_step_ * std::ceil(high_y_ / y_step_);
    if (chart.diagonal) high_x_ = high_y_;
  }
  double x(double value) const {
    return kLeft + (along(value) - low_x_) / (high_x_ - low_x_) * (kWidth - kLeft - kRight);
  }
  double y(double value) const { return bottom() - value / high_y_ * kPlotHeight; }
  double top() const { return top_; }
  double bottom() const { return top_ + kPlotHeight; }
  double y_step() const { return y_step_; }
  double high_y() const { return high_y_; }
  std::vector<double> x_ticks() const {
    // Multiples of the step, or every doubling.
    const double step = log2_x_ ? 1 : tick_step(high_x_ - low_x_, 6);
    const auto first = static_cast<int>(std::ceil(low_x_ / step));
    const auto last = static_cast<int>(std::floor(high_x_ / step * 1.0001));
    std::vector<double> ticks;
    for (int i = first; i <= last; ++i) {
      ticks.push_back(log2_x_ ? std::exp2(i) : i * step);
    }
    return ticks;
  }

 private:
  double along(double value) const { return log2_x_ ? std::log2(value) : value; }

  bool log2_x_;
  double top_;
  double low_x_ = 0;
  double high_x_ = 0;
  double high_y_ = 0;
  double y_step_ = 0;
};

std::string axes(const Chart& chart, const Scale& scale) {
  std::string svg;
  const auto rows = static_cast<int>(std::lround(scale.high_y() / scale.y_step()));
  for (int i = 0; i <= rows; ++i) {
    const double at = i * scale.y_step();
    svg += fmt::format(
        "<line class=\"g\" x1=\"{0:.0f}\" x2=\"{1:.0f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"m\" x=\"{3:.0f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:g}</text>\n",
        kLeft, kWidth - kRight, scale.y(at), kLeft - 7, scale.y(at) + 4, at);
  }
  for (const double at : chart.x_ticks.empty() ? scale.x_ticks() : chart.x_ticks) {
    svg += fmt::format(
        "<text class=\"m\" x=\"{:.1f}\" y=\"{:.0f}\" text-anchor=\"middle\">{:g}</text>\n",
        scale.x(at), scale.bottom() + 18, at);
  }
  svg += fmt::format(
      "<text class=\"m\" x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\">{}</text>\n"
      "<text class=\"m\" x=\"8\" y=\"{:.0f}\">{}</text>\n",
      (kLeft + kWidth - kRight) / 2, scale.bottom() + kBottom - 8, escaped(chart.x_title),
      scale.top() - 12, escaped(chart.y_title));
  return svg;
}

std::string diagonal(const Scale& scale) {
  std::string svg;
  for (const double slope : {0.9, 1.0, 1.1}) {
    const double x = scale.high_y() / std::max(1.0, slope);
    svg += fmt::format(
        "<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
        slope == 1.0 ? "d" : "g", scale.x(0), scale.y(0), scale.x(x), scale.y(x * slope));
  }
  return svg;
}

std::string line_svg(const ChartLine& line, size_t colour, const Scale& scale) {
  std::string path;
  std::string marks;
  for (const ChartPoint& point : line.points) {
    const double x = scale.x(point.x);
    path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", x, scale.y(point.y));
    if (point.high > point.low) {
      marks += fmt::format(
          "<line class=\"e\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" "
          "y2=\"{2:.1f}\"/>",
          x, scale.y(point.low), scale.y(point.high));
    }
    marks += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\"><title>{}: {:.4g}, "
        "{:.4g}</title></circle>\n",
        x, scale.y(point.y), escaped(line.name), point.x, point.y);
  }
  const std::string stroke =
      line.joined ? fmt::format("<polyline class=\"s\" points=\"{}\"/>\n", path) : "";
  return fmt::format("<g class=\"c{}\">{}{}</g>\n", colour % kColours, stroke, marks);
}

std::string legend_svg(const Chart& chart, const Legend& legend) {
  std::string svg;
  for (size_t i = 0; i < chart.lines.size(); ++i) {
    const Legend::Place& place = legend.places[i];
    svg += fmt::format(
        "<g class=\"c{}\"><circle cx=\"{:.0f}\" cy=\"{:.0f}\" r=\"5\"/></g>"
        "<text x=\"{:.0f}\" y=\"{:.0f}\">{}</text>\n",
        i % kColours, place.x + 5, place.y, place.x + 15, place.y + 4,
        escaped(chart.lines[i].name));
  }
  return svg;
}

}  // namespace

std::string chart_svg(const Chart& chart) {
  const bool any = std::any_of(chart.lines.begin(), chart.lines.end(),
                               [](const ChartLine& line) { return !line.points.empty(); });
  if (!any) return "";
  const Legend legend = lay_out_legend(chart);
  const Scale scale(chart, legend.bottom + 38);
  std::string body = axes(chart, scale);
  if (chart.diagonal) body += diagonal(scale);
  for (size_t i = 0; i < chart.lines.size(); ++i) body += line_svg(chart.lines[i], i, scale);
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\">\n"
      "<title>{}</title>\n{}<text x=\"8\" y=\"18\" font-weight=\"600\">{}</text>\n{}{}</svg>\n",
      kWidth, scale.bottom() + kBottom, escaped(chart.title), kStyle, escaped(chart.title),
      legend_svg(chart, legend), body);
}

}  // namespace spillway
