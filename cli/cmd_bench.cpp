// spillway bench: RAM or NVMe, and how much of each, measured on this model and machine.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "compare/child.h"
#include "compare/memory_group.h"
#include "compare/page.h"
#include "compare/page_cache.h"
#include "compare/svg.h"
#include "compare/timeline.h"
#include "core/error.h"
#include "core/output_file.h"
#include "core/units.h"
#include "io/json_strict.h"
#include "kernels/host/cpu_features.h"
#include "probe/hardware.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxReportBytes = 64 * kMiB;
/// More of the model than this in the page cache when the mmap arm starts is worth a word.
constexpr uint64_t kCachedBytes = 64 * kMiB;

/// Begins what bench itself writes beside the results.
constexpr const char* kArmTitle = "# an arm of spillway bench\n";
constexpr const char* kLogTitle = "# what an arm of spillway bench said\n";

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw Error(fmt::format("--out: {}: {}", folder.string(), error.message()));
}

bool holds_something(const fs::path& file) {
  std::error_code error;
  const auto bytes = fs::file_size(file, error);
  return !error && bytes > 0;
}

/// The results on disk. Each file is replaced whole, so that it can be read at any moment. Those of
/// an earlier comparison stay until a round is finished that measured something.
class ResultFiles {
 public:
  ResultFiles(const fs::path& folder, FilesInUse& in_use)
      : earlier_(holds_something(folder / "bench.json")),
        json_(folder / "bench.json", {"results", R"({"version":*"machine":)"}, in_use),
        csv_(folder / "bench.csv", {"results", "sweep,engine,"}, in_use),
        page_(folder / "bench.html", {"results", "<!doctypehtml>*<title>RAMorNVMe</title>"},
              in_use),
        picture_(folder / "memory.svg", svg_format("picture"), in_use) {}

  bool earlier() const { return earlier_; }

  /// Throws Error.
  void write_round(const Comparison& comparison) {
    const bool any = std::any_of(comparison.arms.begin(), comparison.arms.end(),
                                 [](const ArmResult& result) { return result.measured(); });
    if (earlier_ && !any) return;
    write(comparison);
    earlier_ = false;
  }
  /// What there is at the end. False when it took the place of nothing better. Throws Error.
  bool write_last(const Comparison& comparison) {
    if (earlier_) return false;
    write(comparison);
    return true;
  }

 private:
  void write(const Comparison& comparison) {
    json_.write(json_text(comparison_json(comparison)) + "\n");
    csv_.write(comparison_csv(comparison));
    page_.write(comparison_page(comparison));
    const std::string picture = chart_svg(memory_chart(comparison));
    if (!picture.empty()) picture_.write(picture);
  }

  bool earlier_ = false;
  OutputFile json_;
  OutputFile csv_;
  OutputFile page_;
  OutputFile picture_;
};

/// Runs the arms, round after round, so that drift hits all alike.
class BenchRun {
 public:
  BenchRun(const BenchOptions& options, const Model& model, fs::path folder, FilesInUse inputs,
           const StopFlag& stop, const Clock& clock, Progress& progress)
      : options_(options),
        model_(model),
        folder_(std::move(folder)),
        inputs_(std::move(inputs)),
        stop_(stop),
        clock_(clock),
        progress_(progress),
        begin_ns_(clock.now_ns()) {}

  /// `finished_round` is called after each; it does not throw.
  void run(Comparison& comparison, const std::function<void()>& finished_round) {
    open_group(comparison);
    const size_t total = comparison.arms.size() * options_.repeats;
    for (uint32_t round = 0; round < options_.repeats; ++round) {
      for (ArmResult& result : comparison.arms) {
        ++position_;
        if (stop_.requested() || !result.skipped.empty()) continue;
        show(result.arm.title(), round, total);
        measure(result, comparison);
      }
      if (!stop_.requested()) finished_round();
    }
    if (!stop_.requested()) draw_timeline(comparison);
    comparison.interrupted = stop_.requested();
    progress_.clear();
  }

 private:
  /// Without a group nothing bounds the page cache: mmap would have the whole machine.
  void open_group(Comparison& comparison) {
    std::string refusal;
    try {
      group_ = std::make_unique<MemoryGroup>("/");
    } catch (const Error& error) {
      refusal = error.what();
    }
    for (ArmResult& result : comparison.arms) {
      if (group_ == nullptr && result.arm.mapped) result.skipped = refusal;
    }
    if (!refusal.empty()) comparison.notes.push_back("mmap was not measured: " + refusal);
  }

  void show(const std::string& title, uint32_t round, size_t total) {
    const double elapsed = seconds(clock_.now_ns() - begin_ns_);
    std::string left;
    if (measured_ > 0) {
      const auto remaining = static_cast<double>(total - position_ + 1);
      left = fmt::format(", {} left",
                         format_duration(elapsed / static_cast<double>(measured_) * remaining));
    }
    progress_.show(fmt::format("{}/{}: {} (round {} of {}), {} passed{}", position_, total, title,
                               round + 1, options_.repeats, format_duration(elapsed), left));
  }

  void measure(ArmResult& result, Comparison& comparison) {
    const Arm& arm = result.arm;
    const fs::path config = folder_ / "arms" / (arm.name() + ".yaml");
    const fs::path report = folder_ / "arms" / (arm.name() + ".json");
    try {
      write_own(config, "configuration", kArmTitle, config_text(arm.config));
      const ChildResult child =
          run_arm(arm, {"run", config.string(), "--quiet", "--report", report.string()});
      if (stop_.requested()) return;
      if (child.exit_code != 0) {
        result.skipped = reason(child);
      } else {
        result.samples.push_back(sample_of(load_json_strict(report, kMaxReportBytes), arm.sweep));
        ++measured_;
      }
    } catch (const Error& error) {
      result.skipped = error.what();
    }
    if (cached_bytes_ > kCachedBytes && !std::exchange(said_cached_, true)) {
      comparison.notes.push_back(fmt::format(
          "{} of the model stayed in the page cache before an mmap arm (another process "
          "maps it), which helps mmap",
          format_bytes(cached_bytes_)));
    }
  }

  ChildResult run_arm(const Arm& arm, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), fs::read_symlink("/proc/self/exe").string());
    const fs::path log = folder_ / "arms" / (arm.name() + ".log");
    write_own(log, "log", kLogTitle, "");
    if (arm.sweep != Sweep::kMemory || group_ == nullptr) {
      return run_child(arguments, {}, log, stop_);
    }
    if (arm.mapped) {
      cached_bytes_ = 0;
      for (const DirectFile& file : model_.checkpoint.files()) {
        cached_bytes_ += drop_cached(file.info().path);
      }
    }
    group_->limit(arm.memory_bytes + kCodeBytes);
    return run_child(arguments, group_->joining_file(), log, stop_);
  }

  /// A file among the arms: what the user keeps there is left alone.
  void write_own(const fs::path& file, const char* what, const std::string& title,
                 const std::string& text) const {
    FilesInUse in_use = inputs_;
    std::string begins = title;
    begins.erase(
        std::remove_if(begins.begin(), begins.end(), [](char c) { return c == ' ' || c == '\n'; }),
        begins.end());
    OutputFile(file, {what, begins}, in_use).write(title + text);
  }

  static std::string reason(const ChildResult& child) {
    if (child.exit_code == 128 + 9) return "killed: its memory limit is too small for it";
    const std::string prefix = "spillway: ";
    const std::string& line = child.last_line;
    if (line.rfind(prefix, 0) == 0) return line.substr(prefix.size());
    return fmt::format("ended with exit code {}: {}", child.exit_code, line);
  }

  /// One more process of the arm with half of the layers in RAM, for its trace.
  void draw_timeline(Comparison& comparison) {
    for (const ArmResult& result : comparison.arms) {
      const Arm& arm = result.arm;
      if (arm.sweep != Sweep::kDecode || arm.ram_share != 0.5 || !result.measured()) continue;
      progress_.show("timeline of one pass");
      const fs::path trace = folder_ / "arms" / "trace.json";
      try {
        fs::remove(trace);  // of an earlier bench
        const ChildResult child =
            run_arm(arm, {"run", (folder_ / "arms" / (arm.name() + ".yaml")).string(), "--quiet",
                          "--trace", trace.string()});
        if (child.exit_code != 0) throw Error(reason(child));
        const auto json = load_json_strict(trace, kMaxReportBytes);
        comparison.timeline_svg = timeline_svg(cut_timeline(json, 0, trace.string()));
      } catch (const std::exception& error) {
        comparison.notes.push_back(fmt::format("no timeline: {}", error.what()));
      }
      return;
    }
  }

  const BenchOptions& options_;
  const Model& model_;
  fs::path folder_;
  FilesInUse inputs_;
  const StopFlag& stop_;
  const Clock& clock_;
  Progress& progress_;
  int64_t begin_ns_;
  std::unique_ptr<MemoryGroup> group_;
  size_t position_ = 0;
  size_t measured_ = 0;
  uint64_t cached_bytes_ = 0;
  bool said_cached_ = false;
};

std::string results_text(const Comparison& comparison) {
  Table table("lrrrrrl");
  table.row({"arm", "min s", "median s", "max s", "tokens/s", "read/pass", "predicted"});
  std::string skipped;
  for (const ArmResult& result : comparison.arms) {
    const std::string title = result.arm.title();
    if (!result.skipped.empty()) skipped += fmt::format("skipped: {}: {}\n", title, result.skipped);
    if (!result.measured()) continue;
    const Spread seconds = result.seconds();
    const double predicted = result.predicted_seconds();
    table.row(
        {title, fmt::format("{:.3f}", seconds.low), fmt::format("{:.3f}", seconds.median),
         fmt::format("{:.3f}", seconds.high), fmt::format("{:.3g}", result.tokens_per_second()),
         format_bytes(static_cast<uint64_t>(result.nvme_bytes())),
         predicted > 0
             ? fmt::format("{:.3f} s, {:+.0f} %", predicted, 100 * (seconds.median / predicted - 1))
             : "-"});
  }
  std::string text = table.text() + "\n" + skipped;
  if (comparison.interrupted) text += "stopped early; these are the figures until then\n";
  for (const std::string& line : findings(comparison)) text += line + "\n";
  for (const std::string& note : comparison.notes) text += "note: " + note + "\n";
  return text;
}

Sweep sweep_of(const std::string& name) {
  return name == "decode" ? Sweep::kDecode : name == "prompt" ? Sweep::kPrompt : Sweep::kMemory;
}

}  // namespace

int bench_command(BenchOptions options, StopFlag& stop) {
  options.sweep.sweeps.clear();
  for (const std::string& name : options.sweeps) options.sweep.sweeps.push_back(sweep_of(name));
  for (const std::string& budget : options.budgets) {
    options.sweep.memory_bytes.push_back(*parse_size(budget));  // the command line was checked
  }
  Comparison comparison;
  const NoticeSink notice = stderr_notices();
  const Config config = config_of(options.model);
  const Model model = open_model(config.model_path, config.io_direct, notice);
  {
    const Machine machine = open_machine(config, notice);
    for (Arm& arm : make_arms(config, model, machine, options.sweep)) {
      comparison.arms.push_back({std::move(arm), {}, ""});
    }
    comparison.machine = fmt::format(
        "{}, {} cores; {}; {} on {}", cpu_name(), usable_cores(), machine.ops->description(),
        file_system_name(config.model_path), drive_name(config.model_path));
  }  // a GPU is the arms' from here on
  comparison.model = fmt::format("{}, {} layers, {}", model.config.architecture,
                                 model.config.layers, format_bytes(model.weights.weight_bytes));
  comparison.measured_at = utc_now();
  comparison.version = SPILLWAY_VERSION;
  comparison.repeats = options.repeats;
  const fs::path folder = fs::absolute(options.out);
  stop.watch();  // from here on there is something to clean up
  make_folder(folder);
  const FilesInUse inputs = with_inputs_of(config, {});
  inputs.check_stdout();
  FilesInUse in_use = inputs;
  ResultFiles files(folder, in_use);
  make_folder(folder / "arms");  // once nothing there is anybody else's
  if (files.earlier()) {
    notice(
        fmt::format("{} holds earlier results; they stay until a round is finished", options.out));
  }
  if (!options.quiet) {
    say(fmt::format(
        "{} arms, {} rounds; each finished round is kept in {}; Ctrl-C ends it and keeps what was "
        "measured",
        comparison.arms.size(), options.repeats, options.out));
  }
  const SteadyClock clock;
  Progress progress(clock, options.quiet);
  Failures failures;
  failures.attempt([&] {
    BenchRun(options, model, folder, inputs, stop, clock, progress).run(comparison, [&] {
      Failures not_kept;  // the measurement goes on; it may succeed at the end
      not_kept.attempt([&] { files.write_round(comparison); });
      for (const std::string& line : not_kept.lines()) notice(line);
    });
  });
  std::string where = fmt::format("{} keeps its earlier results", options.out);
  failures.attempt([&] {
    if (files.write_last(comparison)) {
      where =
          fmt::format("written: {}/bench.html, bench.json, bench.csv; arms/ holds every arm's YAML",
                      options.out);
    }
  });
  failures.attempt([&] {
    if (options.json) return print("{}\n", json_text(comparison_json(comparison)));
    print("{}\n{}\n", results_text(comparison), where);
  });
  failures.throw_if_any();
  if (comparison.interrupted) return kExitInterrupted;
  const bool any = std::any_of(comparison.arms.begin(), comparison.arms.end(),
                               [](const ArmResult& result) { return result.measured(); });
  if (!any) throw Error("no arm could run; the reasons stand above");
  return 0;
}

}  // namespace spillway
