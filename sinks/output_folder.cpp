#include "sinks/output_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "core/error.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr mode_t kFileMode = 0666;  // less the umask

int sync_folder_at(const fs::path& folder) {
  const Descriptor fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return fd.valid() ? sync_file(fd.get()) : errno;
}

/// The folder and those above it that are missing; each name is on the drive. 0, or the errno.
int make_folders(const fs::path& path) {
  std::vector<fs::path> missing;
  std::error_code error;
  fs::path there = fs::absolute(path).lexically_normal();
  if (!there.has_filename()) there = there.parent_path();
  for (; !fs::exists(there, error) && there.has_relative_path(); there = there.parent_path()) {
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
      return "; make its folder writable or give another --out";
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
    throw Error(fmt::format("cannot open folder {}: {}; give the folder of a job", path_.string(),
                            errno_text(errno)));
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

std::vector<std::string> OutputFolder::names() const {
  std::vector<std::string> names;
  std::error_code error;
  // By its own descriptor: what has the path by now may be another folder.
  const fs::path own = fmt::format("/proc/self/fd/{}", folder_.get());
  for (fs::directory_iterator entry(own, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) fail("list", "", error.value());
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
