#include "tests/sim/allocation_count.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<uint64_t> allocations{0};
std::atomic<uint64_t> all_bytes{0};
std::atomic<uint64_t> failing{0};  // its number; 0 = none
}  // namespace

namespace spillway::test {
uint64_t allocation_count() {
  return allocations.load();
}

uint64_t allocated_bytes() {
  return all_bytes.load();
}

void fail_allocation(uint64_t n) {
  failing.store(allocations.load() + n);
}
}  // namespace spillway::test

// Sanitizers replace operator new themselves; the count stays at zero there.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
void* operator new(size_t bytes) {
  if (++allocations == failing.load()) throw std::bad_alloc();
  all_bytes += bytes;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
#endif
