#include "core/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

namespace spillway {
namespace {

std::optional<double> unit_factor(std::string unit) {
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (unit.empty() || unit == "b") return 1.0;
  constexpr std::string_view kPrefixes = "kmgtp";
  const size_t power = kPrefixes.find(unit[0]);
  if (power == std::string_view::npos) return std::nullopt;
  const double exponent = static_cast<double>(power + 1);
  const std::string rest = unit.substr(1);
  if (rest.empty() || rest == "i" || rest == "ib") return std::pow(1024.0, exponent);
  if (rest == "b") return std::pow(1000.0, exponent);
  return std::nullopt;
}

struct InUnit {
  double value;
  int decimals;  // that leave three digits
  const char* unit;
};

InUnit in_unit(uint64_t bytes) {
  double value = static_cast<double>(bytes);
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < std::size(units)) {
    value /= 1024.0;
    ++unit;
  }
  return {value, value < 10 ? 2 : value < 100 ? 1 : 0, units[unit]};
}

}  // namespace

std::optional<uint64_t> parse_size(std::string_view text) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(number) || number < 0) return std::nullopt;
  std::string unit(rest, end);
  unit.erase(0, unit.find_first_not_of(' ') == std::string::npos ? unit.size()
                                                                 : unit.find_first_not_of(' '));
  const std::optional<double> factor = unit_factor(unit);
  if (!factor) return std::nullopt;
  const double bytes = number * *factor;
  if (bytes > 9e18) return std::nullopt;
  return static_cast<uint64_t>(std::llround(bytes));
}

std::string counted(uint64_t count, std::string_view thing) {
  return fmt::format("{} {}{}", count, thing, count == 1 ? "" : "s");
}

std::string format_bytes(uint64_t bytes) {
  if (bytes < kKiB) return fmt::format("{} B", bytes);
  const InUnit scaled = in_unit(bytes);
  return fmt::format("{:.{}f} {}", scaled.value, scaled.decimals, scaled.unit);
}

std::string format_bytes_up(uint64_t bytes) {
  if (bytes < kKiB) return format_bytes(bytes);
  const InUnit scaled = in_unit(bytes);
  const double steps = std::pow(10.0, scaled.decimals);
  return fmt::format("{:.{}f} {}", std::ceil(scaled.value * steps) / steps, scaled.decimals,
                     scaled.unit);
}

}  // namespace spillway
