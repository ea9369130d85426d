// spillway run: answers prompts.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/failure.h"
#include "model/generate.h"

namespace spillway {
namespace {

Config read_config(const RunOptions& options) {
  Config config = load_config(options.config, options.overrides);
  if (!options.prompts.empty()) {
    config.prompts = options.prompts;
    config.prompt_token_ids.clear();
  }
  if (!options.report.empty()) config.report = options.report;
  if (!options.trace.empty()) config.trace = options.trace;
  return config;
}

std::string progress_line(const GenerationProgress& progress, double elapsed, double decode_seconds,
                          uint32_t decode_tokens, const std::optional<Forecast>& forecast) {
  const PassRecord& pass = *progress.pass;
  if (progress.prompt_tokens_left > 0) {
    return fmt::format("prompt: {} tokens left, {:.1f} tokens/s, {}", progress.prompt_tokens_left,
                       pass.tokens / pass.seconds, drive_text(pass, forecast));
  }
  const double rate = decode_seconds > 0 ? decode_tokens / decode_seconds : 0;
  const double left = rate > 0 ? (progress.most_tokens - progress.new_tokens) / rate : 0;
  return fmt::format("{}/{} tokens, {:.2f} tokens/s, NVMe {}, stalled {:.0f} %, {} passed, {} left",
                     progress.new_tokens, progress.most_tokens, rate, drive_text(pass, forecast),
                     100 * seconds(pass.feed.stall_ns) / pass.seconds, format_duration(elapsed),
                     format_duration(left));
}

void print_outputs(const std::vector<Prompt>& prompts, const GenerationResult& result) {
  const bool whole = !result.interrupted && result.error.empty();
  for (size_t i = 0; i < prompts.size(); ++i) {
    const Output& output = result.outputs[i];
    if (output.ids.empty() && !whole) continue;
    if (prompts.size() > 1) print("--- prompt {} ({})\n", i + 1, output.finish_reason);
    print("{}\n", output.text.empty() ? nlohmann::json(output.ids).dump() : output.text);
  }
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

/// Loads and generates; what stops or fails is in the result, beside what came before it.
GenerationResult answer(Session& session, const std::vector<Prompt>& prompts) {
  GenerationResult result;
  try {
    if (session.load()) {
      const Clock& clock = session.clock();
      const int64_t begin_ns = clock.now_ns();
      double decode_seconds = 0;
      uint32_t decode_tokens = 0;
      return generate(
          session.runtime(), session.config(), prompts, [&](const GenerationProgress& state) {
            if (state.pass->kind == PassRecord::Kind::kDecode) {
              decode_seconds += state.pass->seconds;
              decode_tokens += state.pass->tokens;
            }
            session.progress().show(progress_line(state, seconds(clock.now_ns() - begin_ns),
                                                  decode_seconds, decode_tokens,
                                                  session.forecast()));
          });
    }
    result.interrupted = true;
  } catch (const std::exception& failure) {
    result.error = failure_text(failure);
  }
  result.outputs.assign(prompts.size(), {{}, "", result.interrupted ? "interrupted" : "error"});
  return result;
}

}  // namespace

int run_command(const RunOptions& options, StopFlag& stop) {
  Session session(read_config(options), {}, options.quiet, stop);
  const Config& config = session.config();
  const std::vector<Prompt> prompts = make_prompts(config, session.model());
  try {
    session.prepare(generation_workload(config, session.model(), prompts));
  } catch (const Stopped&) {
    session.write_stopped();
    return kExitInterrupted;
  }
  const GenerationResult result = answer(session, prompts);
  session.progress().clear();
  Failures failures;
  if (!result.error.empty()) failures.add(result.error);
  failures.attempt([&] {
    print_outputs(prompts, result);
    if (!options.quiet && (result.error.empty() || !result.passes.empty()))
      session.print_passes(result.passes);
  });
  auto report = common_report(config, session.model(), session.machine(), session.plan(),
                              session.runtime().engine(), result.passes);
  session.add_prediction(report, result.passes);
  report["interrupted"] = result.interrupted;
  if (!result.error.empty()) report["error"] = result.error;
  report["outputs"] = outputs_json(prompts, result);
  session.write_files(report, failures);
  failures.throw_if_any();
  return result.interrupted ? kExitInterrupted : 0;
}

}  // namespace spillway
