// How fast a plan will run on a machine whose rates are known, and which plan would be fastest.
// Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/runtime.h"
#include "tiers/pipeline_sim.h"

namespace spillway {

/// Direct reads of one shape.
struct ReadRate {
  uint64_t chunk_bytes = 0;
  uint32_t depth = 0;
  double bytes_per_second = 0;
};

/// Weights that a matmul of so many rows gets through once it has started.
struct RowRate {
  uint32_t rows = 0;
  double weight_bytes_per_second = 0;
  double start_seconds = 0;   ///< 0 = not measured on its own: part of the rate
  double output_seconds = 0;  ///< of every row of weights; 0 = part of the others
  /// The rate while the drive reads, too, and the share of its rate that it keeps during matmuls;
  /// 0 = not measured, as alone.
  double beside_reads = 0;
  double read_share = 0;
};

/// What a weight's byte costs more in a matmul of few rows where weights lie in `bytes` of memory
/// or more; nothing in `usual_bytes` or less, of which caches may hold a part.
struct MemoryCost {
  uint64_t usual_bytes = 0;
  uint64_t bytes = 0;
  double more_seconds_per_byte = 0;
};

/// What the machine gives; for the model's device and formats.
struct MachineRates {
  std::vector<ReadRate> reads;   ///< never empty
  double copy_bytes = 0;         ///< per second, from pinned memory to a discrete device
  std::vector<RowRate> matmuls;  ///< of most of the model's bytes; rows ascending, never empty
  double operation_seconds = 0;  ///< of starting anything else than a matmul
  /// Of a prompt: a multiply-add of attention, a query and a position beside those, a value that
  /// anything but matmul and attention takes, and one that is activated. 0 = not measured:
  /// attention as a matmul would, values for nothing, activated ones as others.
  double attention_seconds = 0;
  double score_seconds = 0;
  double value_seconds = 0;
  double gated_seconds = 0;
  double layer_share = 1;  ///< what a prompt's layer takes, beside all those and its matmuls
  std::optional<MemoryCost> wide_memory = {};  ///< empty = the same everywhere
  /// Matmuls of other formats, as far as they were measured.
  std::map<WeightFormat, std::vector<RowRate>> others = {};
  double best_read() const;  ///< the drive's limit: the best of all shapes
  /// Reads of one shape. One that was not measured lies between its neighbours, in proportion on a
  /// logarithmic scale; beyond the measured ones it is the nearest.
  double read_of(uint64_t chunk_bytes, uint32_t depth) const;
  /// Until a lone small read is there: at most what the smallest measured ones took.
  double read_latency() const;
  /// Seconds of one weight byte in a matmul of `rows`; between two measured counts in proportion,
  /// beyond the largest with the rows.
  double seconds_per_byte(uint32_t rows) const;
  /// Of one format; as most of the model's bytes where it was not measured.
  double seconds_per_byte(WeightFormat format, uint32_t rows) const;
  /// Beside that, where a pass's weights lie in `memory_bytes`; in proportion on a logarithmic
  /// scale. Nothing for many rows, which hide it; blocks were seen to cost as much more as others.
  double more_seconds_per_byte(uint32_t rows, uint64_t memory_bytes) const;
  /// Seconds of starting a matmul of `rows`; the same way, but no more than the largest measured.
  double start_seconds(uint32_t rows) const;
  /// Seconds of one row of weights in a matmul of `rows`, beside those of its bytes.
  double output_seconds(uint32_t rows) const;
  /// How many times what its parts take a prompt's layer of `rows` takes: all of layer_share at the
  /// largest count that was measured, less with fewer.
  double layer_times(uint32_t rows) const;
  /// Whether matmuls were measured beside reads, too.
  bool knows_company() const { return matmuls[0].beside_reads > 0; }
  /// Where the drive reads all the time: the same, with the matmuls slower.
  MachineRates beside_reads() const;
  /// Of the drive's rate, while a matmul of `rows` runs.
  double read_share(uint32_t rows) const;
};

/// What a run has to do.
struct WorkAmount {
  uint64_t prompt_tokens = 0;   ///< of all sequences, and what is fed again
  uint64_t decode_passes = 0;   ///< after the prompts, which give the first tokens
  double prompt_positions = 0;  ///< that a prompt's row attends to, on average
  double decode_positions = 0;  ///< that a decoded row attends to, on average
};

WorkAmount work_amount(const Workload& workload);

/// What one pass computes.
struct PassShape {
  uint32_t rows = 1;
  uint32_t logit_rows = 1;
  double positions = 0;  ///< of the KV cache that a row attends to, on average
  bool decode = true;    ///< each row is of a sequence of its own
  bool scoring = false;
  uint32_t batches = 1;       ///< of so many rows each that a layer computes before the next one
  uint64_t passes = 0;        ///< that all prompts, or texts, take
  uint32_t last_batches = 1;  ///< of the last of them, where all others are full
  uint64_t tokens() const { return uint64_t{rows} * batches; }
};
PassShape decode_shape(const Workload& workload);
/// A whole chunk of prompts; what texts that are scored fill of one on average, or a sweep of
/// those.
PassShape prompt_shape(const RunPlan& plan, const Workload& workload, const WorkAmount& amount);

struct PassPrediction {
  double seconds = 0;
  double read_seconds = 0;     ///< the drive is busy
  double copy_seconds = 0;     ///< the copy engine is busy
  double compute_seconds = 0;  ///< the device computes
  std::string bottleneck;      ///< "NVMe", "copies" or "compute": the one that is busy longest
  double nvme_bytes_per_second = 0;
  double copied_bytes_per_second = 0;
};

/// What of a pass's input embeddings is read row by row, and how long that takes.
RowGather gather_of(const Model& model, const StreamPlan& plan, uint32_t rows,
                    const MachineRates& rates);

/// All passes of a run: those of prompts, or of texts, then decoding.
double run_seconds(uint64_t prompt_passes, double prompt_pass_seconds, uint64_t decode_passes,
                   double decode_pass_seconds);

/// Runs the pipeline of production on simulated links (tiers/pipeline_sim.h). On unified memory
/// reading and computing slow each other down as long as both are under way; their times are those
/// in such company.
PassPrediction predict_pass(const Model& model, const RunPlan& plan, bool unified,
                            const PassShape& shape, const MachineRates& rates);

/// The plan with the least predicted time: every shape of reads that was measured, some slot counts
/// and, of texts that are scored, lengths of sweeps are simulated, with hidden states in memory and
/// on the drive, as far as the configuration leaves them open. What plan_run() gives stays
/// where nothing is clearly faster.
struct ChosenPlan {
  RunPlan plan;
  Config config;  ///< that gives it
  PassPrediction decode;
  PassPrediction prompt;
  uint32_t decode_rows = 0;
  uint32_t prompt_rows = 0;  ///< of a chunk, or of a sweep
  uint32_t chunk_rows = 0;   ///< of a matmul there
  uint32_t candidates = 0;   ///< simulated
};
ChosenPlan choose_plan(const Config& config, const Model& model, const Machine& machine,
                       const Workload& workload, const WorkAmount& amount,
                       const MachineRates& rates);

}  // namespace spillway
