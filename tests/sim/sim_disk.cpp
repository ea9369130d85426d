#include "tests/sim/sim_disk.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/units.h"

namespace spillway::test {

std::byte sim_byte(const ReadFile& file, uint64_t offset) {
  uint64_t x = (offset >> 3) * 0x9E3779B97F4A7C15ull + file.path.size() * 0xD1B54A32D192ED03ull;
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9ull;
  return static_cast<std::byte>(x >> (8 * (offset & 7)));
}

bool SimDisk::chance(double probability) {
  return probability > 0 && std::uniform_real_distribution<>(0, 1)(random_) < probability;
}

bool SimDisk::submit(ReadOp& op) {
  if (pending_.size() >= depth_ || chance(faults_.queue_full)) return false;
  const uint32_t span = faults_.max_latency - faults_.min_latency + 1;
  pending_.push_back({&op, op.next_offset(), op.next_target(), op.next_bytes(),
                      tick_ + faults_.min_latency + random_() % span});
  return true;
}

int32_t SimDisk::perform(const Pending& read) {
  const int64_t number = reads_++;
  if (faults_.io_error_forever ||
      (faults_.fail_after_reads >= 0 && number >= faults_.fail_after_reads)) {
    return -EIO;
  }
  if (chance(faults_.transient)) return random_() % 2 == 0 ? -EAGAIN : -EINTR;
  if (chance(faults_.io_error)) return -EIO;
  const ReadFile& file = *read.op->file;
  uint64_t end = file.bytes;
  if (faults_.truncate_after_reads >= 0 && number >= faults_.truncate_after_reads) end /= 2;
  uint64_t bytes = read.offset >= end ? 0 : std::min<uint64_t>(read.bytes, end - read.offset);
  if (bytes > 0 && chance(faults_.short_read)) bytes = 1 + random_() % bytes;
  for (uint64_t i = 0; i < bytes; ++i) read.target[i] = sim_byte(file, read.offset + i);
  bytes_delivered_ += bytes;
  return static_cast<int32_t>(bytes);
}

bool SimDisk::due() const {
  return pending_.empty() ||
         std::any_of(pending_.begin(), pending_.end(),
                     [this](const auto& read) { return read.due <= tick_ + 1; });
}

void SimDisk::wait() {
  while (!due()) ++tick_;
}

size_t SimDisk::poll(std::span<ReadCompletion> out) {
  ++tick_;
  std::shuffle(pending_.begin(), pending_.end(), random_);
  size_t count = 0;
  for (size_t i = 0; i < pending_.size() && count < out.size();) {
    if (pending_[i].due > tick_) {
      ++i;
      continue;
    }
    out[count].op = pending_[i].op;
    out[count].result = perform(pending_[i]);
    ++count;
    pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(i));
  }
  return count;
}

}  // namespace spillway::test
