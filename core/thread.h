// Starts threads: a system that gives no more of them is an Error that names the limit.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "core/log.h"

namespace spillway {

/// Throws Error: what the thread was for, the cause, and which limits to raise.
[[noreturn]] void throw_no_thread(std::string_view purpose, const std::system_error& cause);

/// Where one of those that compute could not be started; `setting` is what the user may lower.
std::string no_worker_text(std::string_view setting);

/// As many threads as `wanted` to compute, the calling one among them, or as the system lets start
/// beside `others` that must be had: tried here, because a library that finds out later ends the
/// program. Says so where they are fewer; throws Error where not even the others can be had.
uint32_t startable_to_compute(uint32_t wanted, uint32_t others, const NoticeSink& notice);

/// `purpose` completes "cannot start a thread …": "to read weights". Joined by its destructor.
template <typename Body>
std::jthread start_thread(std::string_view purpose, Body&& body) {
  try {
    return std::jthread(std::forward<Body>(body));
  } catch (const std::system_error& error) {
    throw_no_thread(purpose, error);
  }
}

}  // namespace spillway
