// What makes a job that job, for its manifest: compared key by key when a command goes on with it,
// and between the parts of one. Plain data.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "core/config.h"
#include "core/stop.h"
#include "data/fingerprint.h"
#include "jobs/data_survey.h"
#include "jobs/job_writer.h"
#include "model/score.h"

namespace spillway {

/// A part of a job: the `index`-th, from 0, of `count`.
struct JobPart {
  uint64_t index = 0;
  uint64_t count = 1;
};

/// "2/8": the second of eight. Empty where a text is none.
std::optional<JobPart> parse_part(std::string_view text);

/// XXH3-128 of what tells one model from another in a moment, wherever it lies: configuration,
/// tokenizer, the heads of its files, and 4 KiB of every MiB of weights (of more, where there are
/// more than 64 GiB): not a change of single weights. 32 hexadecimal digits. Throws Error, Stopped.
std::string model_fingerprint(const Model& model, const StopFlag& stop);

/// All that results depend on, of what the program knows: not where files lie, nor how much memory
/// there is.
struct JobIdentity {
  std::string model;  ///< fingerprint
  std::string architecture;
  DataFingerprint data;
  uint64_t documents = 0;
  uint64_t skipped = 0;
  uint32_t wanted_chunk = 0;  ///< as it is configured
  ScoreCut cut;               ///< with the chunk that fits
  std::string arithmetic;     ///< what computes, where bits may differ; empty = nothing
  JobSinks sinks;
  uint64_t record_rows = 0;
  std::optional<JobPart> part;
};
/// `data`: how its files are read.
nlohmann::json identity_json(const JobIdentity& identity, const ScoreJobConfig& data);

/// Kernels and what else of a machine results depend on.
std::string arithmetic_of(const Machine& machine, const RunPlan& plan);

/// What a job that goes on takes from its manifest, whatever the machine would give today.
struct RecordedJob {
  uint64_t record_rows = 0;
  uint32_t chunk = 0;
};
/// Empty where there is no manifest in `folder`, or none of such a job. Throws Error.
std::optional<RecordedJob> recorded_job(const std::filesystem::path& folder);

}  // namespace spillway
