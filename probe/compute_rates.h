// What a device computes and copies, measured with the operations that a run uses.
#pragma once

#include <functional>
#include <vector>

#include "core/clock.h"
#include "core/dtype.h"
#include "core/stop.h"
#include "kernels/ops.h"

namespace spillway {

/// How fast a matmul gets through its weights, by its rows: few rows wait for the memory, many for
/// the arithmetic.
struct MatmulRate {
  DType dtype = DType::kF32;
  struct Rows {
    uint32_t rows = 0;
    double weight_bytes_per_second = 0;
  };
  std::vector<Rows> rows;  ///< ascending, never empty
};

/// Rates of one device; the copies are 0 on unified memory.
struct DeviceRates {
  std::string device;
  double pinned_to_device = 0;  ///< bytes/s
  double device_to_pinned = 0;
  double pageable_to_device = 0;
  std::vector<MatmulRate> matmuls;
};

/// Device memory to measure on: small values of either sign in any of the dtypes, since zeros may
/// run faster than real ones.
Memory filled_memory(Device& device, Stream& stream, uint64_t bytes);

/// Takes a few seconds; `seconds` for each figure. A stop request ends it early.
DeviceRates measure_device(Device& device, Ops& ops, double seconds, const Clock& clock,
                           const StopFlag& stop, const std::function<void(const char*)>& progress);

}  // namespace spillway
