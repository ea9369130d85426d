// Chooses the reader at run time and says so when it is not the fast one.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/config.h"
#include "core/log.h"
#include "io/block_reader.h"

namespace spillway {

/// Reads as they are made where nothing is known of the drive.
constexpr uint64_t kUsualChunkBytes = 1 << 20;
constexpr uint32_t kUsualDepth = 8;

/// Makes a reader of the given depth; each thread that reads gets its own. The engine takes one of
/// these, so that tests can hand it a simulated disk.
using ReaderFactory = std::function<std::unique_ptr<BlockReader>(uint32_t depth)>;

struct ReaderChoice {
  ReaderFactory make;
  std::string name;  ///< as BlockReader::name() of what `make` gives
};

/// Decides once between io_uring and pread, by one small read through a ring. `auto` falls back
/// with one notice that says why and how to get the fast path, also later where one more ring
/// cannot be had; `io_uring` throws Error where it is blocked. `notice` is kept.
ReaderChoice choose_reader(EngineChoice choice, const NoticeSink& notice);

}  // namespace spillway
