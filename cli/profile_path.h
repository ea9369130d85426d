// Where hardware profiles are kept.
#pragma once

#include <filesystem>

#include "probe/hardware.h"

namespace spillway {

/// $XDG_CACHE_HOME (or ~/.cache) /spillway/profile-KEY.json; empty when neither is set.
std::filesystem::path default_profile_path(const Hardware& hardware);

}  // namespace spillway
