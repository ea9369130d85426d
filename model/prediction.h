// How long a pass will take, from a plan and the rates of a machine. Pure functions.
//
// Reads, copies and computing overlap (streamed units alternate with resident ones), so a pass
// takes as long as the slowest of the three.
#pragma once

#include <cstdint>
#include <string>

#include "core/dtype.h"
#include "tiers/planner.h"

namespace spillway {

/// What the machine gives; bytes and operations per second. 0 = not known.
struct MachineRates {
  double read_bytes = 0;    ///< from the drive
  double copy_bytes = 0;    ///< from pinned memory to a discrete device
  double decode_bytes = 0;  ///< weights through a one-row matmul, in the model's dtype
  double prompt_flops = 0;  ///< matmuls of many rows
};

struct PassPrediction {
  double seconds = 0;
  double read_seconds = 0;
  double copy_seconds = 0;
  double compute_seconds = 0;
  std::string bottleneck;  ///< "NVMe", "copies" or "compute"
};

/// `weight_bytes`: what a pass walks; `rows`: tokens per pass. Rates that the placement needs must
/// be known.
PassPrediction predict_pass(const Placement& placement, uint64_t weight_bytes, DType dtype,
                            uint32_t rows, const MachineRates& rates);

}  // namespace spillway
