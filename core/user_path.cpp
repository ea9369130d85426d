#include "core/user_path.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/one_line.h"
#include "core/read_file.h"
#include "core/units.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

bool ends_name(std::string_view text, size_t at) {
  return at == text.size() || text[at] == '/';
}

/// Bytes at the beginning that stand for the home folder; 0 where nothing does.
size_t home_prefix(std::string_view text) {
  for (const std::string_view name : {"~", "$HOME", "${HOME}"}) {
    if (text.starts_with(name) && ends_name(text, name.size())) return name.size();
  }
  return 0;
}

/// "models--Qwen--Qwen2.5-7B" is Qwen/Qwen2.5-7B.
std::string repository_of(const std::string& folder) {
  std::string name = folder.substr(kHubFolder.size());
  const size_t owner = name.find("--");
  if (owner != std::string::npos) name.replace(owner, 2, "/");
  return name;
}

}  // namespace

std::string expand_home(std::string_view text, const std::string& home) {
  const size_t prefix = home_prefix(text);
  if (prefix > 0) {
    if (!home.empty()) return home + std::string(text.substr(prefix));
    throw Error(fmt::format("{} stands for HOME, which is not set; write the whole path",
                            text.substr(0, prefix)));
  }
  if (text.starts_with('~') || text.starts_with('$')) {
    throw Error(fmt::format(
        "a path may begin with ~/ or $HOME/, nothing else is replaced; write the whole path, or "
        "./{} for what is called that",
        text.substr(0, text.find('/'))));
  }
  return std::string(text);
}

std::string shell_word(const std::string& text) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+:,@%";
  const std::string name = printable(text.starts_with('-') ? "./" + text : text);
  if (!name.empty() && name.find_first_not_of(kPlain) == std::string::npos) return name;
  std::string word = "'";
  for (const char c : name) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

std::vector<fs::path> entries_of(const fs::path& folder, std::error_code& error) {
  std::vector<fs::path> entries;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    entries.push_back(entry->path());
  }
  return entries;
}

bool has_entry(const fs::path& file) {
  std::error_code error;
  return fs::symlink_status(file, error).type() != fs::file_type::not_found;
}

std::string dangling_text(const fs::path& file) {
  std::error_code error;
  if (!fs::is_symlink(fs::symlink_status(file, error)) || fs::exists(file, error)) return "";
  const fs::path target = fs::read_symlink(file, error);
  const std::string fetch = fetch_command(file);
  return fmt::format("{}: a link that dangles: {} is not there; {}", file.string(), target.string(),
                     fetch.empty() ? "put that file back, or the file itself in place of the link"
                                   : "fetch it again: " + fetch);
}

std::string main_revision(const fs::path& repository) {
  std::string revision;
  try {
    revision = read_text_file(repository / "refs" / "main", {"a revision", kKiB});
  } catch (const Error&) {
    return "";
  }
  revision.erase(revision.find_last_not_of(" \n") + 1);
  const bool plain = std::all_of(revision.begin(), revision.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c == '-';
  });
  return plain ? revision : "";
}

std::string fetch_command(const fs::path& path) {
  std::error_code error;
  // Not of the file itself: a link of the cache leads out of what names the model.
  const fs::path folder = fs::weakly_canonical(fs::absolute(path, error).parent_path(), error);
  const fs::path whole = folder / path.filename();
  fs::path repository;
  std::string revision;
  fs::path file;  // below the snapshot
  for (auto part = whole.begin(); part != whole.end(); ++part) {
    repository /= *part;
    if (!part->string().starts_with(kHubFolder)) continue;
    auto next = std::next(part);
    if (next == whole.end() || *next != "snapshots" || ++next == whole.end()) return "";
    revision = next->string();
    while (++next != whole.end()) file /= *next;
    break;
  }
  if (revision.empty()) return "";
  std::string command = "hf download " + shell_word(repository_of(repository.filename().string()));
  // A repository of such files holds a model many times over, of which one is wanted.
  if (file.extension() == ".gguf") command += " " + shell_word(file.string());
  if (revision != main_revision(repository)) command += " --revision " + shell_word(revision);
  const fs::path cache = repository.parent_path();
  // Always: whose cache this is, and what it would be here, only the environment knows.
  return command + " --cache-dir " + shell_word(cache.string());
}

}  // namespace spillway
