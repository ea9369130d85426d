// What a person reads is one line. Pure; any thread.
#pragma once

#include <string>
#include <string_view>

namespace spillway {

/// The text as one line that a terminal can show: control characters are written as escapes, and
/// what is longer than a screen loses its middle. Names of files and tensors may hold anything.
std::string one_line(std::string_view text);

}  // namespace spillway
