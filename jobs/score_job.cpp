#include "jobs/score_job.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <span>
#include <utility>

#include "core/error.h"
#include "core/failure.h"
#include "core/units.h"
#include "data/data_file.h"
#include "kernels/ops.h"

namespace spillway {
namespace {

static_assert(kMostTopK == kMaxTopK, "what may be configured is what is computed");

/// Records of passes that a report shows.
constexpr size_t kKeptPasses = 4096;

/// Rows of a record, where nothing says how long they take.
constexpr uint64_t kLeastRecordRows = 8192;
constexpr uint64_t kMostRecordRows = 65536;
/// What a crash may cost.
constexpr double kRecordSeconds = 60;

/// visit(slice, first row) for each of a batch.
template <typename Visit>
void for_each_slice(const ScoreBatch& plan, const Visit& visit) {
  uint32_t row = 0;
  for (const ScoreSlice& slice : plan.slices) {
    visit(slice, row);
    row += slice.count;
  }
}

bool is_of(const DocumentRange& documents, uint64_t document) {
  return document >= documents.first && document < documents.end();
}

void add_row(std::vector<DocumentRows>& parts, uint64_t document) {
  if (parts.empty() || parts.back().document != document) parts.push_back({document, 0});
  ++parts.back().rows;
}

template <typename T>
void append(std::vector<T>& to, std::span<const T> all, size_t row, size_t columns = 1) {
  const auto from = all.subspan(row * columns, columns);
  to.insert(to.end(), from.begin(), from.end());
}

ScoredRows scored_rows(const Forward& forward, const ScoreBatch& plan, const Batch& batch,
                       const DocumentRange& documents, uint32_t top_k) {
  ScoredRows rows;
  const auto most = static_cast<size_t>(std::count_if(
      batch.targets.begin(), batch.targets.end(), [](uint32_t id) { return id != UINT32_MAX; }));
  rows.ids.reserve(most);
  rows.logprobs.reserve(most);
  rows.greedy.reserve(most);
  if (top_k > 0) rows.log_sum_exp.reserve(most);
  rows.top_ids.reserve(most * top_k);
  rows.top_logprobs.reserve(most * top_k);
  const auto logprobs = forward.log_probabilities();
  for_each_slice(plan, [&](const ScoreSlice& slice, uint32_t first_row) {
    if (!is_of(documents, slice.text)) return;
    for (uint32_t r = first_row; r < first_row + slice.count; ++r) {
      if (batch.targets[r] == UINT32_MAX) continue;
      check_logprob(logprobs[r]);
      add_row(rows.parts, slice.text);
      rows.ids.push_back(batch.targets[r]);
      rows.logprobs.push_back(logprobs[r]);
      rows.greedy.push_back(forward.greedy()[r]);
      if (top_k == 0) continue;
      const float log_sum_exp = forward.log_sum_exp()[r];
      rows.log_sum_exp.push_back(log_sum_exp);
      append(rows.top_ids, forward.top_k_ids(), r, top_k);
      for (const float logit : forward.top_k_logits().subspan(uint64_t{r} * top_k, top_k)) {
        rows.top_logprobs.push_back(logit - log_sum_exp);
      }
    }
  });
  return rows;
}

StateRows state_rows(uint32_t layer, std::span<const float> states, const ScoreBatch& plan,
                     const DocumentRange& documents, uint32_t hidden) {
  StateRows rows;
  rows.layer = layer;
  rows.values.reserve(states.size());
  for_each_slice(plan, [&](const ScoreSlice& slice, uint32_t first_row) {
    if (!is_of(documents, slice.text)) return;
    const uint64_t old = slice.new_from - std::min(slice.new_from, slice.begin);
    for (uint64_t r = std::min<uint64_t>(old, slice.count); r < slice.count; ++r) {
      add_row(rows.parts, slice.text);
      append(rows.values, states, first_row + r, hidden);
    }
  });
  return rows;
}

void add(FeedStats& sum, const FeedStats& more) {
  sum.nvme_bytes += more.nvme_bytes;
  sum.copied_bytes += more.copied_bytes;
  sum.stall_ns += more.stall_ns;
}

void add(SpillStats& sum, const SpillStats& more) {
  sum.written_bytes += more.written_bytes;
  sum.read_bytes += more.read_bytes;
  sum.wait_ns += more.wait_ns;
}

/// A job on its way.
class JobRun {
 public:
  JobRun(const ScoreJobParts& parts, const JobSinks& sinks, const ScoreCut& cut,
         uint64_t rows_of_record, const std::function<void(const JobProgress&)>& observer)
      : parts_(parts),
        sinks_(sinks),
        cut_(cut),
        record_rows_(rows_of_record),
        observer_(observer),
        begin_(parts.folder->next_document()),
        documents_(*parts.source, *parts.survey) {
    if (parts.runtime == nullptr) return;
    for (const DirectFile& file : parts.runtime->model().checkpoint.files()) {
      weights_.emplace_back(file.info().path, DataFile(file.info().path).state());
    }
  }

  ScoreJobResult run() {
    count_the_rest();
    if (parts_.runtime != nullptr) {
      parts_.runtime->engine().start();
      parts_.runtime->engine().allow_passes(progress_.total_passes);
    }
    try {
      JobWriter writer(*parts_.folder, sinks_, *parts_.stop);
      writer_ = &writer;
      for_each_record([&](const JobRecord& record) { one(record); });
      writer.finish();
    } catch (const Stopped&) {
      result_.interrupted = true;
    } catch (const std::exception& failure) {  // whatever it was: what is finished stays
      result_.error = failure_text(failure);
    }
    if (parts_.runtime != nullptr) parts_.runtime->engine().stop();
    return std::move(result_);
  }

 private:
  /// Those that are not finished.
  template <typename Visit>
  void for_each_record(const Visit& visit) const {
    JobRecords records(parts_.survey->shapes, cut_, parts_.folder->manifest().documents,
                       record_rows_);
    for (JobRecord record; records.next(record);) {
      if (record.documents.end() <= begin_) continue;
      if (record.documents.first < begin_) {
        throw Error(
            fmt::format("{}: a part of it ends at document {}, where no part of this job "
                        "does; give another --out",
                        parts_.folder->folder().path().string(), begin_));
      }
      visit(record);
    }
  }

  void count_the_rest() {
    for_each_record([&](const JobRecord& record) {
      progress_.total_rows += record.rows;
      progress_.total_passes += sweeps_of(record).size();
    });
  }

  std::vector<std::span<const ScoreBatch>> sweeps_of(const JobRecord& record) const {
    if (record.batches.empty()) return {};
    return plan_sweeps(record.batches, parts_.runtime->plan().limits.sweep_rows);
  }

  void one(const JobRecord& record) {
    const DocumentRange texts = record.texts();
    documents_.hold(texts.first, texts.end());
    RecordStart start;
    for (uint64_t d = record.documents.first; d < record.documents.end(); ++d) {
      const TextCounts counts = counts_of((*parts_.survey->shapes)[d], cut_);
      start.scored.push_back(counts.scored);
      start.fed.push_back(counts.fed);
      start.ids.push_back(documents_[d].id);
    }
    writer_->push(std::move(start));
    for (const auto& sweep : sweeps_of(record)) pass(sweep, record.documents);
    parts_.source->check_unchanged();
    for (const auto& [file, state] : weights_) check_unchanged(file, state);
    writer_->push(RecordEnd{});
  }

  void pass(std::span<const ScoreBatch> plans, const DocumentRange& documents) {
    std::vector<SweepBatch> batches;
    uint64_t rows = 0;
    for (const ScoreBatch& plan : plans) {
      batches.push_back(make_batch(
          plan, [&](uint64_t text) { return std::span<const uint32_t>(documents_[text].ids); }));
      rows += batches.back().batch.ids.size();
    }
    const double before = progress_.done_rows;
    ForwardObserver observer;
    observer.scored = [&](size_t batch) {
      ScoredRows scored = scored_rows(parts_.runtime->forward(), plans[batch], batches[batch].batch,
                                      documents, sinks_.top_k);
      if (!scored.parts.empty()) writer_->push(std::move(scored));
    };
    observer.hidden = [&](size_t batch, uint32_t layer, std::span<const float> states) {
      StateRows kept = state_rows(layer, states, plans[batch], documents, sinks_.hidden);
      if (!kept.parts.empty()) writer_->push(std::move(kept));
    };
    observer.stepped = [&](size_t done, size_t total) {
      progress_.done_rows = before + static_cast<double>(rows * done) / static_cast<double>(total);
      if (done < total) observer_(progress_);
      writer_->check();
    };
    last_ = score_pass(*parts_.runtime, batches, observer);
    result_.rows += rows;
    ++result_.passes;
    result_.pass_seconds += last_.seconds;
    add(result_.feed, last_.feed);
    add(result_.spill, last_.spill);
    if (result_.records.size() < kKeptPasses) result_.records.push_back(last_);
    progress_.done_rows = before + static_cast<double>(rows);
    progress_.pass = &last_;
    ++progress_.passes;
    observer_(progress_);
  }

  const ScoreJobParts parts_;
  const JobSinks& sinks_;
  const ScoreCut cut_;
  const uint64_t record_rows_;
  const std::function<void(const JobProgress&)>& observer_;
  const uint64_t begin_;  // the first document that is not finished
  HeldDocuments documents_;
  std::vector<std::pair<std::filesystem::path, FileState>> weights_;  // as they were at the start
  JobWriter* writer_ = nullptr;                                       // while it runs
  PassRecord last_;
  JobProgress progress_;
  ScoreJobResult result_;
};

}  // namespace

JobSinks job_sinks(const Config& config, const Model& model) {
  const ScoreJobConfig& job = config.job;
  JobSinks sinks;
  sinks.logprobs = config.score_logprobs;
  sinks.top_k = std::min(job.top_k, model.config.vocab);
  sinks.hidden_layers = job.hidden_layers;
  sinks.hidden_dtype = job.hidden_dtype;
  sinks.embeddings = job.embeddings;
  sinks.hidden = model.config.hidden;
  sinks.final_layer = model.config.layers;
  if (!job.hidden_layers.empty() && job.hidden_layers.back() > model.config.layers) {
    throw Error(fmt::format(
        "score.hidden_states: {} is no layer of this model: 0 (the embeddings) to {} (behind the "
        "last norm)",
        job.hidden_layers.back(), model.config.layers));
  }
  return sinks;
}

Workload job_workload(const ScoreCut& cut, const DataSurvey& survey, DocumentRange documents,
                      const JobSinks& sinks, uint64_t most_record_rows) {
  const TextShapes shapes = survey.shapes;
  Workload workload =
      scoring_workload(cut, [cut, shapes, documents](uint32_t rows, const BatchPacker::Take& take) {
        ScoreCut chunks = cut;
        chunks.chunk = rows;
        JobRecords records(shapes, chunks, documents, UINT64_MAX);
        for (ScoreBatch batch; records.next_batch(batch);) take(std::move(batch));
      });
  workload.chunk_rows = cut.chunk;  // of a part, too: packed as all of the job is
  workload.top_k = sinks.top_k;
  workload.hidden_layers = sinks.hidden_layers;
  if (sinks.embeddings != Pooling::kNone &&
      !std::binary_search(sinks.hidden_layers.begin(), sinks.hidden_layers.end(),
                          sinks.final_layer)) {
    workload.hidden_layers.push_back(sinks.final_layer);
  }
  // Ids of a record's documents, and of a sweep what is fed and asked.
  const auto held = [most_record_rows, longest = survey.longest,
                     all = survey.tokens](uint64_t sweep_rows) {
    const uint64_t record = std::max(most_record_rows, sweep_rows) + longest;
    return (std::min(record, all) + 2 * sweep_rows) * sizeof(uint32_t);
  };
  workload.result_bytes = [sinks, held](uint32_t rows, uint32_t sweep_rows) {
    return held(std::max(rows, sweep_rows)) + JobWriter::queue_bytes(sinks, rows);
  };
  return workload;
}

uint64_t record_rows(const Config& config, const ForwardLimits& limits, double tokens_per_second) {
  if (config.job.shard_tokens) return *config.job.shard_tokens;
  uint64_t rows = kLeastRecordRows;
  if (tokens_per_second > 0) {
    rows = static_cast<uint64_t>(std::clamp(tokens_per_second * kRecordSeconds,
                                            static_cast<double>(limits.max_rows),
                                            static_cast<double>(kMostRecordRows)));
  }
  const uint64_t sweep = std::max(limits.sweep_rows, limits.max_rows);
  const uint64_t sweeps = ceil_div(rows, sweep);
  if (sweeps == 1 || limits.sweep_rows <= limits.max_rows) return sweeps * sweep;
  return sweeps * (sweep - limits.max_rows);
}

uint64_t most_record_rows(const Config& config) {
  return config.job.shard_tokens.value_or(kMostRecordRows);
}

JobTotals written_totals(const JobFolder& folder) {
  JobTotals totals;
  if (folder.manifest().sweeps.empty()) return totals;
  const Descriptor file = folder.folder().open_file(kScoresName, O_RDONLY);
  if (!file.valid()) folder.folder().fail("read", kScoresName, errno);
  const std::string where = folder.folder().text_of(kScoresName);
  std::string rest;
  const auto take = [&](std::string_view line) {
    const auto row = nlohmann::json::parse(line, nullptr, false);
    if (row.is_discarded() || !row.is_object()) throw Error(where + ": damaged: a row is no JSON");
    ++totals.documents;
    totals.tokens += row.value("tokens", uint64_t{0});
    totals.sum_logprob += row.value("sum_logprob", 0.0);
  };
  const auto& appended = folder.manifest().sweeps.back().appended;
  const auto scores = std::find_if(appended.begin(), appended.end(),
                                   [](const AppendRecord& one) { return one.name == kScoresName; });
  if (scores == appended.end()) return totals;
  read_pieces(file.get(), where, 0, scores->bytes, StopFlag(), [&](std::string_view piece) {
    for (size_t end; (end = piece.find('\n')) != piece.npos; piece.remove_prefix(end + 1)) {
      rest += piece.substr(0, end);
      take(rest);
      rest.clear();
    }
    rest += piece;
  });
  return totals;
}

ScoreJobResult run_score_job(const ScoreJobParts& parts, const JobSinks& sinks, const ScoreCut& cut,
                             uint64_t rows_of_record,
                             const std::function<void(const JobProgress&)>& observer) {
  return JobRun(parts, sinks, cut, rows_of_record, observer).run();
}

}  // namespace spillway
