#include "cli/terminal.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <set>

#include "core/descriptor.h"
#include "core/error.h"
#include "core/failure.h"
#include "core/one_line.h"

namespace spillway {
namespace {

constexpr int64_t kTerminalPeriodNs = 100'000'000;
constexpr int64_t kPlainPeriodNs = 10'000'000'000;
constexpr size_t kUsualColumns = 80;

}  // namespace

void print_text(std::string_view text) {
  if (const int error = write_all(STDOUT_FILENO, text)) {
    throw Error("cannot write to stdout: " + errno_text(error));
  }
}

void print_text(std::string_view text, const StopFlag& stop) {
  LiveText(STDOUT_FILENO, kToStdout, stop).print(text);
}

void print_text_of(const std::string& file, std::string_view text, const StopFlag& stop) {
  try {
    print_text(text, stop);
  } catch (const Error& error) {
    throw Error(fmt::format("{}; {} is written, and whole", error.what(), file));
  }
}

void say(const std::string& line, const StopFlag& stop) {
  try {
    LiveText(STDERR_FILENO, "to stderr", stop).print(one_line(line) + "\n");
  } catch (const Error&) {
  }
}

void Failures::add(const std::string& error) {
  lines_.push_back(error);
}

bool Failures::attempt(const std::function<void()>& step) {
  try {
    step();
    return true;
  } catch (const std::exception& error) {
    add(failure_text(error));
    return false;
  }
}

void Failures::throw_if_any() const {
  if (!lines_.empty()) throw Error(fmt::format("{}", fmt::join(lines_, "; ")));
}

NoticeSink once_each(NoticeSink sink) {
  struct Seen {
    std::mutex mutex;  // guards:
    std::set<std::string> lines;
  };
  return [sink = std::move(sink), seen = std::make_shared<Seen>()](const std::string& text) {
    const std::string line = one_line(text);
    const std::lock_guard lock(seen->mutex);
    if (seen->lines.insert(line).second) sink(line);
  };
}

NoticeSink stderr_notices() {
  return once_each([](const std::string& line) {
    std::fprintf(stderr, "note: %s\n", line.c_str());  // one line already
  });
}

NoticeSink notices_beside(Progress& progress) {
  return once_each([&progress](const std::string& line) { progress.say("note: " + line); });
}

bool moves_cursor(int fd) {
  const char* terminal = std::getenv("TERM");
  if (terminal == nullptr || *terminal == '\0' || std::string_view(terminal) == "dumb")
    return false;
  return isatty(fd) != 0;
}

bool shows_colour(int fd) {
  const char* none = std::getenv("NO_COLOR");
  return (none == nullptr || *none == '\0') && moves_cursor(fd);
}

bool show_together(int one, int other) {
  if (isatty(one) != 0 && isatty(other) != 0) return true;
  struct stat first {};
  struct stat second {};
  return fstat(one, &first) == 0 && fstat(other, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

size_t terminal_columns(int fd) {
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kUsualColumns;
  return size.ws_col;
}

Progress::Progress(const Clock& clock, const StopFlag& stop, bool quiet)
    : clock_(clock),
      quiet_(quiet),
      terminal_(moves_cursor(STDERR_FILENO)),
      out_(STDERR_FILENO, "to stderr", stop),
      last_ns_(clock.now_ns()) {
  if (terminal_) last_ns_ -= kTerminalPeriodNs;
}

/// A terminal that became narrower has wrapped the line: all its rows go.
std::string Progress::erasure() const {
  const size_t rows = (display_width(shown_) - 1) / terminal_columns(STDERR_FILENO);
  return rows > 0 ? fmt::format("\r\033[{}A\033[J", rows) : "\r\033[J";
}

void Progress::write(const std::string& text) {
  if (gone_) return;
  try {
    out_.print(std::exchange(rest_, {}) + text);
  } catch (const Error&) {
    gone_ = true;
  }
}

/// Waits for nobody. False where what came before was not even taken: `text` is not begun.
bool Progress::offer(const std::string& text) {
  if (gone_) return false;
  try {
    rest_.erase(0, rest_.size() - out_.offer(rest_).size());
    if (!rest_.empty()) return false;
    rest_ = out_.offer(text);
  } catch (const Error&) {
    gone_ = true;
  }
  return true;
}

/// Whoever does not take the last one gets no other.
void Progress::show(const std::string& line) {
  if (quiet_) return;
  const std::lock_guard lock(mutex_);
  const int64_t now_ns = clock_.now_ns();
  if (now_ns - last_ns_ < (terminal_ ? kTerminalPeriodNs : kPlainPeriodNs)) return;
  last_ns_ = now_ns;
  if (!terminal_) {
    offer(one_line(line) + "\n");
    return;
  }
  const std::string before = shown_.empty() ? "" : erasure();
  std::string cut = cut_to_width(one_line(line),
                                 terminal_columns(STDERR_FILENO) - 1);  // at the edge it would wrap
  if (offer(before + cut)) shown_ = std::move(cut);
}

void Progress::clear() {
  const std::lock_guard lock(mutex_);
  if (!shown_.empty()) write(erasure());
  shown_.clear();
}

void Progress::say(const std::string& line) {
  const std::lock_guard lock(mutex_);
  const std::string before = shown_.empty() ? "" : erasure();
  write(before + one_line(line) + "\n" + shown_);
}

std::string format_duration(double seconds) {
  const auto total = static_cast<uint64_t>(seconds < 0 ? 0 : seconds + 0.5);
  if (total >= 3600) {
    return fmt::format("{}:{:02}:{:02}", total / 3600, total / 60 % 60, total % 60);
  }
  return fmt::format("{}:{:02}", total / 60, total % 60);
}

std::string Table::text() const {
  std::vector<size_t> widths(alignment_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i]));
  }
  std::string text;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (size_t i = 0; i < rows_[r].size(); ++i) {
      if (i > 0) line += "  ";
      const std::string blanks(widths[i] - display_width(rows_[r][i]), ' ');
      line += alignment_[i] == 'r' ? blanks + rows_[r][i] : rows_[r][i] + blanks;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    const bool heading = r == 0 && shows_colour(STDOUT_FILENO);
    text += heading ? fmt::format("\033[1m{}\033[0m\n", line) : line + "\n";
  }
  return text;
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

}  // namespace spillway
