#include "cli/predicted.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/terminal.h"
#include "compare/results.h"

namespace spillway {
namespace {

using Json = nlohmann::ordered_json;

MeasuredPass median_of(const std::vector<const PassRecord*>& passes) {
  MeasuredPass result;
  if (passes.empty()) return result;
  const auto of = [&](auto value) {
    std::vector<double> values;
    values.reserve(passes.size());
    for (const PassRecord* pass : passes) values.push_back(value(*pass));
    return spread_of(std::move(values)).median;
  };
  result.passes = static_cast<uint32_t>(passes.size());
  result.seconds = of([](const PassRecord& p) { return p.seconds; });
  result.nvme_bytes_per_second =
      of([](const PassRecord& p) { return static_cast<double>(p.feed.nvme_bytes) / p.seconds; });
  result.copied_bytes_per_second =
      of([](const PassRecord& p) { return static_cast<double>(p.feed.copied_bytes) / p.seconds; });
  result.stall_seconds = of([](const PassRecord& p) { return seconds(p.waited_ns()); });
  result.compute_seconds =
      of([](const PassRecord& p) { return p.seconds - seconds(p.waited_ns()); });
  return result;
}

/// Passes of texts whose tokens differ by no more from the predicted ones' are compared with them.
constexpr double kFilledAlike = 0.05;
/// Beyond this a ratio says no more than that the two have nothing to do with each other.
constexpr double kMostTimes = 1000;

/// "97 %", "3.1 times"; empty where there is nothing to be a share of.
std::string share(double value, double of) {
  const double ratio = of > 0 ? value / of : 0;
  if (ratio <= 0 || ratio >= kMostTimes) return "";
  if (ratio < 2) return fmt::format("{:.0f} %", 100 * ratio);
  return fmt::format("{:.{}f} times", ratio, ratio < 10 ? 1 : 0);
}

/// "1.234 s", "5.67 ms". What is computed as a difference may be a rounding below nothing.
std::string duration(double seconds) {
  if (seconds < 0.5e-6) return "0 s";
  if (seconds < 0.0995) return fmt::format("{:.3g} ms", 1e3 * seconds);
  return fmt::format("{:.3f} s", seconds);
}

/// Lines of one kind of pass.
void add_rows(Table& table, const char* what, const PassPrediction& predicted,
              const MeasuredPass& measured, const Forecast& forecast) {
  if (measured.passes == 0) return;
  const auto rate = [](double value) { return fmt::format("{:.2f} GB/s", value / 1e9); };
  table.row({what, "time per pass", duration(predicted.seconds), duration(measured.seconds),
             share(measured.seconds, predicted.seconds), ""});
  const auto link = [&](const char* name, double rate_predicted, double rate_measured,
                        double limit) {
    if (rate_predicted <= 0) return;
    table.row({"", name, rate(rate_predicted), rate(rate_measured),
               share(rate_measured, rate_predicted),
               limit > 0 ? fmt::format("{} of {}", share(rate_measured, limit), rate(limit)) : ""});
  };
  link("NVMe", predicted.nvme_bytes_per_second, measured.nvme_bytes_per_second,
       forecast.drive_rate);
  link("copies", predicted.copied_bytes_per_second, measured.copied_bytes_per_second,
       forecast.copy_rate);
  table.row({"", "computing", duration(predicted.compute_seconds),
             duration(measured.compute_seconds),
             share(measured.compute_seconds, predicted.compute_seconds), ""});
  const double waiting = predicted.seconds - predicted.compute_seconds;
  table.row({"", "stalled", duration(waiting), duration(measured.stall_seconds), "", ""});
}

Json measured_json(const MeasuredPass& measured, const PassPrediction& predicted) {
  if (measured.passes == 0) return nullptr;
  return {{"passes", measured.passes},
          {"seconds", measured.seconds},
          {"of_predicted", measured.seconds / predicted.seconds},
          {"nvme_bytes_per_second", measured.nvme_bytes_per_second},
          {"copied_bytes_per_second", measured.copied_bytes_per_second},
          {"compute_seconds", measured.compute_seconds},
          {"stall_seconds", measured.stall_seconds}};
}

}  // namespace

MeasuredPass measured_decode(const std::vector<PassRecord>& passes, const Forecast& forecast) {
  std::vector<const PassRecord*> chosen;
  bool first = true;
  for (const PassRecord& pass : passes) {
    if (pass.kind != PassRecord::Kind::kDecode || pass.tokens != forecast.decode_rows) continue;
    if (!std::exchange(first, false)) chosen.push_back(&pass);
  }
  return median_of(chosen);
}

MeasuredPass measured_prompt(const std::vector<PassRecord>& passes, const Forecast& forecast) {
  std::vector<const PassRecord*> chosen;
  for (const PassRecord& pass : passes) {
    const bool decode = pass.kind == PassRecord::Kind::kDecode;
    // Texts that are scored do not fill every pass.
    const double filled = 1.0 * pass.tokens / std::max(1u, forecast.prompt_rows);
    const bool alike = pass.kind == PassRecord::Kind::kScore ? std::abs(filled - 1) <= kFilledAlike
                                                             : pass.tokens == forecast.prompt_rows;
    if (!decode && alike) chosen.push_back(&pass);
  }
  return median_of(chosen);
}

std::string predicted_and_measured_text(const Forecast& forecast,
                                        const std::vector<PassRecord>& passes) {
  Table table("llrrrl");
  table.row({"pass", "", "predicted", "measured", "of predicted", "of the link's"});
  add_rows(table, "prompt", forecast.prompt, measured_prompt(passes, forecast), forecast);
  add_rows(table, "decode", forecast.decode, measured_decode(passes, forecast), forecast);
  std::string text = table.text();
  return std::count(text.begin(), text.end(), '\n') > 1 ? text : "";
}

Json predicted_and_measured_json(const Forecast& forecast, const std::vector<PassRecord>& passes) {
  Json json = forecast_json(forecast);
  json["measured"] = {
      {"decode", measured_json(measured_decode(passes, forecast), forecast.decode)},
      {"prompt", measured_json(measured_prompt(passes, forecast), forecast.prompt)}};
  return json;
}

}  // namespace spillway
