// What goes to a terminal, byte by byte: the progress line and notes beside it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "cli/answers.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "core/descriptor.h"
#include "core/one_line.h"
#include "core/units.h"
#include "tests/support.h"

namespace spillway {
namespace {

/// Stands in for stderr and stdout as long as it lives.
class TerminalInPlace {
 public:
  explicit TerminalInPlace(uint16_t columns, const char* kind = "xterm")
      : stdout_(dup(STDOUT_FILENO)), stderr_(dup(STDERR_FILENO)) {
    setenv("TERM", kind, 1);
    int master = -1;
    int side = -1;
    winsize size{24, columns, 0, 0};
    if (openpty(&master, &side, nullptr, nullptr, &size) != 0) throw std::runtime_error("openpty");
    master_ = Descriptor(master);
    dup2(side, STDOUT_FILENO);
    dup2(side, STDERR_FILENO);
    close(side);
  }
  ~TerminalInPlace() {
    dup2(stdout_.get(), STDOUT_FILENO);
    dup2(stderr_.get(), STDERR_FILENO);
    EXPECT_EQ(wrong_, "");  // not said before: it would have gone to this terminal
  }
  TerminalInPlace(const TerminalInPlace&) = delete;

  void resize(uint16_t columns) {
    winsize size{24, columns, 0, 0};
    ioctl(master_.get(), TIOCSWINSZ, &size);
  }
  /// `wanted` is what comes next. The system hands on the end of a line by itself.
  void expect(const std::string& wanted) {
    std::string text;
    pollfd readable{master_.get(), POLLIN, 0};
    while (text.size() < wanted.size() && poll(&readable, 1, kPatienceMs) > 0) {
      std::string piece(4096, '\0');
      const ssize_t count = read(master_.get(), piece.data(), piece.size());
      if (count <= 0) break;
      text.append(piece, 0, static_cast<size_t>(count));
    }
    if (text != wanted)
      wrong_ += "\"" + printable(text) + "\" instead of \"" + printable(wanted) + "\"; ";
  }

 private:
  static constexpr int kPatienceMs = 10'000;
  Descriptor stdout_;
  Descriptor stderr_;
  Descriptor master_;
  std::string wrong_;  // what it showed and should not have
};

/// Each look at it is a second later.
class Ticking final : public Clock {
 public:
  int64_t now_ns() const override { return now_ns_ += 1'000'000'000; }

 private:
  mutable int64_t now_ns_ = 0;
};

TEST(ProgressLine, IsCutToTheTerminalAndRewritten) {
  TerminalInPlace terminal(20);
  const Ticking clock;
  const StopFlag stop;
  Progress progress(clock, stop, false);
  progress.show("0123456789012345678901234567890123456789");
  terminal.expect("012345678901234567\u2026");
  progress.show("short");
  terminal.expect("\r\033[Jshort");
  progress.clear();
  terminal.expect("\r\033[J");
}

TEST(ProgressLine, GoesWhollyWhereTheTerminalBecameNarrower) {
  TerminalInPlace terminal(80);
  const Ticking clock;
  const StopFlag stop;
  Progress progress(clock, stop, false);
  progress.show(std::string(75, 'x'));
  terminal.expect(std::string(75, 'x'));
  terminal.resize(30);
  progress.show("next");
  terminal.expect("\r\033[2A\033[Jnext");
}

TEST(ProgressLine, StandsBehindANoteAgain) {
  TerminalInPlace terminal(80);
  const Ticking clock;
  const StopFlag stop;
  Progress progress(clock, stop, false);
  const NoticeSink notice = notices_beside(progress);
  progress.show("working");
  terminal.expect("working");
  notice("something to know");
  terminal.expect("\r\033[Jnote: something to know\r\nworking");
  notice("something to know");
  progress.clear();
  terminal.expect("\r\033[J");
}

TEST(ProgressLine, OfATerminalOfOneColumnIsNothing) {
  TerminalInPlace terminal(1);
  const Ticking clock;
  const StopFlag stop;
  Progress progress(clock, stop, false);
  progress.show("working");
  progress.say("a line");
  terminal.expect("a line\r\n");
}

/// Stands in for stderr: a pipe that is full, with a reader that sleeps.
class FullPipeInPlace {
 public:
  FullPipeInPlace() : stderr_(dup(STDERR_FILENO)) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_NONBLOCK) != 0) throw std::runtime_error("pipe2");
    reader_ = Descriptor(ends[0]);
    while (write(ends[1], "xxxxxxxx", 8) > 0) {
    }
    fcntl(ends[1], F_SETFL, 0);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
  }
  /// Whether anything else came through.
  bool holds_filling_alone() {
    std::string all(1 << 20, '\0');
    const ssize_t count = read(reader_.get(), all.data(), all.size());
    return count > 0 &&
           all.substr(0, static_cast<size_t>(count)).find_first_not_of('x') == all.npos;
  }
  ~FullPipeInPlace() { dup2(stderr_.get(), STDERR_FILENO); }
  FullPipeInPlace(const FullPipeInPlace&) = delete;

 private:
  Descriptor stderr_;
  Descriptor reader_;
};

/// Progress waits for nobody, and after a stop request neither does what must be said.
TEST(ProgressLine, OfAReaderThatSleepsHoldsNothing) {
  FullPipeInPlace pipe;
  const Ticking clock;
  StopFlag stop;
  Progress progress(clock, stop, false);
  for (int i = 0; i < 100; ++i) progress.show("working");
  stop.request();
  for (int i = 0; i < 100; ++i) progress.say("a line");
  progress.clear();
  say("the last one", stop);
  EXPECT_TRUE(pipe.holds_filling_alone());
}

/// The text of one prompt stands where the progress would, also where nothing is rewritten.
TEST(LiveTexts, TakeTheTerminalForOnePrompt) {
  for (const char* kind : {"xterm", "dumb"}) {
    std::vector<Output> outputs = {{{1}, "a\x1b[31m", ""}, {{1}, "b", ""}};
    bool one = false;
    bool several = true;
    {
      TerminalInPlace terminal(80, kind);
      const Ticking clock;
      const StopFlag stop;
      Progress progress(clock, stop, false);
      const auto alone = live_texts(1, true, progress, stop);
      GenerationProgress state;
      state.outputs = std::span(outputs).first(1);
      alone->show(state);
      terminal.expect("a\\x1b[31m");
      one = alone->takes_the_place_of_progress();
      const auto both = live_texts(2, true, progress, stop);
      state.outputs = outputs;
      both->show(state);
      several = both->takes_the_place_of_progress();
    }
    EXPECT_TRUE(one) << kind;
    EXPECT_FALSE(several) << kind;
  }
}

/// Stand in for stdout and stderr.
class FilesInPlace {
 public:
  FilesInPlace(const std::filesystem::path& out, const std::filesystem::path& err)
      : stdout_(dup(STDOUT_FILENO)), stderr_(dup(STDERR_FILENO)) {
    put(out, STDOUT_FILENO);
    put(err, STDERR_FILENO);
  }
  ~FilesInPlace() {
    dup2(stdout_.get(), STDOUT_FILENO);
    dup2(stderr_.get(), STDERR_FILENO);
  }
  FilesInPlace(const FilesInPlace&) = delete;

 private:
  static void put(const std::filesystem::path& file, int fd) {
    const Descriptor own(open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    dup2(own.get(), fd);
  }
  Descriptor stdout_;
  Descriptor stderr_;
};

/// `run > log 2>&1`: no line of progress in the middle of the text.
TEST(LiveTexts, TakeAFileThatIsBothStreams) {
  const test::TempDir dir;
  std::vector<Output> outputs = {{{1}, "a", ""}};
  GenerationProgress state;
  state.outputs = outputs;
  for (const bool shared : {true, false}) {
    bool before = true;
    bool after = false;
    {
      FilesInPlace files(dir / "out", dir / (shared ? "out" : "err"));
      const Ticking clock;
      const StopFlag stop;
      Progress progress(clock, stop, false);
      const auto texts = live_texts(1, true, progress, stop);
      before = texts->takes_the_place_of_progress();
      texts->show(state);
      after = texts->takes_the_place_of_progress();
    }
    EXPECT_FALSE(before);
    EXPECT_EQ(after, shared);
  }
  EXPECT_EQ(test::read_file(dir / "out"), "aa");
}

/// A run that was stopped before it computed says so in a report that the next one may replace.
TEST(StoppedRuns, LeaveAReportLikeAnyOther) {
  const test::TempDir dir;
  test::write_streamed_model(dir / "model");
  Config config;
  config.model_path = dir / "model";
  config.device = "host";
  config.ram_bytes = 40 * kMiB;
  config.report = dir / "report.json";
  config.prompt_token_ids = {{1, 2, 3}};
  for (int round = 0; round < 2; ++round) {
    StopFlag stop;
    Session session(config, {}, true, stop);
    session.write_stopped({{"outputs", nlohmann::ordered_json::array()}}, false);
    const auto report = nlohmann::json::parse(test::read_file(dir / "report.json"));
    EXPECT_TRUE(report["interrupted"].get<bool>());
    EXPECT_TRUE(report["outputs"].empty());
    EXPECT_EQ(report["device"], "host");
  }
}

}  // namespace
}  // namespace spillway
