#include "model/prediction.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

/// Below this share of the best a shape of reads is not worth a simulation.
constexpr double kWorthTrying = 0.9;
/// Of a sweep that is chosen: beyond, a drive is hidden on any machine.
constexpr uint64_t kMostSweepTokens = uint64_t{1} << 20;
/// On the host the feeder shares its cores with the kernels and may get its turn this late: less
/// than that in the queue, and the drive would run dry. (Measured with 2 cores and a 3.3 GB/s
/// drive: with 85 % in RAM, 2 MiB in flight took 9 % longer than 8 MiB.)
constexpr double kLeastQueuedSeconds = 2e-3;
/// Bounds the time of choosing to seconds, also for a model of a terabyte: units of all candidates.
constexpr size_t kMostSimulatedUnits = 300'000;
/// Of finding how long reading and computing go on together, unless it is known to a hundredth
/// before. The first is exact where slots never lack; with the few that plans have, three are
/// within 5 % wherever what streams is spread over the layers, as the planner does.
constexpr int kCompanyRounds = 3;
constexpr double kKnownShare = 0.01;
/// More rows compute longer than their weights take to come.
constexpr uint32_t kFewRows = 8;
/// What another plan must gain: probing the same drive twice differs by as much.
constexpr double kClearlyFaster = 0.95;

/// The value at `x` on the line between its neighbours; beyond the last ones, theirs.
double between(const std::map<double, double>& points, double x) {
  CHECK(!points.empty());
  const auto above = points.lower_bound(x);
  if (above == points.end()) return points.rbegin()->second;
  if (above == points.begin() || above->first == x) return above->second;
  const auto below = std::prev(above);
  const double share = (x - below->first) / (above->first - below->first);
  return below->second + share * (above->second - below->second);
}

/// The same of a figure of the measured row counts.
template <typename Figure>
double between_rows(const std::vector<RowRate>& rates, uint32_t rows, const Figure& figure) {
  const auto above = std::find_if(rates.begin(), rates.end(),
                                  [&](const RowRate& rate) { return rate.rows >= rows; });
  if (above == rates.end()) return figure(rates.back());
  if (above == rates.begin()) return figure(*above);
  const RowRate& below = *(above - 1);
  const double share = static_cast<double>(rows - below.rows) / (above->rows - below.rows);
  return figure(below) + share * (figure(*above) - figure(below));
}

double seconds_of_byte(const std::vector<RowRate>& rates, uint32_t rows) {
  CHECK(!rates.empty());
  if (rows == 0) return 0;
  const double beyond = std::max(1.0, static_cast<double>(rows) / rates.back().rows);
  return beyond * between_rows(rates, rows, [](const RowRate& rate) {
           return 1 / rate.weight_bytes_per_second;
         });
}

/// Seconds that attention adds to a decoder layer. A decoding row reads the cache of its own
/// sequence; a prompt's rows multiply with theirs.
double attention_seconds(const Model& model, bool unified, uint32_t layer, const PassShape& shape,
                         const MachineRates& rates) {
  const ModelConfig& config = model.config;
  const DType dtype = model.weights.kv_dtype();
  double seen = shape.positions;
  if (config.slides(layer)) seen = std::min<double>(seen, *config.sliding_window);
  const double values = 2.0 * seen * config.head_dim;
  if (shape.decode) {
    const DType cached = unified ? DType::kF32 : dtype;
    return shape.rows * values * config.kv_heads * static_cast<double>(dtype_bytes(cached)) *
           rates.seconds_per_byte(format_of(cached), 1);
  }
  if (rates.attention_seconds > 0) {
    return shape.rows * config.heads *
           (values * rates.attention_seconds + seen * rates.score_seconds);
  }
  return values * config.heads * static_cast<double>(dtype_bytes(dtype)) *
         rates.seconds_per_byte(format_of(dtype), shape.rows);
}

/// Seconds of what goes over a prompt's values once: norms and what is added before them, rotation,
/// activation; and the inputs of matmuls, converted or written where they are multiplied.
double values_seconds(const ModelConfig& config, const PassShape& shape,
                      const MachineRates& rates) {
  const double inputs = 2.0 * config.hidden + config.q_width() + config.intermediate;
  const double norms = (config.post_norms ? 4.0 : 2.0) * config.hidden;
  const double others = norms + config.q_width() + 2.0 * config.kv_width();
  const double gated = rates.gated_seconds > 0 ? rates.gated_seconds : rates.value_seconds;
  return shape.rows * ((inputs + others) * rates.value_seconds + config.intermediate * gated);
}

/// What a layer starts beside its weights' operations: rotation, attention, activation; the head
/// adds, samples and looks embeddings up. On the host every sequence has its own.
double weightless_seconds(bool is_head, bool unified, const PassShape& shape,
                          const MachineRates& rates) {
  if (is_head) return 3 * rates.operation_seconds;
  const double sequences = unified && shape.decode ? shape.rows : 1;
  return sequences * (rates.operation_seconds + rates.start_seconds(1)) + rates.operation_seconds;
}

/// What a unit's weights take, each in its format. A vector is a few bytes.
double weights_seconds(const std::vector<Weight>& weights, const LayerSpec& layer, const Unit& unit,
                       uint32_t rows, double more_seconds_per_byte, const MachineRates& rates) {
  double sum = 0;
  for (const Part& part : unit.parts) {
    const double bytes = static_cast<double>(part.rows * layer.tensors[part.tensor].row_bytes);
    sum +=
        bytes * (rates.seconds_per_byte(weights[part.tensor].format, rows) + more_seconds_per_byte);
  }
  return sum;
}

/// Whether a unit's tiles are multiplied with those before them, in it and in the unit before.
struct Joined {
  bool inside = false;
  bool before = false;
};

/// A matmul for every tile of a matrix that does not go on from another one's, of whose rows each
/// is an output; norms and biases are vectors.
double operations_seconds(const LayerSpec& layer, const Unit& unit, Joined joined, uint32_t rows,
                          const MachineRates& rates) {
  double sum = 0;
  for (size_t i = 0; i < unit.parts.size(); ++i) {
    const Part& part = unit.parts[i];
    const bool matrix = layer.tensors[part.tensor].rows > 1;
    const bool goes_on = part.first_row > 0 && (i > 0 ? joined.inside : joined.before);
    const double start_seconds = goes_on ? 0 : rates.start_seconds(rows);
    const auto outputs = static_cast<double>(part.rows);
    sum += matrix ? start_seconds + outputs * rates.output_seconds(rows) : rates.operation_seconds;
  }
  return sum;
}

/// Where a host's pass finds its weights: homes and slots.
uint64_t weight_memory_bytes(const StreamPlan& plan) {
  const Placement& placement = plan.placement;
  uint64_t bytes = placement.slots * placement.slot_bytes;
  for (size_t u = 0; u < plan.units.size(); ++u) {
    if (placement.unit_tiers[u] == Tier::kRam) bytes += plan.units[u].home_bytes;
  }
  return bytes;
}

std::vector<double> unit_seconds(const Model& model, const RunPlan& plan, bool unified,
                                 const PassShape& shape, const MachineRates& rates) {
  const auto& layers = plan.stream.layers;
  const uint64_t memory_bytes = unified ? weight_memory_bytes(plan.stream) : 0;
  const double more = rates.more_seconds_per_byte(shape.rows, memory_bytes);
  const double head_more = rates.more_seconds_per_byte(shape.logit_rows, memory_bytes);
  const std::vector<Tier>& tiers = plan.stream.placement.unit_tiers;
  const auto in_place = [&](size_t u) { return unified && tiers[u] != Tier::kNvme; };
  std::vector<double> result;
  for (size_t u = 0; u < plan.stream.units.size(); ++u) {
    const Unit& unit = plan.stream.units[u];
    const auto bytes = static_cast<double>(unit.bytes);
    const bool is_head = unit.layer + 1 == layers.size();
    const bool joins = in_place(u) && !(is_head && shape.scoring);  // whose logits are a tile's
    const Joined joined{joins, joins && u > 0 && in_place(u - 1)};
    const uint32_t rows = is_head ? shape.logit_rows : shape.rows;
    double weightless = weightless_seconds(is_head, unified, shape, rates);
    if (!is_head) {
      weightless += attention_seconds(model, unified, unit.layer, shape, rates) +
                    values_seconds(model.config, shape, rates);
    }
    const double share = bytes / static_cast<double>(layers[unit.layer].bytes());
    const double longer = is_head || shape.decode ? 1 : rates.layer_times(rows);
    const double sum_of_parts =
        weights_seconds(model.weights.weights[unit.layer], layers[unit.layer], unit, rows,
                        is_head ? head_more : more, rates) +
        operations_seconds(layers[unit.layer], unit, joined, rows, rates) + share * weightless;
    result.push_back(longer * sum_of_parts);
  }
  return result;
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

/// How many times as long computing and reading take while the other is under way.
struct Company {
  double compute = 1;
  double read = 1;
};

/// `shared` seconds of a pass see both under way: so much longer is each than alone.
SimulatedPass stretched(const SimulatedPass& alone, const Company& company, double shared) {
  SimulatedPass pass = alone;
  pass.compute_seconds += shared * (1 - 1 / company.compute);
  pass.read_seconds += shared * (1 - 1 / company.read);
  return pass;
}

/// First as if whichever is shorter always had company, then with as much as the simulation shows.
SimulatedPass simulate_together(const StreamPlan& plan, bool unified, const LinkRates& links,
                                const std::vector<double>& unit_seconds, const RowGather& gather,
                                const Company& company, uint32_t batches,
                                const StateTraffic& states) {
  const SimulatedPass alone =
      busy_seconds(plan, unified, links, unit_seconds, gather, batches, states);
  if (company.compute * company.read <= 1 || alone.read_seconds <= 0) {
    return simulate_pass(plan, unified, links, unit_seconds, gather, batches, states);
  }
  SimulatedPass pass;
  double shared =
      std::min(company.compute * alone.compute_seconds, company.read * alone.read_seconds);
  for (int round = 0; round < kCompanyRounds; ++round) {
    const SimulatedPass slowed = stretched(alone, company, shared);
    const double compute_factor = slowed.compute_seconds / alone.compute_seconds;
    const double read_factor = slowed.read_seconds / alone.read_seconds;
    std::vector<double> slower = unit_seconds;
    for (double& seconds : slower) seconds *= compute_factor;
    pass =
        simulate_pass(plan, unified, {links.read / read_factor, links.copy}, slower,
                      {gather.seconds * read_factor, gather.bytes, gather.waves}, batches, states);
    const double both = slowed.compute_seconds + slowed.read_seconds - pass.seconds;
    const double before = std::exchange(shared, std::clamp(both, 0.0, shared));
    if (before - shared <= kKnownShare * pass.seconds) break;
  }
  return pass;
}

StateTraffic state_traffic(const Model& model, const RunPlan& plan) {
  if (!spills(plan.limits)) return {};
  return {spill_block_bytes(model.config.hidden, plan.limits), plan.limits.spill_buffers};
}

/// A plan with its predictions, and what the whole work would take with it.
struct Candidate {
  ChosenPlan chosen;
  double seconds = 0;
};

Candidate candidate_of(RunPlan plan, const Config& config, const Model& model,
                       const Machine& machine, const Workload& workload, const WorkAmount& amount,
                       const MachineRates& rates) {
  const bool unified = machine.device->unified();
  ChosenPlan chosen;
  chosen.plan = std::move(plan);
  chosen.config = config;
  const PassShape decode = decode_shape(workload);
  const PassShape prompt = prompt_shape(chosen.plan, workload, amount);
  chosen.decode_rows = decode.rows;
  chosen.prompt_rows = static_cast<uint32_t>(prompt.tokens());
  chosen.decode = predict_pass(model, chosen.plan, unified, decode, rates);
  chosen.prompt = predict_pass(model, chosen.plan, unified, prompt, rates);
  chosen.chunk_rows = prompt.rows;
  double seconds = run_seconds(prompt.passes, chosen.prompt.seconds, amount.decode_passes,
                               chosen.decode.seconds);
  if (prompt.last_batches < prompt.batches) {
    PassShape last = prompt;
    last.batches = prompt.last_batches;
    seconds -= chosen.prompt.seconds;
    seconds += predict_pass(model, chosen.plan, unified, last, rates).seconds;
  }
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

double MachineRates::read_of(uint64_t chunk_bytes, uint32_t depth) const {
  // By depth for every chunk size that was measured, then by chunk size.
  std::map<double, std::map<double, double>> by_chunk;
  for (const ReadRate& read : reads) {
    const auto chunk = std::log2(static_cast<double>(read.chunk_bytes));
    by_chunk[chunk][std::log2(read.depth)] = read.bytes_per_second;
  }
  std::map<double, double> at_depth;
  for (const auto& [chunk, rates] : by_chunk) at_depth[chunk] = between(rates, std::log2(depth));
  return between(at_depth, std::log2(static_cast<double>(chunk_bytes)));
}

double MachineRates::read_latency() const {
  double least = std::numeric_limits<double>::infinity();
  for (const ReadRate& read : reads) {
    const auto in_flight = static_cast<double>(read.chunk_bytes) * read.depth;
    least = std::min(least, in_flight / read.bytes_per_second);
  }
  return least;
}

double MachineRates::seconds_per_byte(uint32_t rows) const {
  return seconds_of_byte(matmuls, rows);
}

double MachineRates::seconds_per_byte(WeightFormat format, uint32_t rows) const {
  const auto other = others.find(format);
  return seconds_of_byte(other == others.end() ? matmuls : other->second, rows);
}

double MachineRates::more_seconds_per_byte(uint32_t rows, uint64_t memory_bytes) const {
  if (!wide_memory || rows == 0 || rows > kFewRows || memory_bytes <= wide_memory->usual_bytes)
    return 0;
  const auto times = [&](uint64_t bytes) {
    return std::log2(static_cast<double>(bytes) / static_cast<double>(wide_memory->usual_bytes));
  };
  const double share = std::min(1.0, times(memory_bytes) / times(wide_memory->bytes));
  return share * wide_memory->more_seconds_per_byte;
}

double MachineRates::layer_times(uint32_t rows) const {
  if (rows <= kFewRows) return 1;
  const double most = std::max(kFewRows + 1, matmuls.back().rows);
  return 1 + (layer_share - 1) * std::min(1.0, (rows - kFewRows) / (most - kFewRows));
}

double MachineRates::start_seconds(uint32_t rows) const {
  if (rows == 0) return 0;
  return between_rows(matmuls, rows, [](const RowRate& rate) { return rate.start_seconds; });
}

double MachineRates::output_seconds(uint32_t rows) const {
  if (rows == 0) return 0;
  return between_rows(matmuls, rows, [](const RowRate& rate) { return rate.output_seconds; });
}

MachineRates MachineRates::beside_reads() const {
  MachineRates rates = *this;
  const auto slow = [](std::vector<RowRate>& by_rows) {
    for (RowRate& rate : by_rows) {
      if (rate.beside_reads > 0) rate.weight_bytes_per_second = rate.beside_reads;
    }
  };
  slow(rates.matmuls);
  for (auto& [format, by_rows] : rates.others) slow(by_rows);
  return rates;
}

double MachineRates::read_share(uint32_t rows) const {
  return between_rows(matmuls, rows, [](const RowRate& rate) {
    return rate.beside_reads > 0 ? rate.read_share : 1;
  });
}

PassShape decode_shape(const Workload& workload) {
  return {workload.min_rows, workload.min_rows, work_amount(workload).decode_positions, true};
}

PassShape prompt_shape(const RunPlan& plan, const Workload& workload, const WorkAmount& amount) {
  const uint32_t rows = plan.limits.max_rows;
  const uint32_t logit_rows = workload.scoring ? rows : workload.logit_rows;
  PassShape shape{rows, logit_rows, amount.prompt_positions, false, workload.scoring};
  shape.passes = ceil_div(amount.prompt_tokens, rows);
  if (!workload.scoring && plan.limits.sweep_rows == 0) return shape;
  const PassCounts counts = workload.pass_counts(rows, plan.limits.sweep_rows);
  CHECK(counts.passes > 0);
  // Texts do not fill every chunk.
  shape.rows = static_cast<uint32_t>(ceil_div(amount.prompt_tokens, counts.batches));
  if (workload.scoring) shape.logit_rows = shape.rows;
  shape.batches = counts.most_batches;
  shape.passes = counts.passes;
  const uint64_t others = (counts.passes - 1) * shape.batches;
  const uint64_t left = counts.batches - std::min(counts.batches, others);
  shape.last_batches = static_cast<uint32_t>(std::clamp<uint64_t>(left, 1, shape.batches));
  return shape;
}

RowGather gather_of(const Model& model, const StreamPlan& plan, uint32_t rows,
                    const MachineRates& rates) {
  const TensorSpec& table = plan.embed.tensors[0];
  double on_drive = plan.placement.embed_tier == Tier::kNvme ? 1 : 0;  // share of the table's rows
  if (plan.tied_layer >= 0) {
    uint64_t streamed = 0;
    for (size_t u = 0; u < plan.units.size(); ++u) {
      if (plan.units[u].layer != static_cast<uint32_t>(plan.tied_layer)) continue;
      if (plan.placement.unit_tiers[u] != Tier::kNvme) continue;
      for (const Part& part : plan.units[u].parts) {
        if (part.tensor == plan.tied_tensor) streamed += part.rows;
      }
    }
    on_drive = static_cast<double>(streamed) / static_cast<double>(table.rows);
  }
  const double reads = rows * on_drive;
  if (reads <= 0) return {};
  const uint32_t alignment = model.checkpoint.files()[table.file].info().alignment;
  const auto bytes =
      static_cast<uint64_t>(reads * static_cast<double>(RowSource::read_bytes(table, alignment)));
  const double waves = std::ceil(reads / RowSource::kDepth);
  return {waves * rates.read_latency() + static_cast<double>(bytes) / rates.best_read(), bytes,
          static_cast<uint32_t>(waves)};
}

double run_seconds(uint64_t prompt_passes, double prompt_pass_seconds, uint64_t decode_passes,
                   double decode_pass_seconds) {
  return static_cast<double>(prompt_passes) * prompt_pass_seconds +
         static_cast<double>(decode_passes) * decode_pass_seconds;
}

PassPrediction predict_pass(const Model& model, const RunPlan& plan, bool unified,
                            const PassShape& shape, const MachineRates& rates) {
  const LinkRates links{rates.read_of(plan.stream.chunk_bytes, plan.stream.io_depth),
                        rates.copy_bytes};
  const auto compute = unit_seconds(model, plan, unified, shape, rates);
  const auto tokens = static_cast<uint32_t>(shape.tokens());
  const RowGather gather = gather_of(model, plan.stream, tokens, rates);
  Company company;
  if (unified && rates.knows_company()) {
    const auto beside = unit_seconds(model, plan, unified, shape, rates.beside_reads());
    company = {sum(beside) / sum(compute), 1 / rates.read_share(shape.rows)};
  }
  const SimulatedPass pass = simulate_together(plan.stream, unified, links, compute, gather,
                                               company, shape.batches, state_traffic(model, plan));
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
      static_cast<double>(placement.nvme_bytes_per_pass + gather.bytes) / pass.seconds;
  prediction.copied_bytes_per_second =
      static_cast<double>(placement.copied_bytes_per_pass) / pass.seconds;
  return prediction;
}

WorkAmount work_amount(const Workload& workload) {
  WorkAmount amount;
  double prompt_pairs = 0;  // of a row and a position it attends to
  double decode_pairs = 0;
  uint64_t decoded = 0;
  for (const SequenceWork& sequence : workload.sequences) {
    const double prompt = sequence.prompt_tokens;
    amount.prompt_tokens += sequence.times * sequence.prompt_tokens;
    prompt_pairs += static_cast<double>(sequence.times) * prompt * (prompt + 1) / 2;
    const double again = sequence.again_tokens;
    amount.prompt_tokens += sequence.again_tokens;
    prompt_pairs += again * (again + 1) / 2;
    if (sequence.new_tokens < 2) continue;  // the prompt's last row gives the first token
    // So does what is fed again.
    const uint32_t rows = sequence.new_tokens - 1 - (sequence.again_tokens > 0 ? 1 : 0);
    if (rows == 0) continue;
    amount.decode_passes = std::max<uint64_t>(amount.decode_passes, rows);
    decode_pairs += rows * (prompt + (rows + 1) / 2.0);
    decoded += rows;
  }
  if (amount.prompt_tokens > 0) {
    amount.prompt_positions = prompt_pairs / static_cast<double>(amount.prompt_tokens);
  }
  amount.decode_positions =
      decoded > 0 ? decode_pairs / static_cast<double>(decoded) : amount.prompt_positions * 2;
  return amount;
}

namespace {

/// The shortest sweeps of whole chunks that texts go through in so many; 0 = a chunk each.
uint32_t sweep_tokens_for(uint64_t sweeps, uint32_t rows, const Workload& workload,
                          const WorkAmount& amount) {
  constexpr int kTries = 4;  // texts do not fill every chunk
  uint64_t tokens = align_up(ceil_div(amount.prompt_tokens, sweeps), rows);
  for (int i = 0; i < kTries && tokens > rows && tokens <= kMostSweepTokens; ++i, tokens += rows) {
    if (workload.pass_counts(rows, static_cast<uint32_t>(tokens)).passes <= sweeps) break;
  }
  return tokens > rows && tokens <= kMostSweepTokens ? static_cast<uint32_t>(tokens) : 0;
}

/// All texts in one sweep, in two, in four and so on; the shortest first.
std::vector<uint32_t> sweeps_of(uint32_t rows, const Workload& workload, const WorkAmount& amount) {
  std::vector<uint32_t> lengths;
  for (uint64_t sweeps = 1; sweeps * rows < amount.prompt_tokens; sweeps *= 2) {
    const uint32_t tokens = sweep_tokens_for(sweeps, rows, workload, amount);
    if (tokens > 0) lengths.push_back(tokens);
  }
  std::reverse(lengths.begin(), lengths.end());
  return lengths;
}

/// The same sweep with slots that others may wait in: all that the next layer needs, or few.
std::vector<Config> with_sweep(const Config& chosen, const Config& config, uint32_t tokens,
                               SpillChoice spill) {
  Config sweeping = chosen;
  sweeping.score_sweep_tokens = tokens;
  sweeping.prefill_sweep_tokens = tokens;
  sweeping.score_spill = spill;
  sweeping.stream_slots = config.stream_slots;
  std::vector<Config> candidates = {sweeping};
  if (config.stream_slots) return candidates;
  constexpr uint32_t kFewSlots = 8;
  sweeping.stream_slots = kFewSlots;
  candidates.push_back(sweeping);
  return candidates;
}

/// Nobody asked for a spilled sweep: there must be a reason for it, and room.
bool may_spill(const Config& candidate, const Config& config, const SpillPlan& spill) {
  if (candidate.score_spill == config.score_spill) return true;
  return candidate.score_spill == SpillChoice::kNever ||
         (spill.file_bytes > 0 && spill_problem(spill).empty());
}

}  // namespace

ChosenPlan choose_plan(const Config& config, const Model& model, const Machine& machine,
                       const Workload& workload, const WorkAmount& amount,
                       const MachineRates& rates) {
  Candidate best = candidate_of(plan_run(config, model, machine, workload), config, model, machine,
                                workload, amount, rates);
  uint32_t simulated = 1;
  if (best.chosen.plan.stream.placement.slots > 0) {  // else nothing streams
    auto candidates = candidates_of(config, machine.device->unified(), rates);
    const size_t units = best.chosen.plan.stream.units.size();
    const bool company = machine.device->unified() && rates.knows_company();
    const size_t simulations = units * (company ? kCompanyRounds : 1);
    const size_t most = std::max<size_t>(1, kMostSimulatedUnits / simulations);
    double limit = best.seconds * kClearlyFaster;
    const uint32_t rows = best.chosen.plan.limits.max_rows;
    const uint64_t unit_bytes = best.chosen.plan.unit_bytes;
    size_t left = most;
    uint64_t sweep_tokens = 0;
    const auto try_all = [&](const std::vector<Config>& configs) {
      for (const Config& candidate : configs) {
        if (left == 0) return;
        --left;
        auto found = find_plan(candidate, model, machine, workload);
        auto* plan = std::get_if<RunPlan>(&found);
        if (plan == nullptr) continue;  // its buffers do not fit the budget
        // Other chunks of a prompt, or other units, would round otherwise.
        if (plan->limits.max_rows != rows || plan->unit_bytes != unit_bytes) continue;
        if (plan->limits.sweep_rows < sweep_tokens) continue;  // cut: that one is tried, too
        if (!may_spill(candidate, config, plan->spill)) continue;
        Candidate other =
            candidate_of(std::move(*plan), candidate, model, machine, workload, amount, rates);
        ++simulated;
        if (other.seconds >= limit) continue;
        limit = other.seconds;
        best = std::move(other);
      }
    };
    try_all(candidates);
    const auto try_sweeps = [&](const std::vector<uint32_t>& lengths, SpillChoice spill) {
      const Config passes = best.chosen.config;
      left = most;
      for (const uint32_t tokens : lengths) {
        limit = best.seconds * kClearlyFaster;  // a longer one is worth what a stop would lose
        sweep_tokens = std::min<uint64_t>(tokens, amount.prompt_tokens);
        try_all(with_sweep(passes, config, tokens, spill));
      }
    };
    const bool open = config.score_spill == SpillChoice::kAuto;
    if (workload.scoring && !config.score_sweep_tokens) {
      const auto lengths = sweeps_of(rows, workload, amount);
      try_sweeps(lengths, open ? SpillChoice::kNever : config.score_spill);
      if (open) try_sweeps(lengths, SpillChoice::kAlways);
    } else if (!workload.scoring && !config.prefill_sweep_tokens) {
      try_sweeps(sweeps_of(rows, workload, amount), config.score_spill);
    } else if (workload.scoring && open && best.chosen.plan.limits.sweep_rows > 0) {
      try_sweeps({*config.score_sweep_tokens}, SpillChoice::kAlways);
    }
    // Planned anew: the bill counts the heap in use, and other plans were held when it was made.
    best.chosen.plan = {};
    best.chosen.plan = plan_run(best.chosen.config, model, machine, workload);
  }
  best.chosen.candidates = simulated;
  return std::move(best.chosen);
}

}  // namespace spillway
