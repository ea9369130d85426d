#include "cli/home_folder.h"

#include <cstdlib>

namespace spillway {

std::string home_folder() {
  const char* home = std::getenv("HOME");
  return home == nullptr ? "" : home;
}

}  // namespace spillway
