#include "compare/arms.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "compare/figures.h"
#include "core/error.h"
#include "core/units.h"
#include "model/generate.h"

namespace spillway {
namespace {

/// Short prompts: only their decode passes count.
constexpr uint32_t kShortPrompt = 2;

/// New tokens before the passes that count: the prompt gives the first, and its first pass after
/// that does not count.
constexpr uint32_t kPassesBefore = 2;

uint32_t new_tokens_of(uint32_t context, const SweepOptions& options) {
  return std::min(options.new_tokens + kPassesBefore, context - kShortPrompt);
}

/// One less than the context: a token is made after it.
uint32_t prompt_tokens_of(uint32_t context, const SweepOptions& options) {
  return std::min(options.prompt_tokens, context - 1);
}

std::vector<int64_t> some_ids(uint32_t count, uint32_t sequence, uint32_t vocab) {
  std::vector<int64_t> ids;
  for (uint32_t i = 0; i < count; ++i) {
    ids.push_back((uint64_t{i} * 7919 + uint64_t{sequence} * 104729) % vocab);
  }
  return ids;
}

/// The user's device, readers and kernels; work and placement are the arm's.
Config base_config(const Config& config, const Model& model, uint32_t sequences,
                   uint32_t prompt_tokens, uint32_t new_tokens) {
  Config base = config;
  base.prompts.clear();
  base.prompt_token_ids.clear();
  for (uint32_t i = 0; i < sequences; ++i) {
    base.prompt_token_ids.push_back(some_ids(prompt_tokens, i, model.config.vocab));
  }
  base.max_new_tokens = new_tokens;
  base.prefill_chunk_tokens = std::max(config.prefill_chunk_tokens, sequences);
  base.temperature = 0;
  base.ignore_eos = true;
  base.policy = PlacementPolicy::kAuto;
  base.ram_share.reset();
  base.overrides.clear();
  base.io_direct = DirectChoice::kOn;  // a read from the page cache is not one from the drive
  base.report.clear();
  base.trace.clear();
  return base;
}

Arm share_arm(Sweep sweep, uint32_t percent, uint32_t batch, Config base) {
  Arm arm;
  arm.sweep = sweep;
  arm.ram_share = percent / 100.0;
  arm.batch = batch;
  arm.config = std::move(base);
  arm.config.ram_bytes.reset();  // shares compare placements, not budgets
  arm.config.ram_share = arm.ram_share;
  if (percent == 100) arm.config.io_direct = DirectChoice::kAuto;  // reads nothing while it counts
  return arm;
}

/// RAM that a placement takes when nothing bounds it.
uint64_t planned_ram(Config config, const Model& model, const Machine& machine) {
  config.ram_bytes = uint64_t{1} << 50;
  const Workload workload = generation_workload(config, model, make_prompts(config, model));
  return plan_run(config, model, machine, workload).stream.placement.ram_planned_bytes;
}

std::vector<uint64_t> budgets_of(const Config& base, const Model& model, const Machine& machine,
                                 const SweepOptions& options) {
  if (!options.memory_bytes.empty()) return options.memory_bytes;
  const auto [low, high] = memory_range(base, model, machine);
  const uint64_t pages = (high - low) / kHugePageBytes;
  std::vector<uint64_t> budgets;
  const uint32_t steps = std::max(1u, options.memory_points - 1);
  for (uint32_t i = 0; i < options.memory_points; ++i) {
    budgets.push_back(low + pages * i / steps * kHugePageBytes);
  }
  return budgets;
}

/// What the program and its libraries take beside memory.ram (docs/ARCHITECTURE.md, "Memory"), and
/// a little for the pages of its report; with a GPU's driver.
constexpr uint64_t kProgramBytes = 24 * kMiB;
constexpr uint64_t kProgramAndDriverBytes = 96 * kMiB;
/// Tables of small pages count in a control group, too: of mapped files, and of the budget where
/// the system has no huge ones.
constexpr uint64_t kBytesPerTableByte = 512;

uint64_t group_bytes(uint64_t budget, uint64_t mapped_bytes, const Machine& machine) {
  return budget + mapped_bytes / kBytesPerTableByte +
         (machine.device->unified() ? kProgramBytes : kProgramAndDriverBytes);
}

void add_memory_arms(std::vector<Arm>& arms, const Config& base, const Model& model,
                     const Machine& machine, const SweepOptions& options) {
  for (const uint64_t budget : budgets_of(base, model, machine, options)) {
    for (const bool mapped : {false, true}) {
      Arm arm;
      arm.sweep = Sweep::kMemory;
      arm.mapped = mapped;
      arm.memory_bytes = budget;
      const uint64_t mapped_bytes = mapped ? model.weights.weight_bytes : budget;
      arm.group_bytes = group_bytes(budget, mapped_bytes, machine);
      arm.config = base;
      arm.config.ram_bytes = budget;
      if (mapped) arm.config.io_engine = EngineChoice::kMmap;
      arms.push_back(std::move(arm));
    }
  }
}

constexpr uint32_t kDocumentTokens = 512;
/// Of the look at the drive before a run, whose ring the kernel may still be taking apart when the
/// plan's memory is touched.
constexpr uint64_t kLookBytes = 32 * kMiB;
/// Doublings from a chunk to the whole job, at most.
constexpr size_t kMostSweepLengths = 16;

/// A chunk, twice as much and so on; the last one is all of the job.
std::vector<uint32_t> sweep_lengths(uint32_t chunk, uint32_t job_tokens) {
  std::vector<uint32_t> lengths;
  for (uint64_t tokens = chunk; tokens < job_tokens; tokens *= 2) {
    if (lengths.size() + 1 == kMostSweepLengths) break;
    lengths.push_back(static_cast<uint32_t>(tokens));
  }
  lengths.push_back(job_tokens);
  return lengths;
}

/// First with everything in RAM, which computes as fast as a sweep can; then in the memory that is
/// configured.
void add_score_arms(std::vector<Arm>& arms, const Config& config, Config base,
                    const Machine& machine, uint32_t job_tokens) {
  base.score_logprobs = false;
  base.score_context_tokens.reset();
  Arm arm;
  arm.sweep = Sweep::kScore;
  arm.job_tokens = job_tokens;
  arm.ram_share = 1;
  arm.config = base;
  arm.config.ram_bytes.reset();
  arm.config.ram_share = arm.ram_share;
  arm.config.score_sweep_tokens = 1;
  arm.config.io_direct = DirectChoice::kAuto;  // reads nothing while it counts
  arms.push_back(arm);
  arm.ram_share = 0;
  arm.config = std::move(base);
  arm.memory_bytes = config.ram_bytes.value_or(0);
  if (config.ram_bytes) {
    arm.group_bytes = group_bytes(*config.ram_bytes, *config.ram_bytes, machine) + kLookBytes;
  }
  for (const uint32_t tokens : sweep_lengths(config.score_chunk_tokens, job_tokens)) {
    arm.sweep_tokens = tokens;
    arm.config.score_sweep_tokens = tokens;
    arms.push_back(arm);
  }
}

/// Arms are files by their names.
void drop_repeated(std::vector<Arm>& arms) {
  std::set<std::string> names;
  std::erase_if(arms, [&](const Arm& arm) { return !names.insert(arm.name()).second; });
}

}  // namespace

const char* sweep_name(Sweep sweep) {
  return sweep == Sweep::kDecode   ? "decode"
         : sweep == Sweep::kPrompt ? "prompt"
         : sweep == Sweep::kScore  ? "score"
                                   : "memory";
}

std::string Arm::name() const {
  if (sweep == Sweep::kMemory) {
    const std::string size = memory_bytes % kMiB == 0 ? fmt::format("{}MiB", memory_bytes / kMiB)
                                                      : fmt::format("{}B", memory_bytes);
    return fmt::format("memory-{}-{}", size, mapped ? "mmap" : "spillway");
  }
  if (sweep == Sweep::kScore) {
    return sweep_tokens == 0 ? "score-ram" : fmt::format("score-sweep{}", sweep_tokens);
  }
  return fmt::format("{}-ram{:.0f}-batch{}", sweep_name(sweep), 100 * ram_share, batch);
}

std::string Arm::title() const {
  if (sweep == Sweep::kMemory) return "decode in " + detail();
  return fmt::format("{}, {}", sweep_name(sweep), detail());
}

std::string Arm::detail() const {
  if (sweep == Sweep::kMemory) {
    return fmt::format("{}, {}", format_bytes(memory_bytes), mapped ? "mmap" : "Spillway");
  }
  if (sweep == Sweep::kScore) {
    return sweep_tokens == 0 ? "all in RAM" : "sweeps of " + count_text(sweep_tokens);
  }
  return fmt::format("{:.0f} % in RAM, batch {}", 100 * ram_share, batch);
}

std::vector<std::vector<uint32_t>> score_documents(const Arm& arm, const ModelConfig& model) {
  const uint32_t longest =
      std::max(2u, std::min({kDocumentTokens, arm.config.score_chunk_tokens, model.context}));
  const uint32_t tokens = arm.job_tokens;
  std::vector<std::vector<uint32_t>> documents;
  for (uint32_t at = 0; at < tokens; at += longest) {
    const auto number = static_cast<uint32_t>(documents.size());
    const auto ids = some_ids(std::min(longest, tokens - at), number, model.vocab);
    documents.emplace_back(ids.begin(), ids.end());
  }
  return documents;
}

std::vector<std::string> context_notes(uint32_t context, const SweepOptions& options) {
  std::vector<std::string> notes;
  const auto has = [&](auto... sweeps) {
    return std::any_of(options.sweeps.begin(), options.sweeps.end(),
                       [&](Sweep sweep) { return ((sweep == sweeps) || ...); });
  };
  const uint32_t passes = new_tokens_of(context, options) - kPassesBefore;
  if (passes < options.new_tokens && has(Sweep::kMemory, Sweep::kDecode)) {
    notes.push_back(fmt::format(
        "the model's context of {} tokens has room for {} decode passes that count, not {}",
        context, passes, options.new_tokens));
  }
  const uint32_t tokens = prompt_tokens_of(context, options);
  if (tokens < options.prompt_tokens && has(Sweep::kPrompt)) {
    notes.push_back(
        fmt::format("the model's context of {} tokens has room for a prompt of {}, not {}", context,
                    tokens, options.prompt_tokens));
  }
  return notes;
}

MemoryRange memory_range(const Config& config, const Model& model, const Machine& machine) {
  Config least = config;
  least.ram_share = 0;
  if (!least.stream_slots) least.stream_slots = 2;
  Config most = config;
  most.policy = PlacementPolicy::kRam;
  return {planned_ram(least, model, machine), planned_ram(most, model, machine)};
}

std::vector<Arm> make_arms(const Config& config, const Model& model, const Machine& machine,
                           const SweepOptions& options) {
  const uint32_t context = model.config.context;
  if (context < kShortPrompt + kPassesBefore + 1)
    throw Error("the model's context is too short to compare");
  const uint32_t new_tokens = new_tokens_of(context, options);
  const auto decoding = [&](uint32_t batch) {
    return base_config(config, model, batch, kShortPrompt, new_tokens);
  };
  std::vector<Arm> arms;
  for (const Sweep sweep : options.sweeps) {
    if (sweep == Sweep::kMemory) {
      add_memory_arms(arms, decoding(1), model, machine, options);
      continue;
    }
    if (sweep == Sweep::kScore) {
      add_score_arms(arms, config, base_config(config, model, 0, 0, config.max_new_tokens), machine,
                     options.score_tokens);
      continue;
    }
    for (const uint32_t percent : options.ram_percents) {
      if (sweep == Sweep::kPrompt) {
        const uint32_t tokens = prompt_tokens_of(context, options);
        arms.push_back(share_arm(sweep, percent, 1, base_config(config, model, 1, tokens, 1)));
        continue;
      }
      for (const uint32_t batch : options.batches) {
        arms.push_back(share_arm(sweep, percent, batch, decoding(batch)));
      }
    }
  }
  drop_repeated(arms);
  return arms;
}

}  // namespace spillway
