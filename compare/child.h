// Runs one program to its end and says how it ended. One thread.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/stop.h"

namespace spillway {

struct ChildResult {
  int exit_code = 0;      ///< 128 + signal when one ended it
  std::string last_line;  ///< of its stderr that says anything
};

/// `joining_file`: where the child writes its process id before it becomes the program (a control
/// group); empty = nowhere. Its stdout is dropped, its stderr is added to `log`. A stop request
/// interrupts it (SIGINT), and kills it when it has not ended two seconds later. Throws Error when
/// it cannot be started, when it has not ended two seconds after that, and when the system does not
/// say how it ended (SIGCHLD must not be ignored).
ChildResult run_child(const std::vector<std::string>& arguments,
                      const std::filesystem::path& joining_file, const std::filesystem::path& log,
                      const StopFlag& stop);

}  // namespace spillway
