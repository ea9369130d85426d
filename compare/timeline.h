// One pass of a trace as lanes of reads, copies, computing and stalls. Pure functions over what
// core/trace.h wrote.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace spillway {

struct TimelineSpan {
  double begin_us = 0;
  double end_us = 0;
  uint64_t bytes = 0;
  std::string name;
};

/// Lanes in the order of TraceLane, without the passes themselves.
inline constexpr std::array<const char*, 4> kTimelineLanes = {"reads", "copies", "compute",
                                                              "stalls"};

struct Timeline {
  uint32_t pass = 0;  ///< of `passes`, counted from 1
  uint32_t passes = 0;
  double begin_us = 0;
  double end_us = 0;
  std::array<std::vector<TimelineSpan>, kTimelineLanes.size()>
      lanes;  ///< cut to the pass, by begin

  double seconds() const { return (end_us - begin_us) / 1e6; }
  /// Share of the pass in which a lane had work, 0 to 1.
  double busy(size_t lane) const;
};

/// Pass number `pass` (from 1; 0 = the one in the middle). Throws Error naming `where` when this is
/// no trace of ours, holds no pass, or not that many.
Timeline cut_timeline(const nlohmann::json& trace, uint32_t pass, const std::string& where);

/// A self-contained picture that follows the viewer's light or dark scheme.
std::string timeline_svg(const Timeline& timeline);

}  // namespace spillway
