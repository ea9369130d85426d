#include "cli/model_argument.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string_view>

#include "cli/home_folder.h"
#include "cli/hub_cache.h"
#include "core/error.h"
#include "core/user_path.h"
#include "io/gguf_files.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kModel = "a model's folder or .gguf file";
constexpr std::string_view kModelOrFile = "a model's folder or .gguf file, a YAML file";

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

[[noreturn]] void no_such_model(const std::string& name, std::string_view expected) {
  throw Error(fmt::format(
      "{}: no such file or folder; give {}, or a name in the Hugging Face cache such as "
      "Qwen/Qwen2.5-7B",
      name, expected));
}

/// "models/Qwen.gguf" may be the name of a repository, but hardly is.
bool ends_like_a_file(std::string_view name) {
  return name.ends_with(".gguf") || name.ends_with(".safetensors") || name.ends_with(".yaml") ||
         name.ends_with(".yml");
}

/// Repositories of GGUF files are called so, and hold a model many times over.
bool is_called_gguf(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name.find("gguf") != std::string::npos;
}

/// `expected`: what may be given beside a name.
fs::path in_hub_cache(const std::string& name, std::string_view expected) {
  if (auto folder = find_in_hub_cache(name)) return *folder;
  if (ends_like_a_file(name)) no_such_model(name, expected);
  const fs::path cache = hub_cache_folder();
  throw Error(
      fmt::format("{}: no such file or folder, and not in the Hugging Face cache{}; fetch "
                  "it with: hf download {}{}",
                  name, cache.empty() ? "" : fmt::format(" ({})", cache.string()), name,
                  is_called_gguf(name) ? " FILE.gguf" : ""));
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
  if (is_hub_name(name.string()) && !ends_like_a_file(name.string())) {
    config.model_path = in_hub_cache(name.string(), kModel);
  }
}

}  // namespace

fs::path model_folder(const std::string& name) {
  if (name.empty()) throw Error("MODEL is empty; give a model's folder or .gguf file");
  if (!has_entry(name)) {
    if (!is_hub_name(name)) no_such_model(name, kModel);
    return in_hub_cache(name, kModel);
  }
  return snapshot_of(name).value_or(name);
}

namespace {

Config configured(const ModelOptions& options) {
  const std::string& name = options.model;
  if (name.empty())
    throw Error("MODEL is empty; give a model's folder, a .gguf file or a YAML file");
  if (!has_entry(name)) {
    if (!is_hub_name(name)) no_such_model(name, kModelOrFile);
    return default_config(in_hub_cache(name, kModelOrFile), overrides_of(options), home_folder());
  }
  // Of a checkpoint's weights, which are no YAML either, opening says what to name.
  if (is_folder(name) || is_gguf_file(name) || name.ends_with(".safetensors")) {
    return default_config(model_folder(name), overrides_of(options), home_folder());
  }
  Config config = load_config(name, overrides_of(options), home_folder());
  find_configured_model(config);
  return config;
}

}  // namespace

Config config_of(const ModelOptions& options) {
  Config config = configured(options);
  config.temporary_folder = temporary_folder();
  return config;
}

}  // namespace spillway
