// Memory that ends where a page ends, for kernels that must not read a byte more.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <span>

#include "core/error.h"

namespace spillway::test {

/// Bytes that touch the page behind them, or the page in front.
class Fenced {
 public:
  enum class Touches { kEnd, kBegin };
  Fenced(std::span<const std::byte> bytes, Touches touches) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t inner = (bytes.size() + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    base_ = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(base_ != MAP_FAILED);
    std::byte* first = static_cast<std::byte*>(base_) + page;
    CHECK(mprotect(first, inner, PROT_READ | PROT_WRITE) == 0);
    data_ = touches == Touches::kBegin ? first : first + inner - bytes.size();
    if (!bytes.empty()) std::memcpy(data_, bytes.data(), bytes.size());
  }
  ~Fenced() { munmap(base_, mapped_); }
  Fenced(const Fenced&) = delete;
  const std::byte* data() const { return data_; }

 private:
  void* base_;
  size_t mapped_;
  std::byte* data_;
};
inline constexpr Fenced::Touches kBothWays[] = {Fenced::Touches::kEnd, Fenced::Touches::kBegin};

}  // namespace spillway::test
