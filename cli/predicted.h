// What was predicted beside what was measured: per pass, per tier, per stage.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/forecast.h"

namespace spillway {

/// Passes of one kind that did what the prediction is for: medians, each of its own. A pass that
/// waits less computes longer, so that they need not add up.
struct MeasuredPass {
  uint32_t passes = 0;  ///< 0 = there was none to compare
  double seconds = 0;
  double nvme_bytes_per_second = 0;
  double copied_bytes_per_second = 0;
  double stall_seconds = 0;    ///< waiting for bytes
  double compute_seconds = 0;  ///< the rest of each pass
};

/// Decode passes of all sequences but the first one, which follows a prompt; prompt (or scoring)
/// passes that fill a chunk.
MeasuredPass measured_decode(const std::vector<PassRecord>& passes, const Forecast& forecast);
MeasuredPass measured_prompt(const std::vector<PassRecord>& passes, const Forecast& forecast);

/// A table; empty when nothing can be compared.
std::string predicted_and_measured_text(const Forecast& forecast,
                                        const std::vector<PassRecord>& passes);
/// The prediction and what was measured.
nlohmann::ordered_json predicted_and_measured_json(const Forecast& forecast,
                                                   const std::vector<PassRecord>& passes);

}  // namespace spillway
