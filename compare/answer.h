// What a comparison found, in words: the answer to its title, and what stands behind it. Pure
// functions.
#pragma once

#include <string>
#include <vector>

#include "compare/results.h"

namespace spillway {

/// One sentence: how much memory to give, how it compares with mmap there, and from where on more
/// gains nothing. Speaks of nothing that was not measured; without budgets it speaks of shares.
std::string answer(const Comparison& comparison);

/// What the figures say beyond that, a sentence each.
std::vector<std::string> findings(const Comparison& comparison);

}  // namespace spillway
