// Counts calls of operator new in this program: proof that a hot path allocates nothing; and lets
// one of them fail.
#pragma once

#include <cstdint>

namespace spillway::test {

uint64_t allocation_count();
/// The n-th allocation from now on, of any thread, finds no memory. n >= 1.
void fail_allocation(uint64_t n);

}  // namespace spillway::test
