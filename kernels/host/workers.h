// The threads of a TBB arena, made before there is work for them.
#pragma once

#include <tbb/task_arena.h>

#include <cstdint>
#include <string_view>

namespace spillway {

/// TBB makes its threads when there is work; a refusal then would end the program. So those of an
/// arena of `threads` are made now, before others take theirs. Gives up soon: it is no promise.
/// Throws Error where the system refuses one; `setting` is what the user may lower.
void start_workers(tbb::task_arena& arena, uint32_t threads, std::string_view setting);

}  // namespace spillway
