// What the arms measured: samples out of run reports, their spread, and how they are written.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "compare/arms.h"

namespace spillway {

/// One process of an arm: its median pass.
struct Sample {
  double seconds = 0;
  double nvme_bytes = 0;
  double stall_seconds = 0;
  double predicted_seconds = 0;  ///< 0 = no profile
  uint32_t tokens = 0;           ///< per pass
  uint64_t peak_rss_bytes = 0;
  double predicted_read_seconds = 0;     ///< kScore: of those, the drive's
  double predicted_compute_seconds = 0;  ///< and the device's
};

/// From the report of a run. kPrompt: all prompt passes together; kScore: the average sweep, as
/// long as the first; else the median decode pass of those after the first. Throws Error when the
/// report holds none.
Sample sample_of(const nlohmann::json& report, Sweep sweep);

struct Spread {
  double low = 0;
  double median = 0;
  double high = 0;
};
Spread spread_of(std::vector<double> values);

struct ArmResult {
  Arm arm;
  std::vector<Sample> samples;
  std::string skipped;  ///< why there are no (or no more) samples; empty = all is well
  bool measured() const { return !samples.empty(); }
  Spread seconds() const;
  double tokens_per_second() const;  ///< by the median
  double nvme_bytes() const;         ///< per pass, median
  double predicted_seconds() const;  ///< median; 0 = not predicted
};

struct Comparison {
  std::string machine;      ///< "Intel ..., 2 cores; ext4 on ..."
  std::string model;        ///< "LlamaForCausalLM, 6.52 GiB of BF16"
  std::string measured_at;  ///< "2026-11-20T14:00:00Z"
  std::string version;
  uint32_t repeats = 0;
  bool interrupted = false;
  std::vector<std::string> notes;  ///< what a reader must know
  std::vector<ArmResult> arms;
  std::string timeline_svg;  ///< of one pass; may be empty
};

/// kScore: the tokens per sweep at which reading is predicted to take as long as computing: between
/// the two sweeps where that turns round, else in proportion to the nearest. 0 = not predicted, or
/// nothing is read.
double crossing_tokens(const Comparison& comparison);

nlohmann::ordered_json comparison_json(const Comparison& comparison);
std::string comparison_csv(const Comparison& comparison);

}  // namespace spillway
