// Time as an argument, so that a simulation can own it.
#pragma once

#include <cstdint>

namespace spillway {

/// Thread-safe. Monotonic nanoseconds from an arbitrary start.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t now_ns() const = 0;
};

class SteadyClock final : public Clock {
 public:
  int64_t now_ns() const override;
};

inline double seconds(int64_t duration_ns) {
  return static_cast<double>(duration_ns) * 1e-9;
}

}  // namespace spillway
