#include "model/sweep.h"

namespace spillway {

std::vector<SweepStep> sweep_steps(uint32_t layers, std::span<const uint32_t> batch_rows) {
  std::vector<SweepStep> steps;
  steps.reserve(layers * batch_rows.size());
  for (uint32_t layer = 0; layer < layers; ++layer) {
    uint32_t row = 0;
    for (uint32_t batch = 0; batch < batch_rows.size(); ++batch) {
      steps.push_back({layer, batch, row, batch + 1 == batch_rows.size()});
      row += batch_rows[batch];
    }
  }
  return steps;
}

}  // namespace spillway
