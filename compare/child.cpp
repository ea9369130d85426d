#include "compare/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "core/descriptor.h"
#include "core/error.h"
#include "core/signals.h"

namespace spillway {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(20);
/// How long an interrupted child may take to end by itself.
constexpr int kGracePolls = 100;
/// And a killed one, which cannot end while a drive does not answer a read of it.
constexpr int kKilledPolls = 100;
constexpr int kCannotJoin = 125;
constexpr int kCannotStart = 127;

/// All that the child needs, made before fork(): afterwards only async-signal-safe calls are legal.
struct ChildPlan {
  std::vector<char*> argv;
  const char* joining_file = nullptr;  ///< null = none
  int null_fd = -1;
  int log_fd = -1;
  int failure_fd = -1;  ///< takes the errno of a program that cannot be started
  pid_t parent = 0;
};

/// What this program blocks and ignores for itself is inherited otherwise. SIGINT is how the child
/// is stopped; what else was ignored from outside (nohup) stays so.
void reset_signals() {
  for (const int signal : {SIGPIPE, SIGXFSZ, SIGINT}) ::signal(signal, SIG_DFL);
  unblock_signals_in_child();
}

/// False when the group cannot be joined.
bool join_group(const char* file) {
  std::array<char, 16> digits{};
  size_t at = digits.size();
  digits[--at] = '\n';
  for (pid_t id = getpid(); id > 0; id /= 10) digits[--at] = static_cast<char>('0' + id % 10);
  const size_t count = digits.size() - at;
  const int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  return fd >= 0 && write(fd, digits.data() + at, count) == static_cast<ssize_t>(count);
}

[[noreturn]] void become(const ChildPlan& plan) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != plan.parent) _exit(kCannotStart);  // it died before the line above
  reset_signals();
  dup2(plan.null_fd, STDIN_FILENO);
  dup2(plan.null_fd, STDOUT_FILENO);
  dup2(plan.log_fd, STDERR_FILENO);
  if (plan.joining_file != nullptr && !join_group(plan.joining_file)) _exit(kCannotJoin);
  execv(plan.argv[0], plan.argv.data());
  const int error = errno;
  if (write(plan.failure_fd, &error, sizeof error) < 0) _exit(kCannotStart);
  _exit(kCannotStart);
}

/// 0, or the errno of the exec that failed. Waits for either.
int start_error(int fd) {
  int error = 0;
  ssize_t got = 0;
  do {
    got = read(fd, &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  return got == sizeof error ? error : 0;
}

/// Throws Error where nobody can say how it ended.
int wait_for(pid_t child, const std::string& name, const StopFlag& stop) {
  int status = 0;
  int polls_since_stop = 0;
  pid_t ended = 0;
  while ((ended = waitpid(child, &status, WNOHANG)) == 0) {
    if (stop.requested()) {
      if (polls_since_stop == 0) kill(child, SIGINT);
      if (polls_since_stop == kGracePolls) kill(child, SIGKILL);
      if (polls_since_stop == kGracePolls + kKilledPolls) {
        throw Error(fmt::format("{} (process {}) was killed and does not end", name, child));
      }
      ++polls_since_stop;
    }
    std::this_thread::sleep_for(kPoll);
  }
  if (ended < 0) throw Error(fmt::format("how {} ended is not known: {}", name, errno_text(errno)));
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::string last_line_of(const std::filesystem::path& log, off_t begin) {
  std::ifstream in(log);
  in.seekg(begin);
  std::string last;
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

}  // namespace

ChildResult run_child(const std::vector<std::string>& arguments,
                      const std::filesystem::path& joining_file, const std::filesystem::path& log,
                      const StopFlag& stop) {
  std::vector<std::string> words = arguments;
  const auto cannot = [&](int error) -> Error {
    return Error(fmt::format("cannot start {}: {}", words[0], errno_text(error)));
  };
  ChildPlan plan;
  for (std::string& word : words) plan.argv.push_back(word.data());
  plan.argv.push_back(nullptr);
  if (!joining_file.empty()) plan.joining_file = joining_file.c_str();
  const Descriptor null_file(open("/dev/null", O_RDWR | O_CLOEXEC));
  const Descriptor log_file(open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!null_file.valid() || !log_file.valid()) throw cannot(errno);
  const off_t log_begin = lseek(log_file.get(), 0, SEEK_END);
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw cannot(errno);
  const Descriptor failure(ends[0]);
  Descriptor tell_failure(ends[1]);
  plan.null_fd = null_file.get();
  plan.log_fd = log_file.get();
  plan.failure_fd = tell_failure.get();
  plan.parent = getpid();
  const pid_t child = fork();
  if (child < 0) throw cannot(errno);
  if (child == 0) become(plan);
  tell_failure.reset();
  const int error = start_error(failure.get());
  ChildResult result;
  result.exit_code = wait_for(child, words[0], stop);
  if (error != 0) throw cannot(error);
  result.last_line = last_line_of(log, log_begin);
  return result;
}

}  // namespace spillway
