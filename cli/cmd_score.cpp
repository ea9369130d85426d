// spillway score: log-likelihood and perplexity of given texts or token ids.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/cmd_score_job.h"
#include "cli/commands.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/failure.h"
#include "core/one_line.h"
#include "core/read_file.h"
#include "io/json_strict.h"
#include "model/score.h"

namespace spillway {
namespace {

constexpr uint64_t kMaxIdsBytes = uint64_t{1} << 30;

std::vector<uint32_t> ids_of(const nlohmann::json& list, const std::string& file) {
  std::vector<uint32_t> ids;
  for (const auto& item : list) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > UINT32_MAX) {
      throw Error(
          fmt::format("{}: {} is not a token id", file, cut_middle(printable(item.dump()), 80)));
    }
    ids.push_back(item.get<uint32_t>());
  }
  return ids;
}

/// A JSON list of ids, or a list of such lists.
std::vector<std::vector<uint32_t>> read_ids(const std::string& file) {
  const nlohmann::json json =
      load_json_strict(file, kMaxIdsBytes, DuplicateKeys::kRefused, FileKind::kText);
  if (!json.is_array() || json.empty()) {
    throw Error(fmt::format("{}: expected a JSON list of token ids, or a list of lists", file));
  }
  if (!json[0].is_array()) return {ids_of(json, file)};
  std::vector<std::vector<uint32_t>> lists;
  for (const auto& item : json) {
    if (!item.is_array()) {
      throw Error(fmt::format("{}: expected lists of token ids only, got {} among them", file,
                              cut_middle(printable(item.dump()), 80)));
    }
    lists.push_back(ids_of(item, file));
  }
  return lists;
}

std::vector<uint32_t> read_text(const std::string& file, const Model& model) {
  if (model.tokenizer == nullptr) {
    throw Error(fmt::format("{}; or give --token-ids-file instead", model.no_tokenizer));
  }
  const std::string text =
      read_text_file(file, {"a text to score", kMaxTextBytes, FileKind::kText});
  try {
    return model.tokenizer->encode_prompt(text);
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", file, error.what()));
  }
}

std::vector<std::vector<uint32_t>> texts_of(const ScoreOptions& options, const Model& model) {
  if (!options.ids_file.empty()) return read_ids(options.ids_file);
  return {read_text(options.text_file, model)};
}

nlohmann::ordered_json result_json(nlohmann::ordered_json report, const ScoreResult& result,
                                   bool logprobs) {
  report["interrupted"] = result.interrupted;
  if (!result.error.empty()) report["error"] = result.error;
  report["mean_nll"] = nullptr;
  report["perplexity"] = nullptr;
  if (result.tokens > 0) {
    report["mean_nll"] = result.mean_nll;
    report["perplexity"] = result.perplexity;
  }
  report["tokens"] = result.tokens;
  if (logprobs) report["logprobs"] = result.logprobs;
  return report;
}

/// "1024/4096 tokens, pass 1 of 4, 31.0 tokens/s, NVMe 1.20 GB/s (95 % of the drive's), 2 min
/// left"
std::string progress_text(const ScoreProgress& progress, double elapsed_seconds,
                          const std::optional<Forecast>& forecast) {
  const double rate = progress.done_tokens / elapsed_seconds;
  const double left_seconds =
      (static_cast<double>(progress.total_tokens) - progress.done_tokens) / rate;
  const bool ended = progress.passes == progress.total_passes;
  std::string text = fmt::format("{:.0f}/{} tokens", progress.done_tokens, progress.total_tokens);
  text += fmt::format(", pass {} of {}", ended ? progress.passes : progress.passes + 1,
                      progress.total_passes);
  text += fmt::format(", {:.1f} tokens/s", rate);
  if (progress.pass != nullptr) text += ", NVMe " + drive_text(*progress.pass, forecast);
  return text + fmt::format(", {} left", format_duration(left_seconds));
}

/// What a stop left of the scores, which look like all of them otherwise.
void say_stopped(const ScoreResult& result, const std::vector<std::vector<uint32_t>>& texts,
                 Session& session) {
  uint64_t all = 0;
  for (const auto& text : texts) all += text.empty() ? 0 : text.size() - 1;
  session.progress().clear();
  session.progress().say(
      fmt::format("spillway: stopped: {} of {} tokens were scored", result.tokens, all));
}

/// Whether documents are scored: the options' or, where they name no text, the configuration's.
bool is_job(const ScoreOptions& options, const Config& config) {
  const bool text = !options.text_file.empty() || !options.ids_file.empty();
  if (!options.data.empty() || (!text && !config.job.data.empty())) return true;
  const bool job_option = !options.out.empty() || !options.shard.empty() ||
                          !options.lengths.empty() || options.top_k || options.skip_bad;
  if (text && !job_option) return false;
  throw Error(text ? "--out, --shard, --lengths, --topk and --skip-bad go with --data"
                   : "nothing to score: give --text-file, --token-ids-file, or --data and --out");
}

Config job_config(Config config, const ScoreOptions& options) {
  ScoreJobConfig& job = config.job;
  if (!options.data.empty()) {
    job.data.assign(options.data.begin(), options.data.end());
  }
  if (!options.lengths.empty()) job.lengths.assign(options.lengths.begin(), options.lengths.end());
  if (!options.out.empty()) job.out = options.out;
  if (options.top_k) job.top_k = *options.top_k;
  if (options.skip_bad) job.skip_bad = true;
  return config;
}

/// Loads and scores; what stops or fails is in the result, beside what came before it.
ScoreResult measure(Session& session, const std::vector<std::vector<uint32_t>>& texts) {
  ScoreResult result;
  try {
    if (session.load()) {
      const int64_t begin_ns = session.clock().now_ns();
      result =
          score(session.runtime(), session.config(), texts, [&](const ScoreProgress& progress) {
            const double elapsed = seconds(session.clock().now_ns() - begin_ns);
            session.progress().show(progress_text(progress, elapsed, session.forecast()));
          });
      if (result.interrupted) say_stopped(result, texts, session);
      return result;
    }
    result.interrupted = true;
  } catch (const std::exception& failure) {
    result.error = failure_text(failure);
  }
  result.logprobs.resize(texts.size());
  return result;
}

}  // namespace

int score_command(const ScoreOptions& options, StopFlag& stop) {
  Config config = config_of(options.model);
  if (!options.report.empty()) config.report = options.report;
  if (!options.trace.empty()) config.trace = options.trace;
  if (is_job(options, config)) return score_job_command(job_config(config, options), options, stop);
  FilesInUse in_use;
  in_use.add_text(options.ids_file.empty() ? options.text_file : options.ids_file,
                  "the text to be scored");
  Session session(std::move(config), std::move(in_use), options.quiet, stop);
  const auto texts = texts_of(options, session.model());
  check_score_texts(session.model(), texts);
  try {
    session.prepare(scoring_workload(session.config(), session.model(), texts));
  } catch (const Stopped&) {
    session.write_stopped({{"passes", nlohmann::json::array()},
                           {"mean_nll", nullptr},
                           {"perplexity", nullptr},
                           {"tokens", 0}},
                          options.json);
    return kExitInterrupted;
  }
  const ScoreResult result = measure(session, texts);
  session.progress().clear();
  Failures failures;
  if (!result.error.empty()) failures.add(result.error);
  const auto report =
      result_json(session.report(result.passes), result, session.config().score_logprobs);
  session.write_files(report, failures);  // first: whoever reads stdout may never take it
  failures.attempt([&] {
    if (options.json) return print_text(printed_json(report), stop);
    if (result.tokens == 0) return;
    std::string text = fmt::format("mean NLL {:.6f}, perplexity {:.4f} over {} tokens\n",
                                   result.mean_nll, result.perplexity, result.tokens);
    if (!options.quiet) text += session.passes_tables(result.passes);
    print_text(text, stop);
  });
  failures.throw_if_any();
  return result.interrupted ? kExitInterrupted : 0;
}

}  // namespace spillway
