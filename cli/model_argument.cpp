#include "cli/model_argument.h"

#include <fmt/format.h>

#include "cli/home_folder.h"
#include "cli/hub_cache.h"
#include "core/error.h"
#include "core/user_path.h"
#include "io/gguf_files.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

fs::path in_hub_cache(const std::string& name) {
  if (auto folder = find_in_hub_cache(name)) return *folder;
  const fs::path cache = hub_cache_folder();
  throw Error(
      fmt::format("{}: no such file or folder, and not in the Hugging Face cache{}; fetch "
                  "it with: hf download {}",
                  name, cache.empty() ? "" : fmt::format(" ({})", cache.string()), name));
}

std::vector<std::string> overrides_of(const ModelOptions& options) {
  std::vector<std::string> overrides = options.overrides;
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) overrides.push_back(fmt::format("{}={}", key, value));
  };
  add("memory.ram", options.ram);
  add("memory.gpu", options.gpu);
  add("device", options.device);
  return overrides;
}

/// A file may name a model as the hub does, where no folder beside it is called that.
void find_configured_model(Config& config) {
  if (has_entry(config.model_path)) {
    config.model_path = snapshot_of(config.model_path).value_or(config.model_path);
    return;
  }
  const fs::path folder = config.file.parent_path();
  const fs::path name = folder.empty()
                            ? config.model_path
                            : config.model_path.lexically_relative(folder.lexically_normal());
  if (is_hub_name(name.string())) config.model_path = in_hub_cache(name.string());
}

}  // namespace

fs::path model_folder(const std::string& name) {
  if (name.empty()) throw Error("MODEL is empty; give a checkpoint's folder or .gguf file");
  if (!has_entry(name) && is_hub_name(name)) return in_hub_cache(name);
  return snapshot_of(name).value_or(name);
}

Config config_of(const ModelOptions& options) {
  const std::string& name = options.model;
  if (name.empty())
    throw Error("MODEL is empty; give a checkpoint's folder, a .gguf file or a YAML file");
  if (!has_entry(name) && !is_hub_name(name)) {
    throw Error(fmt::format(
        "{}: no such file or folder; give a checkpoint's folder or .gguf file, a YAML file, or "
        "a name in the Hugging Face cache such as Qwen/Qwen2.5-7B",
        name));
  }
  const bool model =
      is_folder(name) || is_gguf_file(name) || (!has_entry(name) && is_hub_name(name));
  Config config = model ? default_config(model_folder(name), overrides_of(options), home_folder())
                        : load_config(name, overrides_of(options), home_folder());
  if (!model) find_configured_model(config);
  return config;
}

}  // namespace spillway
