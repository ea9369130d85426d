#include "cli/plan_for_now.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "cli/terminal.h"
#include "core/error.h"

namespace spillway {
namespace {

/// Enough for some hundred reads of a fast drive, and too little to be waited for.
constexpr double kLookSeconds = 0.2;
constexpr double kMostLookSeconds = 0.33;
/// Not from the start of the file, which probe may have read again and again: a host may keep it.
constexpr double kBeginShare = 0.5;
constexpr double kNoLimit = 1e18;  // bytes
/// Two looks at the same idle drive differ by as much.
constexpr double kNoise = 0.08;
/// What is slower than that may lie where the host of a shared machine has yet to fetch it from;
/// read again it is as fast as all passes but the first will find it.
constexpr double kColdShare = 0.5;
constexpr double kMatmulSeconds = 0.1;
/// One call may take ten times as long; of three the middle one does not.
constexpr uint64_t kLeastCalls = 3;
/// Of so many calls the average counts: what a neighbour on the cores costs now and then as well.
constexpr uint64_t kManyCalls = 20;
/// What is slower than that may be a neighbour's burst, which is over before the run is.
constexpr double kBusyShare = 0.7;
/// Of the budget, for the weights of that matmul and all: nothing of the plan is there yet.
constexpr uint64_t kMatmulPart = 2;

bool alike(double ratio) {
  return std::abs(ratio - 1) <= kNoise;
}

/// The plan reads through the page cache, or with another reader than probe: no comparison.
bool comparable(const KnownRates& known, const Model& model, const StreamPlan& plan,
                const LookParts& parts) {
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
  shape.room_bytes = std::min(room, kUsualRoomBytes);
  return shape;
}

void say_cold(double first, double again, const NoticeSink& notice) {
  notice(fmt::format(
      "the drive gave {:.2f} GB/s of what was not read lately, and {:.2f} of the same again: "
      "planned with the latter; the first pass may take longer",
      first / 1e9, again / 1e9));
}

/// Empty where nothing could be measured.
std::optional<ReadSample> look_at_drive(const KnownRates& known, const Model& model,
                                        const StreamPlan& plan, const LookParts& parts) {
  const DirectFile& file = model.checkpoint.largest_file();
  ReadSample sample{shape_of(plan), 0};
  if (file.info().bytes < sample.shape.chunk_bytes) return std::nullopt;
  const double usual = known.probed.read_of(sample.shape.chunk_bytes, sample.shape.depth);
  const auto read = [&](double bytes) {
    const MeasureLimit limit{kLookSeconds, static_cast<uint64_t>(bytes), kMostLookSeconds,
                             kBeginShare};
    return read_rate(file, sample.shape, limit, parts.readers->make, *parts.clock, *parts.stop);
  };
  try {
    const double first = read(kNoLimit);
    const bool cold = first > 0 && first < kColdShare * usual;
    const double again = cold ? read(kLookSeconds * first) : 0;  // the same bytes
    sample.bytes_per_second = std::max(first, again);
    if (cold && again > first && !alike(again / first)) say_cold(first, again, parts.notice);
  } catch (const Error& error) {  // whoever needs these bytes will say more
    parts.notice(fmt::format("the drive's rate could not be measured: {}", error.what()));
    return std::nullopt;
  }
  if (sample.bytes_per_second <= 0) return std::nullopt;
  return sample;
}

/// Why the reading was not kept, or nothing. No signal may fall while a file is half there.
std::string keep(const KnownRates& known, const ReadSample& sample, bool refresh,
                 const LookParts& parts) {
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

/// Looks at the drive; whether it gives something else than `known` says, which has it from now on.
bool take_drive_of_now(KnownRates& known, const Model& model, const StreamPlan& plan,
                       const LookParts& parts) {
  if (!comparable(known, model, plan, parts)) return false;
  const auto sample = look_at_drive(known, model, plan, parts);
  if (!sample) return false;
  const double probed = known.probed.read_of(sample->shape.chunk_bytes, sample->shape.depth);
  const double change = sample->bytes_per_second / probed;
  const bool news = !alike(change / known.drive_change);
  const bool of_a_run = known.drive_measured_at != known.measured_at;
  const std::string not_kept = news || of_a_run ? keep(known, *sample, !news, parts) : "";
  if (news) known.take_drive_change(change, utc_now());
  if (!alike(change)) say_change(known, *sample, probed, news, not_kept, parts.notice);
  return news;
}

/// What probe timed with a count of rows that is nearest to a pass's.
const RowRate& nearest(const std::vector<RowRate>& probed, uint32_t rows) {
  const auto times = [&](const RowRate& rate) {
    return std::abs(std::log(1.0 * rate.rows / rows));
  };
  return *std::min_element(probed.begin(), probed.end(),
                           [&](const RowRate& a, const RowRate& b) { return times(a) < times(b); });
}

/// How many times as fast as probe saw it a matmul is.
double change_of(const RowRate& probed, const TimedCall& call) {
  const double probed_seconds =
      probed.start_seconds + call.outputs * probed.output_seconds +
      static_cast<double>(call.weight_bytes) / probed.weight_bytes_per_second;
  return probed_seconds / (call.calls < kManyCalls ? call.median_seconds : call.seconds);
}

/// What probe timed, by its count of rows.
using ProbedRows = std::map<uint32_t, const RowRate*>;

/// How many times as fast as probe saw them those are; nothing of what could not be timed.
std::map<uint32_t, double> look_at_cores(const KnownRates& known, const ProbedRows& probed,
                                         const RunPlan& plan, const LookParts& parts) {
  std::vector<uint32_t> rows;
  rows.reserve(probed.size());
  for (const auto& [count, rate] : probed) rows.push_back(count);
  const uint64_t memory_bytes = plan.ram_budget_bytes / kMatmulPart;
  const std::vector<TimedCall> calls =
      parts.time_matmuls({known.format, rows, memory_bytes, kMatmulSeconds, kLeastCalls});
  std::map<uint32_t, double> changes;
  for (size_t i = 0; i < calls.size(); ++i) {
    if (calls[i].calls < kLeastCalls) continue;
    changes[rows[i]] = change_of(*probed.at(rows[i]), calls[i]);
  }
  return changes;
}

double middle_of(double a, double b, double c) {
  return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

/// The same; of what seems far too slow the middle of three looks, or the faster of two where they
/// agree or no third can be had.
std::map<uint32_t, double> look_with_doubt(const KnownRates& known, ProbedRows probed,
                                           const RunPlan& plan, const LookParts& parts) {
  std::map<uint32_t, double> changes = look_at_cores(known, probed, plan, parts);
  std::erase_if(probed, [&](const auto& rows) {
    const auto change = changes.find(rows.first);
    return change == changes.end() || change->second >= kBusyShare;
  });
  std::map<uint32_t, double> second;
  std::map<uint32_t, double> third;
  try {
    if (!probed.empty()) second = look_at_cores(known, probed, plan, parts);
    std::erase_if(probed, [&](const auto& rows) {  // seen twice: a third look changes nothing
      return !second.contains(rows.first) || alike(second.at(rows.first) / changes[rows.first]);
    });
    if (!probed.empty()) third = look_at_cores(known, probed, plan, parts);
  } catch (const Error&) {
    // What was seen before counts.
  }
  for (const auto& [rows, again] : second) {
    const double first = changes[rows];
    const auto last = third.find(rows);
    changes[rows] =
        last == third.end() ? std::max(first, again) : middle_of(first, again, last->second);
  }
  return changes;
}

/// The same of the cores, for a decode pass and a prompt's.
bool take_cores_of_now(KnownRates& known, const PlannedRun& planned, const LookParts& parts) {
  if (!parts.time_matmuls) return false;
  ProbedRows probed;
  for (const uint32_t rows : {planned.forecast->decode_rows, planned.forecast->chunk_rows}) {
    const RowRate& rate = nearest(known.probed.matmuls, std::max(1u, rows));
    probed[rate.rows] = &rate;
  }
  std::map<uint32_t, double> seen;
  try {
    seen = look_with_doubt(known, probed, planned.plan, parts);
  } catch (const Error& error) {
    parts.notice(fmt::format("the cores' rate could not be measured: {}", error.what()));
    return false;
  }
  std::vector<ComputeChange> changes;
  std::string line;
  for (const auto& [rows, rate] : probed) {
    changes.push_back({rows, seen.contains(rows) ? seen.at(rows) : 1});
    if (!seen.contains(rows)) continue;
    line += fmt::format("{} {:.2f} times as fast ({} row{})", line.empty() ? "" : ",",
                        changes.back().factor, rows, rows == 1 ? "" : "s");
  }
  const auto same = [](const ComputeChange& change) { return alike(change.factor); };
  if (std::all_of(changes.begin(), changes.end(), same)) return false;
  known.take_compute_changes(changes);
  parts.notice(fmt::format("this run multiplies{} as spillway probe did ({}): planned with that",
                           line, known.measured_at));
  return true;
}

}  // namespace

PlannedRun plan_for_now(std::optional<KnownRates> known, const Config& config, const Model& model,
                        const Machine& machine, const Workload& workload, const LookParts& parts) {
  const WorkAmount amount = work_amount(workload);
  PlannedRun planned = plan_with(known, config, model, machine, workload, amount);
  if (!planned.forecast) return planned;
  const bool other_drive = take_drive_of_now(*known, model, planned.plan.stream, parts);
  const bool other_cores = take_cores_of_now(*known, planned, parts);
  if (!other_drive && !other_cores) return planned;
  planned = {};  // its parts are no part of the next one's bill
  return plan_with(known, config, model, machine, workload, amount);
}

}  // namespace spillway
