// The part of `spillway score` that works on files of documents.
#pragma once

#include "cli/commands.h"
#include "core/config.h"

namespace spillway {

/// `config`: with what the options say. Throws Error.
int score_job_command(Config config, const ScoreOptions& options, StopFlag& stop);

}  // namespace spillway
