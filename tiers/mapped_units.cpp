#include "tiers/mapped_units.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

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
    throw Error(
        fmt::format("cannot reserve {} of addresses: {}", format_bytes(bytes_), errno_text(errno)));
  }
  data_ = static_cast<std::byte*>(raw);
  std::byte* next = data_;
  for (const Unit& unit : units) {
    blobs_.push_back(next);
    for (const ReadChunk& chunk : unit.plan.chunks) {
      map_chunk(chunk, *files[chunk.file], next + chunk.blob_offset);
    }
    next += align_up(unit.plan.blob_bytes, kMappingAlignment);
  }
}

MappedUnits::MappedUnits(MappedUnits&& other) noexcept {
  *this = std::move(other);
}

MappedUnits& MappedUnits::operator=(MappedUnits&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(blobs_, other.blobs_);
  return *this;
}

MappedUnits::~MappedUnits() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace spillway
