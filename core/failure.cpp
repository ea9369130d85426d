#include "core/failure.h"

#include <new>

namespace spillway {

std::string failure_text(const std::exception& failure) {
  if (dynamic_cast<const std::bad_alloc*>(&failure) != nullptr) {
    return "out of memory; lower memory.ram";
  }
  return failure.what();
}

}  // namespace spillway
