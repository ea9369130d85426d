// spillway bench: RAM or NVMe, and how much of each, measured on this model and machine.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/forecast.h"
#include "cli/report.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "compare/answer.h"
#include "compare/child.h"
#include "compare/figures.h"
#include "compare/memory_group.h"
#include "compare/page.h"
#include "compare/page_cache.h"
#include "compare/schedule.h"
#include "compare/svg.h"
#include "compare/timeline.h"
#include "core/error.h"
#include "core/folder_lock.h"
#include "core/output_file.h"
#include "core/units.h"
#include "io/json_strict.h"
#include "probe/read_rate.h"

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
  if (error)
    throw Error(fmt::format("--out: {}: {}; give the name of a folder", folder.string(),
                            errno_text(error.value())));
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
        picture_(folder / "memory.svg", svg_format("picture"), in_use),
        score_picture_(folder / "score.svg", svg_format("picture"), in_use) {}

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
    json_.write(json_text(comparison_json(comparison)));
    csv_.write(comparison_csv(comparison));
    page_.write(comparison_page(comparison));
    const std::string picture = chart_svg(memory_chart(comparison));
    if (!picture.empty()) picture_.write(picture);
    const std::string score = chart_svg(score_chart(comparison));
    if (!score.empty()) score_picture_.write(score);
  }

  bool earlier_ = false;
  OutputFile json_;
  OutputFile csv_;
  OutputFile page_;
  OutputFile picture_;
  OutputFile score_picture_;
};

/// Without a group nothing bounds the page cache: mmap would have the whole machine.
std::unique_ptr<MemoryGroup> open_group(Comparison& comparison) {
  std::string refusal;
  try {
    return std::make_unique<MemoryGroup>("/");
  } catch (const Error& error) {
    refusal = error.what();
  }
  bool any = false;
  for (ArmResult& result : comparison.arms) {
    if (!result.arm.mapped) continue;
    result.skipped = refusal;
    any = true;
  }
  if (any) comparison.notes.push_back("mmap was not measured: " + refusal);
  return nullptr;
}

/// What is known of the time before the first arm.
struct Expectation {
  std::vector<double> arm_seconds;  ///< of one process each; zeros where nothing is known
  std::string text;                 ///< "about 12 min by the hardware profile", for a person
};

/// Reads a moment of the model; 0 where that tells nothing of the drive.
double quick_read_rate(const Model& model, const Config& config, const Clock& clock,
                       const StopFlag& stop) {
  constexpr ReadShape kShape{4 * kMiB, 4, true};
  constexpr double kSeconds = 0.3;
  const DirectFile& file = model.checkpoint.largest_file();
  if (!file.info().direct || file.info().bytes < kShape.chunk_bytes) return 0;
  try {
    const ReaderChoice readers = choose_reader(config.io_engine, [](const std::string&) {});
    return read_rate(file, kShape, {kSeconds, UINT64_MAX}, readers.make, clock, stop);
  } catch (const Error&) {
    return 0;  // an arm that cannot read says so itself
  }
}

/// Predicted where a hardware profile lets it; else the least, by what there is to read.
Expectation expect(const Comparison& comparison, uint32_t rounds, const Config& config,
                   const Model& model, const Machine& machine, const Clock& clock,
                   const StopFlag& stop, const NoticeSink& notice) {
  const auto known = find_rates("", model, machine, notice);
  const MachineRates* rates = known ? &known->rates : nullptr;
  const double read_rate = known ? rates->best_read() : quick_read_rate(model, config, clock, stop);
  Expectation expected;
  double seconds = 0;
  uint64_t bytes = 0;
  bool any = false;
  for (const ArmResult& result : comparison.arms) {
    if (!result.skipped.empty() || stop.requested()) {
      expected.arm_seconds.push_back(0);
      continue;
    }
    any = true;
    const ArmWork work = work_of(result.arm, model, machine, rates);
    bytes += rounds * (work.load_bytes + work.streamed_bytes);
    expected.arm_seconds.push_back(read_rate > 0 ? arm_seconds(work, read_rate) : 0);
    seconds += rounds * expected.arm_seconds.back();
  }
  if (!any) return expected;
  if (known) {
    expected.text = fmt::format("about {} by the hardware profile", rough_duration(seconds));
  } else if (read_rate > 0) {
    expected.text = fmt::format("{} or more ({} to read at {:.2g} GB/s, and computing)",
                                rough_duration(seconds), format_bytes(bytes), read_rate / 1e9);
  } else {
    expected.text =
        fmt::format("{} to read; the first arm shows how long that takes", format_bytes(bytes));
  }
  return expected;
}

/// Runs the arms, round after round, so that drift hits all alike.
class BenchRun {
 public:
  BenchRun(const BenchOptions& options, const Model& model, Schedule schedule, fs::path folder,
           FilesInUse inputs, std::unique_ptr<MemoryGroup> group, const StopFlag& stop,
           const Clock& clock, Progress& progress)
      : options_(options),
        model_(model),
        schedule_(std::move(schedule)),
        folder_(std::move(folder)),
        inputs_(std::move(inputs)),
        group_(std::move(group)),
        stop_(stop),
        clock_(clock),
        progress_(progress),
        begin_ns_(clock.now_ns()) {}

  /// `finished_round` is called after each; it does not throw.
  void run(Comparison& comparison, const std::function<void()>& finished_round) {
    for (size_t i = 0; i < comparison.arms.size(); ++i) {
      if (!comparison.arms[i].skipped.empty()) schedule_.dropped(i);
    }
    for (uint32_t round = 0; round < options_.repeats; ++round) {
      for (size_t i = 0; i < comparison.arms.size(); ++i) {
        ArmResult& result = comparison.arms[i];
        if (stop_.requested() || !result.skipped.empty()) continue;
        show(result.arm.title(), round, i, comparison.arms.size());
        const int64_t begin_ns = clock_.now_ns();
        measure(result, comparison);
        if (result.skipped.empty()) {
          schedule_.finished(i, seconds(clock_.now_ns() - begin_ns));
        } else {
          schedule_.dropped(i);
        }
      }
      if (!stop_.requested()) finished_round();
    }
    if (!stop_.requested()) draw_timeline(comparison);
    comparison.interrupted = stop_.requested();
    progress_.clear();
  }

 private:
  void show(const std::string& title, uint32_t round, size_t arm, size_t arms) {
    const double left_seconds = schedule_.seconds_left(round, arm);
    const std::string left =
        left_seconds > 0 ? fmt::format(", {} left", format_duration(left_seconds)) : "";
    progress_.show(fmt::format("{}/{}: {} (round {} of {}), {} passed{}", round * arms + arm + 1,
                               arms * options_.repeats, title, round + 1, options_.repeats,
                               format_duration(seconds(clock_.now_ns() - begin_ns_)), left));
  }

  void measure(ArmResult& result, Comparison& comparison) {
    const Arm& arm = result.arm;
    const fs::path config = folder_ / "arms" / (arm.name() + ".yaml");
    const fs::path report = folder_ / "arms" / (arm.name() + ".json");
    try {
      write_own(config, "configuration", kArmTitle, config_text(arm.config));
      std::vector<std::string> arguments = {"run", config.string(), "--quiet", "--report",
                                            report.string()};
      if (arm.sweep == Sweep::kScore) {
        arguments[0] = "score";
        arguments.insert(arguments.end(), {"--token-ids-file", write_ids(arm).string()});
      }
      const ChildResult child = run_arm(arm, std::move(arguments));
      if (stop_.requested()) return;
      if (child.exit_code != 0) {
        result.skipped = reason(child);
      } else {
        result.samples.push_back(sample_of(load_json_strict(report, kMaxReportBytes), arm.sweep));
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
    if (arm.group_bytes == 0 || group_ == nullptr) {
      return run_child(arguments, {}, log, stop_);
    }
    if (arm.mapped) {
      cached_bytes_ = 0;
      for (const DirectFile& file : model_.checkpoint.files()) {
        cached_bytes_ += drop_cached(file.info().path);
      }
    }
    group_->limit(arm.group_bytes);
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
    OutputFile output(file, {what, begins}, in_use);
    output.heed(stop_);
    output.write(title + text);
  }

  /// The same for all arms that score: a model need not have a tokenizer.
  fs::path write_ids(const Arm& arm) const {
    const fs::path file = folder_ / "arms" / "score-ids.json";
    FilesInUse in_use = inputs_;
    OutputFile output(file, {"token ids", "[[0,"}, in_use);
    output.heed(stop_);
    output.write(nlohmann::json(score_documents(arm, model_.config)).dump() + "\n");
    return file;
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
  Schedule schedule_;
  fs::path folder_;
  FilesInUse inputs_;
  std::unique_ptr<MemoryGroup> group_;
  const StopFlag& stop_;
  const Clock& clock_;
  Progress& progress_;
  int64_t begin_ns_;
  uint64_t cached_bytes_ = 0;
  bool said_cached_ = false;
};

/// Seconds, or milliseconds where all arms are as short as that.
class TimeUnit {
 public:
  explicit TimeUnit(const Comparison& comparison) {
    constexpr double kShort = 0.1;
    for (const ArmResult& result : comparison.arms) {
      if (result.measured() && result.seconds().median >= kShort) return;
    }
    milliseconds_ = true;
  }
  std::string name() const { return milliseconds_ ? "ms" : "s"; }
  std::string text(double seconds) const {
    return figure_text(milliseconds_ ? 1e3 * seconds : seconds);
  }

 private:
  bool milliseconds_ = false;
};

const char* group_title(Sweep sweep) {
  return sweep == Sweep::kMemory   ? "decode, by memory"
         : sweep == Sweep::kDecode ? "decode, by share"
         : sweep == Sweep::kScore  ? "score, by sweep"
                                   : "prompt, by share";
}

/// Every measured arm, in at most 80 columns.
std::string arms_table(const Comparison& comparison) {
  const TimeUnit unit(comparison);
  Table table("lrrrrr");
  table.row({"", unit.name() + "/pass", "least-most", "tokens/s", "read/pass", "predicted"});
  const Arm* above = nullptr;
  for (const ArmResult& result : comparison.arms) {
    if (!result.measured()) continue;
    const Arm& arm = result.arm;
    if (above == nullptr || above->sweep != arm.sweep) table.row({group_title(arm.sweep)});
    above = &arm;
    const Spread seconds = result.seconds();
    const double predicted = result.predicted_seconds();
    table.row({arm.detail(), unit.text(seconds.median),
               unit.text(seconds.low) + "-" + unit.text(seconds.high),
               figure_text(result.tokens_per_second()),
               format_bytes(static_cast<uint64_t>(result.nvme_bytes())),
               predicted > 0 ? fmt::format("{}, {}", unit.text(predicted),
                                           deviation_text(seconds.median / predicted))
                             : "-"});
  }
  return above == nullptr ? "" : table.text() + "\n";
}

std::string results_text(const Comparison& comparison) {
  std::string text = arms_table(comparison);
  for (const ArmResult& result : comparison.arms) {
    if (result.skipped.empty()) continue;
    text += fmt::format("skipped: {}: {}\n", result.arm.title(), result.skipped);
  }
  if (comparison.interrupted) text += "stopped early; these are the figures until then\n";
  for (const std::string& line : findings(comparison)) text += line + "\n";
  for (const std::string& note : comparison.notes) text += "note: " + note + "\n";
  return text + "\n" + answer(comparison) + "\n";
}

Sweep sweep_of(const std::string& name) {
  for (const Sweep sweep : {Sweep::kDecode, Sweep::kPrompt, Sweep::kScore}) {
    if (name == sweep_name(sweep)) return sweep;
  }
  return Sweep::kMemory;
}

}  // namespace

int bench_command(BenchOptions options, StopFlag& stop) {
  options.sweep.sweeps.clear();
  for (const std::string& name : options.sweeps) options.sweep.sweeps.push_back(sweep_of(name));
  for (const std::string& budget : options.budgets) {
    options.sweep.memory_bytes.push_back(*parse_size(budget));  // the command line was checked
  }
  Comparison comparison;
  const SteadyClock clock;
  Progress progress(clock, stop, options.quiet);
  const NoticeSink notice = notices_beside(progress);
  const Config config = config_of(options.model);
  if (config.io_engine == EngineChoice::kMmap) {
    throw Error(
        "io.engine: mmap is what bench compares with, and measures itself; leave the key out, or "
        "set auto, uring or pread");
  }
  const Model model = open_model(config.model_path, config.io_direct, notice);
  std::optional<Machine> machine = open_machine(config, notice);
  for (Arm& arm : make_arms(config, model, *machine, options.sweep)) {
    comparison.arms.push_back({std::move(arm), {}, ""});
  }
  comparison.notes = context_notes(model.config.context, options.sweep);
  comparison.machine = machine_text(*machine, config.model_path);
  comparison.model = fmt::format("{}, {}, {}", model.config.architecture,
                                 counted(model.config.layers, "layer"), weights_text(model));
  comparison.measured_at = utc_now();
  comparison.version = SPILLWAY_VERSION;
  comparison.repeats = options.repeats;
  const fs::path folder = fs::absolute(options.out);
  stop.watch();  // from here on there is something to clean up
  make_folder(folder);
  const FolderLock lock(folder);  // a second bench would replace what this one measures
  if (lock.state() == FolderLock::State::kElsewhere) {
    throw Error(
        fmt::format("{} is in use by another spillway bench; wait for its end, or give this one "
                    "another folder (--out DIR)",
                    folder.string()));
  }
  if (!lock.held()) {
    notice(fmt::format("{} cannot be locked; run no second bench into it", options.out));
  }
  const FilesInUse inputs = with_inputs_of(config, {});
  inputs.check_stdout();
  FilesInUse in_use = inputs;
  ResultFiles files(folder, in_use);
  make_folder(folder / "arms");  // once nothing there is anybody else's
  if (files.earlier()) {
    notice(
        fmt::format("{} holds earlier results; they stay until a round is finished", options.out));
  }
  std::unique_ptr<MemoryGroup> group = open_group(comparison);
  Expectation expected{std::vector<double>(comparison.arms.size(), 0), ""};
  if (!options.quiet) {
    for (const std::string& note : comparison.notes) notice(note);
    expected = expect(comparison, options.repeats, config, model, *machine, clock, stop, notice);
  }
  if (!options.quiet && !stop.requested() && !expected.text.empty()) {
    progress.say(fmt::format("{} arm{}, {} round{}: {}", comparison.arms.size(),
                             comparison.arms.size() == 1 ? "" : "s", options.repeats,
                             options.repeats == 1 ? "" : "s", expected.text));
    progress.say(
        fmt::format("each finished round is kept in {}; Ctrl-C ends it and keeps what was measured",
                    options.out));
  }
  machine.reset();  // a GPU is the arms' from here on
  Failures failures;
  failures.attempt([&] {
    Schedule schedule(std::move(expected.arm_seconds), options.repeats);
    BenchRun run(options, model, std::move(schedule), folder, inputs, std::move(group), stop, clock,
                 progress);
    run.run(comparison, [&] {
      Failures not_kept;  // the measurement goes on; it may succeed at the end
      not_kept.attempt([&] { files.write_round(comparison); });
      for (const std::string& line : not_kept.lines()) notice(line);
    });
  });
  std::string where = fmt::format("not all results could be written to {}", options.out);
  failures.attempt([&] {
    where = files.write_last(comparison)
                ? fmt::format(
                      "written: {}/bench.html, bench.json, bench.csv; arms/ holds every arm's YAML",
                      options.out)
                : fmt::format("{} keeps its earlier results", options.out);
  });
  failures.attempt([&] {
    print_text(options.json ? printed_json(comparison_json(comparison))
                            : fmt::format("{}\n{}\n", results_text(comparison), where),
               stop);
  });
  failures.throw_if_any();
  if (comparison.interrupted) return kExitInterrupted;
  const bool any = std::any_of(comparison.arms.begin(), comparison.arms.end(),
                               [](const ArmResult& result) { return result.measured(); });
  if (!any) throw Error("no arm could run; the reasons stand above");
  return 0;
}

}  // namespace spillway
