// The grammar of the command line, apart from the commands: its parser is slow to compile.
#pragma once

#include <functional>

#include "core/stop.h"

namespace CLI {
class App;
}

namespace spillway {

/// Runs a command and gives the exit code.
using Command = std::function<int()>;

/// Names the program and adds every subcommand; parsing sets `chosen`. `stop` and `chosen` outlive
/// `app`.
void add_commands(CLI::App& app, StopFlag& stop, Command& chosen);

}  // namespace spillway
