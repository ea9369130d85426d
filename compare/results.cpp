#include "compare/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "compare/answer.h"
#include "core/error.h"

namespace spillway {
namespace {

using Json = nlohmann::ordered_json;

double median_of(std::vector<double> values) {
  return spread_of(std::move(values)).median;
}

struct Pass {
  double seconds = 0;
  double nvme_bytes = 0;
  double stall_seconds = 0;
  uint32_t tokens = 0;
};

std::vector<Pass> passes_of(const nlohmann::json& report, const char* kind) {
  std::vector<Pass> passes;
  for (const auto& item : report.at("passes")) {
    if (item.at("kind") != kind) continue;
    passes.push_back(
        {item.at("seconds"), item.at("nvme_bytes"), item.at("stall_seconds"), item.at("tokens")});
  }
  return passes;
}

double predicted_seconds(const nlohmann::json& report, const char* what) {
  if (!report.contains("prediction")) return 0;
  return report["prediction"].at(what).at("seconds");
}

Sample prompt_sample(const nlohmann::json& report) {
  const auto passes = passes_of(report, "prefill");
  if (passes.empty()) throw Error("the run was stopped before its prompt was through");
  Sample sample;
  for (const Pass& pass : passes) {
    sample.seconds += pass.seconds;
    sample.nvme_bytes += pass.nvme_bytes;
    sample.stall_seconds += pass.stall_seconds;
    sample.tokens += pass.tokens;
  }
  sample.predicted_seconds =
      static_cast<double>(passes.size()) * predicted_seconds(report, "prompt");
  return sample;
}

Sample decode_sample(const nlohmann::json& report) {
  auto passes = passes_of(report, "decode");
  if (passes.size() < 2) throw Error("the run was stopped before its passes were through");
  passes.erase(passes.begin());  // it follows the prompt
  const auto median = [&](double Pass::*member) {
    std::vector<double> values;
    values.reserve(passes.size());
    for (const Pass& pass : passes) values.push_back(pass.*member);
    return median_of(std::move(values));
  };
  Sample sample;
  sample.seconds = median(&Pass::seconds);
  sample.nvme_bytes = median(&Pass::nvme_bytes);
  sample.stall_seconds = median(&Pass::stall_seconds);
  sample.tokens = passes[0].tokens;
  sample.predicted_seconds = predicted_seconds(report, "decode");
  return sample;
}

Sample score_sample(const nlohmann::json& report) {
  const auto passes = passes_of(report, "score");
  if (passes.empty() || report.at("interrupted").get<bool>()) {
    throw Error("the run was stopped before its texts were through");
  }
  double tokens = 0;
  Sample sample;
  for (const Pass& pass : passes) {
    sample.seconds += pass.seconds;
    sample.nvme_bytes += pass.nvme_bytes;
    sample.stall_seconds += pass.stall_seconds;
    tokens += pass.tokens;
  }
  sample.tokens = passes[0].tokens;
  const double share = sample.tokens / tokens;  // the last may be shorter
  sample.seconds *= share;
  sample.nvme_bytes *= share;
  sample.stall_seconds *= share;
  if (!report.contains("prediction")) return sample;
  const auto& predicted = report["prediction"].at("prompt");
  const double of_predicted = sample.tokens / predicted.at("tokens").get<double>();
  sample.predicted_seconds = of_predicted * predicted.at("seconds").get<double>();
  sample.predicted_read_seconds = of_predicted * predicted.at("nvme_seconds").get<double>();
  sample.predicted_compute_seconds = of_predicted * predicted.at("compute_seconds").get<double>();
  return sample;
}

std::vector<double> values_of(const std::vector<Sample>& samples, double Sample::*member) {
  std::vector<double> values;
  values.reserve(samples.size());
  for (const Sample& sample : samples) values.push_back(sample.*member);
  return values;
}

double median_over(const std::vector<Sample>& samples, double Sample::*member) {
  return median_of(values_of(samples, member));
}

std::string quoted(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

Json arm_json(const ArmResult& result) {
  const Arm& arm = result.arm;
  Json json = {{"name", arm.name()},
               {"sweep", sweep_name(arm.sweep)},
               {"engine", arm.mapped ? "mmap" : "spillway"},
               {"batch", arm.batch}};
  if (arm.sweep == Sweep::kScore && arm.sweep_tokens > 0) {
    json["sweep_tokens"] = arm.sweep_tokens;
    if (arm.memory_bytes > 0) json["memory_bytes"] = arm.memory_bytes;
  } else if (arm.sweep == Sweep::kMemory) {
    json["memory_bytes"] = arm.memory_bytes;
  } else {
    json["ram_share"] = arm.ram_share;
  }
  if (!result.skipped.empty()) json["skipped"] = result.skipped;
  if (!result.measured()) return json;
  const Spread seconds = result.seconds();
  Json values = Json::array();
  for (const Sample& sample : result.samples) values.push_back(sample.seconds);
  json["seconds_per_pass"] = {
      {"min", seconds.low}, {"median", seconds.median}, {"max", seconds.high}, {"values", values}};
  json["tokens_per_pass"] = result.samples[0].tokens;
  json["tokens_per_second"] = result.tokens_per_second();
  json["nvme_bytes_per_pass"] = result.nvme_bytes();
  json["stall_seconds_per_pass"] = median_over(result.samples, &Sample::stall_seconds);
  json["peak_rss_bytes"] = result.samples[0].peak_rss_bytes;
  if (result.predicted_seconds() > 0) {
    json["predicted_seconds"] = result.predicted_seconds();
    json["of_predicted"] = seconds.median / result.predicted_seconds();
  }
  return json;
}

}  // namespace

Sample sample_of(const nlohmann::json& report, Sweep sweep) {
  try {
    Sample sample = sweep == Sweep::kPrompt  ? prompt_sample(report)
                    : sweep == Sweep::kScore ? score_sample(report)
                                             : decode_sample(report);
    sample.peak_rss_bytes = report.at("memory").at("peak_rss_bytes");
    return sample;
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("its report cannot be used: {}", error.what()));
  }
}

Spread spread_of(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {values.front(), median, values.back()};
}

Spread ArmResult::seconds() const {
  return spread_of(values_of(samples, &Sample::seconds));
}

double ArmResult::tokens_per_second() const {
  return samples[0].tokens / seconds().median;
}

double ArmResult::nvme_bytes() const {
  return median_over(samples, &Sample::nvme_bytes);
}

double ArmResult::predicted_seconds() const {
  return median_over(samples, &Sample::predicted_seconds);
}

double crossing_tokens(const Comparison& comparison) {
  struct Point {
    double tokens;
    double reading;  // over computing
  };
  std::vector<Point> points;
  for (const ArmResult& result : comparison.arms) {
    if (result.arm.sweep != Sweep::kScore || !result.measured()) continue;
    const double reading = median_over(result.samples, &Sample::predicted_read_seconds);
    const double computing = median_over(result.samples, &Sample::predicted_compute_seconds);
    if (reading <= 0 || computing <= 0) continue;
    points.push_back({static_cast<double>(result.samples[0].tokens), reading / computing});
  }
  if (points.empty()) return 0;
  std::sort(points.begin(), points.end(),
            [](const Point& a, const Point& b) { return a.tokens < b.tokens; });
  const auto hidden = std::find_if(points.begin(), points.end(),
                                   [](const Point& point) { return point.reading <= 1; });
  if (hidden == points.begin()) return hidden->tokens * hidden->reading;
  const Point& above = *(hidden - 1);
  if (hidden == points.end()) return above.tokens * above.reading;
  const double share = std::log(above.reading) / std::log(above.reading / hidden->reading);
  return above.tokens * std::pow(hidden->tokens / above.tokens, share);
}

Json comparison_json(const Comparison& comparison) {
  Json arms = Json::array();
  for (const ArmResult& result : comparison.arms) arms.push_back(arm_json(result));
  Json json = {{"version", comparison.version},
               {"machine", comparison.machine},
               {"model", comparison.model},
               {"answer", answer(comparison)},
               {"measured_at", comparison.measured_at},
               {"repeats", comparison.repeats},
               {"interrupted", comparison.interrupted},
               {"notes", comparison.notes},
               {"arms", arms}};
  if (const double tokens = crossing_tokens(comparison); tokens > 0) {
    json["predicted_crossing_tokens_per_sweep"] = tokens;
  }
  return json;
}

std::string comparison_csv(const Comparison& comparison) {
  std::string text =
      "sweep,engine,ram_share,memory_bytes,batch,tokens_per_pass,seconds_min,seconds_median,"
      "seconds_max,tokens_per_second,nvme_bytes_per_pass,predicted_seconds,sweep_tokens,skipped\n";
  for (const ArmResult& result : comparison.arms) {
    const Arm& arm = result.arm;
    const bool score = arm.sweep == Sweep::kScore && arm.sweep_tokens > 0;
    const bool memory = arm.sweep == Sweep::kMemory || score;
    text += fmt::format("{},{},{},{},{},", sweep_name(arm.sweep), arm.mapped ? "mmap" : "spillway",
                        memory ? "" : fmt::format("{:g}", arm.ram_share),
                        memory && arm.memory_bytes > 0 ? fmt::to_string(arm.memory_bytes) : "",
                        arm.batch);
    if (result.measured()) {
      const Spread seconds = result.seconds();
      text += fmt::format(
          "{},{:.6g},{:.6g},{:.6g},{:.6g},{:.0f},{},", result.samples[0].tokens, seconds.low,
          seconds.median, seconds.high, result.tokens_per_second(), result.nvme_bytes(),
          result.predicted_seconds() > 0 ? fmt::format("{:.6g}", result.predicted_seconds()) : "");
    } else {
      text += ",,,,,,,";
    }
    text += (score ? fmt::to_string(arm.sweep_tokens) : "") + "," + quoted(result.skipped) + "\n";
  }
  return text;
}

}  // namespace spillway
