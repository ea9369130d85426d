#include "tests/sim/sim_disk.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/units.h"

namespace spillway::test {
namespace {

constexpr int64_t kTickNs = 1'000'000;

}  // namespace

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
  const bool hung = faults_.hang_after_reads >= 0 && submitted_ >= faults_.hang_after_reads;
  ++submitted_;
  if (races_with(op)) ++races_;
  pending_.push_back({&op, op.next_offset(), op.next_target(), op.next_bytes(),
                      tick_ + faults_.min_latency + random_() % span, hung, false});
  most_in_flight_ = std::max(most_in_flight_, in_flight());
  return true;
}

bool SimDisk::races_with(const ReadOp& op) const {
  return std::any_of(pending_.begin(), pending_.end(), [&](const Pending& other) {
    return (op.kind == IoKind::kWrite || other.op->kind == IoKind::kWrite) &&
           op.file->path == other.op->file->path && op.next_offset() < other.offset + other.bytes &&
           other.offset < op.next_offset() + op.next_bytes();
  });
}

int32_t SimDisk::perform_write(const Pending& write) {
  if (faults_.full_after_writes >= 0 && writes_ >= faults_.full_after_writes) {
    return -faults_.full_error;
  }
  ++writes_;
  const ReadFile& file = *write.op->file;
  std::vector<std::byte>& content = written_[file.path];
  for (uint64_t i = content.size(); i < file.bytes; ++i) content.push_back(sim_byte(file, i));
  const uint64_t bytes = chance(faults_.short_read) ? random_() % write.bytes : write.bytes;
  std::copy_n(write.target, bytes, content.begin() + static_cast<ptrdiff_t>(write.offset));
  return static_cast<int32_t>(bytes);
}

void SimDisk::deliver(const Pending& read, uint64_t bytes) {
  const ReadFile& file = *read.op->file;
  const auto found = written_.find(file.path);
  if (found == written_.end()) {
    for (uint64_t i = 0; i < bytes; ++i) read.target[i] = sim_byte(file, read.offset + i);
    return;
  }
  std::copy_n(found->second.begin() + static_cast<ptrdiff_t>(read.offset), bytes, read.target);
  if (bytes == 0 || !chance(faults_.damage)) return;
  read.target[random_() % bytes] ^= std::byte{1} << (random_() % 8);
  ++damages_;
}

int32_t SimDisk::perform(const Pending& read) {
  const int64_t number = reads_++;
  if (faults_.io_error_forever ||
      (faults_.fail_after_reads >= 0 && number >= faults_.fail_after_reads)) {
    return -faults_.error;
  }
  if (chance(faults_.transient)) return random_() % 2 == 0 ? -EAGAIN : -EINTR;
  if (chance(faults_.io_error)) return -faults_.error;
  if (read.op->kind == IoKind::kWrite) return perform_write(read);
  const ReadFile& file = *read.op->file;
  uint64_t end = file.bytes;
  if (faults_.truncate_after_reads >= 0 && number >= faults_.truncate_after_reads) end /= 2;
  uint64_t bytes = read.offset >= end ? 0 : std::min<uint64_t>(read.bytes, end - read.offset);
  if (bytes > 0 && chance(faults_.short_read)) bytes = 1 + random_() % bytes;
  deliver(read, bytes);
  bytes_delivered_ += bytes;
  return static_cast<int32_t>(bytes);
}

bool SimDisk::due() const {
  return pending_.empty() ||
         std::any_of(pending_.begin(), pending_.end(), [this](const auto& read) {
           return read.cancelled || (!read.hung && read.due <= tick_ + 1);
         });
}

void SimDisk::pass_time() {
  ++tick_;
  clock_.advance(kTickNs);
}

size_t SimDisk::poll(std::span<ReadCompletion> out) {
  if (faults_.broken) throw Error("the simulated disk is broken");
  pass_time();
  std::shuffle(pending_.begin(), pending_.end(), random_);
  size_t count = 0;
  for (size_t i = 0; i < pending_.size() && count < out.size();) {
    if (!pending_[i].cancelled && (pending_[i].hung || pending_[i].due > tick_)) {
      ++i;
      continue;
    }
    out[count].op = pending_[i].op;
    out[count].result = pending_[i].cancelled ? -ECANCELED : perform(pending_[i]);
    ++count;
    pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(i));
  }
  return count;
}

void SimDisk::wait(int64_t limit_ns) {
  if (faults_.broken) throw Error("the simulated disk is broken");
  ++waits_;
  last_limit_ns_ = limit_ns;
  const bool answers = std::any_of(pending_.begin(), pending_.end(),
                                   [](const auto& read) { return read.cancelled || !read.hung; });
  if (answers) {
    for (int64_t left_ns = limit_ns; left_ns > 0 && !due(); left_ns -= kTickNs) pass_time();
  } else {  // for ever; one tick stands for it
    clock_.advance(limit_ns == kNoLimit ? kTickNs : limit_ns);
  }
}

void SimDisk::cancel(ReadOp& op) noexcept {
  for (Pending& read : pending_) {
    if (read.op == &op && (!read.hung || faults_.hung_reads_cancel)) read.cancelled = true;
  }
}

}  // namespace spillway::test
