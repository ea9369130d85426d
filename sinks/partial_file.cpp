#include "sinks/partial_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/file_space.h"

namespace spillway {
PartialFile::PartialFile(const OutputFolder& folder, std::string name, uint64_t bytes)
    : folder_(&folder), name_(std::move(name)), temporary_(name_ + std::string(kEnding)) {
  file_ = folder.open_file(temporary_, O_RDWR | O_CREAT | O_TRUNC);
  if (!file_.valid()) folder.fail("write", name_, errno);
  try {
    reserve(bytes);
  } catch (...) {
    drop();
    throw;
  }
}

PartialFile::PartialFile(PartialFile&& other) noexcept
    : folder_(other.folder_),
      name_(std::move(other.name_)),
      temporary_(std::exchange(other.temporary_, {})),
      file_(std::move(other.file_)) {}

PartialFile::~PartialFile() {
  drop();
}

void PartialFile::drop() {
  if (temporary_.empty()) return;
  file_.reset();
  try {
    folder_->remove(std::exchange(temporary_, {}));
  } catch (const std::exception&) {  // then it goes when the folder is opened again
  }
}

void PartialFile::reserve(uint64_t bytes) {
  const int error = reserve_space(file_.get(), bytes);
  if (error != 0 && error != EOPNOTSUPP) folder_->fail("reserve space for", name_, error);
}

void PartialFile::write_at(uint64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count =
        pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) folder_->fail("write", name_, count < 0 ? errno : EIO);
    bytes.remove_prefix(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
}

void PartialFile::publish() {
  if (const int error = sync_file(file_.get())) folder_->fail("sync", name_, error);
  // Nobody reads it soon; memory is for weights.
  posix_fadvise(file_.get(), 0, 0, POSIX_FADV_DONTNEED);
  if (const int error = file_.reset()) folder_->fail("close", name_, error);
  folder_->rename(temporary_, name_);
  temporary_.clear();
  folder_->sync();
}

void replace_file(const OutputFolder& folder, const std::string& name, std::string_view text) {
  PartialFile file(folder, name, text.size());
  file.write_at(0, text);
  file.publish();
}

}  // namespace spillway
