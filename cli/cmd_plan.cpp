// spillway plan: where every layer goes and the memory bill; no weights are read.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/forecast.h"
#include "cli/job_data.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "jobs/score_job.h"
#include "model/generate.h"

namespace spillway {
namespace {

/// All that a job over the configured data does.
Workload workload_of_job(const Config& config, const Model& model) {
  const StopFlag stop;  // a signal ends the process at once
  const JobData data = open_job_data(config, model, stop, [](const std::string&) {});
  const JobSinks sinks = job_sinks(config, model);
  Workload workload = job_workload(job_cut(config, model, sinks), data.survey,
                                   {0, data.survey.documents()}, sinks, most_record_rows(config));
  if (workload.sequences.empty()) throw_nothing_to_score();
  return workload;
}

/// The job over the configured data, the configured prompts, or one that fills a chunk when there
/// are none.
Workload workload_of(const Config& config, const Model& model) {
  if (!config.job.data.empty()) return workload_of_job(config, model);
  if (!config.prompts.empty() || !config.prompt_token_ids.empty()) {
    return generation_workload(config, model, make_prompts(config, model));
  }
  const uint32_t tokens =
      std::min(config.prefill_chunk_tokens, std::max(1u, model.config.context - 1));
  return generation_workload(config, model, {{"", std::vector<uint32_t>(tokens, 0)}});
}

}  // namespace

int plan_command(const PlanOptions& options) {
  const NoticeSink notice = stderr_notices();
  Config config = config_of(options.model);
  spill_beside_results(config);
  with_inputs_of(config, {}).check_stdout();
  const Model model = open_model(config.model_path, config.io_direct, notice);
  const Machine machine = open_machine(config, notice);
  const Workload workload = workload_of(config, model);
  if (config.ram_bytes) {
    const std::string beyond = beyond_the_machine(*config.ram_bytes, machine.memory);
    if (!beyond.empty()) notice(beyond + "; run and score refuse it here");
  }
  const auto known = find_rates(options.profile, model, machine, notice);
  PlannedRun planned = plan_with(known, config, model, machine, workload, work_amount(workload));
  if (planned.forecast) add_what_more_memory_brings(planned, *known, model, machine, workload);
  const RunPlan& plan = planned.plan;
  const auto& forecast = planned.forecast;
  if (!options.json) {
    print("{}{}", plan_text(model, machine, plan), forecast ? forecast_text(*forecast) : "");
    return 0;
  }
  const Placement& placement = plan.stream.placement;
  nlohmann::ordered_json json;
  json["device"] = machine.device->name();
  json["model"] = {{"architecture", model.config.architecture},
                   {"weight_bytes", model.weights.weight_bytes}};
  json["placement"] = placement_json(plan);
  json["memory"] = {{"ram_budget_bytes", plan.ram_budget_bytes},
                    {"ram_planned_bytes", placement.ram_planned_bytes},
                    {"gpu_budget_bytes", plan.gpu_budget_bytes},
                    {"gpu_planned_bytes", placement.gpu_planned_bytes},
                    {"bill", bill_json(plan)}};
  json["slots"] = placement.slots;
  json["slot_bytes"] = placement.slot_bytes;
  json["nvme_bytes_per_pass"] = placement.nvme_bytes_per_pass;
  json["copied_bytes_per_pass"] = placement.copied_bytes_per_pass;
  json["io"] = {{"chunk_bytes", plan.stream.chunk_bytes}, {"depth", plan.stream.io_depth}};
  json["prefill_chunk_tokens"] = plan.limits.max_rows;
  if (plan.spill.file_bytes > 0) json["spill"] = spill_json(plan.spill);
  if (forecast) json["prediction"] = forecast_json(*forecast);
  print_text(printed_json(json));
  return 0;
}

}  // namespace spillway
