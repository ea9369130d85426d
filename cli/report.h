// The JSON report of a run, and the tables printed beside it. Other programs depend on its names.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/output_file.h"
#include "model/runtime.h"

namespace spillway {

nlohmann::ordered_json placement_json(const RunPlan& plan);
nlohmann::ordered_json bill_json(const RunPlan& plan);

/// Hidden states on a drive: as a report and as a line say it.
nlohmann::ordered_json spill_json(const SpillPlan& spill);
std::string spill_text(const SpillPlan& spill);

/// The machine and the drive of a model, as people know them.
std::string machine_text(const Machine& machine, const std::filesystem::path& model_path);

/// How a report begins: device, what computes, model.
nlohmann::ordered_json report_head(const Config& config, const Model& model,
                                   const Machine& machine);
/// What run and score have in common: device, model, placement, memory, io, passes.
nlohmann::ordered_json common_report(const Config& config, const Model& model,
                                     const Machine& machine, const RunPlan& plan,
                                     const Engine& engine, const std::vector<PassRecord>& passes);

/// How a report begins, for OutputFile.
OutputFormat report_format();

/// A file's content. Generated text may hold anything a tokenizer gives: malformed UTF-8 is
/// replaced, not thrown at.
std::string json_text(const nlohmann::ordered_json& json);
/// The same for stdout: a terminal gets no character that could move its cursor.
std::string printed_json(const nlohmann::ordered_json& json);

/// "3.31 GiB of Q4_K weights", by the type that most of them have.
std::string weights_text(const Model& model);

/// Layers by tier, the memory bill and what streams in each pass.
std::string plan_text(const Model& model, const Machine& machine, const RunPlan& plan);
/// One line per kind of pass: tokens/s, bytes/s, share of time stalled.
std::string passes_text(const std::vector<PassRecord>& passes);

/// "3.12 GB/s"; "-" when nothing was read.
std::string rate_text(uint64_t bytes, double seconds);

}  // namespace spillway
