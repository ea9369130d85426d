// Figures as people read them. Pure functions.
#pragma once

#include <cstdint>
#include <string>

namespace spillway {

/// Three significant digits, never an exponent, never a zero with a sign: "0.212", "1234".
std::string figure_text(double value);

/// "512", "16,384".
std::string count_text(uint64_t count);

/// "5.5 times": a ratio of two positive figures; what it is of stands around it.
std::string times_text(double ratio);

/// How far a ratio is from one: "+5 %", "-12 %", "0 %"; from twice on "20 times".
std::string deviation_text(double ratio);

/// "5.2 ms", "0.3 s", "45 s", "12 min", "2.5 h": how long something takes, roughly.
std::string rough_duration(double seconds);

}  // namespace spillway
