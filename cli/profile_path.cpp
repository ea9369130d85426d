#include "cli/profile_path.h"

#include <cstdlib>

namespace spillway {

std::filesystem::path default_profile_path(const Hardware& hardware) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  std::filesystem::path folder;
  if (cache != nullptr && *cache != '\0') {
    folder = cache;
  } else if (home != nullptr && *home != '\0') {
    folder = std::filesystem::path(home) / ".cache";
  } else {
    return {};
  }
  return folder / "spillway" / ("profile-" + hardware_key(hardware) + ".json");
}

}  // namespace spillway
