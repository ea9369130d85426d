// spillway run: answers prompts.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/answers.h"
#include "cli/commands.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "compare/figures.h"
#include "core/error.h"
#include "core/failure.h"
#include "core/read_file.h"
#include "core/units.h"
#include "model/generate.h"

namespace spillway {
namespace {

constexpr uint64_t kMaxPromptBytes = 64 * kMiB;

/// Without the line end that editors and echo leave.
std::string prompt_of(std::string text) {
  if (!text.empty() && text.back() == '\n') text.pop_back();
  if (!text.empty() && text.back() == '\r') text.pop_back();
  return text;
}

std::vector<std::string> prompts_of(const RunOptions& options) {
  const TextFile wanted{"a prompt", kMaxPromptBytes, FileKind::kText};
  std::vector<std::string> prompts;
  prompts.reserve(options.prompts.size() + options.prompt_files.size());
  if (std::count(options.prompts.begin(), options.prompts.end(), kStdin) +
          std::count(options.prompt_files.begin(), options.prompt_files.end(), kStdin) >
      1) {
    throw Error("- stands here more than once: standard input can be read once");
  }
  for (const std::string& text : options.prompts) {
    prompts.push_back(text == kStdin ? prompt_of(read_text_file(kStdin, wanted)) : text);
  }
  for (const std::string& file : options.prompt_files) {
    prompts.push_back(prompt_of(read_text_file(file, wanted)));
  }
  return prompts;
}

Config read_config(const RunOptions& options) {
  Config config = config_of(options.model);
  std::vector<std::string> prompts = prompts_of(options);
  if (!prompts.empty()) {
    config.prompts = std::move(prompts);
    config.prompt_token_ids.clear();
  }
  if (options.new_tokens) config.max_new_tokens = *options.new_tokens;
  if (!options.report.empty()) config.report = options.report;
  if (!options.trace.empty()) config.trace = options.trace;
  return config;
}

FilesInUse inputs_of(const RunOptions& options) {
  FilesInUse in_use;
  for (const std::string& file : options.prompt_files) in_use.add_text(file, "a prompt");
  for (const std::string& text : options.prompts) {
    if (text == kStdin) in_use.add_text(text, "a prompt");
  }
  return in_use;
}

std::string progress_line(const GenerationProgress& progress, double elapsed, double decode_seconds,
                          uint32_t decode_tokens, const std::optional<Forecast>& forecast) {
  const PassRecord& pass = *progress.pass;
  if (progress.prompt_tokens_left > 0) {
    return fmt::format("{}: {} tokens left, {:.1f} tokens/s, {}",
                       progress.again ? "text again" : "prompt", progress.prompt_tokens_left,
                       pass.tokens / pass.seconds, drive_text(pass, forecast));
  }
  const double rate = decode_seconds > 0 ? decode_tokens / decode_seconds : 0;
  const double left = rate > 0 ? (progress.most_tokens - progress.new_tokens) / rate : 0;
  return fmt::format("{}/{} tokens, {:.2f} tokens/s, NVMe {}, stalled {:.0f} %, {} passed, {} left",
                     progress.new_tokens, progress.most_tokens, rate, drive_text(pass, forecast),
                     100 * seconds(pass.feed.stall_ns) / pass.seconds, format_duration(elapsed),
                     format_duration(left));
}

nlohmann::ordered_json outputs_json(const std::vector<Prompt>& prompts,
                                    const GenerationResult& result) {
  auto rows = nlohmann::ordered_json::array();
  for (size_t i = 0; i < prompts.size(); ++i) {
    const Output& output = result.outputs[i];
    rows.push_back({{"prompt", prompts[i].text},
                    {"prompt_token_ids", prompts[i].ids},
                    {"output_token_ids", output.ids},
                    {"text", output.text},
                    {"finish_reason", output.finish_reason}});
  }
  return rows;
}

/// Of texts that may come to be fed twice.
std::string again_text(const Workload& workload) {
  for (const SequenceWork& sequence : workload.sequences) {
    if (sequence.again_tokens == 0) continue;
    return fmt::format(
        "once prompt and answer are longer than {} tokens, all of them are fed to the model again: "
        "it turns every position of longer texts otherwise (longrope)",
        sequence.again_tokens - 1);
  }
  return "";
}

RunStart start_of(const Session& session, const std::vector<Prompt>& prompts,
                  const Workload& workload) {
  RunStart start;
  start.prompts = static_cast<uint32_t>(prompts.size());
  for (const SequenceWork& sequence : workload.sequences) start.most_tokens += sequence.new_tokens;
  const Placement& placement = session.plan().stream.placement;
  start.ram_bytes = placement.ram_planned_bytes;
  start.gpu_bytes = placement.gpu_planned_bytes;
  start.nvme_bytes_per_pass = placement.nvme_bytes_per_pass;
  start.embeds_from_nvme =
      !session.plan().stream.embed_units.empty() && placement.embed_tier == Tier::kNvme;
  if (session.forecast()) {
    start.seconds_per_pass = session.forecast()->decode.seconds;
    start.seconds = session.expected_seconds(workload);
  }
  return start;
}

/// "plan: 320 MiB of memory, 891 MiB from NVMe per token: about 0.30 s per token, 10 s for 32".
std::string expectation_text(const RunStart& start) {
  std::string text = "plan: " + format_bytes(start.ram_bytes) + " of memory";
  if (start.gpu_bytes > 0) text += ", " + format_bytes(start.gpu_bytes) + " of GPU memory";
  const bool one = start.prompts == 1;
  text += start.nvme_bytes_per_pass == 0
              ? start.embeds_from_nvme ? ", only embedding rows from NVMe" : ", nothing from NVMe"
              : fmt::format(", {} from NVMe per {}", format_bytes(start.nvme_bytes_per_pass),
                            one ? "token" : "pass");
  if (!start.seconds) return text;
  return text + fmt::format(": about {} per {}, {} for {}", rough_duration(*start.seconds_per_pass),
                            one ? "token" : fmt::format("token of all {} prompts", start.prompts),
                            rough_duration(*start.seconds), start.most_tokens);
}

/// One run's words: answers on stdout, progress on stderr. Where stdout takes no more the run ends,
/// unless a report will hold the answer.
class Telling {
 public:
  Telling(Session& session, Answers& answers, Failures& failures)
      : session_(session),
        answers_(answers),
        failures_(failures),
        begin_ns_(session.clock().now_ns()) {}

  void begin(const RunStart& start) {
    attempt([&] { answers_.begin(start); });
  }

  void show(const GenerationProgress& state) {
    const PassRecord& pass = *state.pass;
    if (pass.kind == PassRecord::Kind::kDecode) {
      decode_seconds_ += pass.seconds;
      decode_tokens_ += pass.tokens;
    }
    attempt([&] { answers_.show(state); });
    if (answers_.takes_the_place_of_progress()) return;
    session_.progress().show(progress_line(state, seconds(session_.clock().now_ns() - begin_ns_),
                                           decode_seconds_, decode_tokens_, session_.forecast()));
  }

  void finish(const GenerationResult& result) {
    if (!broken_) broken_ = !failures_.attempt([&] { answers_.finish(result); });
  }

  bool broken() const { return broken_; }

 private:
  void attempt(const std::function<void()>& step) {
    if (broken_) return;
    try {
      step();
    } catch (const Error& error) {
      broken_ = true;
      if (session_.config().report.empty()) throw;
      failures_.add(error.what());
    }
  }

  Session& session_;
  Answers& answers_;
  Failures& failures_;
  int64_t begin_ns_;
  double decode_seconds_ = 0;
  uint32_t decode_tokens_ = 0;
  bool broken_ = false;
};

/// Loads and generates; what stops or fails is in the result, beside what came before it.
GenerationResult answer(Session& session, const std::vector<Prompt>& prompts, Telling& telling) {
  GenerationResult result;
  try {
    if (session.load()) {
      return generate(session.runtime(), session.config(), prompts,
                      [&](const GenerationProgress& state) { telling.show(state); });
    }
    result.interrupted = true;
  } catch (const std::exception& failure) {
    result.error = failure_text(failure);
  }
  result.outputs.assign(prompts.size(), {{}, "", result.interrupted ? "interrupted" : "error"});
  return result;
}

std::unique_ptr<Answers> answers_of(const RunOptions& options, Session& session,
                                    const std::vector<Prompt>& prompts, const StopFlag& stop) {
  if (options.json) return no_answers();
  if (options.json_lines) return json_events(session.clock(), session.progress(), stop);
  return live_texts(prompts.size(), session.model().tokenizer != nullptr, session.progress(), stop);
}

}  // namespace

int run_command(const RunOptions& options, StopFlag& stop) {
  Session session(read_config(options), inputs_of(options), options.quiet, stop);
  const std::vector<Prompt> prompts = make_prompts(session.config(), session.model());
  if (session.model().tokenizer == nullptr) {
    session.notice(session.model().no_tokenizer + "; answers are token ids");
  }
  const Workload workload = generation_workload(session.config(), session.model(), prompts);
  try {
    session.prepare(workload);
  } catch (const Stopped&) {
    session.write_stopped({{"outputs", nlohmann::ordered_json::array()}}, options.json);
    return kExitInterrupted;
  }
  const auto answers = answers_of(options, session, prompts, stop);
  Failures failures;
  Telling telling(session, *answers, failures);
  const RunStart start = start_of(session, prompts, workload);
  if (!options.quiet) session.progress().say(expectation_text(start));
  if (const std::string text = again_text(workload); !text.empty()) session.notice(text);
  telling.begin(start);
  const GenerationResult result = answer(session, prompts, telling);
  session.progress().clear();
  telling.finish(result);
  if (!result.error.empty()) failures.add(result.error);
  auto report = session.report(result.passes);
  report["interrupted"] = result.interrupted;
  if (!result.error.empty()) report["error"] = result.error;
  report["outputs"] = outputs_json(prompts, result);
  session.write_files(report, failures);  // first: whoever reads stdout may never take it
  failures.attempt([&] {
    if (options.json) return print_text(printed_json(report), stop);
    const bool tables = !options.quiet && !options.json_lines && !telling.broken();
    if (tables && (result.error.empty() || !result.passes.empty())) {
      print_text(session.passes_tables(result.passes), stop);
    }
  });
  failures.throw_if_any();
  return result.interrupted ? kExitInterrupted : 0;
}

}  // namespace spillway
