#include "compare/figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace spillway {

std::string figure_text(double value) {
  constexpr int kMostDecimals = 6;
  const double size = std::abs(value);
  if (size < 0.5e-6) return "0";
  const int decimals =
      std::clamp(2 - static_cast<int>(std::floor(std::log10(size))), 0, kMostDecimals);
  return fmt::format("{:.{}f}", value, decimals);
}

std::string count_text(uint64_t count) {
  std::string text = fmt::to_string(count);
  for (size_t at = text.size(); at > 3;) text.insert(at -= 3, 1, ',');
  return text;
}

std::string times_text(double ratio) {
  if (ratio >= 9.95) return fmt::format("{:.0f} times", ratio);
  if (ratio >= 1.995) return fmt::format("{:.2g} times", ratio);
  return ratio >= 0.095 ? fmt::format("{:.2f} times", ratio) : figure_text(ratio) + " times";
}

std::string deviation_text(double ratio) {
  if (ratio >= 1.995) return times_text(ratio);
  const long percent = std::lround(100 * (ratio - 1));
  return percent == 0 ? "0 %" : fmt::format("{:+} %", percent);
}

std::string rough_duration(double seconds) {
  if (seconds < 0.0995) return fmt::format("{:.2g} ms", std::max(0.01, 1e3 * seconds));
  if (seconds < 9.95) return fmt::format("{:.2g} s", seconds);
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 90 * 60) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

}  // namespace spillway
