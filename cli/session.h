// What run and score share: a model opened, planned, allocated and loaded.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>

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
  const RunPlan& plan() const { return plan_; }
  const Clock& clock() const { return clock_; }
  Progress& progress() { return progress_; }
  Runtime& runtime() { return *runtime_; }

  /// Plans, allocates and loads. False when a stop request came first.
  bool load(const Workload& workload);
  /// Writes the configured report and trace.
  void write_files(const nlohmann::ordered_json& report) const;

 private:
  void say_if_unpinned() const;

  SteadyClock clock_;
  const StopFlag& stop_;
  NoticeSink notice_;
  Config config_;
  Model model_;
  Machine machine_;
  ReaderFactory readers_;
  Trace trace_;
  Progress progress_;
  RunPlan plan_;
  std::unique_ptr<Runtime> runtime_;
};

}  // namespace spillway
