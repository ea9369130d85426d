// Joins the folders of jobs that each did a part of the documents (`--shard i/n`) to the folder
// that one job over all of them would have left. One thread.
#pragma once

#include <filesystem>
#include <vector>

#include "core/stop.h"

namespace spillway {

/// The folders may come in any order. `out` is the folder of a job like any other: a merge that was
/// killed goes on where it ended. Every byte is compared with its hash on the way. Throws Error:
/// parts that are missing, given twice, unfinished or in use; parts of different jobs; documents in
/// no part or in two; files that are not what was written. Throws Stopped.
void merge_jobs(const std::vector<std::filesystem::path>& folders, const std::filesystem::path& out,
                const StopFlag& stop);

}  // namespace spillway
