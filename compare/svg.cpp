#include "compare/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace spillway {

OutputFormat svg_format(const std::string& what) {
  return {what, R"(<svgxmlns="http://www.w3.org/2000/svg"viewBox="00*role="img">*<style>)"};
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (static_cast<unsigned char>(c) >= 0x20) {
      out += c;
    }
  }
  return out;
}

std::string tick_text(double value, double step) {
  // A little above, for 0.1 is not quite a power of ten.
  const int decimals = std::max(0, -static_cast<int>(std::floor(std::log10(step) + 1e-9)));
  return fmt::format("{:.{}f}", value, std::min(decimals, 9));
}

double tick_step(double length, int ticks) {
  const double rough = length / ticks;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

}  // namespace spillway
