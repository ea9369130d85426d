#include "io/spill_file.h"

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "core/units.h"

namespace spillway {

SpillFile::SpillFile(const std::filesystem::path& folder, const SpillShape& shape,
                     DirectChoice choice, BlockReader& reader, const Clock& clock)
    : file_(folder), blocks_(shape.blocks), ops_(shape.max_ops), pump_(reader, clock) {
  CHECK(shape.blocks > 0 && shape.max_ops > 0 && shape.max_ops < kNone);
  CHECK(shape.block_bytes > 0 && shape.block_bytes <= kMaxSpillBlockBytes);
  file_.choose_direct(choice);
  block_bytes_ = align_up(shape.block_bytes, file().alignment);
  CHECK(shape.blocks <= INT64_MAX / block_bytes_);
  file_.reserve(shape.blocks * block_bytes_);
  free_.reserve(shape.max_ops);
  ready_.reserve(shape.max_ops);
  finished_.reserve(shape.max_ops);
  for (uint32_t i = 0; i < shape.max_ops; ++i) free_.push_back(i);
}

SpillFile::~SpillFile() {
  static_cast<void>(drain());
}

uint64_t SpillFile::checksum_of(const std::byte* memory) const {
  return XXH3_64bits(memory, block_bytes_);
}

bool SpillFile::write(uint64_t block, const std::byte* source, uint64_t tag) {
  CHECK(block < blocks_.size());
  // Nothing writes to what a write takes its bytes from.
  if (!add(IoKind::kWrite, block, const_cast<std::byte*>(source), tag)) return false;
  blocks_[block].checksum = checksum_of(source);
  blocks_[block].written = true;
  return true;
}

bool SpillFile::read(uint64_t block, std::byte* target, uint64_t tag) {
  CHECK(block < blocks_.size() && blocks_[block].written);
  return add(IoKind::kRead, block, target, tag);
}

bool SpillFile::add(IoKind kind, uint64_t block, std::byte* memory, uint64_t tag) {
  CHECK(!over_ && reinterpret_cast<uintptr_t>(memory) % file().alignment == 0);
  if (free_.empty()) return false;
  const uint32_t index = free_.back();
  free_.pop_back();
  Block& place = blocks_[block];
  // A write that follows may change the block's checksum before this read is done.
  ops_[index] = {kind, block, memory, tag, place.checksum, kNone};
  if (place.last == kNone) {
    ready_.push_back(index);
  } else {
    ops_[place.last].next = index;
  }
  place.last = index;
  return true;
}

bool SpillFile::start_ready() {
  size_t started = 0;
  for (; started < ready_.size(); ++started) {
    const Op& op = ops_[ready_[started]];
    ReadRequest request;
    request.file = &file();
    request.offset = op.block * block_bytes_;
    request.target = op.memory;
    request.bytes = static_cast<uint32_t>(block_bytes_);
    request.needed = request.bytes;
    request.tag = ready_[started];
    request.kind = op.kind;
    if (!pump_.start(request)) break;
  }
  ready_.erase(ready_.begin(), ready_.begin() + static_cast<ptrdiff_t>(started));
  return started > 0;
}

void SpillFile::verify(const Op& op) const {
  if (checksum_of(op.memory) == op.checksum) return;
  throw Error(fmt::format(
      "{}: block {} of the hidden states ({} bytes at offset {}) is not what was written: "
      "the drive or its cable returned other bytes; look at dmesg, then run the job again "
      "or resume it",
      file().path, op.block, block_bytes_, op.block * block_bytes_));
}

void SpillFile::finish(uint32_t index) {
  const Op& op = ops_[index];
  if (op.kind == IoKind::kRead) verify(op);
  if (op.next != kNone) {
    ready_.push_back(op.next);
  } else {
    blocks_[op.block].last = kNone;
  }
  finished_.push_back(op.tag);
  free_.push_back(index);
}

std::span<const uint64_t> SpillFile::poll() {
  CHECK(!over_);
  over_ = true;  // unless nothing throws
  finished_.clear();
  start_ready();
  do {  // what is started must reach the system now: the caller may compute before it polls again
    for (const uint64_t index : pump_.poll()) finish(static_cast<uint32_t>(index));
  } while (start_ready());
  over_ = false;
  return finished_;
}

void SpillFile::wait(int64_t limit_ns) {
  CHECK(!over_);
  over_ = true;  // unless nothing throws
  start_ready();
  pump_.wait(limit_ns);
  over_ = false;
}

bool SpillFile::drain() noexcept {
  over_ = true;
  ready_.clear();
  if (pump_.drain()) return true;
  file_.leak();
  return false;
}

}  // namespace spillway
