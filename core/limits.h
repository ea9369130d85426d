// Limits that the system sets to this process, in words: a message about something refused names
// the limit that may have done it. Any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace spillway {

/// " (the limit on address space, ulimit -v, is 512 MiB)"; empty where there is no limit.
std::string memory_limits_text();

/// The same for threads: of this user, of the control groups under `root`, of address space.
std::string thread_limits_text(const std::filesystem::path& root = "/");

/// How many of `wanted` threads can be had at the same time, beside those that there are.
uint32_t startable_threads(uint32_t wanted);

}  // namespace spillway
