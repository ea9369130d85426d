// The user's home, for paths in files. Reads the environment; any thread.
#pragma once

#include <filesystem>
#include <string>

namespace spillway {

/// HOME; empty where it is not set.
std::string home_folder();

/// What the variable `name` holds, with ~ and $HOME for the home, as shells would have written it;
/// empty where it is not set. Throws Error naming it.
std::filesystem::path folder_variable(const char* name);

/// For files that need no name: TMPDIR, else /var/tmp. Throws as folder_variable().
std::filesystem::path temporary_folder();

}  // namespace spillway
