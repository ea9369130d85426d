// The data of a scoring job, opened and looked through: for whoever does the job or plans it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/config.h"
#include "core/stop.h"
#include "data/fingerprint.h"
#include "jobs/data_survey.h"
#include "jobs/job_writer.h"
#include "model/runtime.h"

namespace spillway {

struct JobData {
  std::unique_ptr<DocumentSource> source;  ///< refers to the model's tokenizer
  DataFingerprint fingerprint;
  DataSurvey survey;
  std::string skipped_text;  ///< of bad documents that were passed over; empty = none
};

/// `show`: a line of progress. Throws Error, also where there is no document; Stopped.
JobData open_job_data(const Config& config, const Model& model, const StopFlag& stop,
                      const std::function<void(const std::string& line)>& show);

[[noreturn]] void throw_nothing_to_score();

/// Hidden states go to the drive that results go to, where nothing else is configured.
void spill_beside_results(Config& config);

/// How its documents are cut, with the configured chunk.
ScoreCut job_cut(const Config& config, const Model& model, const JobSinks& sinks);

}  // namespace spillway
