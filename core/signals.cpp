#include "core/signals.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "core/error.h"
#include "core/thread.h"

namespace spillway {
namespace {

constexpr int kStopSignals[] = {SIGINT, SIGTERM, SIGHUP};

bool is_ignored(int signal) {
  struct sigaction action {};
  sigaction(signal, nullptr, &action);
  return action.sa_handler == SIG_IGN;
}

/// Unless it would block.
void say_stopped() {
  pollfd stderr_room{STDERR_FILENO, POLLOUT, 0};
  if (poll(&stderr_room, 1, 0) != 1 || (stderr_room.revents & POLLOUT) == 0) return;
  const std::string line = std::string(kStoppedAtOnce) + "\n";
  [[maybe_unused]] const auto written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace

StopSignals::StopSignals(StopFlag& stop, int at_once_exit_code,
                         std::chrono::milliseconds one_request)
    : stop_(stop), at_once_exit_code_(at_once_exit_code), one_request_(one_request) {
  sigemptyset(&signals_);
  bool any = false;
  for (const int signal : kStopSignals) {
    if (is_ignored(signal)) continue;
    sigaddset(&signals_, signal);
    any = true;
  }
  if (!any) return;
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  thread_ = start_thread("to wait for Ctrl-C", [this] { wait(); });
}

StopSignals::~StopSignals() {
  if (!thread_.joinable()) return;
  ending_.store(true);
  for (const int signal : kStopSignals) {
    if (sigismember(&signals_, signal) == 1) pthread_kill(thread_.native_handle(), signal);
  }
  thread_.join();
}

void StopSignals::wait() {
  using Clock = std::chrono::steady_clock;
  std::optional<Clock::time_point> first;
  while (true) {
    const int signal = sigwaitinfo(&signals_, nullptr);
    if (ending_.load()) return;
    if (signal < 0) continue;  // EINTR: stopped and continued, or a debugger
    if (!first) {
      first = Clock::now();
      stop_.request_or([this] {
        say_stopped();
        _exit(at_once_exit_code_);
      });
    } else if (Clock::now() - *first > one_request_) {
      _exit(at_once_exit_code_);
    }
  }
}

void unblock_signals_in_child() noexcept {
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
}

}  // namespace spillway
