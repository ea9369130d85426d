// How long a comparison takes: what each arm has to do, and the time that is left. Pure; no clock
// of its own.
#pragma once

#include <cstdint>
#include <vector>

#include "compare/arms.h"
#include "model/prediction.h"

namespace spillway {

/// What one process of an arm has to do, by its plan.
struct ArmWork {
  uint64_t load_bytes = 0;      ///< read before its passes
  uint64_t streamed_bytes = 0;  ///< read by all its passes
  double pass_seconds = 0;      ///< of all its passes, predicted; 0 = not known
};

/// `rates`: of this machine, or null. An arm that cannot be planned does nothing. What the page
/// cache will do for a mapped arm is not known: it is taken to read in each pass what does not fit.
ArmWork work_of(const Arm& arm, const Model& model, const Machine& machine,
                const MachineRates* rates);

/// The time of one process: starting it, loading, and its passes; those that were not predicted
/// take as long as their reads. `read_rate`: bytes per second, > 0.
double arm_seconds(const ArmWork& work, double read_rate);

/// Expected times, corrected by those that were measured. Processes run arm by arm, round by round.
class Schedule {
 public:
  /// `seconds`: expected of a process of each arm; zeros where nothing is known.
  Schedule(std::vector<double> seconds, uint32_t rounds) : arms_(seconds.size()), rounds_(rounds) {
    for (size_t i = 0; i < seconds.size(); ++i) arms_[i].expected = seconds[i];
  }
  void finished(size_t arm, double seconds);
  /// It will not run again.
  void dropped(size_t arm) { arms_[arm].dropped = true; }
  /// Of the process of `arm` in `round` (from 0) and all that follow; 0 = not known.
  double seconds_left(uint32_t round, size_t arm) const;

 private:
  struct Entry {
    double expected = 0;
    double measured = 0;  ///< of all its processes
    uint32_t processes = 0;
    bool dropped = false;
  };
  /// Measured over expected, of what is known.
  double correction() const;
  double mean_measured() const;

  std::vector<Entry> arms_;
  uint32_t rounds_ = 0;
};

}  // namespace spillway
