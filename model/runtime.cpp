#include "model/runtime.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/system_memory.h"
#include "core/units.h"

namespace spillway {
namespace {

/// Below this a unit is not halved to fit a budget.
constexpr uint64_t kMinUnitBytes = 4 * kMiB;
constexpr uint64_t kChunkBytes = kMiB;
constexpr uint32_t kDepth = 8;
constexpr uint32_t kMinChunkRows = 16;

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
  plan.chunk_bytes = config.io_chunk_bytes.value_or(kChunkBytes);
  plan.io_depth = config.io_depth.value_or(kDepth);
  plan.register_buffers = config.io_register_buffers.value_or(true);
  const auto shapes = file_shapes(model.checkpoint);
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

PlanRequest request_for(const Config& config, const Model& model, const Machine& machine,
                        const StreamPlan& stream, const Workload& workload,
                        const ForwardLimits& limits, uint64_t unit_bytes) {
  PlanRequest request;
  request.unified = machine.device->unified();
  request.ram_budget_bytes =
      config.ram_bytes ? *config.ram_bytes : automatic_ram_budget(read_system_memory());
  request.gpu_budget_bytes = request.unified ? 0 : gpu_budget(config, *machine.device);
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
  const Ops& ops = *machine.ops;
  const ModelConfig& shape = model.config;
  request.fixed = {
      {"KV cache", Tier::kGpu,
       KvCache::bytes(ops, attention_shape(shape, model.weights), shape.layers,
                      workload.kv_lengths)},
      {"activations", Tier::kGpu,
       Forward::activation_bytes(shape, model.weights, limits, unit_bytes)},
      {"kernel workspace", Tier::kGpu,
       ops.workspace_bytes(Forward::ops_limits(shape, model.weights, limits))},
      {"token rows and results", Tier::kRam, Forward::host_bytes(shape, model.weights, limits)},
      {"tables and tokenizer", Tier::kRam, heap_in_use_bytes()},
  };
  return request;
}

}  // namespace

Model open_model(const std::filesystem::path& directory, DirectChoice direct,
                 const NoticeSink& notice) {
  ModelConfig config = load_model_config(directory);
  Checkpoint checkpoint = Checkpoint::open(directory, direct, notice);
  WeightMap weights = map_weights(config, checkpoint);
  return {std::move(config), std::move(checkpoint), std::move(weights), load_tokenizer(directory)};
}

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
  options.threads = config.compute_threads;
  options.gpu_bytes = config.gpu_bytes.value_or(0);
  options.prompt_math = config.prompt_math;
  Machine machine;
  machine.device = open_device(name, options);
  machine.ops = make_ops(*machine.device, options);
  return machine;
}

RunPlan plan_run(const Config& config, const Model& model, const Machine& machine,
                 const Workload& workload) {
  const Device& device = *machine.device;
  if (config.io_engine == EngineChoice::kMmap && !device.unified()) {
    throw Error(fmt::format(
        "io.engine: mmap computes where the files are mapped, which {} cannot; set device: host",
        device.name()));
  }
  RunPlan plan;
  uint64_t unit_bytes = config.stream_unit_bytes.value_or(device.stream_unit_bytes());
  uint32_t rows = std::max(workload.chunk_rows, workload.min_rows);
  const uint32_t longest =
      *std::max_element(workload.kv_lengths.begin(), workload.kv_lengths.end());
  while (true) {
    if (plan.unit_bytes != unit_bytes) plan.stream = cut_model(config, model, device, unit_bytes);
    plan.unit_bytes = unit_bytes;
    plan.limits = {rows, workload.logit_rows, longest, workload.scoring, workload.keep_logits};
    const PlanRequest request =
        request_for(config, model, machine, plan.stream, workload, plan.limits, plan.unit_bytes);
    plan.ram_budget_bytes = request.ram_budget_bytes;
    plan.gpu_budget_bytes = request.gpu_budget_bytes;
    try {
      plan.stream.placement = plan_placement(request);
      return plan;
    } catch (const Error&) {
      // Smaller slots first, then shorter prompt chunks, which need less room for activations.
      const bool may_halve = !config.stream_unit_bytes && unit_bytes / 2 >= kMinUnitBytes;
      if (!may_halve && rows / 2 < std::max(workload.min_rows, kMinChunkRows)) throw;
      if (may_halve) {
        unit_bytes /= 2;
      } else {
        rows /= 2;
      }
    }
  }
}

std::vector<LayerPlacement> placement_table(const RunPlan& plan) {
  std::vector<LayerPlacement> table;
  const StreamPlan& stream = plan.stream;
  if (!stream.embed_units.empty()) {
    table.push_back({"embed", stream.placement.embed_tier, stream.embed.bytes()});
  }
  for (uint32_t layer = 0; layer < stream.layers.size(); ++layer) {
    for (const Tier tier : {Tier::kGpu, Tier::kRam, Tier::kNvme}) {
      uint64_t bytes = 0;
      for (size_t u = 0; u < stream.units.size(); ++u) {
        if (stream.units[u].layer == layer && stream.placement.unit_tiers[u] == tier) {
          bytes += stream.units[u].bytes;
        }
      }
      if (bytes > 0) table.push_back({stream.layers[layer].name, tier, bytes});
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

}  // namespace

Runtime::Runtime(const Parts& parts, const Workload& workload)
    : parts_(parts),
      arena_(*parts.machine->device, parts.plan->stream.placement.gpu_planned_bytes),
      engine_(parts.plan->stream, engine_parts(parts, arena_)),
      stream_(parts.machine->device->make_stream(StreamKind::kCompute)),
      cache_(arena_, *parts.machine->ops, *stream_,
             attention_shape(parts.model->config, parts.model->weights), parts.model->config.layers,
             workload.kv_lengths),
      forward_({&parts.model->config, &parts.model->weights, &parts.plan->stream, &engine_,
                parts.machine->device.get(), &arena_, parts.machine->ops.get(), stream_.get(),
                &cache_, parts.trace},
               parts.plan->limits, parts.plan->unit_bytes) {
  CHECK(arena_.left_bytes() == 0);  // the bill is exact
}

/// Work that a failed or interrupted pass left on the stream uses what is freed next.
Runtime::~Runtime() {
  try {
    stream_->sync();
  } catch (const Error&) {
    return;  // a device that failed runs nothing more
  }
}

const char* pass_kind_name(PassRecord::Kind kind) {
  return kind == PassRecord::Kind::kPrefill  ? "prefill"
         : kind == PassRecord::Kind::kDecode ? "decode"
                                             : "score";
}

PassRecord run_pass(Runtime& runtime, const Batch& batch, PassRecord::Kind kind) {
  const int64_t begin_ns = runtime.clock().now_ns();
  runtime.forward().run(batch);
  const int64_t end_ns = runtime.clock().now_ns();
  PassRecord record;
  record.kind = kind;
  record.tokens = static_cast<uint32_t>(batch.ids.size());
  record.seconds = seconds(end_ns - begin_ns);
  record.feed = runtime.engine().take_stats();
  runtime.trace().span(TraceLane::kPass, record.tokens, begin_ns, end_ns, record.feed.nvme_bytes);
  return record;
}

}  // namespace spillway
