#include "sinks/content_hash.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr uint64_t kPieceBytes = kMiB;

}  // namespace

ContentHash::ContentHash() : state_(XXH3_createState()) {
  CHECK(state_ != nullptr);
  XXH3_64bits_reset(state_.get());
}

void ContentHash::Free::operator()(XXH3_state_s* state) const {
  XXH3_freeState(state);
}

void ContentHash::update(std::string_view bytes) {
  XXH3_64bits_update(state_.get(), bytes.data(), bytes.size());
}

uint64_t ContentHash::digest() const {
  return XXH3_64bits_digest(state_.get());
}

std::string hash_text(uint64_t xxh3) {
  return fmt::format("{:016x}", xxh3);
}

void read_pieces(int fd, const std::string& name, uint64_t begin, uint64_t end,
                 const StopFlag& stop, const std::function<void(std::string_view)>& use) {
  std::string piece(std::min(kPieceBytes, end - begin), '\0');
  while (begin < end) {
    stop.check();
    const uint64_t wanted = std::min<uint64_t>(piece.size(), end - begin);
    const ssize_t got = pread(fd, piece.data(), wanted, static_cast<off_t>(begin));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error(fmt::format("cannot read {}: {}", name, errno_text(errno)));
    if (got == 0) throw Error(fmt::format("{}: became shorter while it was read", name));
    use({piece.data(), static_cast<size_t>(got)});
    begin += static_cast<uint64_t>(got);
  }
}

}  // namespace spillway
