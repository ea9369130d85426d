// spillway: runs transformer models larger than the memory they are given.
#include <cstdio>
#include <new>
#include <optional>
#include <vector>

#include "cli/commands.h"
#include "core/error.h"
#include "core/one_line.h"
#include "core/signals.h"

namespace {

/// What the parser complains about, as one line.
std::string usage_text(const CLI::App* app, const CLI::Error& error) {
  std::string command = "spillway";
  for (const CLI::App* chosen : app->get_subcommands()) command += " " + chosen->get_name();
  return "spillway: " + spillway::one_line(error.what()) + "; see " + command + " --help\n";
}

}  // namespace

int main(int argc, char** argv) {
  spillway::StopFlag stop;
  std::optional<spillway::StopSignals> signals;  // before the first thread
  try {
    signals.emplace(stop, spillway::kExitInterrupted);
  } catch (const spillway::Error& error) {
    std::fprintf(stderr, "spillway: %s\n", error.what());
    return 1;
  }
  CLI::App app{
      "Runs transformer models larger than the memory they are given: a planner places layers on "
      "GPU, RAM and NVMe, and what spilled is streamed.",
      "spillway"};
  app.require_subcommand(1);
  app.set_version_flag("--version", SPILLWAY_VERSION);
  app.failure_message(usage_text);
  app.footer("Start with: spillway plan configs/quickstart.yaml");
  spillway::Command chosen;
  spillway::CommandContext context{
      app, stop, [&](CLI::App* subcommand, spillway::Command command) {
        subcommand->callback([&chosen, command = std::move(command)] { chosen = command; });
      }};
  spillway::add_run_command(context);
  spillway::add_score_command(context);
  spillway::add_plan_command(context);
  spillway::add_probe_command(context);
  spillway::add_bench_command(context);
  spillway::add_inspect_command(context);
  spillway::add_tokenize_command(context);
  spillway::add_trace_command(context);
  spillway::add_synth_command(context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    return chosen();
  } catch (const spillway::Stopped&) {
    std::fprintf(stderr, "spillway: stopped\n");
    return spillway::kExitInterrupted;
  } catch (const spillway::Error& error) {
    std::fprintf(stderr, "spillway: %s\n", spillway::one_line(error.what()).c_str());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "spillway: out of memory; lower memory.ram\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "spillway: %s\n", spillway::one_line(error.what()).c_str());
  }
  return 1;
}
