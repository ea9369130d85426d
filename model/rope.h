// How fast the pairs of a head turn with the position (rotary embeddings), under the scalings of
// transformers' modeling_rope_utils. Plain data and pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace spillway {

struct RopeScaling {
  enum class Kind { kNone, kLinear, kDynamic, kYarn, kLongRope, kLlama3, kFactors };
  Kind kind = Kind::kNone;
  double factor = 1;
  double original_max_positions = 8192;  ///< of the training before the context was extended
  double attention_factor = 1;           ///< yarn, longrope: multiplies cosines and sines
  double low_freq_factor = 1;            ///< llama3
  double high_freq_factor = 4;
  double beta_fast = 32;  ///< yarn: turns over the original positions from which a pair is kept
  double beta_slow = 1;   ///< ... and below which it is interpolated
  bool truncate = true;
  std::vector<double> short_factors;  ///< longrope, factors: one per pair
  std::vector<double> long_factors;
};

/// What a sequence of `length` tokens is rotated with: sequences of one regime turn alike. Lengths
/// matter to dynamic, beyond the original positions, and to longrope, on either side of them.
uint32_t rope_regime(const RopeScaling& scaling, uint32_t length);
/// True where there is more than one.
bool rope_has_regimes(const RopeScaling& scaling);

/// out[i] = radians per position of pair i, for a head of 2 * out.size() elements.
void rope_inverse_frequencies(const RopeScaling& scaling, double theta, uint32_t regime,
                              std::span<float> out);

/// What llama3 divides the speed of each pair by: as kFactors, the same speeds bit for bit.
std::vector<float> llama3_factors(const RopeScaling& scaling, double theta, uint32_t pairs);

/// The attention factor that yarn and longrope take where the configuration names none.
double yarn_attention_factor(double factor, double mscale, double mscale_all_dim);
double longrope_attention_factor(double factor, double original_max_positions);

}  // namespace spillway
