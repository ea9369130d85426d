#include "cli/report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "cli/terminal.h"
#include "core/system_memory.h"
#include "core/units.h"
#include "kernels/host/cpu_features.h"
#include "probe/hardware.h"

namespace spillway {
namespace {

using Json = nlohmann::ordered_json;

/// Consecutive layers that live on the same tiers, as one line: "0-15".
struct LayerRange {
  std::string first;
  std::string last;
  std::array<uint64_t, 3> bytes{};  // by Tier
  bool decoder() const { return last != "embed" && last != "head"; }
  std::string name() const { return first == last ? first : first + "-" + last; }
  bool same_tiers(const LayerRange& other) const {
    for (size_t i = 0; i < bytes.size(); ++i) {
      if ((bytes[i] > 0) != (other.bytes[i] > 0)) return false;
    }
    return true;
  }
};

std::vector<LayerRange> ranges_of(const std::vector<LayerPlacement>& table) {
  std::vector<LayerRange> layers;
  for (const LayerPlacement& row : table) {
    if (layers.empty() || layers.back().last != row.layer) {
      layers.push_back({row.layer, row.layer, {}});
    }
    layers.back().bytes[static_cast<size_t>(row.tier)] += row.bytes;
  }
  std::vector<LayerRange> ranges;
  for (const LayerRange& layer : layers) {
    const bool joins = !ranges.empty() && ranges.back().decoder() && layer.decoder() &&
                       ranges.back().same_tiers(layer);
    if (!joins) {
      ranges.push_back(layer);
      continue;
    }
    ranges.back().last = layer.last;
    for (size_t i = 0; i < layer.bytes.size(); ++i) ranges.back().bytes[i] += layer.bytes[i];
  }
  return ranges;
}

}  // namespace

Json placement_json(const RunPlan& plan) {
  Json rows = Json::array();
  for (const LayerPlacement& row : placement_table(plan)) {
    rows.push_back({{"layer", row.layer}, {"tier", tier_name(row.tier)}, {"bytes", row.bytes}});
  }
  return rows;
}

Json bill_json(const RunPlan& plan) {
  Json rows = Json::array();
  for (const MemoryLine& line : plan.stream.placement.bill) {
    rows.push_back({{"name", line.name}, {"tier", tier_name(line.tier)}, {"bytes", line.bytes}});
  }
  return rows;
}

Json spill_json(const SpillPlan& spill) {
  return {{"folder", spill.folder.string()},
          {"file_bytes", spill.file_bytes},
          {"written_bytes_per_sweep", spill.sweep_bytes},
          {"read_bytes_per_sweep", spill.sweep_bytes},
          {"written_bytes", spill.written_bytes}};
}

std::string spill_text(const SpillPlan& spill) {
  return fmt::format(
      "hidden states: {} spilled per sweep and read again, {} written to {} ({}) in all, where "
      "they take {}",
      format_bytes(spill.sweep_bytes), format_bytes(spill.written_bytes), spill.folder.string(),
      file_system_name(spill.folder), format_bytes(spill.file_bytes));
}

std::string machine_text(const Machine& machine, const std::filesystem::path& model_path) {
  return fmt::format("{}, {}, {} of memory; {}; {} ({})", known_cpu_name(cpu_name()),
                     counted(usable_cores(), "core"), format_bytes(machine.memory.total_bytes),
                     machine.ops->description(), known_drive_name(model_path),
                     file_system_name(model_path));
}

Json report_head(const Config& config, const Model& model, const Machine& machine) {
  return {{"device", machine.device->name()},
          {"compute", machine.ops->description()},
          {"model",
           {{"path", config.model_path.string()},
            {"architecture", model.config.architecture},
            {"weight_bytes", model.weights.weight_bytes}}}};
}

Json common_report(const Config& config, const Model& model, const Machine& machine,
                   const RunPlan& plan, const Engine& engine,
                   const std::vector<PassRecord>& passes) {
  const ProcessMemory memory = read_process_memory();
  const Placement& placement = plan.stream.placement;
  Json report = report_head(config, model, machine);
  report["placement"] = placement_json(plan);
  report["memory"] = {{"ram_budget_bytes", plan.ram_budget_bytes},
                      {"ram_planned_bytes", placement.ram_planned_bytes},
                      {"peak_rss_bytes", memory.peak_rss_bytes},
                      {"gpu_budget_bytes", plan.gpu_budget_bytes},
                      {"gpu_planned_bytes", placement.gpu_planned_bytes},
                      {"ram_homes_bytes", engine.store().ram_bytes()},
                      {"ram_homes_pinned_bytes",
                       std::min(engine.store().pinned_bytes(), engine.store().ram_bytes())},
                      {"pin_refusal", engine.store().pin_refusal()},
                      {"huge_pages", memory.huge_page_bytes > 0},
                      {"huge_page_bytes", memory.huge_page_bytes},
                      {"bill", bill_json(plan)}};
  report["chunk_tokens"] = plan.limits.max_rows;
  if (plan.limits.sweep_rows > 0) report["sweep_tokens"] = plan.limits.sweep_rows;
  if (plan.spill.file_bytes > 0) report["spill"] = spill_json(plan.spill);
  report["io"] = {{"engine", engine.reader_name()},
                  {"direct", model.checkpoint.direct()},
                  {"depth", plan.stream.io_depth},
                  {"chunk_bytes", plan.stream.chunk_bytes},
                  {"registered_buffers", engine.buffers_registered()},
                  {"slots", placement.slots},
                  {"slot_bytes", placement.slot_bytes},
                  {"nvme_bytes_per_pass", placement.nvme_bytes_per_pass},
                  {"copied_bytes_per_pass", placement.copied_bytes_per_pass}};
  Json rows = Json::array();
  for (const PassRecord& pass : passes) {
    rows.push_back({{"kind", pass_kind_name(pass.kind)},
                    {"tokens", pass.tokens},
                    {"seconds", pass.seconds},
                    {"nvme_bytes", pass.feed.nvme_bytes},
                    {"copied_bytes", pass.feed.copied_bytes},
                    {"stall_seconds", seconds(pass.feed.stall_ns)}});
    if (plan.spill.file_bytes == 0) continue;
    rows.back()["spill_written_bytes"] = pass.spill.written_bytes;
    rows.back()["spill_read_bytes"] = pass.spill.read_bytes;
    rows.back()["spill_wait_seconds"] = seconds(pass.spill.wait_ns);
  }
  report["passes"] = rows;
  return report;
}

std::string json_text(const Json& json) {
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string printed_json(const Json& json) {
  const bool ascii = isatty(STDOUT_FILENO) != 0;
  return json.dump(1, ' ', ascii, Json::error_handler_t::replace) + "\n";
}

OutputFormat report_format() {
  return {"report", R"({"device":*,"compute":*,"model":)"};
}

std::string weights_text(const Model& model) {
  return fmt::format("{} of {} weights", format_bytes(model.weights.weight_bytes),
                     format_name(model.weights.matrix_formats().front().format));
}

std::string plan_text(const Model& model, const Machine& machine, const RunPlan& plan) {
  const Placement& placement = plan.stream.placement;
  std::string text =
      fmt::format("model   {}, {}, {}\ndevice  {}: {}\n\n", model.config.architecture,
                  counted(model.config.layers, "layer"), weights_text(model),
                  machine.device->name(), machine.ops->description());
  const bool unified = machine.device->unified();
  const auto cell = [](uint64_t bytes) { return bytes == 0 ? "-" : format_bytes(bytes); };
  Table layers(unified ? "lrrl" : "lrrrl");
  layers.row(unified ? std::vector<std::string>{"layer", "ram", "nvme", ""}
                     : std::vector<std::string>{"layer", "gpu", "ram", "nvme", ""});
  for (const LayerRange& range : ranges_of(placement_table(plan))) {
    std::vector<std::string> cells = {range.name()};
    for (const Tier tier : {Tier::kGpu, Tier::kRam, Tier::kNvme}) {
      if (unified && tier == Tier::kGpu) continue;
      cells.push_back(cell(range.bytes[static_cast<size_t>(tier)]));
    }
    const bool gathered = range.first == "embed" && range.bytes[2] > 0;
    cells.emplace_back(gathered ? "rows as needed" : "");
    layers.row(std::move(cells));
  }
  text += layers.text() + "\n";
  Table bill("llr");
  bill.row({"memory", "tier", "bytes"});
  for (const MemoryLine& line : placement.bill) {
    bill.row({line.name, std::string(tier_name(line.tier)), format_bytes(line.bytes)});
  }
  bill.row({"total", "ram",
            fmt::format("{} of {}", format_bytes(placement.ram_planned_bytes),
                        format_bytes(plan.ram_budget_bytes))});
  if (!unified) {
    bill.row({"total", "gpu",
              fmt::format("{} of {}", format_bytes(placement.gpu_planned_bytes),
                          format_bytes(plan.gpu_budget_bytes))});
  }
  text += bill.text() + "\n";
  text += fmt::format("each pass reads {} from NVMe", format_bytes(placement.nvme_bytes_per_pass));
  if (!unified) {
    text +=
        fmt::format(" and copies {} to the device", format_bytes(placement.copied_bytes_per_pass));
  }
  text += fmt::format("; prompts run {} tokens per pass", plan.limits.max_rows);
  if (plan.limits.sweep_rows > 0) text += fmt::format(", {} per sweep", plan.limits.sweep_rows);
  text += "\n";
  if (plan.spill.file_bytes > 0) text += spill_text(plan.spill) + "\n";
  return text;
}

std::string rate_text(uint64_t bytes, double seconds) {
  if (bytes == 0 || seconds <= 0) return "-";
  return fmt::format("{:.2f} GB/s", static_cast<double>(bytes) / seconds / 1e9);
}

std::string passes_text(const std::vector<PassRecord>& passes) {
  if (passes.empty()) return "stopped before the end of the first pass\n";
  Table table("lrrrrrrrr");
  table.row(
      {"phase", "passes", "tokens", "seconds", "tokens/s", "s/pass", "NVMe", "rate", "stalled"});
  for (const auto kind :
       {PassRecord::Kind::kPrefill, PassRecord::Kind::kDecode, PassRecord::Kind::kScore}) {
    uint64_t count = 0;
    uint64_t tokens = 0;
    uint64_t bytes = 0;
    double total = 0;
    double stalled = 0;
    for (const PassRecord& pass : passes) {
      if (pass.kind != kind) continue;
      ++count;
      tokens += pass.tokens;
      bytes += pass.feed.nvme_bytes;
      total += pass.seconds;
      stalled += seconds(pass.waited_ns());
    }
    if (count == 0) continue;
    table.row({pass_kind_name(kind), fmt::to_string(count), fmt::to_string(tokens),
               fmt::format("{:.2f}", total),
               fmt::format("{:.2f}", static_cast<double>(tokens) / total),
               fmt::format("{:.3f}", total / static_cast<double>(count)), format_bytes(bytes),
               rate_text(bytes, total), fmt::format("{:.0f} %", 100 * stalled / total)});
  }
  return table.text();
}

}  // namespace spillway
