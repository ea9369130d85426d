// Models as `hf download` keeps them: models--ORG--NAME/snapshots/REVISION, links to blobs beside
// them (huggingface_hub, "Understand caching"). Reads the user's environment; any thread.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

namespace spillway {

/// "Qwen/Qwen2.5-7B": an owner and a model of the Hugging Face hub.
bool is_hub_name(std::string_view text);

/// HF_HUB_CACHE, or hub/ in HF_HOME, or huggingface/hub in XDG_CACHE_HOME or ~/.cache; empty where
/// none of them is set.
std::filesystem::path hub_cache_folder();

/// The folder with the files of a model: what refs/main names, else the only snapshot. Empty where
/// the cache holds none; throws Error where that cannot be told: refs/main names nothing that is
/// there, is missing beside several snapshots, or may not be read.
std::optional<std::filesystem::path> find_in_hub_cache(std::string_view hub_name);

/// The same for a folder models--ORG--NAME itself; empty for one that is none.
std::optional<std::filesystem::path> snapshot_of(const std::filesystem::path& folder);

}  // namespace spillway
