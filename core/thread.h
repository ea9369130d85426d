// Starts threads: a system that gives no more of them is an Error that names the limit.
#pragma once

#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

namespace spillway {

/// Throws Error: what the thread was for, the cause, and which limits to raise.
[[noreturn]] void throw_no_thread(std::string_view purpose, const std::system_error& cause);

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
