#include "cli/forecast.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/profile_path.h"
#include "core/error.h"
#include "core/units.h"
#include "kernels/host/cpu_features.h"
#include "probe/profile.h"

namespace spillway {
namespace {

using Json = nlohmann::ordered_json;

Hardware this_machine(const Model& model) {
  return {drive_name(model.checkpoint.directory()), cpu_name(), usable_cores(), ""};
}

/// What probe kept for this machine. One that is damaged costs the prediction, not the plan.
std::optional<HardwareProfile> kept_profile(const std::filesystem::path& file,
                                            const std::string& directory,
                                            const NoticeSink& notice) {
  std::string problem = "no hardware profile of this machine";
  try {
    if (!file.empty()) {
      if (auto profile = read_profile(file)) return profile;
    }
  } catch (const Error& error) {
    problem = error.what();
  }
  notice(
      fmt::format("{}: placed by capacity alone; `spillway probe --path {}` measures the machine, "
                  "and plan then predicts speed",
                  problem, directory));
  return std::nullopt;
}

/// The profile to use; empty after a notice.
std::optional<HardwareProfile> find_profile(const std::string& file, const Model& model,
                                            const NoticeSink& notice) {
  const Hardware here = this_machine(model);
  const std::string directory = model.checkpoint.directory().string();
  if (file.empty()) return kept_profile(default_profile_path(here), directory, notice);
  auto profile = read_profile(file);
  if (!profile) throw Error(fmt::format("--profile {}: no such file", file));
  const auto differs = [&](const char* what, const std::string& theirs, const std::string& ours) {
    if (theirs == ours) return;
    notice(
        fmt::format("the profile {} is of another {} ({}; here {}): predictions are for that one",
                    file, what, theirs, ours));
  };
  differs("drive", profile->hardware.drive, here.drive);
  differs("CPU", fmt::format("{}, {} cores", profile->hardware.cpu, profile->hardware.cores),
          fmt::format("{}, {} cores", here.cpu, here.cores));
  return profile;
}

/// Reads as the plan makes them, where the sweep has that shape; else the best.
double read_rate_of(const HardwareProfile& profile, const RunPlan& plan) {
  for (const ReadSample& sample : profile.reads) {
    if (sample.shape.huge_pages && sample.shape.chunk_bytes == plan.stream.chunk_bytes &&
        sample.shape.depth == plan.stream.io_depth) {
      return sample.bytes_per_second;
    }
  }
  return profile.reads[0].bytes_per_second;
}

std::optional<MachineRates> rates_of(const HardwareProfile& profile, const Model& model,
                                     const Machine& machine, const RunPlan& plan,
                                     const NoticeSink& notice) {
  const std::string name = machine.device->name();
  const DType dtype = model.weights.matrix_dtype().value_or(DType::kF32);
  for (const DeviceRates& device : profile.devices) {
    if (device.device != name) continue;
    if (name.rfind("cuda", 0) == 0 && profile.hardware.gpu != machine.ops->description()) break;
    for (const MatmulRate& rate : device.matmuls) {
      if (rate.dtype != dtype) continue;
      return MachineRates{read_rate_of(profile, plan), device.pinned_to_device,
                          rate.decode_bytes_per_second, rate.prompt_flops};
    }
  }
  notice(fmt::format("the hardware profile has no figures for {}: run spillway probe again", name));
  return std::nullopt;
}

/// Seconds per decode pass with a budget a GiB larger; 0 where that changes nothing.
double with_more(const Config& config, const Model& model, const Machine& machine,
                 const Workload& workload, const Forecast& forecast, const MachineRates& rates) {
  const RunPlan plan = plan_run(config, model, machine, workload);
  const DType dtype = model.weights.matrix_dtype().value_or(DType::kF32);
  const double seconds = predict_pass(plan.stream.placement, model.weights.pass_bytes(), dtype,
                                      forecast.decode_rows, rates)
                             .seconds;
  return seconds < 0.999 * forecast.decode.seconds ? seconds : 0;
}

Json pass_json(const PassPrediction& pass, uint32_t rows) {
  return {{"tokens", rows},
          {"seconds", pass.seconds},
          {"tokens_per_second", rows / pass.seconds},
          {"bottleneck", pass.bottleneck},
          {"nvme_seconds", pass.read_seconds},
          {"copy_seconds", pass.copy_seconds},
          {"compute_seconds", pass.compute_seconds}};
}

}  // namespace

std::optional<Forecast> make_forecast(const std::string& file, const Config& config,
                                      const Model& model, const Machine& machine,
                                      const RunPlan& plan, const Workload& workload,
                                      const NoticeSink& notice) {
  const auto profile = find_profile(file, model, notice);
  if (!profile) return std::nullopt;
  const auto rates = rates_of(*profile, model, machine, plan, notice);
  if (!rates) return std::nullopt;
  const DType dtype = model.weights.matrix_dtype().value_or(DType::kF32);
  const uint64_t bytes = model.weights.pass_bytes();
  Forecast forecast;
  forecast.measured_at = profile->measured_at;
  forecast.read_rate = rates->read_bytes;
  forecast.decode_rows = workload.min_rows;
  forecast.prompt_rows = plan.limits.max_rows;
  const Placement& placement = plan.stream.placement;
  forecast.decode = predict_pass(placement, bytes, dtype, forecast.decode_rows, *rates);
  forecast.prompt = predict_pass(placement, bytes, dtype, forecast.prompt_rows, *rates);
  Config more = config;
  more.ram_bytes = plan.ram_budget_bytes + kGiB;
  forecast.decode_seconds_with_more_ram =
      with_more(more, model, machine, workload, forecast, *rates);
  if (!machine.device->unified() &&
      plan.gpu_budget_bytes + kGiB <= machine.device->memory_info().free_bytes) {
    more = config;
    more.gpu_bytes = plan.gpu_budget_bytes + kGiB;
    forecast.decode_seconds_with_more_gpu =
        with_more(more, model, machine, workload, forecast, *rates);
  }
  return forecast;
}

std::string forecast_text(const Forecast& forecast) {
  const auto line = [](const char* what, const PassPrediction& pass, uint32_t rows) {
    return fmt::format(
        "predicted: {:.3g} s per {} of {} token{}, {:.3g} tokens/s; {} is the limit\n",
        pass.seconds, what, rows, rows == 1 ? "" : "s", rows / pass.seconds, pass.bottleneck);
  };
  std::string text = line("decode pass", forecast.decode, forecast.decode_rows) +
                     line("prompt chunk", forecast.prompt, forecast.prompt_rows);
  const auto more = [&](const char* what, double seconds) {
    if (seconds <= 0) return;
    text += fmt::format("one more GiB of {}: {:.3g} s per decode pass, {:.2f} times as fast\n",
                        what, seconds, forecast.decode.seconds / seconds);
  };
  more("RAM", forecast.decode_seconds_with_more_ram);
  more("GPU memory", forecast.decode_seconds_with_more_gpu);
  return text + fmt::format("(from rates measured {})\n", forecast.measured_at);
}

Json forecast_json(const Forecast& forecast) {
  Json json = {{"decode", pass_json(forecast.decode, forecast.decode_rows)},
               {"prompt", pass_json(forecast.prompt, forecast.prompt_rows)},
               {"nvme_bytes_per_second", forecast.read_rate},
               {"profile_measured_at", forecast.measured_at}};
  if (forecast.decode_seconds_with_more_ram > 0) {
    json["decode_seconds_with_one_more_gib_of_ram"] = forecast.decode_seconds_with_more_ram;
  }
  if (forecast.decode_seconds_with_more_gpu > 0) {
    json["decode_seconds_with_one_more_gib_of_gpu"] = forecast.decode_seconds_with_more_gpu;
  }
  return json;
}

}  // namespace spillway
