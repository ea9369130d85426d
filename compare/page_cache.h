// How much of a file the system's page cache holds, and how to make it let go.
#pragma once

#include <cstdint>
#include <filesystem>

namespace spillway {

/// Asks the system to drop its clean pages of a file; returns the bytes that stay (mapped by
/// others, for example). Throws Error when the file cannot be opened.
uint64_t drop_cached(const std::filesystem::path& file);

}  // namespace spillway
