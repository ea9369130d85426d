// A child process whose system calls are seen one by one, and which can be killed at any of them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace spillway::test {

struct TracedCall {
  int number = 0;
  uint64_t arguments[6] = {};
  std::string path;    ///< of openat and renameat: the first name
  std::string target;  ///< of renameat
  int64_t result = 0;  ///< at the end of a call
};

enum class Killed { kNo, kYes, kCannotTrace };

/// Runs `action` in a child; `begins` is called before each system call and kills the child there,
/// as SIGKILL does, by giving false. `ends` is called after each. Where the action throws, or the
/// child does not end with 0, a test fails.
Killed run_traced(const std::function<void()>& action,
                  const std::function<bool(const TracedCall&)>& begins,
                  const std::function<void(const TracedCall&)>& ends);

}  // namespace spillway::test
