// The commands: one file each. main.cpp gives them their context and catches what they throw.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "core/stop.h"

namespace spillway {

/// Each adds its subcommand; the returned function runs it and gives the exit code.
using Command = std::function<int()>;
struct CommandContext {
  CLI::App& app;
  StopFlag& stop;
  /// Registers what to run when `subcommand` was given.
  std::function<void(CLI::App* subcommand, Command command)> on;
};

void add_run_command(CommandContext& context);
void add_score_command(CommandContext& context);
void add_plan_command(CommandContext& context);
void add_bench_command(CommandContext& context);
void add_probe_command(CommandContext& context);
void add_inspect_command(CommandContext& context);
void add_tokenize_command(CommandContext& context);
void add_trace_command(CommandContext& context);
void add_synth_command(CommandContext& context);

/// Exit codes: 0, 1 for an Error, 2 for wrong usage, and this after Ctrl-C, SIGTERM or SIGHUP,
/// whether the run ended cleanly or a second signal ended it.
inline constexpr int kExitInterrupted = 130;

}  // namespace spillway
