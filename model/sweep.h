// The order of a sweep as plain data: layer by layer, all batches in their order, so that a layer
// is read once and a text that goes on in the next batch finds its keys and values. Pure; any
// thread.
#pragma once

#include <cstddef>
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
  uint32_t rows = 0;
};

class SweepSchedule {
 public:
  SweepSchedule(uint32_t layers, std::span<const uint32_t> batch_rows)
      : layers_(layers), rows_(batch_rows.begin(), batch_rows.end()) {
    uint32_t row = 0;
    for (const uint32_t rows : batch_rows) {
      first_rows_.push_back(row);
      row += rows;
    }
  }
  size_t size() const { return layers_ * first_rows_.size(); }
  size_t layers() const { return layers_; }
  size_t batches() const { return first_rows_.size(); }
  SweepStep operator[](size_t index) const {
    const size_t batches = first_rows_.size();
    const auto batch = static_cast<uint32_t>(index % batches);
    return {static_cast<uint32_t>(index / batches), batch, first_rows_[batch], batch + 1 == batches,
            rows_[batch]};
  }

 private:
  size_t layers_;
  std::vector<uint32_t> rows_;
  std::vector<uint32_t> first_rows_;
};

}  // namespace spillway
