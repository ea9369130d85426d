// Paths as people write them in files, where no shell has read them before, and links that lead
// nowhere. expand_home() is pure, the others look at the file system; any thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace spillway {

/// `~`, `~/x`, `$HOME/x` and `${HOME}/x` with `home` in their place; other texts as they are.
/// Throws Error for other variables and users, and where `home` is empty but asked for.
std::string expand_home(std::string_view text, const std::string& home);

/// A word of a command for a shell, printable; a name that begins like an option gets its folder.
std::string shell_word(const std::string& text);

/// What lies in a folder, in no order; `error` where not all could be told.
std::vector<std::filesystem::path> entries_of(const std::filesystem::path& folder,
                                              std::error_code& error);

/// Is anything of that name there? A link that dangles is: opening it says so.
bool has_entry(const std::filesystem::path& file);

/// Says that `file` is a link that leads nowhere, where, and what to do; empty where it is none.
std::string dangling_text(const std::filesystem::path& file);

/// How the folder of a model begins in the Hugging Face cache: models--Qwen--Qwen2.5-7B.
inline constexpr std::string_view kHubFolder = "models--";

/// The revision that refs/main of a repository of the Hugging Face cache names; empty where it
/// names none that could be a folder's name.
std::string main_revision(const std::filesystem::path& repository);

/// The command that fetches what `path` names again: "hf download Qwen/Qwen2.5-7B", where it lies
/// in a Hugging Face cache (of .gguf files that one alone); else empty.
std::string fetch_command(const std::filesystem::path& path);

}  // namespace spillway
