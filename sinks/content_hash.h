// XXH3 (64 bit) of bytes that come in pieces, and of files that are read back. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/stop.h"

struct XXH3_state_s;

namespace spillway {

class ContentHash {
 public:
  ContentHash();
  void update(std::string_view bytes);
  /// Of all that came so far.
  uint64_t digest() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

/// 16 digits, as xxhsum -H3 prints it.
std::string hash_text(uint64_t xxh3);

/// Reads bytes [begin, end) of an open file in order and in pieces, for `use`; `name` is for
/// messages. Throws Error where it cannot be read or ends before, Stopped.
void read_pieces(int fd, const std::string& name, uint64_t begin, uint64_t end,
                 const StopFlag& stop, const std::function<void(std::string_view)>& use);

}  // namespace spillway
