#include "core/buffer.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "core/error.h"
#include "core/limits.h"
#include "core/units.h"

namespace spillway {

HugeBuffer::HugeBuffer(uint64_t bytes, std::string_view setting)
    : bytes_(align_up(bytes, kHugePageBytes)) {
  if (bytes_ == 0) return;
  // Ask for one huge page more and cut both ends, so that the start is 2 MiB aligned.
  const uint64_t mapped = bytes_ + kHugePageBytes;
  void* raw = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) {
    const std::string cause = errno_text(errno);
    const std::string limits = memory_limits_text();
    std::string advice = setting.empty() ? "" : fmt::format("lower {}", setting);
    if (!limits.empty()) advice = "raise that limit" + (advice.empty() ? "" : " or " + advice);
    if (advice.empty()) advice = "end other processes";
    throw Error(
        fmt::format("cannot allocate {}: {}{}; {}", format_bytes(bytes_), cause, limits, advice));
  }
  auto* start = static_cast<std::byte*>(raw);
  const auto address = reinterpret_cast<uintptr_t>(raw);
  const uint64_t head = align_up(address, kHugePageBytes) - address;
  if (head > 0) munmap(start, head);
  munmap(start + head + bytes_, mapped - head - bytes_);
  data_ = start + head;
  madvise(data_, bytes_, MADV_HUGEPAGE);  // advice: refusal costs speed, and the report shows it
}

HugeBuffer::HugeBuffer(HugeBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HugeBuffer& HugeBuffer::operator=(HugeBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

std::byte* HugeBuffer::release() noexcept {
  bytes_ = 0;
  return std::exchange(data_, nullptr);
}

HugeBuffer HugeBuffer::adopt(std::byte* data, uint64_t bytes) noexcept {
  HugeBuffer buffer;
  buffer.data_ = data;
  buffer.bytes_ = bytes;
  return buffer;
}

HugeBuffer::~HugeBuffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

void HugeBuffer::touch() const {
  if (data_ == nullptr) return;
#ifdef MADV_POPULATE_WRITE
  if (madvise(data_, bytes_, MADV_POPULATE_WRITE) == 0) return;
#endif
  constexpr uint64_t kPage = 4096;
  for (uint64_t i = 0; i < bytes_; i += kPage) {
    *reinterpret_cast<volatile std::byte*>(data_ + i) = std::byte{0};
  }
}

}  // namespace spillway
