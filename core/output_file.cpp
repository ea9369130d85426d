#include "core/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <optional>
#include <random>
#include <thread>

#include "core/error.h"
#include "core/read_file.h"
#include "core/user_path.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxLinks = 40;  // as the kernel's own limit
constexpr size_t kHeadBytes = 4096;
constexpr int kNameAttempts = 100;
/// A reader that is started at the same moment may open a FIFO a little later.
constexpr int kReaderAttempts = 100;
constexpr auto kReaderPause = std::chrono::milliseconds(10);

/// A name with the symbolic links of its last part followed, whether or not the end exists.
struct Target {
  fs::path folder;
  std::string name;
  std::optional<int> descriptor;  ///< the name is one of this process's open files
};

/// Throws std::filesystem::filesystem_error where a folder on the way is not there.
Target follow(const fs::path& file) {
  const fs::path own = fs::path("/proc") / std::to_string(getpid()) / "fd";
  fs::path path = file;
  for (int links = 0; links < kMaxLinks; ++links) {
    Target target{fs::canonical(path.has_parent_path() ? path.parent_path() : fs::path(".")),
                  path.filename().string(), std::nullopt};
    if (target.name.empty() || target.name == "." || target.name == "..") {
      throw fs::filesystem_error("", std::make_error_code(std::errc::is_a_directory));
    }
    const bool number = std::all_of(target.name.begin(), target.name.end(),
                                    [](unsigned char c) { return c >= '0' && c <= '9'; });
    if (target.folder == own && number && target.name.size() < 9) {
      target.descriptor = std::stoi(target.name);
      return target;
    }
    std::error_code no_link;
    const fs::path next = fs::read_symlink(target.folder / target.name, no_link);
    if (no_link) return target;
    path = next.is_absolute() ? next : target.folder / next;
  }
  throw fs::filesystem_error("", std::make_error_code(std::errc::too_many_symbolic_link_levels));
}

FileIdentity identity_of(const struct stat& status) {
  return {status.st_dev, status.st_ino, ""};
}

/// Empty where not even the folder is there.
std::optional<FileIdentity> identity_of(const fs::path& file) {
  struct stat status {};
  if (stat(file.c_str(), &status) == 0) return identity_of(status);
  try {
    const Target target = follow(file);
    if (stat(target.folder.c_str(), &status) != 0) return std::nullopt;
    FileIdentity identity = identity_of(status);
    identity.name = target.name;
    return identity;
  } catch (const fs::filesystem_error&) {
    return std::nullopt;
  }
}

std::string without_blanks(std::string_view text) {
  std::string kept;
  for (const char c : text) {
    if (c != ' ' && c != '\t' && c != '\n' && c != '\r') kept += c;
  }
  return kept;
}

bool begins_like(std::string_view head, std::string_view pattern) {
  bool anywhere = false;
  while (true) {
    const size_t star = pattern.find('*');
    const std::string_view part = pattern.substr(0, star);
    const size_t at = head.find(part);
    if (at == std::string_view::npos || (at != 0 && !anywhere)) return false;
    if (star == std::string_view::npos) return true;
    head.remove_prefix(at + part.size());
    pattern.remove_prefix(star + 1);
    anywhere = true;
  }
}

}  // namespace

bool FilesInUse::Entry::has(const FileIdentity& file) const {
  if (!ending) return file == identity;
  return file.device == identity.device && file.inode == identity.inode && !file.name.empty() &&
         file.name.ends_with(*ending);
}

void FilesInUse::add(const fs::path& file, const std::string& role) {
  if (const auto identity = identity_of(file)) entries_.push_back({*identity, role, {}});
}

void FilesInUse::add_text(const fs::path& file, const std::string& role) {
  add(file == kStdin ? fs::path("/dev/stdin") : file, role);
}

void FilesInUse::add_names(const fs::path& folder, const std::string& ending,
                           const std::string& role) {
  struct stat status {};
  const fs::path place = folder.empty() ? "." : folder;
  if (stat(place.c_str(), &status) != 0) return;
  entries_.push_back({identity_of(status), role, ending});
  std::error_code error;
  for (const fs::path& entry : entries_of(place, error)) {
    if (entry.native().ends_with(ending)) add(entry, role);
  }
}

void FilesInUse::check_stdout() const {
  struct stat status {};
  if (fstat(STDOUT_FILENO, &status) != 0 || !S_ISREG(status.st_mode)) return;
  for (const Entry& entry : entries_) {
    if (entry.has(identity_of(status))) {
      throw Error(fmt::format(
          "cannot write the text to stdout: it is also {}; send it to another file", entry.role));
    }
  }
}

void OutputFile::fail(const std::string& cause) const {
  throw Error(fmt::format("cannot write {} {}: {}", format_.what, file_.string(), cause));
}

void OutputFile::fail(int error_number) const {
  fail(errno_text(error_number));
}

OutputFile::OutputFile(const fs::path& file, OutputFormat format, FilesInUse& in_use)
    : file_(file), format_(std::move(format)) {
  if (file_.empty()) return;
  if (file_ == "-") fail("/dev/stdout is standard output, and ./- a file of that name");
  try {
    const Target target = follow(file_);
    struct stat status {};
    if (target.descriptor) {
      if (fstat(*target.descriptor, &status) != 0) fail(errno);
      check_in_use(in_use, identity_of(status), !S_ISREG(status.st_mode));
      take_descriptor(*target.descriptor);
      return;
    }
    folder_path_ = target.folder;
    name_ = target.name;
    const fs::path end = target.folder / name_;
    const bool exists = stat(end.c_str(), &status) == 0;
    if (!exists && errno != ENOENT) fail(errno);
    if (exists && S_ISDIR(status.st_mode)) fail("it is a folder; give the name of a file");
    if (exists && S_ISBLK(status.st_mode)) fail("it is a drive; give the name of a file");
    const auto identity = identity_of(end);
    if (identity) check_in_use(in_use, *identity, exists && S_ISCHR(status.st_mode));
    if (exists && !S_ISREG(status.st_mode)) {
      open_device(end);
      return;
    }
    folder_ = Descriptor(open(target.folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder_.valid()) fail(errno);
    open_regular();
  } catch (const fs::filesystem_error& error) {
    const bool no_folder = error.code() == std::errc::no_such_file_or_directory;
    std::error_code no_link;
    const fs::path target = fs::read_symlink(file_, no_link);
    fail(errno_text(error.code().value()) +
         (!no_folder ? ""
          : no_link
              ? "; make its folder first"
              : fmt::format("; it is a link to {}, whose folder is not there", target.string())));
  }
}

OutputFile::~OutputFile() {
  if (folder_.valid() && !temporary_.empty()) unlinkat(folder_.get(), temporary_.c_str(), 0);
}

/// Character devices may be named twice (/dev/null); what is a stream of ours may not.
void OutputFile::check_in_use(FilesInUse& in_use, const FileIdentity& identity, bool device) const {
  if (device) return;
  for (const auto& entry : in_use.entries_) {
    if (entry.has(identity)) fail(fmt::format("it is also {}; give another name", entry.role));
  }
  in_use.entries_.push_back({identity, "the " + format_.what, {}});
}

void OutputFile::take_descriptor(int fd) {
  way_ = Way::kThrough;
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY) fail(EBADF);
  out_ = Descriptor(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!out_.valid()) fail(errno);
}

void OutputFile::open_device(const fs::path& target) {
  way_ = Way::kThrough;
  for (int attempt = 0; attempt < kReaderAttempts; ++attempt) {
    out_ = Descriptor(open(target.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (out_.valid() || errno != ENXIO) break;
    std::this_thread::sleep_for(kReaderPause);
  }
  if (!out_.valid() && errno == ENXIO) fail("nobody reads there; start the reader first");
  if (!out_.valid()) fail(errno);
  const int flags = fcntl(out_.get(), F_GETFL);
  if (flags < 0 || fcntl(out_.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) fail(errno);
}

void OutputFile::open_regular() {
  refuse_foreign();
  // Opening tells whether this file may be written; a rename would replace a read-only one too.
  const Descriptor present(openat(folder_.get(), name_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
  if (!present.valid() && errno != ENOENT) fail(errno);
  struct stat text_status {};
  struct stat status {};
  for (const int stream : {STDOUT_FILENO, STDERR_FILENO}) {
    if (!present.valid() || fstat(stream, &text_status) != 0) continue;
    if (fstat(present.get(), &status) == 0 && identity_of(status) == identity_of(text_status)) {
      fail("it is where the text goes; give another name");
    }
  }
  if (const int error = make_temporary()) {
    // Only where the folder takes no new files: a full disk must not cost what is there.
    const bool forbidden = error == EACCES || error == EPERM || error == EROFS;
    if (!present.valid() || !forbidden) fail(error);
    way_ = Way::kInPlace;
    return;
  }
  out_.reset();
  unlinkat(folder_.get(), std::exchange(temporary_, {}).c_str(), 0);
}

/// Only what is empty or was written by us before may be replaced.
void OutputFile::refuse_foreign() const {
  const Descriptor present(openat(folder_.get(), name_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!present.valid() && errno == ENOENT) return;
  std::array<char, kHeadBytes> head{};
  const ssize_t got = present.valid() ? read(present.get(), head.data(), head.size()) : -1;
  if (got < 0) {
    fail(fmt::format("what is there cannot be looked at: {}", errno_text(errno)));
  }
  if (got == 0) return;
  const std::string text = without_blanks({head.data(), static_cast<size_t>(got)});
  if (!begins_like(text, format_.begins)) {
    fail(fmt::format("the file there is no {} of Spillway; give another name or remove it",
                     format_.what));
  }
}

int OutputFile::make_temporary() {
  std::random_device random;
  for (int attempt = 0; attempt < kNameAttempts; ++attempt) {
    std::string name = fmt::format(".spillway-{:08x}.partial", random());
    out_ = Descriptor(
        openat(folder_.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (out_.valid()) {
      temporary_ = std::move(name);
      return 0;
    }
    if (errno != EEXIST) break;
  }
  return errno;
}

void OutputFile::begin() {
  if (out_.valid() || way_ != Way::kReplace) return;
  if (const int error = make_temporary()) fail(error);
}

void OutputFile::append(std::string_view text) {
  if (!wanted()) return;
  if (way_ == Way::kInPlace) {
    whole_ += text;
    return;
  }
  if (through_ != nullptr) return through_->print(text);
  begin();
  if (const int error = write_all(out_.get(), text)) give_up(error);
}

void OutputFile::heed(const StopFlag& stop) {
  if (way_ != Way::kThrough) return;
  const std::string what = fmt::format("{} {}", format_.what, file_.string());
  through_ = std::make_unique<LiveText>(out_.get(), what, stop);
}

void OutputFile::finish() {
  if (!wanted() || way_ == Way::kThrough) return;
  if (way_ == Way::kInPlace) return write_in_place();
  begin();
  publish();
}

/// What was written is of no use: the next begin() starts anew.
void OutputFile::give_up(int error_number) {
  if (way_ == Way::kReplace) {
    out_.reset();
    unlinkat(folder_.get(), std::exchange(temporary_, {}).c_str(), 0);
  }
  fail(error_number);
}

/// Room first: on a full disk, or beyond a limit, what is there stays as it is.
void OutputFile::write_in_place() {
  const std::string text = std::exchange(whole_, {});
  refuse_foreign();  // it may have come in the meantime
  // Read as well: where a file system cannot give room, the C library looks at what is there.
  const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW;
  Descriptor out(openat(folder_.get(), name_.c_str(), flags, 0666));
  struct stat status {};
  if (!out.valid() || fstat(out.get(), &status) != 0) fail(errno);
  if (!S_ISREG(status.st_mode)) fail("what is there now is no file");
  const auto bytes = static_cast<off_t>(text.size());
  int refused = EINTR;
  while (refused == EINTR) refused = bytes > 0 ? posix_fallocate(out.get(), 0, bytes) : 0;
  if (refused != 0) {
    [[maybe_unused]] const int shrunk = ftruncate(out.get(), status.st_size);
    fail(refused);
  }
  if (const int error = write_all(out.get(), text)) fail(error);
  if (ftruncate(out.get(), bytes) != 0) fail(errno);
  if (const int error = out.reset()) fail(error);
}

void OutputFile::publish() {
  struct stat status {};
  if (fstatat(folder_.get(), name_.c_str(), &status, 0) == 0) {
    // The new file belongs to whom the old one did, where this user may give it away.
    if (fchown(out_.get(), status.st_uid, status.st_gid) == 0 || status.st_uid == geteuid()) {
      fchmod(out_.get(), status.st_mode & 07777);
    }
  }
  // Else a crash of the system may leave the new name with nothing under it, and the old one gone.
  if (const int error = sync_file(out_.get())) give_up(error);
  if (const int error = out_.reset()) give_up(error);
  try {
    refuse_foreign();  // it may have come in the meantime
    const int folder = folder_.get();
    if (renameat(folder, temporary_.c_str(), folder, name_.c_str()) == 0) {
      temporary_.clear();
      return;
    }
    copy_over();  // a mounted file cannot be replaced, but written
  } catch (const Error& error) {
    const fs::path kept = folder_path_ / std::exchange(temporary_, {});
    throw Error(fmt::format("{}; it is kept as {}", error.what(), kept.string()));
  }
  unlinkat(folder_.get(), std::exchange(temporary_, {}).c_str(), 0);
}

void OutputFile::copy_over() {
  const Descriptor from(openat(folder_.get(), temporary_.c_str(), O_RDONLY | O_CLOEXEC));
  Descriptor to(
      openat(folder_.get(), name_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!from.valid() || !to.valid()) fail(errno);
  std::array<char, 65536> block{};
  while (true) {
    const ssize_t got = read(from.get(), block.data(), block.size());
    if (got < 0) fail(errno);
    if (got == 0) break;
    const int error = write_all(to.get(), {block.data(), static_cast<size_t>(got)});
    if (error != 0) fail(error);
  }
  if (const int error = to.reset()) fail(error);
}

}  // namespace spillway
