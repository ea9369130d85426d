// What a command line names: a YAML file, a checkpoint's folder, a .gguf file, or a model in the
// Hugging Face cache; and the keys that it sets itself.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/config.h"

namespace spillway {

struct ModelOptions {
  std::string model;  ///< YAML file, .gguf file, folder, or name in the Hugging Face cache
  std::vector<std::string> overrides;
  std::string ram;  ///< memory.ram; empty = as configured
  std::string gpu;
  std::string device;
};

/// The configuration of a YAML file, or the defaults for a model; then the options. Throws Error,
/// where there is no such model with the command that fetches it.
Config config_of(const ModelOptions& options);

/// A checkpoint's folder or .gguf file, by its path or by its name in the Hugging Face cache.
/// Throws Error.
std::filesystem::path model_folder(const std::string& name);

}  // namespace spillway
