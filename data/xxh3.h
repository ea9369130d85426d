// XXH3 (128 bit) of bytes that come in pieces. One thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct XXH3_state_s;

namespace spillway {

class Xxh3 {
 public:
  Xxh3();
  void update(std::string_view bytes);
  /// 32 hexadecimal digits as xxhsum -H128 prints them, of all that came so far.
  std::string text() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

}  // namespace spillway
