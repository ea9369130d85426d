#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace spillway {
namespace {

using Kind = RopeScaling::Kind;

/// What a speed is divided by: wavelengths up to a border stay, those past another are stretched,
/// those between in proportion. A float, as a file of factors has it.
float llama3_factor(const RopeScaling& scaling, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double original = scaling.original_max_positions;
  const double low = scaling.low_freq_factor;
  const double high = scaling.high_freq_factor;
  if (wavelength > original / low) return static_cast<float>(scaling.factor);
  if (wavelength < original / high) return 1;
  const double smooth = (original / wavelength - low) / (high - low);
  return static_cast<float>(1 / ((1 - smooth) / scaling.factor + smooth));
}

/// The pairs between which yarn goes over from keeping to interpolating.
struct YarnRange {
  double first;
  double last;
};

YarnRange yarn_range(const RopeScaling& scaling, double theta, double head_dim) {
  const auto pair_of = [&](double turns) {
    return head_dim * std::log(scaling.original_max_positions / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  double first = pair_of(scaling.beta_fast);
  double last = pair_of(scaling.beta_slow);
  if (scaling.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, head_dim - 1);
  if (first == last) last += 0.001;
  return {first, last};
}

/// Radians per position where nothing is scaled.
double plain_frequency(double theta, double pair, double head_dim) {
  return 1.0 / std::pow(theta, 2 * pair / head_dim);
}

}  // namespace

bool rope_has_regimes(const RopeScaling& scaling) {
  return scaling.kind == Kind::kDynamic || scaling.kind == Kind::kLongRope;
}

uint32_t rope_regime(const RopeScaling& scaling, uint32_t length) {
  if (!rope_has_regimes(scaling) || length <= scaling.original_max_positions) return 0;
  return scaling.kind == Kind::kDynamic ? length : 1;
}

void rope_inverse_frequencies(const RopeScaling& scaling, double theta, uint32_t regime,
                              std::span<float> out) {
  const double head_dim = 2.0 * static_cast<double>(out.size());
  if (scaling.kind == Kind::kDynamic && regime > 0) {
    const double stretch =
        scaling.factor * regime / scaling.original_max_positions - (scaling.factor - 1);
    theta *= std::pow(stretch, head_dim / (head_dim - 2));
  }
  const YarnRange yarn =
      scaling.kind == Kind::kYarn ? yarn_range(scaling, theta, head_dim) : YarnRange{};
  for (size_t i = 0; i < out.size(); ++i) {
    const auto pair = static_cast<double>(i);
    double frequency = plain_frequency(theta, pair, head_dim);
    if (scaling.kind == Kind::kLinear) {
      frequency /= scaling.factor;
    } else if (scaling.kind == Kind::kLlama3) {
      frequency /= double{llama3_factor(scaling, frequency)};
    } else if (scaling.kind == Kind::kLongRope) {
      frequency /= regime > 0 ? scaling.long_factors[i] : scaling.short_factors[i];
    } else if (scaling.kind == Kind::kFactors) {
      frequency /= scaling.short_factors[i];
    } else if (scaling.kind == Kind::kYarn) {
      const double ramp = std::clamp((pair - yarn.first) / (yarn.last - yarn.first), 0.0, 1.0);
      frequency = frequency / scaling.factor * ramp + frequency * (1 - ramp);
    }
    out[i] = static_cast<float>(frequency);
  }
}

std::vector<float> llama3_factors(const RopeScaling& scaling, double theta, uint32_t pairs) {
  std::vector<float> factors;
  factors.reserve(pairs);
  for (uint32_t pair = 0; pair < pairs; ++pair) {
    factors.push_back(llama3_factor(scaling, plain_frequency(theta, pair, 2.0 * pairs)));
  }
  return factors;
}

double yarn_attention_factor(double factor, double mscale, double mscale_all_dim) {
  const auto scale = [&](double weight) {
    return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
  };
  return mscale != 0 && mscale_all_dim != 0 ? scale(mscale) / scale(mscale_all_dim) : scale(1);
}

double longrope_attention_factor(double factor, double original_max_positions) {
  return factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original_max_positions));
}

}  // namespace spillway
