// From a configuration to something that runs: opens the model, asks the planner, allocates.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/config.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/system_memory.h"
#include "io/checkpoint.h"
#include "kernels/registry.h"
#include "model/forward.h"
#include "model/kv_cache.h"
#include "model/model_config.h"
#include "model/sweep_states.h"
#include "model/weight_map.h"
#include "text/tokenizer.h"
#include "tiers/engine.h"

namespace spillway {

/// A checkpoint opened and validated; no payload was read.
struct Model {
  ModelConfig config;
  Checkpoint checkpoint;
  WeightMap weights;
  /// Null where the checkpoint has none, or one that is refused: token ids go without.
  std::unique_ptr<Tokenizer> tokenizer;
  std::string no_tokenizer;  ///< why there is none
};
/// A Hugging Face folder, or a file in GGUF (Checkpoint::open()).
Model open_model(const std::filesystem::path& path, DirectChoice direct, const NoticeSink& notice);
/// Of either kind of checkpoint. Throw Error.
ModelConfig model_config_of(const Checkpoint& checkpoint);
std::unique_ptr<Tokenizer> tokenizer_of(const Checkpoint& checkpoint);
/// Says where a tokenizer was looked for, and that there is none.
std::string no_tokenizer_text(const Checkpoint& checkpoint);

/// One sequence: its prompt (or a window of a text that is scored), and what is generated after it.
struct SequenceWork {
  uint32_t prompt_tokens = 0;
  uint32_t new_tokens = 0;    ///< bounded by the context; 0 when scoring
  uint32_t again_tokens = 0;  ///< fed a second time, if it does not end before (generate.h)
  uint64_t times = 1;         ///< so many of them are alike
};

/// Positions per sequence that the KV cache holds at the same time.
using KvLengths = std::vector<uint32_t>;

/// What texts come to: batches of a chunk at most, and passes of one, or sweeps of several.
struct PassCounts {
  uint64_t batches = 0;
  uint64_t passes = 0;
  uint32_t most_batches = 0;  ///< of a pass
  /// Of any run of batches that fits a sweep, wherever it begins: jobs cut sweeps at their records.
  uint32_t bound_batches = 0;
};

/// What a run will ask of the machine, known before anything is read.
struct Workload {
  std::vector<SequenceWork> sequences;
  uint32_t chunk_rows = 0;  ///< wanted rows of a prompt pass; a tight budget gives fewer
  uint32_t min_rows = 1;    ///< rows that a pass must hold at least
  uint32_t logit_rows = 0;
  bool scoring = false;
  bool keep_logits = false;  ///< Forward::logits() is wanted
  /// Scoring: what else is wanted, as ForwardLimits say.
  uint32_t top_k = 0;
  std::vector<uint32_t> hidden_layers;
  /// Batches of at most `rows` rows that the texts are packed into, and the passes that
  /// takes in sweeps of at most `sweep_rows`; 0 = a pass each.
  std::function<PassCounts(uint32_t rows, uint32_t sweep_rows)> pass_counts;
  /// Bytes of RAM that whoever asks for passes of `rows` rows, or sweeps of `sweep_rows`, holds
  /// beside them; may be empty.
  std::function<uint64_t(uint32_t rows, uint32_t sweep_rows)> result_bytes;
  /// Every filling of the KV cache that passes of at most `rows` rows lead to: texts that are
  /// scored are packed by it.
  std::function<void(uint32_t rows, const std::function<void(const KvLengths&)>& visit)> fillings;
};

/// The device of a configuration, with its operations, and the memory that was there at the start.
struct Machine {
  std::unique_ptr<Device> device;
  std::unique_ptr<Ops> ops;
  SystemMemory memory;
};
/// `auto` says in a notice what it chose when that is not a GPU.
Machine open_machine(const Config& config, const NoticeSink& notice);

/// Hidden states of sweeps on a drive; without a file they stay in memory.
struct SpillPlan {
  std::filesystem::path folder;
  uint64_t file_bytes = 0;
  uint64_t sweep_bytes = 0;    ///< that the longest sweep writes, and reads again
  uint64_t written_bytes = 0;  ///< by all sweeps, at most
  std::string refused;         ///< why a sweep was made shorter instead
};

/// Why nobody should choose it unasked: too little room, or no drive; empty where nothing speaks
/// against it, or nothing is spilled.
std::string spill_problem(const SpillPlan& spill);

/// A plan and all that it was made from. Plain data.
struct RunPlan {
  StreamPlan stream;
  ForwardLimits limits;
  KvLengths kv_lengths;  ///< the largest filling of the KV cache
  uint64_t unit_bytes = 0;
  uint64_t ram_budget_bytes = 0;
  uint64_t gpu_budget_bytes = 0;
  SpillPlan spill = {};
};
/// The largest chunk of rows that the budgets allow, and the largest units at that; rather shorter
/// sweeps than shorter chunks, unless hidden states may go to a drive; texts in sweeps where a
/// whole chunk, or all layers, do not fit otherwise; where none fits, what comes closest. Throws
/// Error for what no budget can mend.
std::variant<RunPlan, Refusal> find_plan(const Config& config, const Model& model,
                                         const Machine& machine, const Workload& workload);
/// The same; a refusal is an Error that names the smallest budget that would do.
RunPlan plan_run(const Config& config, const Model& model, const Machine& machine,
                 const Workload& workload);

/// One row of the report: where (a part of) a layer lives.
struct LayerPlacement {
  std::string layer;
  Tier tier = Tier::kNvme;
  uint64_t bytes = 0;
};
std::vector<LayerPlacement> placement_table(const RunPlan& plan);

/// A model ready for passes. Everything is allocated by the constructor, which throws Error, or
/// Stopped; load() fills the homes. generate() and score() may follow each other as often as
/// wanted.
class Runtime {
 public:
  struct Parts {
    const Config* config = nullptr;
    const Model* model = nullptr;
    Machine* machine = nullptr;
    const RunPlan* plan = nullptr;
    ReaderFactory readers;
    Trace* trace = nullptr;
    const Clock* clock = nullptr;
    const StopFlag* stop = nullptr;
  };
  explicit Runtime(const Parts& parts);
  ~Runtime();
  Runtime(const Runtime&) = delete;

  void load(const LoadProgress& progress) { engine_.load(progress); }
  Engine& engine() { return engine_; }
  Forward& forward() { return forward_; }
  KvCache& cache() { return cache_; }
  /// Of sweeps; null where the plan has none.
  SweepStates* states() { return states_.get(); }
  const Model& model() const { return *parts_.model; }
  const RunPlan& plan() const { return *parts_.plan; }
  const Clock& clock() const { return *parts_.clock; }
  Ops& ops() { return *parts_.machine->ops; }
  Trace& trace() { return *parts_.trace; }

 private:
  /// The operations look at the stop flag for as long as this runtime lives.
  struct StopWatch {
    StopWatch(Ops& ops, const StopFlag* stop) : watching(ops) { ops.stop_on(stop); }
    ~StopWatch() { watching.stop_on(nullptr); }
    StopWatch(const StopWatch&) = delete;
    Ops& watching;
  };

  Parts parts_;
  StopWatch watch_;
  DeviceArena arena_;
  Engine engine_;
  std::unique_ptr<Stream> stream_;
  KvCache cache_;
  std::unique_ptr<SweepStates> states_;
  Forward forward_;
};

struct PassRecord {
  enum class Kind { kPrefill, kDecode, kScore };
  Kind kind = Kind::kDecode;
  uint32_t tokens = 0;
  double seconds = 0;
  FeedStats feed;
  SpillStats spill;
  /// For weights, rows and hidden states.
  int64_t waited_ns() const { return feed.stall_ns + spill.wait_ns; }
};
const char* pass_kind_name(PassRecord::Kind kind);

/// Runs one batch and measures it.
PassRecord run_pass(Runtime& runtime, const Batch& batch, PassRecord::Kind kind,
                    const ForwardObserver* observer = nullptr);
/// The same with a sweep: of texts that are scored, or of prompts.
PassRecord run_sweep(Runtime& runtime, std::span<const SweepBatch> batches,
                     const ForwardObserver& observer,
                     PassRecord::Kind kind = PassRecord::Kind::kScore);

}  // namespace spillway
