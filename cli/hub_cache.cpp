#include "cli/hub_cache.h"

#include <algorithm>
#include <string>

#include "cli/home_folder.h"
#include "core/user_path.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

/// What the hub takes in a name; no more, because it becomes a part of a path.
bool is_name(std::string_view text) {
  const auto allowed = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '_' || c == '.';
  };
  return !text.empty() && text.size() <= 96 && text.front() != '.' && text.front() != '-' &&
         std::all_of(text.begin(), text.end(), allowed);
}

fs::path newest_in(const fs::path& snapshots) {
  fs::path newest;
  fs::file_time_type newest_time{};
  std::error_code error;
  for (const fs::path& entry : entries_of(snapshots, error)) {
    std::error_code unknown;
    const auto time = fs::last_write_time(entry, unknown);
    if (unknown || !fs::is_directory(entry, unknown)) continue;
    if (newest.empty() || time > newest_time) {
      newest = entry;
      newest_time = time;
    }
  }
  return newest;
}

}  // namespace

bool is_hub_name(std::string_view text) {
  const size_t slash = text.find('/');
  return slash != std::string_view::npos && is_name(text.substr(0, slash)) &&
         is_name(text.substr(slash + 1));
}

fs::path hub_cache_folder() {
  if (const fs::path folder = folder_variable("HF_HUB_CACHE"); !folder.empty()) return folder;
  if (const fs::path home = folder_variable("HF_HOME"); !home.empty()) return home / "hub";
  if (const fs::path cache = folder_variable("XDG_CACHE_HOME"); !cache.empty()) {
    return cache / "huggingface" / "hub";
  }
  const fs::path home = home_folder();
  return home.empty() ? home : home / ".cache" / "huggingface" / "hub";
}

std::optional<fs::path> snapshot_of(const fs::path& folder) {
  std::error_code error;
  const fs::path snapshots = folder / "snapshots";
  if (!fs::is_directory(snapshots, error) || fs::exists(folder / "config.json", error)) return {};
  const std::string revision = main_revision(folder);
  if (!revision.empty() && fs::is_directory(snapshots / revision, error)) {
    return snapshots / revision;
  }
  const fs::path newest = newest_in(snapshots);
  return newest.empty() ? std::nullopt : std::optional(newest);
}

std::optional<fs::path> find_in_hub_cache(std::string_view hub_name) {
  const fs::path cache = hub_cache_folder();
  const size_t slash = hub_name.find('/');
  if (cache.empty() || slash == std::string_view::npos) return {};
  const std::string owner(hub_name.substr(0, slash));
  return snapshot_of(cache / ("models--" + owner + "--" + std::string(hub_name.substr(slash + 1))));
}

}  // namespace spillway
