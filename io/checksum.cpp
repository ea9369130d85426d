#include "io/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

#include "core/error.h"
#include "core/units.h"
#include "io/read_pump.h"

namespace spillway {
namespace {

constexpr uint64_t kChunkBytes = kMiB;
constexpr uint32_t kDepth = 16;

/// Reads one file front to back, several chunks at a time, and hands them on in order.
template <typename Use>
void read_in_order(const ReadFile& file, BlockReader& reader, const StopFlag& stop,
                   const Clock& clock, const Use& use) {
  PumpedBuffer buffers(reader, clock, kDepth * kChunkBytes);
  ReadPump& pump = buffers.pump();
  const StopSubscription wakes = stop.on_request([&pump] { pump.wake(); });
  std::vector<bool> ready(kDepth);
  const uint64_t chunks = ceil_div(file.bytes, kChunkBytes);
  uint64_t next = 0;
  for (uint64_t used = 0; used < chunks;) {
    stop.check();
    while (next < chunks && next < used + kDepth) {
      const uint64_t offset = next * kChunkBytes;
      const uint64_t needed = std::min(kChunkBytes, file.bytes - offset);
      ReadRequest request;
      request.file = &file;
      request.offset = offset;
      request.target = buffers.data() + (next % kDepth) * kChunkBytes;
      request.bytes = static_cast<uint32_t>(align_up(needed, file.alignment));
      request.needed = static_cast<uint32_t>(needed);
      request.tag = next % kDepth;
      if (!pump.start(request)) break;
      ++next;
    }
    const auto finished = pump.poll();
    for (const uint64_t slot : finished) ready[slot] = true;
    for (; used < next && ready[used % kDepth]; ++used) {
      ready[used % kDepth] = false;
      const uint64_t offset = used * kChunkBytes;
      use(offset, buffers.data() + (used % kDepth) * kChunkBytes,
          std::min(kChunkBytes, file.bytes - offset));
    }
    if (finished.empty()) pump.wait();
  }
}

}  // namespace

std::vector<TensorChecksum> checksum_tensors(
    const Checkpoint& checkpoint, const ReaderFactory& readers, const StopFlag& stop,
    const Clock& clock, const std::function<void(uint64_t, uint64_t)>& progress) {
  uint64_t total = 0;
  for (const DirectFile& file : checkpoint.files()) total += file.info().bytes;
  uint64_t done = 0;
  std::vector<TensorChecksum> result;
  const auto reader = readers(kDepth);
  for (uint32_t f = 0; f < checkpoint.files().size(); ++f) {
    std::vector<const TensorEntry*> tensors;
    for (const TensorEntry& entry : checkpoint.tensors()) {
      if (entry.file == f) tensors.push_back(&entry);
    }
    std::vector<XXH3_state_t> states(tensors.size());
    for (XXH3_state_t& state : states) XXH3_64bits_reset(&state);
    size_t first = 0;
    read_in_order(checkpoint.files()[f].info(), *reader, stop, clock,
                  [&](uint64_t offset, const std::byte* data, uint64_t bytes) {
                    for (size_t i = first; i < tensors.size(); ++i) {
                      const uint64_t begin = std::max(offset, tensors[i]->offset);
                      const uint64_t end =
                          std::min(offset + bytes, tensors[i]->offset + tensors[i]->bytes);
                      if (tensors[i]->offset >= offset + bytes) break;
                      if (begin < end) {
                        XXH3_64bits_update(&states[i], data + (begin - offset), end - begin);
                      }
                      if (end == tensors[i]->offset + tensors[i]->bytes && i == first) ++first;
                    }
                    done += bytes;
                    progress(done, total);
                  });
    for (size_t i = 0; i < tensors.size(); ++i) {
      result.push_back({tensors[i]->name, XXH3_64bits_digest(&states[i])});
    }
  }
  return result;
}

}  // namespace spillway
