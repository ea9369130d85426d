#include "model/prediction.h"

#include <algorithm>

namespace spillway {
namespace {

double time_of(double amount, double rate) {
  return amount > 0 && rate > 0 ? amount / rate : 0;
}

}  // namespace

PassPrediction predict_pass(const Placement& placement, uint64_t weight_bytes, DType dtype,
                            uint32_t rows, const MachineRates& rates) {
  PassPrediction prediction;
  prediction.read_seconds =
      time_of(static_cast<double>(placement.nvme_bytes_per_pass), rates.read_bytes);
  prediction.copy_seconds =
      time_of(static_cast<double>(placement.copied_bytes_per_pass), rates.copy_bytes);
  const auto weights = static_cast<double>(weight_bytes);
  const double flops = 2.0 * rows * weights / static_cast<double>(dtype_bytes(dtype));
  // Few rows wait for the weights, many for the arithmetic.
  prediction.compute_seconds =
      std::max(time_of(weights, rates.decode_bytes), time_of(flops, rates.prompt_flops));
  prediction.seconds =
      std::max({prediction.read_seconds, prediction.copy_seconds, prediction.compute_seconds});
  prediction.bottleneck = prediction.seconds == prediction.compute_seconds ? "compute"
                          : prediction.seconds == prediction.read_seconds  ? "NVMe"
                                                                           : "copies";
  return prediction;
}

}  // namespace spillway
