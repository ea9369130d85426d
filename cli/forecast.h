// What run, score, plan and bench say of speed: a hardware profile found, checked, and turned into
// a plan and a prediction.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/log.h"
#include "model/prediction.h"

namespace spillway {

/// What a matmul of so many rows gives now, over what it gave to probe.
struct ComputeChange {
  uint32_t rows = 0;
  double factor = 1;
};

/// Rates for a model on a machine, from a profile; the drive's as they were found last.
struct KnownRates {
  MachineRates rates;
  std::string measured_at;        ///< by probe
  std::string read_engine;        ///< what the reads were measured with
  std::string drive_measured_at;  ///< by probe, or by a run since
  double drive_change = 1;        ///< what the drive gives now, over what it gave to probe
  MachineRates probed;            ///< what probe measured, in short reads
  WeightFormat format = WeightFormat::kF32;  ///< of most of the model's bytes
  double sustained_share = 1;                ///< of short reads, what long ones gave to probe
  std::filesystem::path file;  ///< that may keep readings; empty: named by the user, left alone

  /// The drive gives `change` times what it gave to probe. Where long reads are slower than short
  /// ones, a drive that is slower by as much already is taken as it is.
  void take_drive_change(double change, const std::string& when);
  /// Matmuls between two of `changes` (rows ascending) change in proportion on a logarithmic
  /// scale of rows, those beyond them as the nearest; whatever else starts as those of one row.
  void take_compute_changes(const std::vector<ComputeChange>& changes);
};

/// Empty, with a notice that says why and what to do, where there is no profile that fits. One that
/// is of other hardware or old is used, and a notice says so. `file`: --profile; empty = the user's
/// cache folder. Throws Error when --profile cannot be read or is damaged.
std::optional<KnownRates> find_rates(const std::string& file, const Model& model,
                                     const Machine& machine, const NoticeSink& notice);

/// Predictions for one decode pass and one prompt chunk, and what a GiB more would bring.
struct Forecast {
  PassPrediction decode;
  PassPrediction prompt;
  uint32_t decode_rows = 0;
  uint32_t prompt_rows = 0;  ///< of a chunk, or of a sweep
  uint32_t chunk_rows = 0;   ///< of a matmul there
  double drive_rate = 0;     ///< bytes/s, the limit
  double copy_rate = 0;
  std::string measured_at;
  std::string drive_measured_at;  ///< by a run since, when it differs
  double drive_change = 1;        ///< what the drive gave then, over what it gave to probe
  uint32_t candidates = 0;        ///< plans that were simulated
  double decode_seconds_with_more_ram = 0;  ///< 0 = nothing to gain, or not asked for
  double decode_seconds_with_more_gpu = 0;
};

/// A plan, and what is known of its speed.
struct PlannedRun {
  RunPlan plan;
  Config config;  ///< that gives it
  std::optional<Forecast> forecast;
};

/// The fastest plan where rates are known; else by capacity alone. `amount`: empty when there is
/// nothing but decoding.
PlannedRun plan_with(const std::optional<KnownRates>& known, const Config& config,
                     const Model& model, const Machine& machine, const Workload& workload,
                     const WorkAmount& amount);

/// Fills in what one more GiB of RAM or GPU memory would bring, with the same reads and slots.
void add_what_more_memory_brings(PlannedRun& planned, const KnownRates& known, const Model& model,
                                 const Machine& machine, const Workload& workload);

/// "NVMe 2.9 of 3.1 GB/s, 94 %".
std::string bottleneck_text(const PassPrediction& pass, const Forecast& forecast);
std::string forecast_text(const Forecast& forecast);
nlohmann::ordered_json forecast_json(const Forecast& forecast);

}  // namespace spillway
