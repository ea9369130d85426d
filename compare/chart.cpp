#include "compare/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <sstream>

#include "compare/figures.h"
#include "compare/svg.h"

namespace spillway {
namespace {

// Narrow, and laid out for the largest text, so that it is still read on a phone's screen.
constexpr double kWidth = 480;
constexpr double kPlotHeight = 240;
constexpr double kEdge = 8;
constexpr double kRight = 28;
constexpr double kBottom = 58;
constexpr double kRow = 22;         // of text
constexpr double kCharacter = 9.4;  // width of one, of the largest text
constexpr double kTickGap = 10;     // between two labels
constexpr size_t kColours = 8;

constexpr const char* kStyle =
    "<style>"
    ".chart{font:13px system-ui,sans-serif;background:#fff}"
    // The picture is as wide as a phone, or half a desktop: text keeps about its size.
    "@media(max-width:480px){.chart{font-size:17px}}"
    "@media(min-width:1300px){.chart{font-size:11px}}"
    ".chart text{fill:#222}.chart .m{fill:#666}"
    ".g{stroke:#e3e3e3}.d{stroke:#999;stroke-dasharray:5 4}"
    ".s{fill:none;stroke-width:2.5}.e{stroke-width:1.5}"
    ".c0{--c:#2f6fb7}.c1{--c:#c9622e}.c2{--c:#3b9461}.c3{--c:#8a5fbf}.c4{--c:#a8842c}"
    ".c5{--c:#c2497c}.c6{--c:#4aa3a2}.c7{--c:#7a7a7a}.s,.e{stroke:var(--c)}circle{fill:var(--c)}"
    "@media(prefers-color-scheme:dark){.chart{background:#16181c}.chart text{fill:#ddd}"
    ".chart .m{fill:#9aa0a8}"
    ".g{stroke:#33363d}.d{stroke:#777}.c0{--c:#6aa7e8}.c1{--c:#ec9163}.c2{--c:#6cc495}"
    ".c3{--c:#b794e6}.c4{--c:#d9b65c}.c5{--c:#ea86b0}.c6{--c:#7fd0cf}"
    ".c7{--c:#b0b0b0}}"
    "@media print{.chart{background:#fff;font-size:11px}.chart text,.chart .m{fill:#222}}"
    "</style>\n";

double width_of(const std::string& text) {
  return kCharacter * static_cast<double>(text.size());
}

/// A title, word by word, in rows that fit.
std::vector<std::string> rows_of(const std::string& title) {
  std::vector<std::string> rows;
  std::istringstream words(title);
  for (std::string word; words >> word;) {
    if (rows.empty() || width_of(rows.back() + " " + word) > kWidth - 2 * kEdge) {
      rows.push_back(word);
    } else {
      rows.back() += " " + word;
    }
  }
  return rows;
}

/// Where the name of each line stands, row after row.
struct Legend {
  struct Place {
    double x;
    double y;
  };
  std::vector<Place> places;
  double bottom = 0;
};

Legend lay_out_legend(const Chart& chart, double top) {
  Legend legend;
  legend.bottom = top;
  double x = kEdge;
  for (const ChartLine& line : chart.lines) {
    const double width = 40 + width_of(line.name);
    if (x > kEdge && x + width > kWidth) {
      x = kEdge;
      legend.bottom += kRow;
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
    if (chart.mark) {
      low_x_ = std::min(low_x_, along(chart.mark->x));
      high_x_ = std::max(high_x_, along(chart.mark->x));
    }
    if (!log2_x_) low_x_ = std::min(low_x_, 0.0);
    if (chart.diagonal) high_x_ = high_y_ = std::max(high_x_, high_y_);
    if (high_x_ <= low_x_) high_x_ = low_x_ + 1;
    if (high_y_ <= 0) high_y_ = 1;
    y_step_ = tick_step(high_y_, 6);
    high_y_ = y_step_ * std::ceil(high_y_ / y_step_);
    if (chart.diagonal) high_x_ = high_y_;
    left_ = 18 + width_of(tick_text(high_y_, y_step_));
  }
  double left() const { return left_; }
  double x(double value) const {
    return left_ + (along(value) - low_x_) / (high_x_ - low_x_) * (kWidth - left_ - kRight);
  }
  double y(double value) const { return bottom() - value / high_y_ * kPlotHeight; }
  double top() const { return top_; }
  double bottom() const { return top_ + kPlotHeight; }
  double y_step() const { return y_step_; }
  double high_y() const { return high_y_; }
  /// Between two labels; with doublings there is no such.
  double x_step() const { return tick_step(high_x_ - low_x_, 6); }
  std::vector<double> x_ticks() const {
    // Multiples of the step, or every doubling.
    const double step = log2_x_ ? 1 : x_step();
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
  double left_ = 0;
};

/// Labels below the plot; one that would touch the one before it is left out.
std::string x_labels(const Chart& chart, const Scale& scale) {
  const bool chosen = chart.x_ticks.empty();
  std::string svg;
  double free_from = -kWidth;
  for (const double at : chosen ? scale.x_ticks() : chart.x_ticks) {
    const bool stepped = chosen && !chart.log2_x;
    const std::string label = stepped ? tick_text(at, scale.x_step()) : fmt::format("{:.6g}", at);
    const double half = width_of(label) / 2;
    if (scale.x(at) - half < free_from) continue;
    free_from = scale.x(at) + half + kTickGap;
    svg += fmt::format(
        "<text class=\"m\" x=\"{:.1f}\" y=\"{:.0f}\" text-anchor=\"middle\">{}</text>\n",
        scale.x(at), scale.bottom() + 24, label);
  }
  return svg;
}

std::string axes(const Chart& chart, const Scale& scale) {
  std::string svg;
  const auto rows = static_cast<int>(std::lround(scale.high_y() / scale.y_step()));
  for (int i = 0; i <= rows; ++i) {
    const double at = i * scale.y_step();
    svg += fmt::format(
        "<line class=\"g\" x1=\"{0:.0f}\" x2=\"{1:.0f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"m\" x=\"{3:.0f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>\n",
        scale.left(), kWidth - kRight, scale.y(at), scale.left() - 8, scale.y(at) + 5,
        tick_text(at, scale.y_step()));
  }
  svg += x_labels(chart, scale);
  svg += fmt::format(
      "<text class=\"m\" x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\">{}</text>\n"
      "<text class=\"m\" x=\"{:.0f}\" y=\"{:.0f}\">{}</text>\n",
      (scale.left() + kWidth - kRight) / 2, scale.bottom() + kBottom - 10, escaped(chart.x_title),
      kEdge, scale.top() - 18 - (chart.mark ? kRow : 0), escaped(chart.y_title));
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

std::string mark_svg(const ChartMark& mark, const Scale& scale) {
  const double half = width_of(mark.label) / 2;
  const double x = scale.x(mark.x);
  return fmt::format(
      "<line class=\"d\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>"
      "<text class=\"m\" x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"middle\">{5}</text>\n",
      x, scale.top() - 12, scale.bottom(),
      std::clamp(x, kEdge + half, std::max(kEdge + half, kWidth - kEdge - half)), scale.top() - 18,
      escaped(mark.label));
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
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\"><title>{}: {}, "
        "{}</title></circle>\n",
        x, scale.y(point.y), escaped(line.name), figure_text(point.x), figure_text(point.y));
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
  const std::vector<std::string> title = rows_of(chart.title);
  const Legend legend = lay_out_legend(chart, 20 + kRow * static_cast<double>(title.size()));
  const Scale scale(chart, legend.bottom + (chart.mark ? 3 : 2) * kRow);
  std::string body;
  for (size_t i = 0; i < title.size(); ++i) {
    body += fmt::format("<text x=\"{:.0f}\" y=\"{:.0f}\" font-weight=\"600\">{}</text>\n", kEdge,
                        20 + kRow * static_cast<double>(i), escaped(title[i]));
  }
  body += legend_svg(chart, legend) + axes(chart, scale);
  if (chart.diagonal) body += diagonal(scale);
  if (chart.mark) body += mark_svg(*chart.mark, scale);
  for (size_t i = 0; i < chart.lines.size(); ++i) body += line_svg(chart.lines[i], i, scale);
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" class=\"chart\" "
      "role=\"img\">\n<title>{}</title>\n{}{}</svg>\n",
      kWidth, scale.bottom() + kBottom, escaped(chart.title), kStyle, body);
}

}  // namespace spillway
