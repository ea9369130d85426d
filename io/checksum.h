// Reads whole files through the engine's own reader and hashes every tensor.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/stop.h"
#include "io/checkpoint.h"
#include "io/open_reader.h"

namespace spillway {

struct TensorChecksum {
  std::string name;
  uint64_t xxh3 = 0;
};

/// XXH3 (64 bit) of each tensor's bytes, in file order. `progress` gets bytes read so far and in
/// all. Throws Error when a read fails, Stopped when a stop was requested.
std::vector<TensorChecksum> checksum_tensors(
    const Checkpoint& checkpoint, const ReaderFactory& readers, const StopFlag& stop,
    const Clock& clock,
    const std::function<void(uint64_t done_bytes, uint64_t total_bytes)>& progress);

}  // namespace spillway
