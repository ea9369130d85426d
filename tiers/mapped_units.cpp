#include "tiers/mapped_units.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

/// On whatever thread a kernel runs, at any instruction of it: nothing but a line and the end.
void end_for_lost_page(int) {
  constexpr char kLine[] =
      "spillway: a mapped file of the model became shorter or cannot be read (SIGBUS); "
      "io.engine auto reads it and says where\n";
  static_cast<void>(!write(STDERR_FILENO, kLine, sizeof kLine - 1));
  _exit(1);
}

void handle_lost_pages() {
  struct sigaction action {};
  action.sa_handler = end_for_lost_page;
  action.sa_flags = SA_ONSTACK;
  sigaction(SIGBUS, &action, nullptr);
}

void map_chunk(const ReadChunk& chunk, const ReadFile& file, std::byte* target) {
  CHECK(chunk.offset % kMappingAlignment == 0 && chunk.blob_offset % kMappingAlignment == 0);
  void* mapped = mmap(target, chunk.bytes, PROT_READ, MAP_SHARED | MAP_FIXED, file.fd,
                      static_cast<off_t>(chunk.offset));
  if (mapped == MAP_FAILED) {
    throw Error(fmt::format("cannot map {}: {}; io.engine auto reads it instead", file.path,
                            errno_text(errno)));
  }
}

}  // namespace

// Delegates, so that the destructor runs when a chunk cannot be mapped.
MappedUnits::MappedUnits(std::span<const Unit> units, std::span<const ReadFile* const> files)
    : MappedUnits() {
  for (const Unit& unit : units) bytes_ += align_up(unit.plan.blob_bytes, kMappingAlignment);
  void* raw = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) {
    throw Error(fmt::format(
        "cannot reserve {} of addresses: {}; raise the limit on address space (ulimit -v)",
        format_bytes(bytes_), errno_text(errno)));
  }
  data_ = static_cast<std::byte*>(raw);
  std::byte* next = data_;
  for (const Unit& unit : units) {
    blobs_.push_back(next);
    auto& own = files_.emplace_back();
    for (const ReadChunk& chunk : unit.plan.chunks) {
      const ReadFile* file = files[chunk.file];
      map_chunk(chunk, *file, next + chunk.blob_offset);
      if (std::find(own.begin(), own.end(), file) == own.end()) own.push_back(file);
    }
    next += align_up(unit.plan.blob_bytes, kMappingAlignment);
  }
  handle_lost_pages();
}

void MappedUnits::check_files(uint32_t unit) const {
  for (const ReadFile* file : files_[unit]) {
    struct stat status {};
    if (fstat(file->fd, &status) == 0 && static_cast<uint64_t>(status.st_size) >= file->bytes) {
      continue;
    }
    throw Error(
        fmt::format("{}: it is shorter than when it was opened; leave it alone while a run uses it",
                    file->path));
  }
}

MappedUnits::MappedUnits(MappedUnits&& other) noexcept {
  *this = std::move(other);
}

MappedUnits& MappedUnits::operator=(MappedUnits&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(blobs_, other.blobs_);
  std::swap(files_, other.files_);
  return *this;
}

MappedUnits::~MappedUnits() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace spillway
