#include "core/error.h"

#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace spillway {

std::string errno_text(int error_number) {
  return std::generic_category().message(error_number) + " (errno " + std::to_string(error_number) +
         ")";
}

void check_failed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "spillway: internal error at %s:%d: %s does not hold; please report this\n",
               file, line, condition);
  std::abort();
}

}  // namespace spillway
