#include "cli/drive_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/terminal.h"
#include "core/error.h"

namespace spillway {
namespace {

/// Enough for some hundred reads of a fast drive, and too little to be waited for.
constexpr double kLookSeconds = 0.2;
constexpr double kMostLookSeconds = 0.33;
/// Not from the start of the file, which probe may have read again and again: a host may keep it.
constexpr double kBeginShare = 0.5;
/// Two looks at the same idle drive differ by as much.
constexpr double kNoise = 0.08;

bool alike(double ratio) {
  return std::abs(ratio - 1) <= kNoise;
}

/// The plan reads through the page cache, or with another reader than probe: no comparison.
bool comparable(const KnownRates& known, const Model& model, const StreamPlan& plan,
                const DriveCheckParts& parts) {
  return plan.placement.nvme_bytes_per_pass > 0 && model.checkpoint.direct() &&
         known.read_engine == parts.readers->name;
}

/// The plan's reads, but no more of them than what it streams into has room for: the budget holds
/// here too.
ReadShape shape_of(const StreamPlan& plan) {
  const Placement& placement = plan.placement;
  const uint64_t room = placement.slabs > 0 ? placement.slabs * plan.chunk_bytes
                                            : placement.slots * placement.slot_bytes;
  const uint64_t fits = std::max<uint64_t>(1, room / plan.chunk_bytes);
  ReadShape shape;
  shape.chunk_bytes = plan.chunk_bytes;
  shape.depth = static_cast<uint32_t>(std::min<uint64_t>(plan.io_depth, fits));
  shape.registered = plan.register_buffers;
  return shape;
}

/// Empty where nothing could be measured.
std::optional<ReadSample> look(const Model& model, const StreamPlan& plan,
                               const DriveCheckParts& parts) {
  const DirectFile& file = model.checkpoint.largest_file();
  ReadSample sample{shape_of(plan), 0};
  if (file.info().bytes < sample.shape.chunk_bytes) return std::nullopt;
  const MeasureLimit limit{kLookSeconds, UINT64_MAX, kMostLookSeconds, kBeginShare};
  try {
    sample.bytes_per_second =
        read_rate(file, sample.shape, limit, parts.readers->make, *parts.clock, *parts.stop);
  } catch (const Error& error) {  // whoever needs these bytes will say more
    parts.notice(fmt::format("the drive's rate could not be measured: {}", error.what()));
  }
  if (sample.bytes_per_second <= 0) return std::nullopt;
  return sample;
}

/// Why the reading was not kept, or nothing. No signal may fall while a file is half there.
std::string keep(const KnownRates& known, const ReadSample& sample, bool refresh,
                 const DriveCheckParts& parts) {
  if (known.file.empty()) return {};
  parts.stop->watch();
  std::string refused = keep_reading(known.file, known.measured_at, {utc_now(), sample}, refresh);
  parts.stop->unwatch();
  return refused;
}

/// `news`: to what is known, too; else it is planned with what an earlier run found.
void say_change(const KnownRates& known, const ReadSample& sample, double probed, bool news,
                const std::string& not_kept, const NoticeSink& notice) {
  const double planned = known.rates.read_of(sample.shape.chunk_bytes, sample.shape.depth);
  std::string line = fmt::format(
      "the drive reads {:.2f} GB/s now, and read {:.2f} when spillway probe measured it ({}): "
      "planned with {:.2f}",
      sample.bytes_per_second / 1e9, probed / 1e9, known.measured_at, planned / 1e9);
  if (!news) line += fmt::format(", which a run found ({})", known.drive_measured_at);
  if (news && !not_kept.empty()) line += fmt::format("; plan will not know ({})", not_kept);
  notice(line);
}

}  // namespace

PlannedRun plan_for_now(std::optional<KnownRates> known, const Config& config, const Model& model,
                        const Machine& machine, const Workload& workload,
                        const DriveCheckParts& parts) {
  const WorkAmount amount = work_amount(workload);
  PlannedRun planned = plan_with(known, config, model, machine, workload, amount);
  const StreamPlan& plan = planned.plan.stream;
  if (!planned.forecast || !comparable(*known, model, plan, parts)) return planned;
  const auto sample = look(model, plan, parts);
  if (!sample) return planned;
  const double probed = known->probed.read_of(sample->shape.chunk_bytes, sample->shape.depth);
  const double change = sample->bytes_per_second / probed;
  const bool news = !alike(change / known->drive_change);
  const bool of_a_run = known->drive_measured_at != known->measured_at;
  const std::string not_kept = news || of_a_run ? keep(*known, *sample, !news, parts) : "";
  if (news) known->take_drive_change(change, utc_now());
  if (!alike(change)) say_change(*known, *sample, probed, news, not_kept, parts.notice);
  if (!news) return planned;
  planned = {};  // its parts are no part of the next one's bill
  return plan_with(known, config, model, machine, workload, amount);
}

}  // namespace spillway
