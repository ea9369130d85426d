// What a person sees: text on stdout, notices, a progress line with time left, tables that align.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/log.h"

namespace spillway {

/// Text for stdout, at once and unbuffered. Throws Error when it cannot be written whole: an answer
/// that is lost must be seen.
void print_text(std::string_view text);
template <typename... Args>
void print(fmt::format_string<Args...> format, Args&&... args) {
  print_text(fmt::format(format, std::forward<Args>(args)...));
}

/// A line for a person on stderr. Where nobody can read it, the work goes on.
void say(const std::string& line);

/// What went wrong in steps that must all be tried: the text, the report and the trace of a run
/// that failed are written even so.
class Failures {
 public:
  void add(const std::string& error);
  /// Runs `step`; keeps what it throws. True when there was none.
  bool attempt(const std::function<void()>& step);
  const std::vector<std::string>& lines() const { return lines_; }
  /// Throws Error with all of them in one line.
  void throw_if_any() const;

 private:
  std::vector<std::string> lines_;
};

/// Prints notices to stderr as "note: …", once each.
NoticeSink stderr_notices();

/// One line on stderr that is rewritten in place on a terminal; elsewhere a plain line now and
/// then. One thread.
class Progress {
 public:
  Progress(const Clock& clock, bool quiet);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  void show(const std::string& line);
  void clear();

 private:
  const Clock& clock_;
  bool quiet_;
  bool terminal_;
  bool shown_ = false;
  int64_t last_ns_ = 0;
};

/// "1:05" or "2:00:09".
std::string format_duration(double seconds);

/// Now, as "2026-11-20T14:00:00Z".
std::string utc_now();

/// Columns padded to their widest cell; numbers to the right. The first row is the heading.
class Table {
 public:
  /// `alignment`: one of 'l', 'r' per column.
  explicit Table(std::string alignment) : alignment_(std::move(alignment)) {}
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string text() const;

 private:
  std::string alignment_;
  std::vector<std::vector<std::string>> rows_;
};

bool stdout_is_terminal();

}  // namespace spillway
