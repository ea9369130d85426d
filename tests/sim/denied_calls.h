// A system that refuses: system calls that fail, as under the seccomp filter of a container.
#pragma once

#include <functional>
#include <vector>

namespace spillway::test {

/// From now on these system calls fail with `error` in this thread and what it starts. For ever:
/// call it in a child process.
void deny_calls(const std::vector<int>& numbers, int error);

/// The same for opening files without a name (O_TMPFILE), as on a file system that has none.
void deny_unnamed_files();

/// Runs `action` in a child process and returns what it returned; 128 + signal when it died, 200
/// when it threw. A child that hangs dies after a minute.
int in_child(const std::function<int()>& action);

}  // namespace spillway::test
