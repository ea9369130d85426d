#include "sinks/output_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "core/error.h"
#include "core/user_path.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr mode_t kFileMode = 0666;  // less the umask

struct CloseFolder {
  void operator()(DIR* folder) const { closedir(folder); }
};

int sync_folder_at(const fs::path& folder) {
  const Descriptor fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return fd.valid() ? sync_file(fd.get()) : errno;
}

/// The folder and those above it that are missing; each name is on the drive. 0, or the errno.
/// Throws Error where one is a link that leads nowhere.
int make_folders(const fs::path& path) {
  std::vector<fs::path> missing;
  std::error_code error;
  fs::path there = fs::absolute(path);  // as it is: behind a link, .. is not what stands before it
  if (!there.has_filename()) there = there.parent_path();
  for (; !fs::exists(there, error) && there.has_relative_path(); there = there.parent_path()) {
    if (const std::string text = dangling_text(there); !text.empty()) throw Error(text);
    missing.push_back(there);
  }
  for (auto folder = missing.rbegin(); folder != missing.rend(); ++folder) {
    if (mkdir(folder->c_str(), 0777) != 0 && errno != EEXIST) return errno;
    const int problem = sync_folder_at(folder->parent_path());
    if (problem != 0 && problem != EACCES) return problem;  // one that may not be read
  }
  return 0;
}

std::string folder_advice(int error_number, bool removed) {
  if (removed) return "; the folder was removed in the meantime";
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "; free some space and start it again: what is finished is kept";
    case EFBIG:
      return "; raise the limit on the size of files (ulimit -f) and start it again: what is "
             "finished is kept";
    case EACCES:
    case EPERM:
    case EROFS:
      return "; make the folder writable or give another --out";
    default:
      return "";
  }
}

}  // namespace

OutputFolder::OutputFolder(const fs::path& path, Missing missing)
    : path_(path.empty() ? fs::path(".") : path) {
  const int made = missing == Missing::kMake ? make_folders(path_) : 0;
  if (made != 0) {
    throw Error(fmt::format("cannot make folder {}: {}; give another --out", path_.string(),
                            errno_text(made)));
  }
  folder_ = Descriptor(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder_.valid()) {
    throw Error(fmt::format("cannot open folder {}: {}; give {}", path_.string(), errno_text(errno),
                            missing == Missing::kMake ? "another --out" : "the folder of a job"));
  }
}

bool OutputFolder::is_removed() const {
  struct stat status {};
  return fstat(folder_.get(), &status) == 0 && status.st_nlink == 0;
}

void OutputFolder::fail(const char* what, const std::string& name, int error_number) const {
  throw Error(fmt::format("cannot {} {}: {}{}", what, text_of(name), errno_text(error_number),
                          folder_advice(error_number, is_removed())));
}

/// By its own descriptor: what has the path by now may be another folder.
std::vector<std::string> OutputFolder::names() const {
  const int again = openat(folder_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const std::unique_ptr<DIR, CloseFolder> entries(again >= 0 ? fdopendir(again) : nullptr);
  if (entries == nullptr) fail("list", "", errno);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(entries.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
    errno = 0;
  }
  if (errno != 0) fail("list", "", errno);
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<uint64_t> OutputFolder::file_bytes(const std::string& name) const {
  struct stat status {};
  const bool there = fstatat(folder_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
  if (!there || !S_ISREG(status.st_mode)) return std::nullopt;
  return static_cast<uint64_t>(status.st_size);
}

Descriptor OutputFolder::open_file(const std::string& name, int flags) const {
  return Descriptor(openat(folder_.get(), name.c_str(),
                           flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, kFileMode));
}

void OutputFolder::remove(const std::string& name) const {
  if (unlinkat(folder_.get(), name.c_str(), 0) != 0 && errno != ENOENT) {
    fail("remove", name, errno);
  }
}

void OutputFolder::rename(const std::string& from, const std::string& to) const {
  if (renameat(folder_.get(), from.c_str(), folder_.get(), to.c_str()) != 0) {
    fail("rename", from, errno);
  }
}

void OutputFolder::sync() const {
  if (const int error = sync_file(folder_.get())) fail("sync", "", error);
}

void OutputFolder::check_writable() const {
  if (faccessat(folder_.get(), ".", W_OK | X_OK, AT_EACCESS) != 0) fail("write into", "", errno);
}

}  // namespace spillway
