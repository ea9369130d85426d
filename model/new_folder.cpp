#include "model/new_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/new_file.h"
#include "core/read_file.h"
#include "core/units.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

/// Stands in a folder while it is being written: a first line, then the names of the files. Locked
/// by who writes.
constexpr const char* kMarkerName = ".spillway-synth";
constexpr const char* kMarkerTitle = "spillway synth is writing these files";

constexpr uint64_t kMaxMarkerBytes = 16 * kMiB;

/// The file itself, where it is one: a link is not followed, a pipe not waited for.
Descriptor open_marker(const fs::path& directory, int flags) {
  const fs::path file = directory / kMarkerName;
  Descriptor marker(
      open(file.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0644));
  struct stat status {};
  if (!marker.valid() || (fstat(marker.get(), &status) == 0 && S_ISREG(status.st_mode))) {
    return marker;
  }
  marker.reset();
  errno = EEXIST;
  return marker;
}

/// The names that an unfinished run wrote; empty when there is no marker of ours. An empty marker
/// was just made.
std::set<std::string> marked_names(const fs::path& directory) {
  const Descriptor marker = open_marker(directory, O_RDONLY);
  if (!marker.valid()) return {};
  std::istringstream in(read_text_stream(marker.get(), (directory / kMarkerName).string(),
                                         {"the names of a few files", kMaxMarkerBytes}));
  std::string line;
  if (std::getline(in, line) && line != kMarkerTitle) return {};
  std::set<std::string> names = {kMarkerName};
  while (std::getline(in, line)) {
    // A marker that comes from elsewhere may name what lies outside.
    if (line.empty() || line == "." || line == ".." || line.find('/') != std::string::npos)
      continue;
    names.insert({line, line + NewFile::kPartial});
  }
  return names;
}

}  // namespace

void check_folder_is_free(const fs::path& directory) {
  const std::set<std::string> names = marked_names(directory);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;
    if (names.contains(name) && entry.is_regular_file(ignored) && !entry.is_symlink(ignored)) {
      continue;
    }
    throw Error(fmt::format("{}: exists and is not empty ({}); choose another folder",
                            directory.string(), name));
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw Error(fmt::format("{}: {}; choose another folder", directory.string(),
                            errno_text(error.value())));
  }
}

NewFolder::NewFolder(const fs::path& directory, const std::vector<std::string>& names)
    : directory_(directory) {
  check_folder_is_free(directory);
  make_folder();
  try {
    mark(names);
  } catch (...) {
    remove_folders();
    throw;
  }
}

NewFolder::~NewFolder() {
  if (!kept_) remove_files();
  unlink((directory_ / kMarkerName).c_str());
  if (!kept_) remove_folders();
}

void NewFolder::make_folder() {
  fs::path missing = fs::absolute(directory_).lexically_normal();
  if (!missing.has_filename()) missing = missing.parent_path();
  std::error_code error;
  for (; !fs::exists(missing, error) && missing.has_relative_path();
       missing = missing.parent_path()) {
    made_.push_back(missing);
  }
  fs::create_directories(directory_, error);
  if (!error) return;
  const std::string cause = errno_text(error.value());
  remove_folders();
  throw Error(fmt::format("cannot make folder {}: {}", directory_.string(), cause));
}

/// Takes the folder for this run, and removes what an unfinished one left.
void NewFolder::mark(const std::vector<std::string>& names) {
  const fs::path file = directory_ / kMarkerName;
  marker_ = open_marker(directory_, O_RDWR | O_CREAT);
  if (!marker_.valid()) {
    throw Error(fmt::format("cannot create {}: {}", file.string(), errno_text(errno)));
  }
  if (flock(marker_.get(), LOCK_EX | LOCK_NB) != 0) {
    throw Error(fmt::format("{}: another spillway synth is writing there; choose another folder",
                            directory_.string()));
  }
  struct stat status {};
  if (fstat(marker_.get(), &status) != 0 || status.st_nlink == 0) {
    throw Error(fmt::format("{}: another spillway synth wrote there; choose another folder",
                            directory_.string()));
  }
  if (status.st_nlink > 1) {  // what is written to it would be in that file, too
    throw Error(fmt::format("{} is another file as well; choose another folder", file.string()));
  }
  remove_leftovers();
  std::string text = std::string(kMarkerTitle) + "\n";
  for (const std::string& name : names) text += name + "\n";
  names_ = names;
  if (ftruncate(marker_.get(), 0) != 0 ||
      pwrite(marker_.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    const std::string cause = errno_text(errno);
    unlink(file.c_str());
    throw Error(fmt::format("cannot write {}: {}", file.string(), cause));
  }
}

void NewFolder::remove_leftovers() {
  check_folder_is_free(directory_);
  for (const std::string& name : marked_names(directory_)) {
    if (name != kMarkerName) unlink((directory_ / name).c_str());
  }
}

void NewFolder::remove_files() {
  for (const std::string& name : names_) {
    unlink((directory_ / name).c_str());
    unlink((directory_ / (name + NewFile::kPartial)).c_str());
  }
}

/// The deepest first; those with anything in them stay.
void NewFolder::remove_folders() {
  for (const fs::path& folder : made_) rmdir(folder.c_str());
}

}  // namespace spillway
