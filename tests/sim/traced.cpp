#include "tests/sim/traced.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>

namespace spillway::test {
namespace {

constexpr int kSyscallStop = SIGTRAP | 0x80;

[[noreturn]] void run_child(const std::function<void()>& action) {
  if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(77);
  raise(SIGSTOP);
  int code = 1;
  try {
    action();
    code = 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "traced child: %s\n", error.what());
  }
  _exit(code);
}

std::string text_at(pid_t child, uint64_t address) {
  std::string text;
  for (char c = 1; text.size() < 4096; ++address) {
    iovec here{&c, 1};
    iovec there{reinterpret_cast<void*>(address), 1};
    if (process_vm_readv(child, &here, 1, &there, 1, 0) != 1 || c == '\0') break;
    text += c;
  }
  return text;
}

bool is_rename(int number) {
#ifdef __NR_renameat
  if (number == __NR_renameat) return true;
#endif
  return number == __NR_renameat2;
}

void name_files(pid_t child, TracedCall& call) {
  if (call.number == __NR_openat || is_rename(call.number)) {
    call.path = text_at(child, call.arguments[1]);
  }
  if (is_rename(call.number)) call.target = text_at(child, call.arguments[3]);
}

Killed end_of(pid_t child) {
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  return Killed::kYes;
}

}  // namespace

Killed run_traced(const std::function<void()>& action,
                  const std::function<bool(const TracedCall&)>& begins,
                  const std::function<void(const TracedCall&)>& ends) {
  const pid_t child = fork();
  if (child == 0) run_child(action);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status)) return Killed::kCannotTrace;
  ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  TracedCall call;
  int signal = 0;
  while (true) {
    ptrace(PTRACE_SYSCALL, child, nullptr, signal);
    signal = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
      return Killed::kNo;
    }
    if (WSTOPSIG(status) != kSyscallStop) {
      signal = WSTOPSIG(status);
      continue;
    }
    __ptrace_syscall_info info{};
    if (ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof(info), &info) <= 0) {
      end_of(child);
      return Killed::kCannotTrace;
    }
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
      call = {};
      call.number = static_cast<int>(info.entry.nr);
      for (size_t i = 0; i < 6; ++i) call.arguments[i] = info.entry.args[i];
      name_files(child, call);
      if (!begins(call)) return end_of(child);
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
      call.result = info.exit.rval;
      ends(call);
    }
  }
}

}  // namespace spillway::test
