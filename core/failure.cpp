#include "core/failure.h"

#include <new>

#include "core/limits.h"

namespace spillway {

std::string failure_text(const std::exception& failure) {
  if (dynamic_cast<const std::bad_alloc*>(&failure) != nullptr) {
    return "out of memory" + memory_limits_text() + "; lower memory.ram";
  }
  return failure.what();
}

}  // namespace spillway
