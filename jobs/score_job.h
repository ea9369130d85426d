// A scoring job: documents go through the model in sweeps, results into a folder that a crash
// leaves whole. The driver: what is done follows from JobRecords, how from Forward.
//
// One thread, beside the writer's and the feeder's.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/config.h"
#include "jobs/data_survey.h"
#include "jobs/job_identity.h"
#include "jobs/job_records.h"
#include "jobs/job_writer.h"
#include "model/score.h"
#include "sinks/job_folder.h"

namespace spillway {

/// What a configuration asks to be kept. Throws Error for layers that the model lacks.
JobSinks job_sinks(const Config& config, const Model& model);

/// Of a whole job, or of a part: what its batches ask of the machine. `most_record_rows`: of a
/// record that sweeps may be longer than.
Workload job_workload(const ScoreCut& cut, const DataSurvey& survey, DocumentRange documents,
                      const JobSinks& sinks, uint64_t most_record_rows);
/// Rows of a record at most, where a sweep has no more: what the configuration says, or would be
/// chosen.
uint64_t most_record_rows(const Config& config);

/// Rows of a record: what the configuration says, or what is worth losing to a crash: as many whole
/// sweeps as take a minute at `tokens_per_second` (0 = not known), within bounds. Sweeps end with
/// batches: a record of several has what they hold for certain, so that none is left for the rest.
uint64_t record_rows(const Config& config, const ForwardLimits& limits, double tokens_per_second);

/// Totals of a job, or of what a command did of it.
struct JobTotals {
  uint64_t documents = 0;
  uint64_t tokens = 0;  ///< scored
  double sum_logprob = 0;
};
/// Of all that is finished, from the rows that were written. Throws Error.
JobTotals written_totals(const JobFolder& folder);

struct ScoreJobParts {
  Runtime* runtime = nullptr;  ///< null where no document has a token to feed
  DocumentSource* source = nullptr;
  const DataSurvey* survey = nullptr;
  JobFolder* folder = nullptr;
  const StopFlag* stop = nullptr;
};

struct ScoreJobResult {
  uint64_t rows = 0;  ///< that went through the layers
  uint64_t passes = 0;
  double pass_seconds = 0;
  FeedStats feed;                   ///< of all passes
  SpillStats spill;                 ///< of all passes
  std::vector<PassRecord> records;  ///< of the first of them
  bool interrupted = false;
  std::string error;  ///< why it ended early; what is finished stays
};

struct JobProgress {
  const PassRecord* pass = nullptr;  ///< the last that ended; null before the first
  double done_rows = 0;              ///< of this command
  uint64_t total_rows = 0;
  uint64_t passes = 0;  ///< ended
  uint64_t total_passes = 0;
};

/// Does what is left of the job. Afterwards the folder can be finished where nothing is left. A
/// stop or a failure loses the record under way alone.
ScoreJobResult run_score_job(const ScoreJobParts& parts, const JobSinks& sinks, const ScoreCut& cut,
                             uint64_t rows_of_record,
                             const std::function<void(const JobProgress&)>& observer);

}  // namespace spillway
