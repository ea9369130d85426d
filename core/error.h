// Errors a person must read, and broken invariants.
//
// Three kinds of failure (docs/ARCHITECTURE.md, "Errors"): bad input or a dead device throws Error;
// what I/O does in normal life is a value (io/read_outcome.h); a bug is CHECK, on in release too.
#pragma once

#include <stdexcept>
#include <string>

namespace spillway {

/// One clear line for a person: what happened, where, and what to do. Caught in cli/main.cpp.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// "No such file or directory (errno 2)".
std::string errno_text(int error_number);

[[noreturn]] void check_failed(const char* file, int line, const char* condition);

}  // namespace spillway

/// A broken invariant is a bug of ours: say where and stop. Never in inner loops.
#define CHECK(condition)                                        \
  do {                                                          \
    if (!(condition)) [[unlikely]]                              \
      ::spillway::check_failed(__FILE__, __LINE__, #condition); \
  } while (false)
