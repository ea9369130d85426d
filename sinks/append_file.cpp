#include "sinks/append_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr size_t kWaitingBytes = 256 * kKiB;

}  // namespace

AppendFile::AppendFile(const OutputFolder& folder, const std::string& name)
    : folder_(&folder), name_(name) {
  file_ = folder.open_file(name, O_RDWR | O_CREAT);
  if (!file_.valid()) folder.fail("write", name, errno);
  check_only_name();
  waiting_.reserve(kWaitingBytes);
}

void AppendFile::begin(uint64_t kept_bytes, std::string_view head) {
  CHECK(bytes() == 0);
  if (ftruncate(file_.get(), static_cast<off_t>(kept_bytes)) != 0) {
    folder_->fail("cut", name_, errno);
  }
  bytes_ = kept_bytes;
  if (kept_bytes > 0) return;
  write_at(0, head);
  bytes_ = head.size();
}

void AppendFile::check_only_name() const {
  struct stat status {};
  if (fstat(file_.get(), &status) != 0) folder_->fail("write", name_, errno);
  if (status.st_nlink > 1) {
    throw Error(
        fmt::format("{}: has {} names (hard links), and writing into one would change all; put a "
                    "copy in its place",
                    folder_->text_of(name_), status.st_nlink));
  }
}

void AppendFile::write_at(uint64_t offset, std::string_view bytes) {
  const bool placed = lseek(file_.get(), static_cast<off_t>(offset), SEEK_SET) >= 0;
  const int error = placed ? write_all(file_.get(), bytes) : errno;
  if (error != 0) folder_->fail("write", name_, error);
}

void AppendFile::append(std::string_view bytes) {
  hash_.update(bytes);
  if (waiting_.size() + bytes.size() > kWaitingBytes) flush();
  if (bytes.size() < kWaitingBytes) {
    waiting_ += bytes;
    return;
  }
  write_at(bytes_, bytes);
  bytes_ += bytes.size();
}

void AppendFile::flush() {
  write_at(bytes_, waiting_);
  bytes_ += waiting_.size();
  waiting_.clear();
}

/// A file without a name would be recorded and gone.
void AppendFile::sync_content() {
  if (const int error = sync_file(file_.get())) folder_->fail("sync", name_, error);
  struct stat status {};
  if (fstat(file_.get(), &status) != 0) folder_->fail("sync", name_, errno);
  if (status.st_nlink == 0) folder_->fail("sync", name_, ENOENT);
}

AppendRecord AppendFile::sync() {
  flush();
  sync_content();
  return {name_, bytes_, std::exchange(hash_, {}).digest()};
}

void AppendFile::rewrite_head(std::string_view head) {
  CHECK(waiting_.empty() && head.size() <= bytes_);
  write_at(0, head);
  sync_content();
}

nlohmann::ordered_json to_json(const ScoreRow& row) {
  nlohmann::ordered_json json = {{"id", row.id},
                                 {"document", row.document},
                                 {"tokens", row.tokens},
                                 {"sum_logprob", row.sum_logprob},
                                 {"mean_logprob", row.mean_logprob}};
  if (row.greedy) json["greedy"] = *row.greedy;
  return json;
}

void JsonlAppender::append(const nlohmann::ordered_json& row) {
  file_->append(row.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

std::string npy_head(uint64_t rows, uint64_t columns) {
  std::string head = std::string("\x93NUMPY\x01\x00", 8);
  const uint16_t rest = kNpyHeadBytes - 10;
  head += static_cast<char>(rest & 0xff);
  head += static_cast<char>(rest >> 8);
  head +=
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  CHECK(head.size() < kNpyHeadBytes);
  head.resize(kNpyHeadBytes - 1, ' ');
  return head + "\n";
}

NpyAppender::NpyAppender(AppendFile& file, uint64_t columns) : file_(&file), columns_(columns) {
  CHECK(columns > 0);
}

void NpyAppender::append(std::span<const float> values) {
  CHECK(values.size() % columns_ == 0);
  file_->append({reinterpret_cast<const char*>(values.data()), values.size_bytes()});
}

}  // namespace spillway
