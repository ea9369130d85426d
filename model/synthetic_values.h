// The weights of synthetic checkpoints, as a function of their place: threads can fill any part.
// Immutable: any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/weight_format.h"

namespace spillway {

class SyntheticValues {
 public:
  /// Plain numbers are normal, of standard deviation 0.02: the same ones in every format, rounded.
  /// Blocks hold random quants and scales such that the values have mean 0 and that deviation.
  SyntheticValues(WeightFormat format, uint64_t seed);

  WeightFormat format() const { return format_; }
  /// Values that are best filled together, and what they take: four numbers, or a block.
  uint64_t unit_values() const;
  uint64_t unit_bytes() const;

  /// Values [first, first + count) of a tensor; for blocks both are whole ones. `ones`: each is 1,
  /// for plain formats only.
  void fill(uint64_t tensor, bool ones, uint64_t first, uint64_t count, std::byte* out) const;

 private:
  void fill_plain(uint64_t key, uint64_t first, uint64_t count, std::byte* out) const;
  void fill_ones(uint64_t count, std::byte* out) const;
  void fill_block(uint64_t key, uint64_t block, std::byte* out) const;
  void set_scales(uint64_t bits, std::byte* block) const;
  void choose_scales();
  void put_number(std::byte* out, uint64_t index, uint32_t pick) const;

  /// Bits of f16 numbers: a block's scale, and what goes with it.
  struct ScalePair {
    uint16_t scale = 0;
    uint16_t other = 0;
  };
  static constexpr size_t kSteps = 256;
  static constexpr size_t kScales = 2 * kSteps;

  WeightFormat format_;
  uint64_t seed_;
  std::vector<float> floats_;  // for F32
  std::vector<uint16_t> halves_;
  std::array<ScalePair, kScales> scales_{};  // half of them negative
  uint8_t exponent_ = 0;                     // MXFP4: the smaller of two
  uint64_t larger_below_ = 0;                // ... and how many of 65536 blocks have the larger
};

}  // namespace spillway
