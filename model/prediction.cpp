#include "model/prediction.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "tiers/pipeline_sim.h"

namespace spillway {
namespace {

/// Below this share of the best a shape of reads is not worth a simulation.
constexpr double kWorthTrying = 0.9;
/// On the host the feeder shares its cores with the kernels and may get its turn this late: less
/// than that in the queue, and the drive would run dry. (Measured with 2 cores and a 3.3 GB/s
/// drive: with 85 % in RAM, 2 MiB in flight took 9 % longer than 8 MiB.)
constexpr double kLeastQueuedSeconds = 2e-3;
/// Bounds the time of choosing to seconds, also for a model of a terabyte: units of all candidates.
constexpr size_t kMostSimulatedUnits = 300'000;
/// What another plan must gain: probing the same drive twice differs by as much.
constexpr double kClearlyFaster = 0.95;

/// Seconds that attention adds to a decoder layer. A decoding row reads the cache of its own
/// sequence; a prompt's rows multiply with theirs as a matmul of the same shape would.
double attention_seconds(const Model& model, bool unified, const PassShape& shape,
                         const MachineRates& rates) {
  const ModelConfig& config = model.config;
  const DType dtype = model.weights.matrix_dtype().value_or(DType::kF32);
  const double values = 2.0 * shape.positions * config.head_dim;
  if (shape.decode) {
    const DType cached = unified ? DType::kF32 : dtype;
    return shape.rows * values * config.kv_heads * static_cast<double>(dtype_bytes(cached)) *
           rates.seconds_per_byte(1);
  }
  return values * config.heads * static_cast<double>(dtype_bytes(dtype)) *
         rates.seconds_per_byte(shape.rows);
}

std::vector<double> unit_seconds(const Model& model, const RunPlan& plan, bool unified,
                                 const PassShape& shape, const MachineRates& rates) {
  const double body = rates.seconds_per_byte(shape.rows);
  const double head = rates.seconds_per_byte(shape.logit_rows);
  const double attention = attention_seconds(model, unified, shape, rates);
  const auto& layers = plan.stream.layers;
  std::vector<double> result;
  for (const Unit& unit : plan.stream.units) {
    const auto bytes = static_cast<double>(unit.bytes);
    const bool is_head = unit.layer + 1 == layers.size();
    const double share = bytes / static_cast<double>(layers[unit.layer].bytes());
    result.push_back(is_head ? bytes * head : bytes * body + share * attention);
  }
  return result;
}

/// A plan with its predictions, and what the whole work would take with it.
struct Candidate {
  ChosenPlan chosen;
  double seconds = 0;
};

Candidate candidate_of(const Config& config, const Model& model, const Machine& machine,
                       const Workload& workload, const WorkAmount& amount,
                       const MachineRates& rates) {
  const bool unified = machine.device->unified();
  ChosenPlan chosen;
  chosen.plan = plan_run(config, model, machine, workload);
  chosen.config = config;
  const PassShape decode = decode_shape(workload);
  const PassShape prompt = prompt_shape(chosen.plan, workload, amount);
  chosen.decode_rows = decode.rows;
  chosen.prompt_rows = prompt.rows;
  chosen.decode = predict_pass(model, chosen.plan, unified, decode, rates);
  chosen.prompt = predict_pass(model, chosen.plan, unified, prompt, rates);
  const double chunks = std::ceil(static_cast<double>(amount.prompt_tokens) / prompt.rows);
  const double seconds = static_cast<double>(amount.new_tokens) * chosen.decode.seconds +
                         chunks * chosen.prompt.seconds;
  return {std::move(chosen), seconds};
}

/// Configurations that differ in what the user left open, the likeliest first.
std::vector<Config> candidates_of(const Config& config, bool unified, const MachineRates& rates) {
  std::vector<Config> candidates;
  for (const ReadRate& read : rates.reads) {
    if (read.bytes_per_second < kWorthTrying * rates.best_read()) continue;
    const double queued_bytes = static_cast<double>(read.chunk_bytes) * read.depth;
    if (unified && queued_bytes < kLeastQueuedSeconds * read.bytes_per_second) continue;
    Config shaped = config;
    if (!config.io_chunk_bytes) shaped.io_chunk_bytes = read.chunk_bytes;
    if (!config.io_depth) shaped.io_depth = read.depth;
    candidates.push_back(shaped);
  }
  if (config.stream_slots) return candidates;
  const size_t shapes = candidates.size();
  for (size_t i = 0; i < shapes; ++i) {
    for (const uint32_t slots : {4u, 8u, 16u}) {
      candidates.push_back(candidates[i]);
      candidates.back().stream_slots = slots;
    }
  }
  return candidates;
}

}  // namespace

double MachineRates::best_read() const {
  double best = 0;
  for (const ReadRate& read : reads) best = std::max(best, read.bytes_per_second);
  return best;
}

double MachineRates::read_of(const StreamPlan& plan) const {
  for (const ReadRate& read : reads) {
    if (read.chunk_bytes == plan.chunk_bytes && read.depth == plan.io_depth) {
      return read.bytes_per_second;
    }
  }
  return best_read();
}

double MachineRates::seconds_per_byte(uint32_t rows) const {
  CHECK(!matmuls.empty());
  if (rows == 0) return 0;
  const auto cost = [](const RowRate& rate) { return 1 / rate.weight_bytes_per_second; };
  const auto above = std::find_if(matmuls.begin(), matmuls.end(),
                                  [&](const RowRate& rate) { return rate.rows >= rows; });
  if (above == matmuls.end()) return cost(matmuls.back()) * rows / matmuls.back().rows;
  if (above == matmuls.begin()) return cost(*above);
  const RowRate& below = *(above - 1);
  const double share = static_cast<double>(rows - below.rows) / (above->rows - below.rows);
  return cost(below) + share * (cost(*above) - cost(below));
}

PassShape decode_shape(const Workload& workload) {
  uint64_t positions = 0;
  for (const uint32_t length : workload.kv_lengths) positions += length;
  return {workload.min_rows, workload.min_rows,
          static_cast<uint32_t>(positions / workload.kv_lengths.size()), true};
}

PassShape prompt_shape(const RunPlan& plan, const Workload& workload, const WorkAmount& amount) {
  const uint32_t rows = plan.limits.max_rows;
  // A row attends to half of its text on average.
  const uint64_t positions = amount.prompt_tokens / workload.kv_lengths.size() / 2;
  return {rows, workload.scoring ? rows : workload.logit_rows, static_cast<uint32_t>(positions),
          false};
}

PassPrediction predict_pass(const Model& model, const RunPlan& plan, bool unified,
                            const PassShape& shape, const MachineRates& rates) {
  const LinkRates links{rates.read_of(plan.stream), rates.copy_bytes};
  const auto compute = unit_seconds(model, plan, unified, shape, rates);
  const SimulatedPass pass = simulate_pass(plan.stream, unified, links, compute);
  const Placement& placement = plan.stream.placement;
  PassPrediction prediction;
  prediction.seconds = pass.seconds;
  prediction.read_seconds = pass.read_seconds;
  prediction.copy_seconds = pass.copy_seconds;
  prediction.compute_seconds = pass.compute_seconds;
  const double busiest = std::max({pass.read_seconds, pass.copy_seconds, pass.compute_seconds});
  prediction.bottleneck = busiest == pass.compute_seconds ? "compute"
                          : busiest == pass.read_seconds  ? "NVMe"
                                                          : "copies";
  prediction.nvme_bytes_per_second =
      static_cast<double>(placement.nvme_bytes_per_pass) / pass.seconds;
  prediction.copied_bytes_per_second =
      static_cast<double>(placement.copied_bytes_per_pass) / pass.seconds;
  return prediction;
}

WorkAmount work_amount(const Config& config, const Workload& workload) {
  WorkAmount amount;
  if (!workload.scoring) amount.new_tokens = config.max_new_tokens;
  for (const uint32_t length : workload.kv_lengths) {
    amount.prompt_tokens += length - std::min<uint64_t>(amount.new_tokens, length - 1);
  }
  return amount;
}

ChosenPlan choose_plan(const Config& config, const Model& model, const Machine& machine,
                       const Workload& workload, const WorkAmount& amount,
                       const MachineRates& rates) {
  Candidate best = candidate_of(config, model, machine, workload, amount, rates);
  uint32_t simulated = 1;
  if (best.chosen.plan.stream.placement.slots > 0) {  // else nothing streams
    auto candidates = candidates_of(config, machine.device->unified(), rates);
    const size_t units = best.chosen.plan.stream.units.size();
    candidates.resize(std::min(candidates.size(), kMostSimulatedUnits / units));
    double limit = best.seconds * kClearlyFaster;
    for (const Config& candidate : candidates) {
      try {
        Candidate other = candidate_of(candidate, model, machine, workload, amount, rates);
        ++simulated;
        if (other.seconds >= limit) continue;
        limit = other.seconds;
        best = std::move(other);
      } catch (const Error&) {
        continue;  // its buffers do not fit the budget
      }
    }
    // Planned anew: the bill counts the heap in use, and other plans were held when it was made.
    best.chosen.plan = plan_run(best.chosen.config, model, machine, workload);
  }
  best.chosen.candidates = simulated;
  return std::move(best.chosen);
}

}  // namespace spillway
