// What drive and cores give at this moment, looked at before a run plans: an hour after probe a
// shared machine is another one.
#pragma once

#include <optional>

#include "cli/forecast.h"
#include "core/clock.h"
#include "core/stop.h"
#include "io/open_reader.h"
#include "probe/compute_rates.h"
#include "probe/profile.h"

namespace spillway {

/// What a run reads and computes with.
struct LookParts {
  const ReaderChoice* readers = nullptr;
  const Clock* clock = nullptr;
  StopFlag* stop = nullptr;  ///< not watched
  NoticeSink notice;
  MatmulTimer time_matmuls;  ///< empty = the cores are not looked at
};

/// plan_with(), with rates of this moment where they differ from the profile's by more than noise.
/// Where that plan streams through direct reads, the model's largest file is read as the plan says,
/// for a third of a second at most, and the same bytes once more where that seems far too slow (a
/// drive that does not answer at all holds it as long as it takes to give up reads,
/// io/read_pump.h). Matmuls of a decode pass and of a prompt's are timed, a tenth of a second each,
/// three calls at least, as far as half of the budget has room for them; once or twice more where
/// they seem far too slow.
/// What differs is said; the drive's change is kept in the profile for `plan` and the next run,
/// that of the cores is gone too soon. What cannot be measured is as it was. A stop that is asked
/// for while the change is kept throws Stopped; while drive and cores are looked at, a signal ends
/// the process.
PlannedRun plan_for_now(std::optional<KnownRates> known, const Config& config, const Model& model,
                        const Machine& machine, const Workload& workload, const LookParts& parts);

}  // namespace spillway
