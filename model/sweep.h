// The order of a sweep: plain data. Pure; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace spillway {

/// A batch goes through a layer. The last layer is the head.
struct SweepStep {
  uint32_t layer = 0;
  uint32_t batch = 0;
  uint32_t first_row = 0;  ///< of the batch's hidden states among all of the sweep
  bool last_of_layer = false;
};

/// Layer by layer, all batches in their order, so that a layer is read once and a text that goes
/// on in the next batch finds its keys and values.
std::vector<SweepStep> sweep_steps(uint32_t layers, std::span<const uint32_t> batch_rows);

}  // namespace spillway
