// spillway merge: one folder from those that the parts of a scoring job left.
#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/terminal.h"
#include "core/units.h"
#include "sinks/job_folder.h"
#include "sinks/merge_jobs.h"

namespace spillway {

int merge_command(const MergeOptions& options, StopFlag& stop) {
  stop.watch();
  try {
    merge_jobs({options.folders.begin(), options.folders.end()}, options.out, stop);
  } catch (const Stopped&) {
    say(fmt::format("spillway: stopped: {} is not whole; the same command goes on", options.out),
        stop);
    return kExitInterrupted;
  }
  const Manifest manifest =
      load_manifest(OutputFolder(options.out, OutputFolder::Missing::kRefuse));
  print_text(
      fmt::format("{}: {} of {}\n", options.out, counted(manifest.documents.count, "document"),
                  counted(options.folders.size(), "part")),
      stop);
  return 0;
}

}  // namespace spillway
