#include "cli/profile_path.h"

#include "cli/home_folder.h"

namespace spillway {

std::filesystem::path default_profile_path(const Hardware& hardware) {
  std::filesystem::path folder = folder_variable("XDG_CACHE_HOME");
  if (folder.empty()) {
    const std::string home = home_folder();
    if (home.empty()) return {};
    folder = std::filesystem::path(home) / ".cache";
  }
  return folder / "spillway" / ("profile-" + hardware_key(hardware) + ".json");
}

}  // namespace spillway
