// What charts and timelines share: text that is safe in XML, round axis steps.
#pragma once

#include <string>

#include "core/output_file.h"

namespace spillway {

/// How a picture of ours begins, for OutputFile.
OutputFormat svg_format(const std::string& what);

/// Text for XML and HTML; control characters are dropped.
std::string escaped(const std::string& text);

/// A label of an axis with such steps: as many decimals as they have.
std::string tick_text(double value, double step);

/// 1, 2 or 5 times a power of ten, so that about `ticks` of them fit `length` > 0.
double tick_step(double length, int ticks);

}  // namespace spillway
