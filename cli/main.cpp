// spillway: runs transformer models larger than the memory they are given.
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "cli/usage.h"
#include "core/error.h"
#include "core/failure.h"
#include "core/one_line.h"
#include "core/signals.h"
#include "core/thread.h"

namespace {

/// A write that fails is an error of the write, not the end of the program: the rest is still kept.
/// How a child ended is only kept for us where SIGCHLD is not ignored, which is inherited.
void set_signals() {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGCHLD, SIG_DFL);
}

/// A stream that was closed at start is taken by what cannot be read or written, so that no file of
/// ours gets its number and then the answer's text.
void fill_standard_streams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);  // the lowest free number
  }
}

/// Help and version, which the parser prints. 2 for wrong usage.
int say_usage(const CLI::App& app, const CLI::ParseError& error) {
  if (app.exit(error) != 0) return 2;
  std::cout.flush();
  if (std::cout) return 0;
  std::fprintf(stderr, "spillway: cannot write to stdout\n");
  return 1;
}

/// Ends the program with a line, a shorter one where there is no memory for it.
template <typename Text>
[[noreturn]] void last_words(const Text& text, const char* shorter) {
  try {
    std::fprintf(stderr, "spillway: %s\n", text().c_str());
  } catch (...) {
    std::fprintf(stderr, "spillway: %s\n", shorter);
  }
  std::_Exit(1);
}

/// Destructors of libraries may need memory, and end the program where there is none. TBB's threads
/// start each other, and know nobody to tell that the system refuses one: "pthread_create has
/// failed" (oneTBB, rml_thread_monitor.h).
[[noreturn]] void on_terminate() {
  static std::atomic_flag ending;  // several of those threads may fail, and one of them speaks
  while (ending.test_and_set()) pause();
  try {
    if (const auto error = std::current_exception()) std::rethrow_exception(error);
  } catch (const std::bad_alloc& error) {
    last_words([&] { return spillway::failure_text(error); }, "out of memory");
  } catch (const std::exception& error) {
    if (std::strstr(error.what(), "pthread_create") != nullptr) {
      last_words([] { return spillway::no_worker_text("compute.threads (--threads of quantize)"); },
                 "a thread to compute cannot be started");
    }
    std::fprintf(stderr, "spillway: internal error: %s\n", error.what());
  } catch (...) {
  }
  std::abort();
}

/// A limit of a few pages, as some services set it, ends in a crash: the limit is raised where that
/// is allowed, and threads get as much. False where it is not.
bool make_room_for_stacks() {
  constexpr rlim_t kStackBytes = 8 << 20;
  constexpr rlim_t kLeastBytes = 256 << 10;
  rlimit limit{};
  if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur >= kStackBytes) return true;
  limit.rlim_cur = std::min(kStackBytes, limit.rlim_max);
  if (limit.rlim_cur < kLeastBytes || setrlimit(RLIMIT_STACK, &limit) != 0) return false;
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return true;
  pthread_attr_setstacksize(&attributes, limit.rlim_cur);
  pthread_setattr_default_np(&attributes);
  pthread_attr_destroy(&attributes);
  return true;
}

/// A heap per thread reserves 64 MiB of addresses each: where memory is limited, threads share one,
/// and what is left is for their stacks.
void share_heap_where_memory_is_limited() {
  for (const auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
    rlimit limit{};
    if (getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
      mallopt(M_ARENA_MAX, 1);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (!make_room_for_stacks()) {
    std::fprintf(stderr, "spillway: the limit on stacks is below 256 KiB; raise it (ulimit -Hs)\n");
    return 1;
  }
  share_heap_where_memory_is_limited();
  spillway::StopFlag stop;
  fill_standard_streams();
  set_signals();
  std::optional<spillway::StopSignals> signals;  // before the first thread
  try {
    signals.emplace(stop, spillway::kExitInterrupted);
  } catch (const spillway::Error& error) {
    std::fprintf(stderr, "spillway: %s\n", error.what());
    return 1;
  }
  CLI::App app;
  app.failure_message([](const CLI::App* program, const CLI::Error& error) {
    return spillway::usage_text(*program, error) + "\n";
  });
  spillway::Command chosen;
  spillway::add_commands(app, stop, chosen);
  std::vector<std::string> arguments =
      spillway::usual_words({argv + std::min(argc, 1), argv + argc});
  if (const std::string wrong = spillway::wrong_command(app, arguments); !wrong.empty()) {
    std::fprintf(stderr, "spillway: %s\n", wrong.c_str());
    return 2;
  }
  try {
    std::reverse(arguments.begin(), arguments.end());  // as the parser takes them
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    return say_usage(app, error);
  }
  std::set_terminate(on_terminate);
  try {
    return chosen();
  } catch (const spillway::Stopped&) {
    spillway::say(std::string(stop.watched() ? "spillway: stopped" : spillway::kStoppedAtOnce),
                  stop);
    return spillway::kExitInterrupted;
  } catch (const std::exception& error) {
    spillway::say("spillway: " + spillway::failure_text(error), stop);
  }
  return 1;
}
