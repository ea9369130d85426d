// spillway score --data … --out …: a job over files of documents, which can be interrupted and goes
// on.
#include "cli/cmd_score_job.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fmt/std.h>

#include <cmath>
#include <memory>

#include <nlohmann/json.hpp>

#include "cli/job_data.h"
#include "cli/predicted.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/failure.h"
#include "core/one_line.h"
#include "jobs/score_job.h"

namespace spillway {
namespace {

/// "2/8": the second of eight parts.
std::optional<JobPart> part_of(const std::string& text) {
  if (text.empty()) return std::nullopt;
  const auto part = parse_part(text);
  if (part) return part;
  throw Error(fmt::format("--shard: expected I/N, the I-th of N equal parts (1/8 to 8/8), got {}",
                          in_quotes(text)));
}

std::string progress_text(const JobProgress& progress, double elapsed_seconds,
                          const std::optional<Forecast>& forecast) {
  const double rate = progress.done_rows / elapsed_seconds;
  const double left = (static_cast<double>(progress.total_rows) - progress.done_rows) / rate;
  const bool ended = progress.passes == progress.total_passes;
  std::string text = fmt::format(
      "{:.0f}/{} tokens, sweep {} of {}, {:.1f} tokens/s", progress.done_rows, progress.total_rows,
      ended ? progress.passes : progress.passes + 1, progress.total_passes, rate);
  text += fmt::format(", {} left", format_duration(left));
  if (progress.pass == nullptr) return text;
  text += ", NVMe " + drive_text(*progress.pass, forecast);
  if (forecast && forecast->prompt_rows > 0) {
    const double limit = forecast->prompt_rows / forecast->prompt.compute_seconds;
    text += fmt::format(", computing {:.0f} % of its limit", 100 * rate / limit);
  }
  return text;
}

/// A command's part in a job, and all of the job.
class ScoreJob {
 public:
  ScoreJob(const ScoreOptions& options, Session& session, StopFlag& stop)
      : options_(options),
        session_(session),
        stop_(stop),
        part_(part_of(options.shard)),
        sinks_(job_sinks(session.config(), session.model())),
        recorded_(recorded_job(session.config().job.out)),
        cut_(job_cut(session.config(), session.model(), sinks_)),
        data_(open_data()) {
    documents_ = part_ ? shard_documents(data_.survey.documents(), part_->index, part_->count)
                       : DocumentRange{0, data_.survey.documents()};
  }

  int run() {
    // A job that goes on has the chunks that it began with, whatever fits today.
    if (recorded_) cut_.chunk = std::min(cut_.chunk, recorded_->chunk);
    const Workload workload =
        job_workload(cut_, data_.survey, documents_, sinks_,
                     kept_record_rows().value_or(most_record_rows(session_.config())));
    const bool any = !workload.sequences.empty();
    if (any) {
      session_.prepare(workload);
      take_chunk(session_.plan().limits.max_rows);
    } else if (!part_) {
      throw_nothing_to_score();
    } else {
      stop_.watch();
    }
    JobFolder folder(session_.config().job.out, identity(any), documents_, JobFolder::Check::kSizes,
                     stop_);
    if (!folder.locked()) {
      session_.notice(
          fmt::format("{}: its file system knows no locks: see that no other job writes there",
                      folder.folder().path().string()));
    }
    if (folder.finished()) return say_finished(folder);
    say_if_it_goes_on(folder);
    if (any && !session_.load()) return kExitInterrupted;
    return work(folder, any);
  }

 private:
  JobData open_data() {
    JobData data = open_job_data(session_.config(), session_.model(), stop_,
                                 [&](const std::string& line) { session_.progress().show(line); });
    session_.progress().clear();
    if (!data.skipped_text.empty()) session_.notice(data.skipped_text);
    return data;
  }

  /// Rows of the records that are there, unless others are asked for.
  std::optional<uint64_t> kept_record_rows() const {
    if (!recorded_ || session_.config().job.shard_tokens) return std::nullopt;
    return recorded_->record_rows;
  }

  uint64_t new_record_rows(bool any) const {
    if (!any) return cut_.chunk;
    return record_rows(session_.config(), session_.plan().limits, expected_rate());
  }

  /// What a budget leaves of a chunk decides how results round.
  void take_chunk(uint32_t fits) {
    const uint32_t wanted = cut_.chunk;
    cut_.chunk = fits;
    if (fits >= wanted) return;
    const std::string leaves = fmt::format("the budget leaves room for chunks of {} tokens", fits);
    if (recorded_) {
      throw Error(fmt::format("{}, and the job in {} began with {}: give more memory", leaves,
                              session_.config().job.out.string(), wanted));
    }
    if (!part_) return;
    throw Error(fmt::format(
        "{} instead of {}, and all parts of a job must have the same, since they round otherwise: "
        "give more memory, or every part --set score.chunk={}",
        leaves, wanted, fits));
  }

  nlohmann::json identity(bool any) {
    JobIdentity identity;
    identity.wanted_chunk = session_.config().score_chunk_tokens;
    if (any) identity.arithmetic = arithmetic_of(session_.machine(), session_.plan());
    identity.model = model_fingerprint(session_.model(), stop_);
    identity.architecture = session_.model().config.architecture;
    identity.data = data_.fingerprint;
    identity.documents = data_.survey.documents();
    identity.skipped = data_.survey.skipped.count;
    identity.cut = cut_;
    identity.sinks = sinks_;
    const auto kept = kept_record_rows();
    rows_of_record_ = kept ? *kept : new_record_rows(any);
    identity.record_rows = rows_of_record_;
    identity.part = part_;
    return identity_json(identity, session_.config().job);
  }

  /// Tokens per second; 0 where nothing is predicted.
  double expected_rate() const {
    const auto& forecast = session_.forecast();
    return forecast && forecast->prompt.seconds > 0
               ? forecast->prompt_rows / forecast->prompt.seconds
               : 0;
  }

  void say_if_it_goes_on(const JobFolder& folder) {
    const uint64_t done = folder.next_document() - documents_.first;
    if (done == 0) return;
    session_.notice(fmt::format("{}: goes on after {} of {}", folder.folder().path().string(), done,
                                counted(documents_.count, "document")));
  }

  int say_finished(const JobFolder& folder) {
    const JobTotals totals = written_totals(folder);
    auto report = report_head(session_.config(), session_.model(), session_.machine());
    report["interrupted"] = false;
    report["job"] = totals_json(totals);
    report["job"]["out"] = session_.config().job.out.string();
    Failures failures;
    session_.write_files(report, failures);
    failures.attempt([&] {
      print_text(options_.json ? printed_json(report)
                               : totals_text(totals) + fmt::format("{}: was finished before\n",
                                                                   folder.folder().path().string()),
                 stop_);
    });
    failures.throw_if_any();
    return 0;
  }

  int work(JobFolder& folder, bool any) {
    const int64_t begin_ns = session_.clock().now_ns();
    const auto elapsed = [&] { return seconds(session_.clock().now_ns() - begin_ns); };
    const ScoreJobResult result = run_score_job(
        {any ? &session_.runtime() : nullptr, data_.source.get(), &data_.survey, &folder, &stop_},
        sinks_, cut_, rows_of_record_, [&](const JobProgress& progress) {
          session_.progress().show(progress_text(progress, elapsed(), session_.forecast()));
        });
    const double took_seconds = elapsed();
    session_.progress().clear();
    Failures failures;
    if (!result.error.empty()) failures.add(result.error);
    const uint64_t left = documents_.end() - folder.next_document();
    nlohmann::ordered_json summary;
    JobTotals totals;
    failures.attempt([&] {
      totals = written_totals(folder);
      summary = totals_json(totals);
      summary["skipped_documents"] = data_.survey.skipped.count;
      summary["architecture"] = session_.model().config.architecture;
      summary["command"] = command_json(result, took_seconds);
      if (left == 0 && result.error.empty()) folder.finish(summary);
    });
    if (result.interrupted) say_stopped(folder, left);
    nlohmann::ordered_json report =
        any ? session_.report(result.records)
            : report_head(session_.config(), session_.model(), session_.machine());
    report["interrupted"] = result.interrupted;
    if (!failures.lines().empty()) report["error"] = failures.lines().front();
    report["job"] = summary;
    report["job"]["out"] = session_.config().job.out.string();
    session_.write_files(report, failures);
    failures.attempt([&] {
      if (options_.json) return print_text(printed_json(report), stop_);
      std::string text = totals_text(totals);
      if (!options_.quiet && any) {
        text += rate_line(result, took_seconds);
        text += session_.passes_tables(result.records);
      }
      print_text(text, stop_);
    });
    failures.throw_if_any();
    return result.interrupted ? kExitInterrupted : 0;
  }

  nlohmann::ordered_json totals_json(const JobTotals& totals) const {
    const auto tokens = static_cast<double>(totals.tokens);
    nlohmann::ordered_json json;
    json["documents"] = totals.documents;
    json["tokens"] = totals.tokens;
    json["sum_logprob"] = totals.sum_logprob;
    json["mean_nll"] = nullptr;
    json["perplexity"] = nullptr;
    if (totals.tokens > 0) {
      json["mean_nll"] = -totals.sum_logprob / tokens;
      json["perplexity"] = std::exp(-totals.sum_logprob / tokens);
    }
    return json;
  }

  /// What this command did, and how fast.
  nlohmann::ordered_json command_json(const ScoreJobResult& result, double took_seconds) const {
    nlohmann::ordered_json json = {
        {"tokens_fed", result.rows},
        {"sweeps", result.passes},
        {"seconds", took_seconds},
        {"pass_seconds", result.pass_seconds},
        {"tokens_per_second",
         took_seconds > 0 ? static_cast<double>(result.rows) / took_seconds : 0},
        {"nvme_bytes", result.feed.nvme_bytes},
        {"spill_written_bytes", result.spill.written_bytes},
        {"spill_read_bytes", result.spill.read_bytes},
        {"stall_seconds", seconds(result.feed.stall_ns + result.spill.wait_ns)}};
    if (session_.forecast()) {
      json["prediction"] = predicted_and_measured_json(*session_.forecast(), result.records);
    }
    return json;
  }

  static std::string totals_text(const JobTotals& totals) {
    std::string text =
        fmt::format("{}, {} tokens scored", counted(totals.documents, "document"), totals.tokens);
    if (totals.tokens > 0) {
      const double nll = -totals.sum_logprob / static_cast<double>(totals.tokens);
      text += fmt::format(": mean NLL {:.6f}, perplexity {:.4f}", nll, std::exp(nll));
    }
    return text + "\n";
  }

  static std::string rate_line(const ScoreJobResult& result, double took_seconds) {
    return fmt::format("{:.1f} tokens/s, {} in {}, {} read\n",
                       static_cast<double>(result.rows) / took_seconds,
                       counted(result.passes, "sweep"), format_duration(took_seconds),
                       format_bytes(result.feed.nvme_bytes));
  }

  void say_stopped(const JobFolder& folder, uint64_t left) {
    session_.progress().say(fmt::format(
        "spillway: stopped: {} of {} are in {}; the same command goes on", documents_.count - left,
        counted(documents_.count, "document"), folder.folder().path().string()));
  }

  const ScoreOptions& options_;
  Session& session_;
  StopFlag& stop_;
  const std::optional<JobPart> part_;
  const JobSinks sinks_;
  const std::optional<RecordedJob> recorded_;
  ScoreCut cut_;
  JobData data_;
  DocumentRange documents_;
  uint64_t rows_of_record_ = 0;
};

}  // namespace

int score_job_command(Config config, const ScoreOptions& options, StopFlag& stop) {
  if (config.job.out.empty()) {
    throw Error("--data needs --out DIR (or score.out): a folder for the results");
  }
  spill_beside_results(config);
  FilesInUse in_use;
  for (const auto& file : config.job.data) in_use.add(file, "the data");
  for (const auto& file : config.job.lengths) in_use.add(file, "lengths of the data");
  in_use.add(config.job.out, "the folder of the results");
  std::error_code none;
  if (std::filesystem::is_directory(config.job.out, none)) {
    in_use.add_names(config.job.out, "", "in the folder of the results");
  }
  Session session(std::move(config), std::move(in_use), options.quiet, stop);
  try {
    return ScoreJob(options, session, stop).run();
  } catch (const Stopped&) {  // before anything was computed
    session.progress().clear();
    session.progress().say("spillway: stopped");
    return kExitInterrupted;
  }
}

}  // namespace spillway
