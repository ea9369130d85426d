// From a configuration to something that runs: opens the model, asks the planner, allocates.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/log.h"
#include "core/stop.h"
#include "io/checkpoint.h"
#include "kernels/registry.h"
#include "model/forward.h"
#include "model/kv_cache.h"
#include "model/model_config.h"
#include "text/tokenizer.h"
#include "model/weight_map.h"
#include "tiers/engine.h"

namespace spillway {

/// A checkpoint opened and validated; no payload was read.
struct Model {
  ModelConfig config;
  Checkpoint checkpoint;
  WeightMap weights;
  std::unique_ptr<Tokenizer> tokenizer;  ///< null when the folder has none
};
Model open_model(const std::filesystem::path& directory, DirectChoice direct,
                 const NoticeSink& notice);

/// What a run will ask of the machine, known before anything is read.
struct Workload {
  std::vector<uint32_t> kv_lengths;  ///< positions per sequence of the KV cache
  uint32_t chunk_rows = 0;           ///< wanted rows of a prompt pass; the planner may halve it
  uint32_t min_rows = 1;             ///< rows that a pass must hold at least
  uint32_t logit_rows = 0;
  bool scoring = false;
  bool keep_logits = false;  ///< Forward::logits() is wanted
};

/// The device of a configuration, with its operations.
struct Machine {
  std::unique_ptr<Device> device;
  std::unique_ptr<Ops> ops;
};
/// `auto` says in a notice what it chose when that is not a GPU.
Machine open_machine(const Config& config, const NoticeSink& notice);

/// A plan and all that it was made from. Plain data.
struct RunPlan {
  StreamPlan stream;
  ForwardLimits limits;
  uint64_t unit_bytes = 0;
  uint64_t ram_budget_bytes = 0;
  uint64_t gpu_budget_bytes = 0;
};
/// Throws Error when no budget line can be met, naming the smallest that would.
RunPlan plan_run(const Config& config, const Model& model, const Machine& machine,
                 const Workload& workload);

/// One row of the report: where (a part of) a layer lives.
struct LayerPlacement {
  std::string layer;
  Tier tier = Tier::kNvme;
  uint64_t bytes = 0;
};
std::vector<LayerPlacement> placement_table(const RunPlan& plan);

/// A model ready for passes. Everything is allocated by the constructor; load() fills the homes.
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
  Runtime(const Parts& parts, const Workload& workload);
  ~Runtime();
  Runtime(const Runtime&) = delete;

  void load(const LoadProgress& progress) { engine_.load(progress); }
  Engine& engine() { return engine_; }
  Forward& forward() { return forward_; }
  KvCache& cache() { return cache_; }
  const Model& model() const { return *parts_.model; }
  const RunPlan& plan() const { return *parts_.plan; }
  const Clock& clock() const { return *parts_.clock; }
  Ops& ops() { return *parts_.machine->ops; }
  Trace& trace() { return *parts_.trace; }

 private:
  Parts parts_;
  DeviceArena arena_;
  Engine engine_;
  std::unique_ptr<Stream> stream_;
  KvCache cache_;
  Forward forward_;
};

struct PassRecord {
  enum class Kind { kPrefill, kDecode, kScore };
  Kind kind = Kind::kDecode;
  uint32_t tokens = 0;
  double seconds = 0;
  FeedStats feed;
};
const char* pass_kind_name(PassRecord::Kind kind);

/// Runs one batch and measures it.
PassRecord run_pass(Runtime& runtime, const Batch& batch, PassRecord::Kind kind);

}  // namespace spillway
