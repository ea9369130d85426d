#include "model/float_number.h"

#include <limits>

namespace spillway {

std::string_view positive_float_fault(double value) {
  using Float = std::numeric_limits<float>;
  if (value > 0 && value < double{Float::min()}) return "a number above 0, of 1.2e-38 or more";
  if (value > double{Float::max()}) return "a number above 0, of 3.4e+38 or less";
  return value > 0 ? "" : "a number above 0";
}

}  // namespace spillway
