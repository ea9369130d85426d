// Comparisons: what is made of reports, how it is drawn and written, and the processes of the arms.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "compare/child.h"
#include "compare/memory_group.h"
#include "compare/page.h"
#include "compare/page_cache.h"
#include "compare/svg.h"
#include "compare/timeline.h"
#include "core/error.h"
#include "core/units.h"
#include "io/direct_file.h"
#include "tests/sim/denied_calls.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

nlohmann::json report_of(const std::string& kind, const std::vector<double>& seconds) {
  nlohmann::json report = {{"passes", nlohmann::json::array()},
                           {"memory", {{"peak_rss_bytes", 5000}}}};
  for (const double value : seconds) {
    report["passes"].push_back({{"kind", kind},
                                {"seconds", value},
                                {"nvme_bytes", 1000 * value},
                                {"stall_seconds", value / 2},
                                {"tokens", 3}});
  }
  return report;
}

TEST(Samples, AreTheMedianOfThePassesThatCount) {
  auto report = report_of("decode", {9, 2, 1, 4});
  Sample sample = sample_of(report, Sweep::kMemory);
  EXPECT_DOUBLE_EQ(sample.seconds, 2) << "the first follows the prompt";
  EXPECT_DOUBLE_EQ(sample.nvme_bytes, 2000);
  EXPECT_DOUBLE_EQ(sample.stall_seconds, 1);
  EXPECT_EQ(sample.tokens, 3u);
  EXPECT_EQ(sample.peak_rss_bytes, 5000u);
  EXPECT_EQ(sample.predicted_seconds, 0);
  report["prediction"] = {{"decode", {{"seconds", 1.5}}}, {"prompt", {{"seconds", 2.5}}}};
  EXPECT_DOUBLE_EQ(sample_of(report, Sweep::kDecode).predicted_seconds, 1.5);
  report["passes"] = report_of("prefill", {2, 3})["passes"];
  sample = sample_of(report, Sweep::kPrompt);
  EXPECT_DOUBLE_EQ(sample.seconds, 5) << "all of a prompt's chunks";
  EXPECT_DOUBLE_EQ(sample.predicted_seconds, 5);
  EXPECT_EQ(sample.tokens, 6u);
}

TEST(Samples, OfStoppedOrForeignReportsAreErrors) {
  EXPECT_NE(test::error_of([] {
              sample_of(report_of("decode", {1}), Sweep::kDecode);
            }).find("stopped before"),
            std::string::npos);
  EXPECT_NE(test::error_of([] {
              sample_of(report_of("decode", {1}), Sweep::kPrompt);
            }).find("stopped before"),
            std::string::npos);
  EXPECT_NE(test::error_of([] {
              sample_of(nlohmann::json::object(), Sweep::kDecode);
            }).find("cannot be used"),
            std::string::npos);
}

TEST(Spreads, OfOddAndEvenCounts) {
  EXPECT_DOUBLE_EQ(spread_of({3, 1, 2}).median, 2);
  EXPECT_DOUBLE_EQ(spread_of({4, 1, 2, 3}).median, 2.5);
  EXPECT_DOUBLE_EQ(spread_of({4, 1, 2, 3}).low, 1);
  EXPECT_DOUBLE_EQ(spread_of({4, 1, 2, 3}).high, 4);
}

ArmResult result(Sweep sweep, bool mapped, uint64_t memory, double share, uint32_t batch,
                 double seconds, double predicted) {
  ArmResult arm;
  arm.arm.sweep = sweep;
  arm.arm.mapped = mapped;
  arm.arm.memory_bytes = memory;
  arm.arm.ram_share = share;
  arm.arm.batch = batch;
  for (const double factor : {0.9, 1.0, 1.2}) {
    arm.samples.push_back({factor * seconds, 100, 0, predicted, batch, 0});
  }
  return arm;
}

Comparison some_comparison() {
  Comparison comparison;
  comparison.model = "a <model> & \"more\"";
  comparison.machine = "a machine";
  comparison.repeats = 3;
  comparison.arms = {result(Sweep::kMemory, false, kGiB, 0, 1, 1, 1.05),
                     result(Sweep::kMemory, true, kGiB, 0, 1, 3, 0),
                     result(Sweep::kMemory, false, 2 * kGiB, 0, 1, 0.5, 1),
                     result(Sweep::kDecode, false, 0, 0.5, 4, 0.5, 0.5)};
  ArmResult skipped;
  skipped.arm.sweep = Sweep::kDecode;
  skipped.arm.ram_share = 1;
  skipped.skipped = "memory.ram of 1 GiB, \"too small\"";
  comparison.arms.push_back(skipped);
  return comparison;
}

TEST(Findings, CompareWithMmapAndWithThePrediction) {
  const auto lines = findings(some_comparison());
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0], "in 1.00 GiB: 1 s per token, mmap 3 s: 3 times");
  EXPECT_EQ(lines[1], "2 of 3 predictions within 10 % of the measured median; the farthest 50 %");
}

TEST(Results, AreWrittenWithWhatWasSkipped) {
  const Comparison comparison = some_comparison();
  const auto json = comparison_json(comparison);
  ASSERT_EQ(json["arms"].size(), 5u);
  EXPECT_DOUBLE_EQ(json["arms"][0]["seconds_per_pass"]["max"], 1.2);
  EXPECT_EQ(json["arms"][1]["engine"], "mmap");
  EXPECT_FALSE(json["arms"][1].contains("predicted_seconds"));
  EXPECT_DOUBLE_EQ(json["arms"][3]["tokens_per_second"], 8);
  EXPECT_FALSE(json["arms"][4].contains("seconds_per_pass"));
  const std::string csv = comparison_csv(comparison);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 6);
  EXPECT_NE(csv.find("memory,mmap,,1073741824,1,1,2.7,3,3.6,0.333333,100,,\n"), std::string::npos)
      << csv;
  EXPECT_NE(csv.find(",\"memory.ram of 1 GiB, \"\"too small\"\"\"\n"), std::string::npos) << csv;
}

TEST(Charts, HoldEveryMeasuredPoint) {
  const Comparison comparison = some_comparison();
  const Chart memory = memory_chart(comparison);
  ASSERT_EQ(memory.lines.size(), 2u);
  EXPECT_EQ(memory.lines[0].points.size(), 2u);
  EXPECT_DOUBLE_EQ(memory.lines[0].points[1].x, 2);
  EXPECT_EQ(memory.lines[1].name, "mmap");
  EXPECT_DOUBLE_EQ(share_chart(comparison).lines[0].points[0].y, 8);
  EXPECT_EQ(batch_chart(comparison).x_ticks, std::vector<double>{4});
  EXPECT_EQ(prediction_chart(comparison).lines.size(), 2u);
  const std::string svg = chart_svg(memory);
  size_t circles = 0;
  for (size_t at = 0; (at = svg.find("<title>", at)) != std::string::npos; ++at) ++circles;
  EXPECT_EQ(circles, 1 + 3u) << "the chart's own title, and one per point";
  EXPECT_EQ(chart_svg({}), "") << "nothing measured, nothing drawn";
}

/// One point alone, a hundredth of a second, a thousand: axes must hold.
TEST(Charts, OfAnyScaleStayInsideThePicture) {
  for (const double scale : {1e-6, 0.01, 1.0, 1000.0}) {
    for (const bool log2_x : {false, true}) {
      const std::string svg = chart_svg(
          {"t", "x", "y", {{"l", {{scale, scale, 0, 2 * scale}}, true}}, {}, log2_x, !log2_x});
      EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
      EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
      const double x = std::stod(svg.substr(svg.rfind("cx=\"") + 4));
      EXPECT_GE(x, 0);
      EXPECT_LE(x, 480);
    }
  }
}

/// Many names take several rows instead of running out of the picture.
TEST(Charts, LegendsWrap) {
  Chart chart{"t", "x", "y", {}, {}, false, false};
  for (int i = 0; i < 12; ++i) {
    chart.lines.push_back(
        {"100 % in RAM " + std::to_string(i), {{1, 1, 1, 1}, {2, 2, 2, 2}}, true});
  }
  const std::string svg = chart_svg(chart);
  std::set<std::string> rows;
  size_t names = 0;
  const std::string mark = "r=\"5\"/></g><text x=\"";
  for (size_t at = 0; (at = svg.find(mark, at)) != std::string::npos;) {
    at += mark.size();
    ++names;
    EXPECT_LE(std::stod(svg.substr(at)) + 7 * 14, 480);
    rows.insert(svg.substr(svg.find("y=", at), 6));
  }
  EXPECT_EQ(names, 12u);
  EXPECT_GE(rows.size(), 3u);
}

TEST(Page, StandsAloneAndEscapes) {
  Comparison comparison = some_comparison();
  comparison.notes = {"<script>"};
  const std::string page = comparison_page(comparison);
  EXPECT_NE(page.find("a &lt;model&gt; &amp; &quot;more&quot;"), std::string::npos);
  EXPECT_EQ(page.find("<script"), std::string::npos);
  for (const char* outside : {"src=", "href=", "@import", "url("}) {
    EXPECT_EQ(page.find(outside), std::string::npos) << outside;
  }
  EXPECT_NE(page.find("prefers-color-scheme:dark"), std::string::npos);
  EXPECT_NE(page.find("@media print"), std::string::npos);
}

TEST(Children, SayHowTheyEnded) {
  const test::TempDir dir;
  StopFlag stop;
  const auto run = [&](const std::string& script) {
    return run_child({"/bin/sh", "-c", script}, {}, dir / "log", stop);
  };
  EXPECT_EQ(run("echo out; exit 0").exit_code, 0);
  const ChildResult failed = run("echo one >&2; echo two >&2; echo >&2; exit 3");
  EXPECT_EQ(failed.exit_code, 3);
  EXPECT_EQ(failed.last_line, "two");
  EXPECT_EQ(run("kill -9 $$").exit_code, 137);
  const ChildResult joined = run_child({"/bin/sh", "-c", "echo $$ \"$1\" >&2", "sh", "two words"},
                                       dir / "procs", dir / "log", stop);
  EXPECT_EQ(test::read_file(dir / "procs") + joined.last_line.substr(joined.last_line.find(' ')),
            joined.last_line.substr(0, joined.last_line.find(' ')) + "\n two words");
  EXPECT_EQ(run_child({"/bin/true"}, dir / "no/such/procs", dir / "log", stop).exit_code, 125);
  EXPECT_NE(test::error_of([&] {
              run_child({"/no/such/program"}, {}, dir / "log", stop);
            }).find("cannot start"),
            std::string::npos);
  stop.request();  // the child is interrupted, and waited for
  EXPECT_EQ(run("while :; do :; done").exit_code, 130);
}

/// What this program blocks and ignores for itself must not reach the arms.
TEST(Children, StartWithFreshSignals) {
  const test::TempDir dir;
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGINT);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto old_pipe = std::signal(SIGPIPE, SIG_IGN);
  const auto old_size = std::signal(SIGXFSZ, SIG_IGN);
  const ChildResult child = run_child(
      {"/bin/sh", "-c", "sed -n 's/Sig[BI][lg][kn]:.//p' /proc/$$/status | tr '\\n' ' ' >&2"}, {},
      dir / "log", StopFlag());
  std::signal(SIGPIPE, old_pipe);
  std::signal(SIGXFSZ, old_size);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  size_t read_bytes = 0;
  const uint64_t masked = std::stoull(child.last_line, &read_bytes, 16);
  const uint64_t ignored = std::stoull(child.last_line.substr(read_bytes), nullptr, 16);
  EXPECT_EQ(masked, 0u);
  for (const int signal : {SIGPIPE, SIGXFSZ, SIGINT}) EXPECT_EQ(ignored >> (signal - 1) & 1, 0u);
}

/// It stops on request even where it does not listen.
TEST(Children, ThatDoNotEndAreKilled) {
  const test::TempDir dir;
  StopFlag stop;
  const std::jthread stopper([&] {
    while (!fs::exists(dir / "ready")) std::this_thread::yield();
    stop.request();
  });
  const std::string script =
      "trap '' INT; : > '" + (dir / "ready").string() + "'; while :; do :; done";
  EXPECT_EQ(run_child({"/bin/sh", "-c", script}, {}, dir / "log", stop).exit_code, 137);
}

/// A parent that ignores SIGCHLD is told nothing: that is no success.
TEST(Children, WhoseEndIsNotToldAreAnError) {
  const test::TempDir dir;
  EXPECT_EQ(test::in_child([&] {
              std::signal(SIGCHLD, SIG_IGN);
              const std::string message =
                  test::error_of([&] { run_child({"/bin/true"}, {}, dir / "log", StopFlag()); });
              return message.find("is not known") != std::string::npos ? 0 : 1;
            }),
            0);
}

/// Traces the process whose id comes to stand in `file`, and says in `answer` whether it may.
[[noreturn]] void trace_what_comes(const fs::path& file, const fs::path& answer) {
  while (!fs::exists(file)) std::this_thread::yield();
  const pid_t process = std::stoi(test::read_file(file));
  const bool may = ptrace(PTRACE_SEIZE, process, nullptr, nullptr) == 0;
  test::write_file(answer.string() + ".new", may ? "yes" : "no");
  fs::rename(answer.string() + ".new", answer);
  while (true) pause();
}

/// For its parent a process that is traced has not ended before its tracer looks: like one that a
/// drive holds.
TEST(Children, ThatCannotEndAreLeft) {
  const test::TempDir dir;
  const pid_t tracer = fork();
  if (tracer == 0) trace_what_comes(dir / "id", dir / "traced");
  StopFlag stop;
  const std::jthread stopper([&] {
    while (!fs::exists(dir / "traced")) std::this_thread::yield();
    stop.request();
  });
  const std::string script = "trap '' INT; cd '" + dir.path().string() +
                             "'; echo $$ > new; mv new id; while :; do :; done";
  std::string message;
  try {
    run_child({"/bin/sh", "-c", script}, {}, dir / "log", stop);
  } catch (const Error& error) {
    message = error.what();
  }
  kill(tracer, SIGKILL);
  waitpid(tracer, nullptr, 0);
  if (test::read_file(dir / "traced") == "no") GTEST_SKIP() << "no process may be traced here";
  EXPECT_NE(message.find("was killed and does not end"), std::string::npos) << message;
  waitpid(std::stoi(test::read_file(dir / "id")), nullptr, 0);
}

TEST(PageCache, LetsGo) {
  const test::TempDir dir;
  test::write_file(dir / "f", std::string(3 * kMiB, 'x'));
  const int fd = open((dir / "f").c_str(), O_RDONLY);
  ASSERT_EQ(fsync(fd), 0);  // only clean pages can go
  close(fd);
  const bool in_memory = file_system_name(dir.path()) == "tmpfs";
  EXPECT_EQ(drop_cached(dir / "f"), in_memory ? 3 * kMiB : 0);
  test::write_file(dir / "empty", "");
  EXPECT_EQ(drop_cached(dir / "empty"), 0u);
  EXPECT_NE(test::error_of([&] { drop_cached(dir / "none"); }).find("cannot open"),
            std::string::npos);
}

/// A machine of control groups in a folder; only what this program writes can be seen.
class GroupTest : public ::testing::Test {
 protected:
  fs::path make(const std::string& own, const std::string& mount) {
    fs::create_directories(root_ / "proc/self");
    test::write_file(root_ / "proc/self/cgroup", own);
    fs::create_directories(root_ / mount);
    return root_ / mount;
  }
  test::TempDir root_;
};

TEST_F(GroupTest, VersionOne) {
  const fs::path parent = make("5:cpu:/\n4:memory:/me\n0::/\n", "sys/fs/cgroup/memory/me");
  MemoryGroup group(root_.path());
  group.limit(123);
  const fs::path own = group.joining_file().parent_path();
  EXPECT_EQ(own.parent_path(), parent);
  EXPECT_EQ(test::read_file(own / "memory.limit_in_bytes"), "123");
}

TEST_F(GroupTest, VersionTwoStepsAside) {
  const fs::path parent = make("0::/me\n", "sys/fs/cgroup/me");
  test::write_file(parent / "cgroup.controllers", "cpu memory io\n");
  test::write_file(parent / "cgroup.subtree_control", "");
  {
    MemoryGroup group(root_.path());
    group.limit(456);
    EXPECT_EQ(test::read_file(group.joining_file().parent_path() / "memory.max"), "456");
    EXPECT_EQ(test::read_file(group.joining_file().parent_path() / "memory.swap.max"), "0");
    EXPECT_EQ(test::read_file(parent / "cgroup.subtree_control"), "+memory");
    const fs::path aside = parent / ("spillway-bench-self-" + std::to_string(getpid()));
    EXPECT_EQ(test::read_file(aside / "cgroup.procs"), std::to_string(getpid()));
  }
  EXPECT_EQ(test::read_file(parent / "cgroup.procs"), std::to_string(getpid())) << "moved back";
}

TEST_F(GroupTest, VersionTwoStepsBackWhereTheGroupIsRefused) {
  const fs::path parent = make("0::/me\n", "sys/fs/cgroup/me");
  test::write_file(parent / "cgroup.controllers", "memory\n");
  test::write_file(parent / "cgroup.subtree_control", "");
  test::write_file(parent / ("spillway-bench-" + std::to_string(getpid())), "in the way");
  EXPECT_NE(test::error_of([&] { MemoryGroup group(root_.path()); }), "");
  EXPECT_EQ(test::read_file(parent / "cgroup.subtree_control"), "-memory");
  EXPECT_EQ(test::read_file(parent / "cgroup.procs"), std::to_string(getpid())) << "moved back";
}

TEST(Timelines, WhatIsNoTraceOfOursIsRefused) {
  const auto refusal = [](const std::string& event) {
    const auto trace = nlohmann::json::parse(R"({"traceEvents":[)" + event + "]}");
    return test::error_of([&] { cut_timeline(trace, 0, "t.json"); });
  };
  const std::map<std::string, std::string> causes = {
      {R"({"ph":"X","ts":1e308,"dur":1,"tid":4})", "at no time of a run"},
      {R"({"ph":"X","ts":0,"dur":1e300,"tid":4})", "at no time of a run"},
      {R"({"ph":"X","ts":0,"dur":-1,"tid":4})", "at no time of a run"},
      {R"({"ph":"X","ts":"now","dur":1,"tid":4})", "no number ts"},
      {R"({"ph":"X","ts":0,"dur":1,"tid":4.9})", "in no lane"},
      {R"({"ph":"X","ts":0,"dur":1,"tid":4294967300})", "no whole pass"},
      {R"({"ph":"X","ts":5,"dur":0,"tid":4})", "no whole pass"},
      {R"({"ph":"X","ts":0,"dur":5e-324,"tid":4})", "no whole pass"},
      {R"({"ph":3,"ts":0,"dur":1,"tid":4})", "no whole pass"},
      {"[]", "no whole pass"},
      {"7", "no whole pass"}};
  for (const auto& [event, cause] : causes) {
    const std::string message = refusal(event);
    EXPECT_EQ(message.find("t.json: "), 0u) << event << ": " << message;
    EXPECT_NE(message.find(cause), std::string::npos) << event << ": " << message;
  }
  const auto odd =
      nlohmann::json::parse(R"({"traceEvents":[{"ph":"X","ts":0,"dur":1,"tid":4,"args":[]}]})");
  EXPECT_EQ(cut_timeline(odd, 0, "t.json").passes, 1u);
}

TEST_F(GroupTest, RefusalsSayWhatToDo) {
  const auto refusal = [&] { return test::error_of([&] { MemoryGroup group(root_.path()); }); };
  make("0::/me\n", "sys/fs/cgroup/me");
  EXPECT_NE(refusal().find("not delegated"), std::string::npos);
  EXPECT_NE(refusal().find("systemd-run"), std::string::npos);
  test::write_file(root_ / "proc/self/cgroup", "1:cpu:/\n");
  EXPECT_NE(refusal().find("names none"), std::string::npos);
  test::write_file(root_ / "proc/self/cgroup", "4:memory:/gone\n");
  EXPECT_NE(refusal().find("gone"), std::string::npos);
}

}  // namespace
}  // namespace spillway
