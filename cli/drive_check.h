// What the drive gives at this moment, looked at before a run plans: an hour after probe a shared
// machine is another one.
#pragma once

#include <optional>

#include "cli/forecast.h"
#include "core/clock.h"
#include "core/stop.h"
#include "io/open_reader.h"
#include "probe/profile.h"

namespace spillway {

/// What a run reads with.
struct DriveCheckParts {
  const ReaderChoice* readers = nullptr;
  const Clock* clock = nullptr;
  StopFlag* stop = nullptr;  ///< not watched
  NoticeSink notice;
};

/// plan_with(); where that plan streams through direct reads, the model's largest file is then read
/// as the plan says, for a third of a second at most (a drive that does not answer at all holds it
/// as long as it takes to give up reads, io/read_pump.h). What differs from the profile by more
/// than noise is said, planned with, and kept in the profile for `plan` and the next run. A stop
/// that is asked for while it is kept throws Stopped; while the drive is read, a signal ends the
/// process.
PlannedRun plan_for_now(std::optional<KnownRates> known, const Config& config, const Model& model,
                        const Machine& machine, const Workload& workload,
                        const DriveCheckParts& parts);

}  // namespace spillway
