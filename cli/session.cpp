#include "cli/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/plan_for_now.h"
#include "cli/predicted.h"
#include "cli/report.h"
#include "core/error.h"
#include "core/units.h"
#include "kernels/host/cpu_features.h"

namespace spillway {
namespace {

/// What a checkpoint's folder may hold beside weights, there already or not: a report under such a
/// name would be read as a part of the model the next time.
constexpr std::array kModelFiles = {"config.json",
                                    "generation_config.json",
                                    "tokenizer.json",
                                    "tokenizer.model",
                                    "tokenizer_config.json",
                                    "special_tokens_map.json",
                                    "added_tokens.json",
                                    "vocab.json",
                                    "merges.txt",
                                    "chat_template.jinja",
                                    "chat_template.json",
                                    "model.safetensors",
                                    "preprocessor_config.json",
                                    "model.safetensors.index.json"};

}  // namespace

Session::Session(Config config, FilesInUse in_use, bool quiet, StopFlag& stop)
    : stop_(stop),
      progress_(clock_, stop, quiet),
      notice_(once_each([this, quiet](const std::string& line) {
        notes_.push_back(line);
        if (!quiet) progress_.say("note: " + line);
      })),
      config_(std::move(config)),
      outputs_(open_outputs(config_, std::move(in_use), stop)),
      model_(open_model(config_.model_path, config_.io_direct, notice_)),
      machine_(open_machine(config_, notice_)),
      readers_(choose_reader(config_.io_engine, notice_)),
      trace_(clock_, config_.trace.empty() ? 0 : kTraceSpans) {}

/// To try whether a file can be written leaves one for a moment: no stop may fall there.
Session::Outputs Session::open_outputs(const Config& config, FilesInUse in_use, StopFlag& stop) {
  in_use = with_inputs_of(config, std::move(in_use));
  in_use.check_stdout();
  stop.watch();
  Outputs outputs{{config.report, report_format(), in_use}, {config.trace, trace_format(), in_use}};
  stop.unwatch();
  outputs.report.heed(stop);
  outputs.trace.heed(stop);
  return outputs;
}

void Session::prepare(const Workload& workload) {
  if (config_.ram_bytes) {
    const std::string beyond = beyond_the_machine(*config_.ram_bytes, machine_.memory);
    if (!beyond.empty()) throw Error(beyond);
  }
  const auto known = find_rates("", model_, machine_, notice_);
  if (known) say_if_read_otherwise(*known);
  planned_ = plan_for_now(known, config_, model_, machine_, workload,
                          {&readers_, &clock_, &stop_, notice_, matmul_timer()});
  say_if_cut(workload);
  stop_.watch();
  runtime_ = std::make_unique<Runtime>(Runtime::Parts{&config_, &model_, &machine_, &planned_.plan,
                                                      readers_.make, &trace_, &clock_, &stop_});
  say_if_spilled();
}

/// Cores have neighbours; a GPU of one's own does not.
MatmulTimer Session::matmul_timer() const {
  if (machine_.device->name() != "host") return nullptr;
  return [this](const MatmulsToTime& matmuls) {
    return time_matmuls(*machine_.device, *machine_.ops, matmuls, cache_bytes(), clock_, stop_);
  };
}

bool Session::load() {
  try {
    runtime_->load([&](const char* what, uint64_t done, uint64_t total) {
      progress_.show(fmt::format("{} {} of {}", what, format_bytes(done), format_bytes(total)));
    });
    progress_.clear();
    say_if_unpinned();
    return true;
  } catch (const Stopped&) {
    say_stopped();
    return false;
  } catch (...) {
    progress_.clear();
    throw;
  }
}

void Session::say_if_cut(const Workload& workload) const {
  const ForwardLimits& limits = plan().limits;
  const uint64_t asked = std::min<uint64_t>(config_.score_sweep_tokens.value_or(0),
                                            work_amount(workload).prompt_tokens);
  if (workload.scoring && asked > limits.max_rows && limits.sweep_rows < asked) {
    const std::string& refused = plan().spill.refused;
    notice_(fmt::format(
        "the budget leaves room for sweeps of {} tokens instead of {}: weights are read more "
        "often{}",
        std::max(limits.sweep_rows, limits.max_rows), asked,
        refused.empty() ? "" : "; hidden states were not spilled: " + refused));
  }
  if (limits.max_rows >= workload.chunk_rows) return;
  notice_(fmt::format(
      "the budget leaves room for chunks of {} tokens instead of {}: they take longer, and round "
      "otherwise; give more memory",
      limits.max_rows, workload.chunk_rows));
}

void Session::say_if_spilled() const {
  const SpillPlan& spill = plan().spill;
  if (spill.file_bytes == 0) return;
  notice_(spill_text(spill));
  if (file_system_name(spill.folder) == "tmpfs") {
    notice_(
        fmt::format("{} is a tmpfs: hidden states take {} of memory there, beyond memory.ram; set "
                    "score.spill_dir to a folder on a drive",
                    spill.folder.string(), format_bytes(spill.file_bytes)));
    return;
  }
  const std::string refused = runtime_->states()->refused();
  if (!refused.empty()) notice_("hidden states go through the page cache: " + refused);
}

void Session::say_if_read_otherwise(const KnownRates& known) const {
  const std::string& here = readers_.name;
  if (config_.io_engine == EngineChoice::kMmap || known.read_engine == here) return;
  notice_(fmt::format(
      "the hardware profile was measured with {} and this run reads with {}: predictions are for "
      "{}; spillway probe measures anew",
      known.read_engine, here, known.read_engine));
}

void Session::say_if_unregistered() const {
  const BufferRegistration& registration = runtime_->engine().registration();
  if (registration.refusal.empty()) return;
  notice_(fmt::format(
      "{} of the buffers could be registered with io_uring ({}), which costs the CPU a little with "
      "every read; raise the limit on locked memory (ulimit -l; in a container --ulimit "
      "memlock=-1)",
      registration.bytes == 0 ? "none" : format_bytes(registration.bytes), registration.refusal));
}

void Session::say_if_unpinned() const {
  const LayerStore& store = runtime_->engine().store();
  if (store.pin_refusal().empty()) return;
  notice_(fmt::format(
      "{} of {} in RAM could not be pinned and go through the staging slabs, which costs the CPU a "
      "copy ({}); raise the limit on locked memory (ulimit -l; in a container --ulimit memlock=-1; "
      "WSL pins little) or lower memory.ram",
      format_bytes(store.ram_bytes() - std::min(store.pinned_bytes(), store.ram_bytes())),
      format_bytes(store.ram_bytes()), store.pin_refusal()));
}

std::string Session::passes_tables(const std::vector<PassRecord>& passes) const {
  const std::string text = "\n" + passes_text(passes);
  if (!forecast()) return text;
  const std::string compared = predicted_and_measured_text(*forecast(), passes);
  return compared.empty() ? text : text + "\n" + compared;
}

nlohmann::ordered_json Session::report(const std::vector<PassRecord>& passes) {
  say_if_unregistered();
  auto report = common_report(config_, model_, machine_, plan(), runtime_->engine(), passes);
  report["notes"] = notes_;
  if (forecast()) report["prediction"] = predicted_and_measured_json(*forecast(), passes);
  return report;
}

double Session::expected_seconds(const Workload& workload) const {
  if (!forecast()) return 0;
  const WorkAmount amount = work_amount(workload);
  const uint64_t prompt_passes = ceil_div(amount.prompt_tokens, forecast()->prompt_rows);
  return run_seconds(prompt_passes, forecast()->prompt.seconds, amount.decode_passes,
                     forecast()->decode.seconds);
}

std::string drive_text(const PassRecord& pass, const std::optional<Forecast>& forecast) {
  std::string text = rate_text(pass.feed.nvme_bytes, pass.seconds);
  if (!forecast || pass.feed.nvme_bytes == 0) return text;
  const double rate = static_cast<double>(pass.feed.nvme_bytes) / pass.seconds;
  return text + fmt::format(" ({:.0f} % of the drive's)", 100 * rate / forecast->drive_rate);
}

void Session::say_stopped() {
  progress_.clear();
  progress_.say("spillway: stopped while loading");
}

void Session::write_stopped(const nlohmann::ordered_json& nothing, bool prints) {
  say_stopped();
  auto report = report_head(config_, model_, machine_);
  report["interrupted"] = true;
  report.update(nothing);
  Failures failures;
  write_files(report, failures);
  if (prints) failures.attempt([&] { print_text(printed_json(report), stop_); });
  failures.throw_if_any();
}

void Session::write_files(const nlohmann::ordered_json& report, Failures& failures) {
  if (outputs_.report.wanted()) {
    failures.attempt([&] { outputs_.report.write(json_text(report)); });
  }
  if (outputs_.trace.wanted()) failures.attempt([&] { trace_.write(outputs_.trace); });
}

FilesInUse with_inputs_of(const Config& config, FilesInUse in_use) {
  if (!config.file.empty()) in_use.add(config.file, "the configuration");
  return with_model_files(config.model_path, std::move(in_use));
}

FilesInUse with_model_files(const std::filesystem::path& path, FilesInUse in_use) {
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error)) in_use.add(path, "a file of the model");
  const std::filesystem::path folder =
      std::filesystem::is_directory(path, error) ? path : path.parent_path();
  for (const char* name : kModelFiles) in_use.add(folder / name, "a file of the model");
  for (const char* ending : {".safetensors", ".gguf"}) {
    in_use.add_names(folder, ending, "a file of the model");
  }
  return in_use;
}

}  // namespace spillway
