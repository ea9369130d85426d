// What run and score share: a model opened, planned, allocated and loaded.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "cli/forecast.h"
#include "cli/terminal.h"
#include "core/config.h"
#include "core/output_file.h"
#include "model/runtime.h"
#include "probe/compute_rates.h"

namespace spillway {

/// One run's resources in the order of their making. Stays where it is: parts point at each other.
class Session {
 public:
  /// Checks and opens report and trace, then model, device and readers. `in_use`: what the command
  /// reads beside configuration and model. Only the outputs are opened while stop requests are
  /// watched; a signal after that ends the process at once, until prepare() has planned. Throws
  /// Error, Stopped.
  Session(Config config, FilesInUse in_use, bool quiet, StopFlag& stop);
  Session(const Session&) = delete;

  const Config& config() const { return config_; }
  const Model& model() const { return model_; }
  const Machine& machine() const { return machine_; }
  const RunPlan& plan() const { return planned_.plan; }
  /// What a hardware profile lets expect; empty without one.
  const std::optional<Forecast>& forecast() const { return planned_.forecast; }
  const Clock& clock() const { return clock_; }
  Progress& progress() { return progress_; }
  /// A line on stderr that the report keeps.
  void notice(const std::string& line) const { notice_(line); }
  /// All passes of a workload, as predicted; 0 without a forecast.
  double expected_seconds(const Workload& workload) const;
  Runtime& runtime() { return *runtime_; }

  /// Plans (with the profile that probe kept, where there is one) and allocates; from there on
  /// requests are watched. Throws Error, Stopped.
  void prepare(const Workload& workload);
  /// Fills the homes. False when a stop request came first. Throws Error. From here on there is
  /// something to report, whatever happens.
  bool load();
  /// A stop before anything was computed: the configured files say so, and with `prints` stdout.
  /// `nothing`: what the command reports of its results.
  void write_stopped(const nlohmann::ordered_json& nothing, bool prints);
  /// The tables that end a run: passes, and how they compare with the prediction.
  std::string passes_tables(const std::vector<PassRecord>& passes) const;
  /// What run and score report alike.
  nlohmann::ordered_json report(const std::vector<PassRecord>& passes);
  /// Writes the configured report and trace, each even if the other cannot be.
  void write_files(const nlohmann::ordered_json& report, Failures& failures);

 private:
  struct Outputs {
    OutputFile report;
    OutputFile trace;
  };
  static Outputs open_outputs(const Config& config, FilesInUse in_use, StopFlag& stop);
  void say_if_unpinned() const;
  void say_if_cut(const Workload& workload) const;
  void say_if_spilled() const;
  void say_if_unregistered() const;
  MatmulTimer matmul_timer() const;
  void say_if_read_otherwise(const KnownRates& known) const;
  void say_stopped();

  SteadyClock clock_;
  StopFlag& stop_;
  Progress progress_;
  std::vector<std::string> notes_;
  NoticeSink notice_;
  Config config_;
  Outputs outputs_;
  Model model_;
  Machine machine_;
  ReaderChoice readers_;
  Trace trace_;
  PlannedRun planned_;
  std::unique_ptr<Runtime> runtime_;
};

/// Adds the configuration and the files of its model: no output may be one of them.
FilesInUse with_inputs_of(const Config& config, FilesInUse in_use);
FilesInUse with_model_files(const std::filesystem::path& path, FilesInUse in_use);

/// Rate of a pass's reads, with the share of the drive's limit where that is known.
std::string drive_text(const PassRecord& pass, const std::optional<Forecast>& forecast);

}  // namespace spillway
