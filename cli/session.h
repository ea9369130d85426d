// What run and score share: a model opened, planned, allocated and loaded.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "cli/forecast.h"
#include "cli/terminal.h"
#include "core/config.h"
#include "model/runtime.h"

namespace spillway {

/// One run's resources in the order of their making. Stays where it is: parts point at each other.
class Session {
 public:
  /// Opens model, device and readers; throws Error.
  Session(Config config, bool quiet, const StopFlag& stop);
  Session(const Session&) = delete;

  const Config& config() const { return config_; }
  const Model& model() const { return model_; }
  const Machine& machine() const { return machine_; }
  const RunPlan& plan() const { return planned_.plan; }
  /// What a hardware profile lets expect; empty without one.
  const std::optional<Forecast>& forecast() const { return planned_.forecast; }
  const Clock& clock() const { return clock_; }
  Progress& progress() { return progress_; }
  Runtime& runtime() { return *runtime_; }

  /// Plans (with the profile that probe kept, where there is one), allocates and loads. False when
  /// a stop request came first.
  bool load(const Workload& workload);
  /// The tables that end a run: passes, and how they compare with the prediction.
  void print_passes(const std::vector<PassRecord>& passes) const;
  void add_prediction(nlohmann::ordered_json& report, const std::vector<PassRecord>& passes) const;
  /// Writes the configured report and trace.
  void write_files(const nlohmann::ordered_json& report) const;

 private:
  void say_if_unpinned() const;
  void say_if_unregistered() const;
  void say_if_read_otherwise(const KnownRates& known) const;

  SteadyClock clock_;
  const StopFlag& stop_;
  NoticeSink notice_;
  Config config_;
  Model model_;
  Machine machine_;
  ReaderFactory readers_;
  Trace trace_;
  Progress progress_;
  PlannedRun planned_;
  std::unique_ptr<Runtime> runtime_;
};

/// Rate of a pass's reads, with the share of the drive's limit where that is known.
std::string drive_text(const PassRecord& pass, const std::optional<Forecast>& forecast);

}  // namespace spillway
