#include "cli/forecast.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/profile_path.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/units.h"
#include "core/user_path.h"
#include "kernels/host/cpu_features.h"
#include "probe/profile.h"

namespace spillway {
namespace {

using Json = nlohmann::ordered_json;

Hardware this_machine(const Model& model) {
  return {drive_name(model.checkpoint.directory()), cpu_name(), usable_cores(), ""};
}

/// What probe kept for this machine. One that is damaged costs the prediction, not the plan.
std::optional<HardwareProfile> kept_profile(const Hardware& here, const std::string& directory,
                                            const NoticeSink& notice) {
  std::string problem = "no hardware profile of this machine";
  try {
    if (const auto file = default_profile_path(here); !file.empty()) {
      if (auto profile = read_profile(file)) return profile;
    }
  } catch (const Error& error) {
    problem = error.what();
  }
  notice(
      fmt::format("{}: placed by capacity alone; `spillway probe --path {}` measures the machine, "
                  "and plan then predicts speed",
                  problem, shell_word(directory)));
  return std::nullopt;
}

/// Drives fill up and machines get neighbours.
constexpr int kOldDays = 30;

void say_if_old(const HardwareProfile& profile, const NoticeSink& notice) {
  std::tm time{};
  std::istringstream text(profile.measured_at);
  text >> std::get_time(&time, "%Y-%m-%dT%H:%M:%SZ");
  if (!text) return;
  const auto days = static_cast<int>(std::difftime(std::time(nullptr), timegm(&time)) / 86400);
  if (days < kOldDays) return;
  notice(fmt::format("the hardware profile is {} days old; spillway probe measures anew", days));
}

/// The profile to use; empty after a notice.
std::optional<HardwareProfile> find_profile(const std::string& file, const Hardware& here,
                                            const Model& model, const NoticeSink& notice) {
  const std::string directory = model.checkpoint.directory().string();
  if (file.empty()) return kept_profile(here, directory, notice);
  auto profile = read_profile(file);
  if (!profile)
    throw Error(
        fmt::format("--profile {}: no such file; spillway probe --out FILE writes one", file));
  const auto differs = [&](const char* what, const std::string& theirs, const std::string& ours) {
    if (theirs == ours) return;
    notice(
        fmt::format("the profile {} is of another {} ({}; here {}): predictions are for that one",
                    file, what, theirs, ours));
  };
  differs("drive", profile->hardware.drive, here.drive);
  differs("CPU",
          fmt::format("{}, {}", profile->hardware.cpu, counted(profile->hardware.cores, "core")),
          fmt::format("{}, {}", here.cpu, counted(here.cores, "core")));
  return profile;
}

std::vector<RowRate> row_rates(const MatmulRate& matmul) {
  std::vector<RowRate> rates;
  rates.reserve(matmul.rows.size());
  for (const MatmulRate::Rows& entry : matmul.rows) {
    rates.push_back({entry.rows, entry.weight_bytes_per_second, entry.start_seconds,
                     entry.output_seconds, entry.beside_reads, entry.read_share});
  }
  return rates;
}

MachineRates rates_of(const HardwareProfile& profile, const DeviceRates& device,
                      const MatmulRate& matmul) {
  MachineRates rates;
  for (const ReadSample& sample : engine_reads(profile)) {
    rates.reads.push_back({sample.shape.chunk_bytes, sample.shape.depth, sample.bytes_per_second});
  }
  rates.copy_bytes = device.pinned_to_device;
  rates.matmuls = row_rates(matmul);
  for (const MatmulRate& other : device.matmuls) {
    if (other.format != matmul.format) rates.others[other.format] = row_rates(other);
  }
  rates.operation_seconds = device.operation_seconds;
  rates.attention_seconds = device.attention_seconds;
  rates.score_seconds = device.score_seconds;
  rates.value_seconds = device.value_seconds;
  rates.gated_seconds = device.gated_seconds;
  if (device.layer_share > 0) rates.layer_share = device.layer_share;
  if (const auto& wide = device.wide_memory) {
    rates.wide_memory = {wide->usual_bytes, wide->bytes, wide->more_seconds_per_byte};
  }
  return rates;
}

/// A drive that steps down after a while is taken as it is then; what a run found since counts.
KnownRates known_rates(const HardwareProfile& profile, const DeviceRates& device,
                       const MatmulRate& matmul) {
  KnownRates known;
  known.measured_at = profile.measured_at;
  known.read_engine = profile.read_engine;
  known.probed = rates_of(profile, device, matmul);
  known.rates = known.probed;
  double best = 0;
  for (const ReadSample& sample : profile.reads) best = std::max(best, sample.bytes_per_second);
  known.sustained_share = std::min(1.0, profile.sustained_bytes_per_second.value_or(best) / best);
  if (profile.history.empty()) {
    known.take_drive_change(1, profile.measured_at);
    return known;
  }
  const DriveReading& last = profile.history.back();
  const ReadShape& shape = last.sample.shape;
  const double probed = known.probed.read_of(shape.chunk_bytes, shape.depth);
  known.take_drive_change(last.sample.bytes_per_second / probed, last.measured_at);
  return known;
}

/// Of a matmul of `rows`.
double change_of(const std::vector<ComputeChange>& changes, uint32_t rows) {
  const auto above = std::find_if(changes.begin(), changes.end(),
                                  [&](const ComputeChange& change) { return change.rows >= rows; });
  if (above == changes.end()) return changes.back().factor;
  if (above == changes.begin()) return above->factor;
  const ComputeChange& below = *(above - 1);
  const auto log_of = [&](uint32_t count) { return std::log(1.0 * count / below.rows); };
  return below.factor + log_of(rows) / log_of(above->rows) * (above->factor - below.factor);
}

/// Seconds per decode pass with another budget; 0 where that changes nothing.
double with_budget(const Config& config, const KnownRates& known, const Model& model,
                   const Machine& machine, const Workload& workload, const Forecast& forecast) {
  const RunPlan plan = plan_run(config, model, machine, workload);
  const bool unified = machine.device->unified();
  const double seconds =
      predict_pass(model, plan, unified, decode_shape(workload), known.rates).seconds;
  return seconds < 0.999 * forecast.decode.seconds ? seconds : 0;
}

Json pass_json(const PassPrediction& pass, uint32_t rows, const Forecast& forecast) {
  return {{"tokens", rows},
          {"seconds", pass.seconds},
          {"tokens_per_second", rows / pass.seconds},
          {"bottleneck", pass.bottleneck},
          {"limit", bottleneck_text(pass, forecast)},
          {"nvme_seconds", pass.read_seconds},
          {"copy_seconds", pass.copy_seconds},
          {"compute_seconds", pass.compute_seconds},
          {"nvme_bytes_per_second", pass.nvme_bytes_per_second},
          {"copied_bytes_per_second", pass.copied_bytes_per_second}};
}

}  // namespace

std::optional<KnownRates> find_rates(const std::string& file, const Model& model,
                                     const Machine& machine, const NoticeSink& notice) {
  const Hardware here = this_machine(model);
  const auto profile = find_profile(file, here, model, notice);
  if (!profile) return std::nullopt;
  say_if_old(*profile, notice);
  const std::string name = machine.device->name();
  const WeightFormat format = model.weights.matrix_formats().front().format;
  for (const DeviceRates& device : profile->devices) {
    if (device.device != name) continue;
    if (!machine.device->unified() && device.pinned_to_device <= 0) break;
    if (name.rfind("cuda", 0) == 0 && profile->hardware.gpu != machine.ops->description()) break;
    for (const MatmulRate& rate : device.matmuls) {
      if (rate.format != format) continue;
      KnownRates known = known_rates(*profile, device, rate);
      known.format = format;
      if (file.empty()) known.file = default_profile_path(here);
      return known;
    }
  }
  notice(fmt::format(
      "the hardware profile has no figures for {} and {} weights: placed by capacity alone; run "
      "spillway probe --device {}",
      name, format_name(format), name));
  return std::nullopt;
}

void KnownRates::take_drive_change(double change, const std::string& when) {
  drive_change = change;
  drive_measured_at = when;
  const double factor = std::min(change, sustained_share * std::max(1.0, change));
  rates.reads = probed.reads;
  for (ReadRate& read : rates.reads) read.bytes_per_second *= factor;
}

void KnownRates::take_compute_changes(const std::vector<ComputeChange>& changes) {
  const auto take = [&](std::vector<RowRate>& matmuls) {
    for (RowRate& rate : matmuls) {
      const double change = change_of(changes, rate.rows);
      rate.weight_bytes_per_second *= change;
      rate.beside_reads *= change;
      rate.start_seconds /= change;
      rate.output_seconds /= change;
    }
  };
  rates.matmuls = probed.matmuls;
  take(rates.matmuls);
  rates.others = probed.others;
  for (auto& [other, matmuls] : rates.others) take(matmuls);
  rates.operation_seconds = probed.operation_seconds / change_of(changes, 1);
  const double prompts = change_of(changes, rates.matmuls.back().rows);
  rates.attention_seconds = probed.attention_seconds / prompts;
  rates.score_seconds = probed.score_seconds / prompts;
  rates.value_seconds = probed.value_seconds / prompts;
  rates.gated_seconds = probed.gated_seconds / prompts;
  rates.wide_memory = probed.wide_memory;
  if (rates.wide_memory) rates.wide_memory->more_seconds_per_byte /= change_of(changes, 1);
}

PlannedRun plan_with(const std::optional<KnownRates>& known, const Config& config,
                     const Model& model, const Machine& machine, const Workload& workload,
                     const WorkAmount& amount) {
  const bool mapped = config.io_engine == EngineChoice::kMmap;  // nobody can predict a page cache
  if (!known || mapped) return {plan_run(config, model, machine, workload), config, std::nullopt};
  ChosenPlan chosen = choose_plan(config, model, machine, workload, amount, known->rates);
  Forecast forecast;
  forecast.decode = chosen.decode;
  forecast.prompt = chosen.prompt;
  forecast.decode_rows = chosen.decode_rows;
  forecast.prompt_rows = chosen.prompt_rows;
  forecast.chunk_rows = chosen.chunk_rows;
  forecast.drive_rate = known->rates.best_read();
  forecast.copy_rate = known->rates.copy_bytes;
  forecast.measured_at = known->measured_at;
  forecast.drive_measured_at = known->drive_measured_at;
  forecast.drive_change = known->drive_change;
  forecast.candidates = chosen.candidates;
  return {std::move(chosen.plan), std::move(chosen.config), forecast};
}

void add_what_more_memory_brings(PlannedRun& planned, const KnownRates& known, const Model& model,
                                 const Machine& machine, const Workload& workload) {
  Forecast& forecast = *planned.forecast;
  Config more = planned.config;
  more.ram_bytes = planned.plan.ram_budget_bytes + kGiB;
  forecast.decode_seconds_with_more_ram =
      with_budget(more, known, model, machine, workload, forecast);
  const uint64_t gpu_bytes = planned.plan.gpu_budget_bytes + kGiB;
  if (machine.device->unified() || gpu_bytes > machine.device->memory_info().free_bytes) return;
  more = planned.config;
  more.gpu_bytes = gpu_bytes;
  forecast.decode_seconds_with_more_gpu =
      with_budget(more, known, model, machine, workload, forecast);
}

std::string bottleneck_text(const PassPrediction& pass, const Forecast& forecast) {
  if (pass.bottleneck == "compute") {
    return fmt::format("compute, {:.0f} % of the time", 100 * pass.compute_seconds / pass.seconds);
  }
  const bool reads = pass.bottleneck == "NVMe";
  const double rate = reads ? pass.nvme_bytes_per_second : pass.copied_bytes_per_second;
  const double limit = reads ? forecast.drive_rate : forecast.copy_rate;
  return fmt::format("{} {:.2f} of {:.2f} GB/s, {:.0f} %", pass.bottleneck, rate / 1e9, limit / 1e9,
                     100 * rate / limit);
}

std::string forecast_text(const Forecast& forecast) {
  Table table("lrrl");
  table.row({"predicted", "s per pass", "tokens/s", "limit"});
  const auto line = [&](const char* what, const PassPrediction& pass, uint32_t rows) {
    table.row({fmt::format("{} of {} token{}", what, rows, rows == 1 ? "" : "s"),
               fmt::format("{:.3g}", pass.seconds), fmt::format("{:.3g}", rows / pass.seconds),
               bottleneck_text(pass, forecast)});
  };
  line("decode pass", forecast.decode, forecast.decode_rows);
  line("prompt chunk", forecast.prompt, forecast.prompt_rows);
  std::string text = table.text();
  const auto more = [&](const char* what, double seconds) {
    if (seconds <= 0) return;
    text += fmt::format("one more GiB of {}: {:.3g} s per decode pass, {:.2f} times as fast\n",
                        what, seconds, forecast.decode.seconds / seconds);
  };
  more("RAM", forecast.decode_seconds_with_more_ram);
  more("GPU memory", forecast.decode_seconds_with_more_gpu);
  text +=
      fmt::format("from rates measured {}; the fastest of {} simulated plan{}\n",
                  forecast.measured_at, forecast.candidates, forecast.candidates == 1 ? "" : "s");
  if (forecast.drive_measured_at == forecast.measured_at) return text;
  return text + fmt::format("the drive as a run found it {}: {:.2f} times as fast as then\n",
                            forecast.drive_measured_at, forecast.drive_change);
}

Json forecast_json(const Forecast& forecast) {
  Json json = {{"decode", pass_json(forecast.decode, forecast.decode_rows, forecast)},
               {"prompt", pass_json(forecast.prompt, forecast.prompt_rows, forecast)},
               {"drive_bytes_per_second", forecast.drive_rate},
               {"plans_simulated", forecast.candidates},
               {"profile_measured_at", forecast.measured_at},
               {"drive_measured_at", forecast.drive_measured_at},
               {"drive_change", forecast.drive_change}};
  if (forecast.decode_seconds_with_more_ram > 0) {
    json["decode_seconds_with_one_more_gib_of_ram"] = forecast.decode_seconds_with_more_ram;
  }
  if (forecast.decode_seconds_with_more_gpu > 0) {
    json["decode_seconds_with_one_more_gib_of_gpu"] = forecast.decode_seconds_with_more_gpu;
  }
  return json;
}

}  // namespace spillway
