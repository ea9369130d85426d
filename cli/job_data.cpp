#include "cli/job_data.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fmt/std.h>

#include <filesystem>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

std::vector<DataInput> inputs_of(const ScoreJobConfig& job) {
  if (!job.lengths.empty() && job.lengths.size() != job.data.size()) {
    throw Error(fmt::format("score.lengths: {} for {} of data; give one for each, in their order",
                            counted(job.lengths.size(), "file"), counted(job.data.size(), "file")));
  }
  std::vector<DataInput> inputs;
  for (size_t i = 0; i < job.data.size(); ++i) {
    inputs.push_back({job.data[i], job.lengths.empty() ? "" : job.lengths[i]});
  }
  return inputs;
}

DataOptions data_options(const ScoreJobConfig& job, const Model& model) {
  DataOptions options;
  options.vocab = model.config.vocab;
  options.prefix_token = job.prefix_token;
  options.text_lines = job.lines;
  options.end_token = job.end_token;
  options.skip_bad = job.skip_bad;
  if (job.raw_token_bytes == 2) options.token_type = TokenType::kU16;
  if (job.raw_token_bytes == 4) options.token_type = TokenType::kU32;
  return options;
}

/// What is there of a folder that is to be made: hidden states go to the drive that results go to.
std::filesystem::path existing_part(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::path there = std::filesystem::absolute(folder, error).lexically_normal();
  while (there.has_relative_path() && !std::filesystem::is_directory(there, error)) {
    there = there.parent_path();
  }
  return there;
}

}  // namespace

JobData open_job_data(const Config& config, const Model& model, const StopFlag& stop,
                      const std::function<void(const std::string& line)>& show) {
  const ScoreJobConfig& job = config.job;
  JobData data;
  data.source =
      open_documents(inputs_of(job), data_options(job, model), model.tokenizer.get(), stop);
  data.fingerprint =
      fingerprint_files(data.source->files(), stop, [&](uint64_t done, uint64_t total) {
        show(fmt::format("reading data, {} of {}", format_bytes(done), format_bytes(total)));
      });
  data.survey = survey_documents(*data.source, stop, [&](uint64_t documents, uint64_t tokens) {
    show(fmt::format("reading data: {}, {} tokens", counted(documents, "document"), tokens));
  });
  if (data.survey.documents() == 0) {
    throw Error(fmt::format("{}: no document that can be scored", fmt::join(job.data, ", ")));
  }
  const SkippedDocuments& skipped = data.survey.skipped;
  if (skipped.count > 0) {
    data.skipped_text = fmt::format("{} skipped: {}{}", counted(skipped.count, "bad document"),
                                    fmt::join(skipped.reasons, "; "),
                                    skipped.count > skipped.reasons.size() ? "; ..." : "");
  }
  return data;
}

void throw_nothing_to_score() {
  throw Error("nothing to score: no document has two tokens or more; give longer ones");
}

void spill_beside_results(Config& config) {
  if (config.job.out.empty() || !config.score_spill_dir.empty()) return;
  config.score_spill_dir = existing_part(config.job.out);
}

ScoreCut job_cut(const Config& config, const Model& model, const JobSinks& sinks) {
  const bool states = !sinks.hidden_layers.empty() || sinks.embeddings != Pooling::kNone;
  return score_cut(config, model, config.score_chunk_tokens, states);
}

}  // namespace spillway
