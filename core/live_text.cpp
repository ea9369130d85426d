#include "core/live_text.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "core/error.h"

namespace spillway {
namespace {

/// After a stop request, for whoever reads a stream.
constexpr int kPatienceMs = 500;
constexpr int kRefusalMs = 10;

}  // namespace

LiveText::LiveText(int fd, std::string what, const StopFlag& stop)
    : fd_(fd), what_(std::move(what)), stop_(stop), woken_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  // A terminal says that there is room where there is some, and a write waits for the rest. The
  // flag must not be set on what the shell shares with us.
  unsigned number = 0;  // of a terminal's other end, which would open another one
  if (isatty(fd) != 0 && ioctl(fd, TIOCGPTN, &number) != 0) {
    const std::string name = fmt::format("/proc/self/fd/{}", fd);
    terminal_ = Descriptor(open(name.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  }
  subscription_ = stop.on_request([this] { eventfd_write(woken_.get(), 1); });
}

void LiveText::fail(const std::string& why) const {
  throw Error(fmt::format("cannot write {}: {}", what_, why));
}

/// A pipe that has room takes that much without waiting. 0 = refused after all.
size_t LiveText::write_some(std::string_view text) const {
  while (true) {
    const ssize_t count = write(output(), text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (count > 0) return static_cast<size_t>(count);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return 0;
    fail(errno_text(count < 0 ? errno : EIO));
  }
}

std::string_view LiveText::offer(std::string_view text) {
  while (!text.empty()) {
    pollfd event{output(), POLLOUT, 0};
    const size_t count = poll(&event, 1, 0) > 0 ? write_some(text) : 0;
    if (count == 0) break;
    text.remove_prefix(count);
  }
  return text;
}

/// Until the stream takes something.
void LiveText::wait_for_room() const {
  while (true) {
    const bool stopping = stop_.requested();
    pollfd events[] = {{output(), POLLOUT, 0}, {woken_.get(), POLLIN, 0}};
    const bool woken = !stopping && woken_.valid();  // there may be no descriptor to be woken by
    const int ready = poll(events, woken ? 2 : 1, woken ? -1 : kPatienceMs);
    if (ready < 0 && errno != EINTR) fail(errno_text(errno));
    if (events[0].revents != 0) return;  // also where the reader is gone: the write says so
    if (stopping && ready == 0) fail("nobody reads it");
  }
}

/// There was room, but not for what is next: a terminal writes two bytes for the end of a line.
void LiveText::wait_after_refusal() {
  pollfd woken{woken_.get(), POLLIN, 0};
  const bool stopping = stop_.requested();
  poll(&woken, stopping ? 0 : 1, kRefusalMs);
  if (stopping && ++refusals_ * kRefusalMs > kPatienceMs) fail("nobody reads it");
}

void LiveText::print(std::string_view text) {
  while (!text.empty()) {
    wait_for_room();
    const size_t count = write_some(text);
    if (count == 0) wait_after_refusal();
    if (count > 0) refusals_ = 0;
    text.remove_prefix(count);
  }
}

}  // namespace spillway
