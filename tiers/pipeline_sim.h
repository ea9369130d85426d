// What a pass will take: the feeder that runs in production, on a disk and a device that keep time
// instead of moving bytes. No memory is touched, nothing is read; thousands of units per
// millisecond.
//
// Pure: the same plan and rates give the same figures.
#pragma once

#include <span>

#include "tiers/engine.h"

namespace spillway {

/// What carries bytes, in bytes per second. A rate that the placement needs must be positive.
struct LinkRates {
  double read = 0;  ///< from the drive, in chunks of the plan's size at its depth, and to it
  double copy = 0;  ///< from pinned memory to a discrete device, and back
};

/// Rows of the input embeddings that a pass reads one by one before its first unit computes.
struct RowGather {
  double seconds = 0;  ///< the model thread waits, where the drive does nothing else
  uint64_t bytes = 0;  ///< read from the drive
  uint32_t waves = 1;  ///< of reads, each behind what is in the drive's queue
};

/// Hidden states of a sweep on the drive: those of each batch are read before a layer computes and
/// written afterwards, the first layer's reads and the last one's writes apart.
struct StateTraffic {
  uint64_t block_bytes =
      0;                 ///< of a batch; 0 = they stay in memory, as where buffers hold them all
  uint32_t buffers = 0;  ///< batches that are computed, read and written at the same time
};

/// One pass among many alike: the next one's first units are read while it ends.
struct SimulatedPass {
  double seconds = 0;
  double read_seconds = 0;     ///< the drive is busy
  double copy_seconds = 0;     ///< the copy engine is busy
  double compute_seconds = 0;  ///< the device computes
};

/// What each link is busy for in a pass, in whatever order; `seconds` stays 0.
SimulatedPass busy_seconds(const StreamPlan& plan, bool unified, const LinkRates& rates,
                           std::span<const double> unit_seconds, const RowGather& gather = {},
                           uint32_t batches = 1, const StateTraffic& states = {});

/// `unit_seconds[u]`: what the device needs for unit u once it is there. `batches`: that each layer
/// computes one after the other, its units held meanwhile; slots must be as many. `states`: that
/// share the drive with what is read of the units, in the order in which they are asked for.
SimulatedPass simulate_pass(const StreamPlan& plan, bool unified, const LinkRates& rates,
                            std::span<const double> unit_seconds, const RowGather& gather = {},
                            uint32_t batches = 1, const StateTraffic& states = {});

}  // namespace spillway
