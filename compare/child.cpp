#include "compare/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <thread>
#include <utility>

#include "core/error.h"

extern char** environ;

namespace spillway {
namespace {

/// The shell joins the group and then is the program.
constexpr const char* kJoin = "echo $$ > \"$1\" || exit 125; shift; exec \"$@\"";
constexpr auto kPoll = std::chrono::milliseconds(20);

class FileActions {
 public:
  explicit FileActions(const std::string& log) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_addopen(&actions_, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions_, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions_, 2, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  }
  ~FileActions() { posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

std::string last_line_of(const std::filesystem::path& log) {
  std::ifstream in(log);
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
  if (!joining_file.empty()) {
    words.insert(words.begin(), {"/bin/sh", "-c", kJoin, "sh", joining_file.string()});
  }
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const FileActions actions(log.string());
  pid_t child = 0;
  const int error = posix_spawn(&child, argv[0], actions.get(), nullptr, argv.data(), environ);
  if (error != 0) throw Error(fmt::format("cannot start {}: {}", words[0], errno_text(error)));
  bool interrupted = false;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (stop.requested() && !std::exchange(interrupted, true)) kill(child, SIGINT);
    std::this_thread::sleep_for(kPoll);
  }
  ChildResult result;
  result.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  result.last_line = last_line_of(log);
  return result;
}

}  // namespace spillway
