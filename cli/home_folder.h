// The user's home, for paths in files. Reads the environment; any thread.
#pragma once

#include <string>

namespace spillway {

/// HOME; empty where it is not set.
std::string home_folder();

}  // namespace spillway
