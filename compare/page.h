// A comparison as pictures and as one HTML page: no network, light and dark, phone and print.
// Pure functions.
#pragma once

#include <string>

#include "compare/chart.h"
#include "compare/results.h"

namespace spillway {

/// Seconds per token against memory; tokens per second against the share in RAM; seconds per pass
/// against batch; measured against predicted; tokens per second of scoring against tokens per
/// sweep, where drive-bound turns compute-bound marked. A chart without data has no lines.
Chart memory_chart(const Comparison& comparison);
Chart share_chart(const Comparison& comparison);
Chart batch_chart(const Comparison& comparison);
Chart prediction_chart(const Comparison& comparison);
Chart score_chart(const Comparison& comparison);

/// The answer first, then where it comes from.
std::string comparison_page(const Comparison& comparison);

}  // namespace spillway
