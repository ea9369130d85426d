// Counts calls of operator new in this program and their bytes: proof that a hot path allocates
// nothing, and another no more than it should; and lets one of them fail.
#pragma once

#include <cstdint>

namespace spillway::test {

uint64_t allocation_count();
/// Of all of them, whether they were freed or not.
uint64_t allocated_bytes();
/// The n-th allocation from now on, of any thread, finds no memory. n >= 1.
void fail_allocation(uint64_t n);

}  // namespace spillway::test
