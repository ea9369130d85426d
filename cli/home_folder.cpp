#include "cli/home_folder.h"

#include <fmt/format.h>

#include <cstdlib>

#include "core/error.h"
#include "core/user_path.h"

namespace spillway {

std::string home_folder() {
  const char* home = std::getenv("HOME");
  return home == nullptr ? "" : home;
}

std::filesystem::path folder_variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return {};
  try {
    return expand_home(value, home_folder());
  } catch (const Error& error) {
    throw Error(fmt::format("{}={}: {}", name, value, error.what()));
  }
}

std::filesystem::path temporary_folder() {
  const std::filesystem::path given = folder_variable("TMPDIR");
  return given.empty() ? "/var/tmp" : given;
}

}  // namespace spillway
