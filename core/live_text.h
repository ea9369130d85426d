// Text for whoever reads slowly, or not at all: streams of others may be full for as long as they
// like, and none of them may hold a stop request.
#pragma once

#include <string>
#include <string_view>

#include "core/descriptor.h"
#include "core/stop.h"

namespace spillway {

/// Text for a stream while it is made: waits for a reader that is slow, but not past a stop
/// request. One thread.
class LiveText {
 public:
  /// `what`: for messages, "to stdout" or "the report x.json".
  LiveText(int fd, std::string what, const StopFlag& stop);
  LiveText(const LiveText&) = delete;
  /// Writes what is taken without waiting; returns what is left. Throws Error when nobody is there.
  std::string_view offer(std::string_view text);
  /// At once and unbuffered. Throws Error when it cannot be written whole: also where a stop was
  /// requested and nobody takes the text for half a second.
  void print(std::string_view text);

 private:
  int output() const { return terminal_.valid() ? terminal_.get() : fd_; }
  void wait_for_room() const;
  void wait_after_refusal();
  size_t write_some(std::string_view text) const;
  [[noreturn]] void fail(const std::string& why) const;

  const int fd_;
  const std::string what_;
  const StopFlag& stop_;
  /// The stream, opened anew so that writes do not wait; none = no terminal, or one that belongs to
  /// somebody else: what it does not take is then waited for.
  Descriptor terminal_;
  int refusals_ = 0;  // one after the other, since the stop request
  Descriptor woken_;
  StopSubscription subscription_;
};

}  // namespace spillway
