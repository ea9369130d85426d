// What `plan` says of speed: a hardware profile found, checked, and turned into a prediction.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/log.h"
#include "model/prediction.h"
#include "model/runtime.h"

namespace spillway {

/// Predictions for one decode pass and one prompt chunk, and what a GiB more would bring.
struct Forecast {
  PassPrediction decode;
  PassPrediction prompt;
  uint32_t decode_rows = 0;
  uint32_t prompt_rows = 0;
  double read_rate = 0;
  std::string measured_at;
  double decode_seconds_with_more_ram = 0;  ///< 0 = nothing to gain
  double decode_seconds_with_more_gpu = 0;
};

/// Empty, with a notice that says why and what to do, where there is no profile that fits.
/// `file`: --profile; empty = the user's cache folder. Throws Error when a profile is damaged.
std::optional<Forecast> make_forecast(const std::string& file, const Config& config,
                                      const Model& model, const Machine& machine,
                                      const RunPlan& plan, const Workload& workload,
                                      const NoticeSink& notice);

std::string forecast_text(const Forecast& forecast);
nlohmann::ordered_json forecast_json(const Forecast& forecast);

}  // namespace spillway
