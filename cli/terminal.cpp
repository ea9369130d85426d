#include "cli/terminal.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
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

}  // namespace

void print_text(std::string_view text) {
  if (const int error = write_all(STDOUT_FILENO, text)) {
    throw Error("cannot write to stdout: " + errno_text(error));
  }
}

void say(const std::string& line) {
  std::fprintf(stderr, "%s\n", line.c_str());
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

NoticeSink stderr_notices() {
  return [seen = std::make_shared<std::set<std::string>>()](const std::string& line) {
    if (seen->insert(line).second) say("note: " + one_line(line));
  };
}

Progress::Progress(const Clock& clock, bool quiet)
    : clock_(clock),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) != 0),
      last_ns_(clock.now_ns()) {
  if (terminal_) last_ns_ -= kTerminalPeriodNs;
}

void Progress::show(const std::string& line) {
  if (quiet_) return;
  const int64_t now_ns = clock_.now_ns();
  if (now_ns - last_ns_ < (terminal_ ? kTerminalPeriodNs : kPlainPeriodNs)) return;
  last_ns_ = now_ns;
  std::fprintf(stderr, terminal_ ? "\r\033[K%s" : "%s\n", line.c_str());
  std::fflush(stderr);
  shown_ = terminal_;
}

void Progress::clear() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
  std::fflush(stderr);
  shown_ = false;
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
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (size_t i = 0; i < rows_[r].size(); ++i) {
      if (i > 0) line += "  ";
      line += alignment_[i] == 'r' ? fmt::format("{:>{}}", rows_[r][i], widths[i])
                                   : fmt::format("{:<{}}", rows_[r][i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    const bool heading = r == 0 && stdout_is_terminal();
    text += heading ? fmt::format("\033[1m{}\033[0m\n", line) : line + "\n";
  }
  return text;
}

bool stdout_is_terminal() {
  return isatty(STDOUT_FILENO) != 0;
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

}  // namespace spillway
