#include "model/runtime.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/one_line.h"
#include "core/thread.h"
#include "core/units.h"
#include "io/spill_file.h"
#include "kernels/host/cpu_features.h"
#include "model/gguf_config.h"
#include "text/gguf_tokenizer.h"

namespace spillway {
namespace {

/// Below this a unit is not halved to fit a budget.
constexpr uint64_t kMinUnitBytes = 4 * kMiB;
/// Prompt chunks give way to a tight budget down to this, in steps of it or of a 64th.
constexpr uint32_t kMinChunkRows = 16;
constexpr uint32_t kMostChunkSteps = 64;

std::vector<FileShape> file_shapes(const Checkpoint& checkpoint) {
  std::vector<FileShape> shapes;
  for (const DirectFile& file : checkpoint.files()) {
    shapes.push_back({file.info().bytes, file.info().alignment});
  }
  return shapes;
}

StreamPlan cut_model(const Config& config, const Model& model, const Device& device,
                     uint64_t unit_bytes) {
  StreamPlan plan;
  plan.layers = model.weights.layers;
  plan.embed = model.weights.embed;
  plan.chunk_bytes = config.io_chunk_bytes.value_or(kUsualChunkBytes);
  plan.io_depth = config.io_depth.value_or(kUsualDepth);
  plan.register_buffers = config.io_register_buffers.value_or(true);
  const auto shapes = file_shapes(model.checkpoint);
  plan.chunk_bytes = align_up(plan.chunk_bytes, plan_alignment(shapes));  // a slab holds a chunk
  CutOptions options{unit_bytes, plan.chunk_bytes,
                     device.unified() ? BlobLayout::kInPlace : BlobLayout::kPacked};
  plan.units = cut_units(plan.layers, shapes, options);
  if (model.weights.tied) {
    plan.tied_layer = static_cast<int32_t>(plan.layers.size() - 1);
    plan.tied_tensor = static_cast<uint32_t>(plan.layers.back().tensors.size() - 1);
  } else {
    LayerSpec table = plan.embed;
    options.layout = BlobLayout::kInPlace;  // rows are gathered by the host in any case
    plan.embed_units = cut_units({&table, 1}, shapes, options);
  }
  return plan;
}

/// What others on the device may come to need; its own use grows a little while kernels load.
uint64_t gpu_reserve(uint64_t total_bytes) {
  return std::max<uint64_t>(384 * kMiB, total_bytes / 50);
}

uint64_t gpu_budget(const Config& config, const Device& device) {
  const DeviceMemoryInfo memory = device.memory_info();
  if (!config.gpu_bytes) {
    const uint64_t reserve = gpu_reserve(memory.total_bytes);
    return memory.free_bytes - std::min(memory.free_bytes, reserve);
  }
  if (*config.gpu_bytes > memory.free_bytes) {
    throw Error(fmt::format(
        "memory.gpu of {} is more than the {} that are free of the {} on {}; lower it, or use auto",
        format_bytes(*config.gpu_bytes), format_bytes(memory.free_bytes),
        format_bytes(memory.total_bytes), device.name()));
  }
  return *config.gpu_bytes;
}

/// Budgets as they were at the start: they do not move while plans are compared.
struct Budgets {
  uint64_t ram_bytes = 0;
  uint64_t gpu_bytes = 0;
};

Budgets budgets_of(const Config& config, const Machine& machine) {
  return {config.ram_bytes.value_or(automatic_ram_budget(machine.memory)),
          machine.device->unified() ? 0 : gpu_budget(config, *machine.device)};
}

/// All of a request but what depends on the rows of a pass.
PlanRequest request_for(const Config& config, const Model& model, const Machine& machine,
                        const StreamPlan& stream, const Budgets& budgets) {
  PlanRequest request;
  request.unified = machine.device->unified();
  request.ram_budget_bytes = budgets.ram_bytes;
  request.gpu_budget_bytes = budgets.gpu_bytes;
  for (const Unit& unit : stream.units) {
    request.units.push_back({unit.layer, unit.bytes, unit.home_bytes, unit.plan.read_bytes});
  }
  for (const LayerSpec& layer : stream.layers) request.layer_names.push_back(layer.name);
  for (const Unit& unit : stream.embed_units) request.embed_bytes += unit.home_bytes;
  const TensorSpec& table = stream.embed.tensors[0];
  request.embed_gather_bytes =
      RowSource::buffer_bytes(table, model.checkpoint.files()[table.file].info().alignment);
  request.policy = config.policy;
  request.ram_share = config.ram_share;
  request.mapped = config.io_engine == EngineChoice::kMmap;
  request.overrides = config.overrides;
  request.slots = config.stream_slots;
  request.staging_slabs = config.stream_staging_slabs;
  request.slab_bytes = stream.chunk_bytes;
  request.io_depth = stream.io_depth;
  return request;
}

/// What passes of so many rows need, whatever lives where.
struct PassNeeds {
  ForwardLimits limits;
  KvLengths kv_lengths;
  uint64_t kv_bytes = 0;
  uint64_t result_bytes = 0;  ///< of whoever asks for them
};

/// Of texts that are scored, in windows.
struct TextTokens {
  uint64_t longest = 0;
  uint64_t total = 0;
};

TextTokens text_tokens(const Workload& workload) {
  TextTokens tokens;
  for (const SequenceWork& window : workload.sequences) {
    tokens.longest = std::max<uint64_t>(tokens.longest, window.prompt_tokens);
    tokens.total += window.times * window.prompt_tokens;
  }
  return tokens;
}

/// Of a sweep that `wanted` tokens are asked of, in chunks of `rows`: whole chunks, and windows
/// whole; 0 = passes of a chunk each.
uint32_t sweep_rows_of(uint64_t wanted, uint32_t rows, const TextTokens& texts) {
  if (wanted <= rows) return 0;
  const uint64_t chunks = align_up(std::max(wanted, texts.longest), rows);
  const uint64_t sweep = std::min(chunks, texts.total);
  return sweep <= rows ? 0 : static_cast<uint32_t>(sweep);
}

/// Where hidden states of sweeps are.
enum class StatesIn : uint8_t { kMemory, kDrive };

/// Blocks that no drive takes at once stay in memory: of chunks of 32,768 tokens and more.
void spill(ForwardLimits& limits, uint32_t hidden, bool unified, const Workload& workload) {
  if (spill_block_bytes(hidden, limits) > kMaxSpillBlockBytes) return;
  limits.spill_batches = workload.pass_counts(limits.max_rows, limits.sweep_rows).bound_batches;
  limits.spill_buffers = std::min(spill_buffers(unified), limits.spill_batches);
}

PassNeeds needs_of(const Model& model, const Machine& machine, const Workload& workload,
                   uint32_t rows, uint32_t sweep_rows, StatesIn states) {
  const Ops& ops = *machine.ops;
  PassNeeds needs;
  needs.limits = {
      rows,           workload.logit_rows,   0, workload.scoring, workload.keep_logits, sweep_rows,
      workload.top_k, workload.hidden_layers};
  if (workload.result_bytes) needs.result_bytes = workload.result_bytes(rows, sweep_rows);
  if (sweep_rows > 0 && states == StatesIn::kDrive) {
    spill(needs.limits, model.config.hidden, machine.device->unified(), workload);
  }
  const AttentionShape shape = attention_shape(model.config, model.weights);
  workload.fillings(rows, [&](const KvLengths& lengths) {
    const uint32_t longest = *std::max_element(lengths.begin(), lengths.end());
    needs.limits.max_positions = std::max(needs.limits.max_positions, longest);
    const uint64_t bytes =
        KvCache::bytes(ops, shape, kv_layers(model.config, needs.limits), lengths);
    if (bytes <= needs.kv_bytes) return;
    needs.kv_bytes = bytes;
    needs.kv_lengths = lengths;
  });
  return needs;
}

SpillPlan spill_plan(const Config& config, const Model& model, const Workload& workload,
                     const ForwardLimits& limits) {
  if (!spills(limits)) return {};
  const uint64_t block_bytes = spill_block_bytes(model.config.hidden, limits);
  const uint64_t batches = workload.pass_counts(limits.max_rows, limits.sweep_rows).batches;
  SpillPlan plan;
  plan.folder = spill_folder(config);
  plan.file_bytes = limits.spill_batches * block_bytes;
  plan.sweep_bytes = model.config.layers * plan.file_bytes;  // the head's stay nowhere
  plan.written_bytes = model.config.layers * batches * block_bytes;
  return plan;
}

std::vector<MemoryLine> fixed_lines(const Config& config, const Model& model,
                                    const Machine& machine, const PassNeeds& needs,
                                    uint64_t unit_bytes, uint64_t heap_bytes) {
  const Ops& ops = *machine.ops;
  const ModelConfig& shape = model.config;
  return {
      {"KV cache", Tier::kGpu, needs.kv_bytes},
      {"hidden states", Tier::kGpu, state_bytes(shape.hidden, needs.limits)},
      {"hidden states in transit", Tier::kRam,
       staged_state_bytes(shape.hidden, needs.limits, machine.device->unified())},
      {"activations", Tier::kGpu,
       Forward::activation_bytes(shape, model.weights, needs.limits, unit_bytes)},
      {"kernel workspace", Tier::kGpu,
       ops.workspace_bytes(Forward::ops_limits(shape, model.weights, needs.limits, unit_bytes))},
      {"token rows and results", Tier::kRam,
       Forward::host_bytes(shape, model.weights, needs.limits)},
      {"documents and results", Tier::kRam, needs.result_bytes},
      {"tables and tokenizer", Tier::kRam, heap_bytes + spill_table_bytes(needs.limits)},
      {"trace", Tier::kRam, config.trace.empty() ? 0 : Trace::table_bytes(kTraceSpans)},
  };
}

/// Rows of a pass worth trying, the most first.
std::vector<uint32_t> row_counts(const Workload& workload) {
  const uint32_t most = std::max(workload.chunk_rows, workload.min_rows);
  const uint32_t least = std::max(workload.min_rows, std::min(kMinChunkRows, most));
  const auto step = static_cast<uint32_t>(align_up(ceil_div(most, kMostChunkSteps), kMinChunkRows));
  std::vector<uint32_t> counts = {most};
  for (uint32_t rows = most - most % step; rows > least; rows -= std::min(rows, step)) {
    if (rows < most) counts.push_back(rows);
  }
  if (least < most) counts.push_back(least);
  return counts;
}

/// Sizes of units worth trying, the largest first.
std::vector<uint64_t> unit_sizes(const Config& config, const Device& device) {
  if (config.stream_unit_bytes) return {*config.stream_unit_bytes};
  std::vector<uint64_t> sizes = {device.stream_unit_bytes()};
  while (sizes.back() / 2 >= kMinUnitBytes) sizes.push_back(sizes.back() / 2);
  return sizes;
}

[[noreturn]] void refuse(const Refusal& refusal, const Budgets& budgets, const Config& config,
                         const Machine& machine) {
  const bool ram = refusal.tier == Tier::kRam;
  const bool automatic = ram ? !config.ram_bytes : !config.gpu_bytes;
  std::string lines;
  for (const MemoryLine& line : refusal.bill) {
    if (line.tier != refusal.tier) continue;
    lines += fmt::format("{}{} {}", lines.empty() ? "" : ", ", line.name, format_bytes(line.bytes));
  }
  const auto in_mib = [](uint64_t bytes) { return fmt::format("{}MiB", ceil_div(bytes, kMiB)); };
  throw Error(fmt::format(
      "{}{} of {}{} cannot work with this placement: at least {} are needed ({}){}",
      ram ? "memory.ram" : "memory.gpu", automatic ? ": auto" : "",
      format_bytes(ram ? budgets.ram_bytes : budgets.gpu_bytes),
      automatic && ram ? fmt::format(" ({})", automatic_ram_source(machine.memory)) : "",
      in_mib(refusal.needed_bytes), lines,
      refusal.both ? fmt::format(", and {} of {}", in_mib(refusal.other_needed_bytes),
                                 ram ? "memory.gpu" : "memory.ram")
                   : ""));
}

/// Also what shows that config.json is not the checkpoint's own.
std::string unused_note(const ModelConfig& config, const std::vector<std::string>& names,
                        const Checkpoint& checkpoint) {
  return fmt::format(
      "{}: the model that {} describes ({}, {}) leaves {} of the checkpoint's "
      "tensors unused: {}",
      checkpoint.path().string(), checkpoint.metadata() != nullptr ? "its metadata" : "config.json",
      config.architecture, counted(config.layers, "layer"), names.size(), first_few(names));
}

}  // namespace

ModelConfig model_config_of(const Checkpoint& checkpoint) {
  return checkpoint.metadata() != nullptr ? gguf_model_config(checkpoint)
                                          : load_model_config(checkpoint.directory());
}

std::unique_ptr<Tokenizer> tokenizer_of(const Checkpoint& checkpoint) {
  return checkpoint.metadata() != nullptr ? gguf_tokenizer(*checkpoint.metadata())
                                          : load_tokenizer(checkpoint.directory());
}

std::string no_tokenizer_text(const Checkpoint& checkpoint) {
  return fmt::format("{}: {}", checkpoint.path().string(),
                     checkpoint.metadata() != nullptr
                         ? "the file's metadata hold no tokenizer; fetch another conversion"
                         : "no tokenizer.json and no tokenizer.model; fetch one of them");
}

Model open_model(const std::filesystem::path& path, DirectChoice direct, const NoticeSink& notice) {
  Checkpoint checkpoint = Checkpoint::open(path, direct, notice);
  ModelConfig config = model_config_of(checkpoint);
  WeightMap weights = map_weights(config, checkpoint);
  if (!weights.unused.empty()) notice(unused_note(config, weights.unused, checkpoint));
  Model model{std::move(config), std::move(checkpoint), std::move(weights), nullptr, ""};
  try {
    model.tokenizer = tokenizer_of(model.checkpoint);
    if (model.tokenizer == nullptr) model.no_tokenizer = no_tokenizer_text(model.checkpoint);
  } catch (const Error& error) {  // for whoever asks for text
    model.no_tokenizer = error.what();
  }
  model.checkpoint.drop_tokenizer_keys();
  return model;
}

namespace {

/// Besides the threads that compute: the feeder's, and the copies' of a discrete device.
constexpr uint32_t kOtherThreads = 2;

uint32_t compute_threads(const Config& config, const NoticeSink& notice) {
  const uint32_t wanted = config.compute_threads != 0 ? config.compute_threads : usable_cores();
  return startable_to_compute(wanted, kOtherThreads, notice);
}

}  // namespace

Machine open_machine(const Config& config, const NoticeSink& notice) {
  std::string name = config.device;
  if (name == "auto") {
    const AutoDevice chosen = choose_device();
    name = chosen.name;
    if (!chosen.reason.empty()) {
      notice(fmt::format("device auto: computing on the {} ({})", chosen.name, chosen.reason));
    }
  }
  DeviceOptions options;
  options.threads = compute_threads(config, notice);
  options.gpu_bytes = config.gpu_bytes.value_or(0);
  options.prompt_math = config.prompt_math;
  Machine machine;
  machine.device = open_device(name, options);
  machine.ops = make_ops(*machine.device, options);
  machine.memory = read_system_memory();
  return machine;
}

namespace {

using FoundPlan = std::variant<RunPlan, Refusal>;

/// With sweeps of so many tokens; 0 = passes of a chunk each.
FoundPlan find_plan_with(const Config& config, const Model& model, const Machine& machine,
                         const Workload& workload, uint32_t sweep_tokens, StatesIn states) {
  const Device& device = *machine.device;
  if (config.io_engine == EngineChoice::kMmap && !device.unified()) {
    throw Error(fmt::format(
        "io.engine: mmap computes where the files are mapped, which {} cannot; set device: host",
        device.name()));
  }
  const Budgets budgets = budgets_of(config, machine);
  std::optional<RunPlan> best;
  std::optional<Refusal> refusal;
  const auto counts = row_counts(workload);
  TextTokens texts = text_tokens(workload);
  if (!workload.scoring) texts.longest = 0;  // a prompt may go on in the next sweep
  for (const uint64_t unit_bytes : unit_sizes(config, device)) {
    StreamPlan stream = cut_model(config, model, device, unit_bytes);
    const uint64_t heap_bytes = heap_in_use_bytes();
    PlanRequest request = request_for(config, model, machine, stream, budgets);
    for (const uint32_t rows : counts) {
      if (best && rows <= best->limits.max_rows) break;  // larger units at no fewer rows
      const uint32_t sweep_rows = sweep_rows_of(sweep_tokens, rows, texts);
      request.hold_layers = sweep_rows > 0;
      PassNeeds needs = needs_of(model, machine, workload, rows, sweep_rows, states);
      request.fixed = fixed_lines(config, model, machine, needs, unit_bytes, heap_bytes);
      PlacementResult result = plan_placement(request);
      if (const auto* refused = std::get_if<Refusal>(&result)) {
        if (!refusal || refused->closer_than(*refusal)) refusal = *refused;
        continue;
      }
      stream.placement = std::get<Placement>(std::move(result));
      best = RunPlan{std::move(stream),
                     needs.limits,
                     std::move(needs.kv_lengths),
                     unit_bytes,
                     budgets.ram_bytes,
                     budgets.gpu_bytes,
                     spill_plan(config, model, workload, needs.limits)};
      break;
    }
    if (best && best->limits.max_rows == counts.front()) break;
  }
  if (best) return std::move(*best);
  return std::move(*refusal);
}

/// Rows of a pass; 0 = there is none.
uint32_t rows_of(const FoundPlan& found) {
  const auto* plan = std::get_if<RunPlan>(&found);
  return plan == nullptr ? 0 : plan->limits.max_rows;
}

bool closer(const FoundPlan& found, const FoundPlan& than) {
  const auto* refusal = std::get_if<Refusal>(&found);
  const auto* other = std::get_if<Refusal>(&than);
  return refusal != nullptr && other != nullptr && refusal->closer_than(*other);
}

/// Tokens of the longest sweep up to `wanted` that leaves as many rows to a chunk, `whole` at most,
/// as any other: a shorter chunk rounds otherwise, a shorter sweep does not. Of refusals the one
/// that is closest.
template <typename With>
uint32_t fitting_sweep(uint32_t wanted, uint32_t whole, const With& with) {
  auto found = with(wanted);
  uint32_t most_rows = rows_of(found);
  if (most_rows >= whole) return wanted;
  uint32_t fits = wanted;
  for (const uint32_t tokens : {std::min(wanted, 2 * whole), 0u}) {
    auto other = with(tokens);
    if (rows_of(other) <= most_rows && !closer(other, found)) continue;
    most_rows = rows_of(other);
    fits = tokens;
    found = std::move(other);
  }
  if (fits == 0 || fits == wanted || most_rows == 0) return fits;
  uint32_t too_many = wanted;
  while (too_many - fits > whole) {
    const uint32_t middle = fits + (too_many - fits) / 2;
    (rows_of(with(middle)) >= most_rows ? fits : too_many) = middle;
  }
  return fits;
}

/// What texts make a plan read in all.
uint64_t read_bytes(const RunPlan& plan, const Workload& workload) {
  const ForwardLimits& limits = plan.limits;
  return plan.stream.placement.nvme_bytes_per_pass *
         workload.pass_counts(limits.max_rows, limits.sweep_rows).passes;
}

/// Whether texts had better go in sweeps, although nobody knows how fast the machine is: where a
/// pass holds fewer rows, or rows that are fewer than a chunk and read more, or where only passes
/// have to read at all.
bool prefer_sweeps(const FoundPlan& sweeps, const FoundPlan& passes, const Workload& workload) {
  const auto* sweep = std::get_if<RunPlan>(&sweeps);
  const auto* pass = std::get_if<RunPlan>(&passes);
  if (pass == nullptr) {
    return sweep != nullptr || closer(sweeps, passes);
  }
  if (sweep == nullptr || sweep->limits.max_rows < pass->limits.max_rows) return false;
  if (sweep->limits.max_rows > pass->limits.max_rows) return true;
  const uint64_t bytes = read_bytes(*sweep, workload);
  const bool whole = pass->limits.max_rows >= std::max(workload.chunk_rows, workload.min_rows);
  return bytes < read_bytes(*pass, workload) && (!whole || bytes == 0);
}

/// A sweep that was asked for: on a drive, and whole, rather than shorter or of shorter chunks in
/// memory. No plan is held while another one is made: the bill counts the heap.
template <typename With>
FoundPlan asked_sweep(uint32_t wanted, uint32_t whole, const With& with) {
  const auto in_memory = [&](uint32_t tokens) { return with(tokens, StatesIn::kMemory); };
  const uint32_t fits = fitting_sweep(wanted, whole, in_memory);
  const uint32_t rows = rows_of(in_memory(fits));
  if (fits == wanted && rows >= whole) return in_memory(fits);
  SpillPlan spilled;
  uint32_t spilled_rows = 0;
  if (const auto found = with(wanted, StatesIn::kDrive); rows_of(found) > 0) {
    spilled = std::get<RunPlan>(found).spill;
    spilled_rows = rows_of(found);
  }
  const bool better = spilled_rows > rows || (spilled_rows == rows && fits != wanted);
  if (!better) return in_memory(fits);
  const std::string refused = spill_problem(spilled);
  if (refused.empty()) return with(wanted, StatesIn::kDrive);
  auto found = in_memory(fits);
  if (auto* plan = std::get_if<RunPlan>(&found)) plan->spill.refused = refused;
  return found;
}

/// Of prompts and answers: hidden states of a sweep stay in memory, and what is fed again goes in
/// passes.
FoundPlan find_prefill_plan(const Config& config, const Model& model, const Machine& machine,
                            const Workload& workload) {
  const auto with = [&](uint32_t sweep_tokens) {
    return find_plan_with(config, model, machine, workload, sweep_tokens, StatesIn::kMemory);
  };
  const uint32_t wanted = config.prefill_sweep_tokens.value_or(0);
  if (wanted <= config.prefill_chunk_tokens) return with(0);
  if (config.io_engine == EngineChoice::kMmap) {
    throw Error(
        "generate.prefill_sweep: io.engine: mmap computes passes, not sweeps; leave it at auto");
  }
  return with(fitting_sweep(wanted, std::max(workload.chunk_rows, workload.min_rows), with));
}

}  // namespace

std::string spill_problem(const SpillPlan& spill) {
  if (spill.file_bytes == 0) return {};
  const std::string folder = spill.folder.string();
  std::error_code error;
  const auto space = std::filesystem::space(spill.folder, error);
  if (error) return fmt::format("{}: {}", folder, error.message());
  if (file_system_name(spill.folder) == "tmpfs")
    return fmt::format("{} is a tmpfs, which keeps files in memory", folder);
  if (space.available >= spill.file_bytes) return {};
  return fmt::format("{} has {} free, and hidden states would take {}", folder,
                     format_bytes(space.available), format_bytes_up(spill.file_bytes));
}

std::variant<RunPlan, Refusal> find_plan(const Config& config, const Model& model,
                                         const Machine& machine, const Workload& workload) {
  const auto with_states = [&](uint32_t sweep_tokens, StatesIn states) {
    return find_plan_with(config, model, machine, workload, sweep_tokens, states);
  };
  const bool always = config.score_spill == SpillChoice::kAlways;
  const auto with = [&](uint32_t sweep_tokens) {
    return with_states(sweep_tokens, always ? StatesIn::kDrive : StatesIn::kMemory);
  };
  const bool mapped = config.io_engine == EngineChoice::kMmap;
  if (!workload.scoring) return find_prefill_plan(config, model, machine, workload);
  if (mapped && config.score_sweep_tokens.value_or(0) > config.score_chunk_tokens) {
    throw Error(
        "score.sweep: io.engine: mmap computes passes, not sweeps; leave score.sweep at auto");
  }
  if (mapped) return with(0);
  const uint32_t whole = std::max(workload.chunk_rows, workload.min_rows);
  if (config.score_sweep_tokens && config.score_spill == SpillChoice::kAuto)
    return asked_sweep(*config.score_sweep_tokens, whole, with_states);
  if (config.score_sweep_tokens)
    return with(fitting_sweep(*config.score_sweep_tokens, whole, with));
  // No plan is held while another one is made: the bill counts the heap.
  auto found = with(0);
  const auto* plan = std::get_if<RunPlan>(&found);
  const bool streams = plan != nullptr && plan->stream.placement.nvme_bytes_per_pass > 0;
  if (rows_of(found) >= whole && !streams) return found;
  // A sweep has keys and values of one layer at a time: more rows or more layers may fit.
  const uint32_t sweep_tokens = 2 * whole;
  const bool better = prefer_sweeps(with(sweep_tokens), found, workload);
  found = Refusal{};
  return with(better ? sweep_tokens : 0);
}

RunPlan plan_run(const Config& config, const Model& model, const Machine& machine,
                 const Workload& workload) {
  auto found = find_plan(config, model, machine, workload);
  if (auto* plan = std::get_if<RunPlan>(&found)) return std::move(*plan);
  refuse(std::get<Refusal>(found), budgets_of(config, machine), config, machine);
}

std::vector<LayerPlacement> placement_table(const RunPlan& plan) {
  std::vector<LayerPlacement> table;
  const StreamPlan& stream = plan.stream;
  if (!stream.embed_units.empty()) {
    table.push_back({"embed", stream.placement.embed_tier, stream.embed.bytes()});
  }
  std::vector<std::array<uint64_t, 3>> bytes(stream.layers.size());  // by tier
  for (size_t u = 0; u < stream.units.size(); ++u) {
    const Unit& unit = stream.units[u];
    bytes[unit.layer][static_cast<size_t>(stream.placement.unit_tiers[u])] += unit.bytes;
  }
  for (uint32_t layer = 0; layer < stream.layers.size(); ++layer) {
    for (const Tier tier : {Tier::kGpu, Tier::kRam, Tier::kNvme}) {
      const uint64_t here = bytes[layer][static_cast<size_t>(tier)];
      if (here > 0) table.push_back({stream.layers[layer].name, tier, here});
    }
  }
  return table;
}

namespace {

EngineParts engine_parts(const Runtime::Parts& parts, DeviceArena& arena) {
  EngineParts engine;
  engine.device = parts.machine->device.get();
  engine.arena = &arena;
  engine.readers = parts.readers;
  for (const DirectFile& file : parts.model->checkpoint.files()) {
    engine.files.push_back(&file.info());
  }
  engine.trace = parts.trace;
  engine.clock = parts.clock;
  engine.stop = parts.stop;
  return engine;
}

SweepStatesParts states_parts(const Runtime::Parts& parts, DeviceArena& arena, Stream& stream) {
  SweepStatesParts states;
  states.device = parts.machine->device.get();
  states.arena = &arena;
  states.ops = parts.machine->ops.get();
  states.stream = &stream;
  states.readers = parts.readers;
  states.clock = parts.clock;
  states.stop = parts.stop;
  states.folder = parts.plan->spill.folder;
  states.direct = parts.config->io_direct;
  return states;
}

}  // namespace

Runtime::Runtime(const Parts& parts)
    : parts_(parts),
      watch_(*parts.machine->ops, parts.stop),
      arena_(*parts.machine->device, parts.plan->stream.placement.gpu_planned_bytes),
      engine_(parts.plan->stream, engine_parts(parts, arena_)),
      stream_(parts.machine->device->make_stream(StreamKind::kCompute)),
      cache_(arena_, *parts.machine->ops, *stream_,
             attention_shape(parts.model->config, parts.model->weights),
             kv_layers(parts.model->config, parts.plan->limits), parts.plan->kv_lengths),
      states_(make_sweep_states(states_parts(parts, arena_, *stream_), parts.model->config.hidden,
                                parts.plan->limits)),
      forward_({&parts.model->config, &parts.model->weights, &parts.plan->stream, &engine_,
                parts.machine->device.get(), &arena_, parts.machine->ops.get(), stream_.get(),
                &cache_, states_.get(), parts.trace},
               parts.plan->limits, parts.plan->unit_bytes) {
  CHECK(arena_.left_bytes() == 0);  // the bill is exact
}

/// Work that a failed or interrupted pass left on the stream uses what is freed next.
Runtime::~Runtime() {
  try {
    stream_->sync();
  } catch (...) {
    return;  // a device that failed runs nothing more
  }
}

const char* pass_kind_name(PassRecord::Kind kind) {
  return kind == PassRecord::Kind::kPrefill  ? "prefill"
         : kind == PassRecord::Kind::kDecode ? "decode"
                                             : "score";
}

namespace {

template <typename Run>
PassRecord measured(Runtime& runtime, PassRecord::Kind kind, uint64_t tokens, const Run& run) {
  const int64_t begin_ns = runtime.clock().now_ns();
  run();
  const int64_t end_ns = runtime.clock().now_ns();
  PassRecord record;
  record.kind = kind;
  record.tokens = static_cast<uint32_t>(tokens);
  record.seconds = seconds(end_ns - begin_ns);
  record.feed = runtime.engine().take_stats();
  if (runtime.states() != nullptr) record.spill = runtime.states()->take_stats();
  runtime.trace().span(TraceLane::kPass, record.tokens, begin_ns, end_ns, record.feed.nvme_bytes);
  return record;
}

}  // namespace

PassRecord run_pass(Runtime& runtime, const Batch& batch, PassRecord::Kind kind,
                    const ForwardObserver* observer) {
  return measured(runtime, kind, batch.ids.size(), [&] { runtime.forward().run(batch, observer); });
}

PassRecord run_sweep(Runtime& runtime, std::span<const SweepBatch> batches,
                     const ForwardObserver& observer, PassRecord::Kind kind) {
  uint64_t tokens = 0;
  for (const SweepBatch& of : batches) tokens += of.batch.ids.size();
  return measured(runtime, kind, tokens, [&] { runtime.forward().sweep(batches, observer); });
}

}  // namespace spillway
