// Line charts as SVG: one self-contained picture each, light and dark, readable on a phone.
// Pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace spillway {

struct ChartPoint {
  double x = 0;
  double y = 0;
  double low = 0;  ///< of the spread around y
  double high = 0;
};

struct ChartLine {
  std::string name;
  std::vector<ChartPoint> points;  ///< x ascending
  bool joined = true;              ///< false: marks only
};

/// A place on the x axis: a line up the plot, and what it says above.
struct ChartMark {
  double x = 0;
  std::string label;
};

struct Chart {
  std::string title;
  std::string x_title;
  std::string y_title;
  std::vector<ChartLine> lines;
  std::vector<double> x_ticks;  ///< empty = chosen
  bool log2_x = false;          ///< doubling steps at equal distances; x > 0
  bool diagonal = false;        ///< y = x, and 10 % to both sides
  std::optional<ChartMark> mark = {};
};

/// Empty when no line has a point.
std::string chart_svg(const Chart& chart);

}  // namespace spillway
