// Numbers of a model's metadata that computing takes as floats above 0. Pure functions.
#pragma once

#include <string_view>

namespace spillway {

/// What is expected in place of `value`; empty where it is a float above 0, and none of those with
/// fewer digits at the lower end, which some kernels take as 0.
std::string_view positive_float_fault(double value);

}  // namespace spillway
