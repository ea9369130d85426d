#include "cli/hub_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cli/home_folder.h"
#include "core/error.h"
#include "core/user_path.h"
#include "io/gguf_files.h"

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

[[noreturn]] void cannot_look(const fs::path& folder, const std::error_code& error) {
  throw Error(fmt::format("cannot look into {}: {}", folder.string(), errno_text(error.value())));
}

/// False where nothing is there; what cannot be told is an Error, not a model to fetch again.
bool folder_there(const fs::path& path) {
  std::error_code error;
  const fs::file_type type = fs::status(path, error).type();
  if (type == fs::file_type::none) cannot_look(path.parent_path(), error);
  return type == fs::file_type::directory;
}

/// The one snapshot there is; empty where there is none.
std::optional<fs::path> only_snapshot(const fs::path& snapshots) {
  std::error_code error;
  std::vector<fs::path> found = entries_of(snapshots, error);
  if (error) cannot_look(snapshots, error);
  std::erase_if(found, [](const fs::path& entry) { return !folder_there(entry); });
  if (found.empty()) return std::nullopt;
  if (found.size() > 1) {
    throw Error(fmt::format(
        "{}: {} revisions, and no refs/main that says which; give the folder of one: {}",
        snapshots.string(), found.size(), std::min_element(found.begin(), found.end())->string()));
  }
  return found.front();
}

/// "models--Qwen--Qwen2.5-7B", whatever way leads there.
bool is_repository_name(const fs::path& folder) {
  std::error_code error;
  return folder.filename().string().starts_with(kHubFolder) ||
         fs::weakly_canonical(folder, error).filename().string().starts_with(kHubFolder);
}

/// What refs/main of a repository names.
fs::path main_snapshot(const fs::path& repository) {
  const fs::path refs = repository / "refs" / "main";
  const std::string revision = main_revision(repository);
  if (revision.empty()) {
    throw Error(
        fmt::format("{}: cannot be read, or names no revision; give the folder of one in {}",
                    refs.string(), (repository / "snapshots").string()));
  }
  const fs::path snapshot = repository / "snapshots" / revision;
  if (!folder_there(snapshot)) {
    const std::string fetch = fetch_command(snapshot / "config.json");
    throw Error(fmt::format("{}: names revision {}, which is not there{}", refs.string(), revision,
                            fetch.empty() ? "" : "; fetch it: " + fetch));
  }
  return snapshot;
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
  const fs::path snapshots = folder / "snapshots";
  if (!folder_there(snapshots) || has_entry(folder / "config.json") || has_gguf(folder)) return {};
  // Folders of other programs are called snapshots, too.
  if (!is_repository_name(folder) && !folder_there(folder / "refs")) return {};
  if (has_entry(folder / "refs" / "main")) return main_snapshot(folder);
  return only_snapshot(snapshots);
}

std::optional<fs::path> find_in_hub_cache(std::string_view hub_name) {
  const fs::path cache = hub_cache_folder();
  const size_t slash = hub_name.find('/');
  if (cache.empty() || slash == std::string_view::npos) return {};
  return snapshot_of(cache / fmt::format("{}{}--{}", kHubFolder, hub_name.substr(0, slash),
                                         hub_name.substr(slash + 1)));
}

}  // namespace spillway
