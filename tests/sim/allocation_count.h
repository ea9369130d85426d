// Counts calls of operator new in this program: proof that a hot path allocates nothing.
#pragma once

#include <cstdint>

namespace spillway::test {

uint64_t allocation_count();

}  // namespace spillway::test
