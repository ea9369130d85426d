#include "compare/schedule.h"

#include <algorithm>
#include <variant>

#include "core/error.h"
#include "core/units.h"
#include "model/generate.h"
#include "model/score.h"

namespace spillway {
namespace {

/// A process: the model opened and checked, planned, its memory allocated.
constexpr double kStartSeconds = 0.5;

uint64_t resident_bytes(const StreamPlan& plan) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < plan.units.size(); ++i) {
    if (plan.placement.unit_tiers[i] != Tier::kNvme) bytes += plan.units[i].bytes;
  }
  return bytes;
}

/// Throws Error where no budget could mend it.
ArmWork planned_work(const Arm& arm, const Model& model, const Machine& machine,
                     const MachineRates* rates) {
  ArmWork work;
  const bool scores = arm.sweep == Sweep::kScore;
  const Workload workload =
      scores ? scoring_workload(arm.config, model, score_documents(arm, model.config))
             : generation_workload(arm.config, model, make_prompts(arm.config, model));
  const WorkAmount amount = work_amount(workload);
  const auto found = find_plan(arm.config, model, machine, workload);
  const auto* plan = std::get_if<RunPlan>(&found);
  if (plan == nullptr) return work;
  PassShape prompt = prompt_shape(*plan, workload, amount);
  const uint64_t prompt_passes = prompt.passes;
  const uint64_t passes = prompt_passes + amount.decode_passes;
  if (arm.mapped) {
    const uint64_t bytes = model.weights.weight_bytes;
    work.streamed_bytes = bytes > arm.memory_bytes ? bytes * passes : bytes;
    return work;
  }
  work.load_bytes = resident_bytes(plan->stream);
  work.streamed_bytes = plan->stream.placement.nvme_bytes_per_pass * passes;
  if (rates == nullptr) return work;
  const auto seconds = [&](const PassShape& shape) {
    return predict_pass(model, *plan, machine.device->unified(), shape, *rates).seconds;
  };
  prompt.rows = static_cast<uint32_t>(std::min<uint64_t>(prompt.rows, amount.prompt_tokens));
  const double decode = amount.decode_passes > 0 ? seconds(decode_shape(workload)) : 0;
  work.pass_seconds = run_seconds(prompt_passes, seconds(prompt), amount.decode_passes, decode);
  return work;
}

}  // namespace

ArmWork work_of(const Arm& arm, const Model& model, const Machine& machine,
                const MachineRates* rates) {
  try {
    return planned_work(arm, model, machine, rates);
  } catch (const Error&) {
    return {};  // its process says why
  }
}

double arm_seconds(const ArmWork& work, double read_rate) {
  const auto reading = [&](uint64_t bytes) { return static_cast<double>(bytes) / read_rate; };
  return kStartSeconds + reading(work.load_bytes) +
         (work.pass_seconds > 0 ? work.pass_seconds : reading(work.streamed_bytes));
}

void Schedule::finished(size_t arm, double seconds) {
  arms_[arm].measured += seconds;
  ++arms_[arm].processes;
}

double Schedule::correction() const {
  double measured = 0;
  double expected = 0;
  for (const Entry& arm : arms_) {
    measured += arm.measured;
    expected += arm.processes * arm.expected;
  }
  return expected > 0 && measured > 0 ? measured / expected : 1;
}

double Schedule::mean_measured() const {
  double measured = 0;
  uint32_t processes = 0;
  for (const Entry& arm : arms_) {
    measured += arm.measured;
    processes += arm.processes;
  }
  return processes > 0 ? measured / processes : 0;
}

double Schedule::seconds_left(uint32_t round, size_t arm) const {
  const double corrected = correction();
  const double mean = mean_measured();
  double left = 0;
  for (size_t i = 0; i < arms_.size(); ++i) {
    const Entry& entry = arms_[i];
    if (entry.dropped) continue;
    const double each = entry.processes > 0  ? entry.measured / entry.processes
                        : entry.expected > 0 ? corrected * entry.expected
                                             : mean;
    left += each * (rounds_ - round - (i < arm ? 1 : 0));
  }
  return left;
}

}  // namespace spillway
