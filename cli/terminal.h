// What a person sees: text on stdout, notices, a progress line with time left, tables that align.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "core/live_text.h"
#include "core/log.h"
#include "core/stop.h"

namespace spillway {

inline constexpr const char* kToStdout = "to stdout";  // for LiveText

/// Text for stdout, at once and unbuffered. Throws Error when it cannot be written whole: an answer
/// that is lost must be seen.
void print_text(std::string_view text);
template <typename... Args>
void print(fmt::format_string<Args...> format, Args&&... args) {
  print_text(fmt::format(format, std::forward<Args>(args)...));
}

/// The same, without waiting past a stop request for whoever reads it (LiveText).
void print_text(std::string_view text, const StopFlag& stop);

/// The same, when `file` is written already: an error says that this is whole.
void print_text_of(const std::string& file, std::string_view text, const StopFlag& stop);

/// A line for a person on stderr. Where nobody can read it, the work goes on; after a stop request
/// nobody waits for it.
void say(const std::string& line, const StopFlag& stop);

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

/// Prints notices to stderr as "note: …", once each, while nothing runs that a stop request would
/// have to end.
NoticeSink stderr_notices();

/// A stream that moves a cursor: a terminal, and not a dumb one.
bool moves_cursor(int fd);
/// The same, and nobody asked for no colour (NO_COLOR).
bool shows_colour(int fd);
/// Two streams of which a person sees one text: terminals, or one file or pipe (`> log 2>&1`).
bool show_together(int one, int other);
/// As wide as it is now; 80 where it does not say.
size_t terminal_columns(int fd);

/// One line on stderr that is rewritten in place on a terminal, cut to its width as it is then;
/// elsewhere a plain line now and then. Any thread: a notice may come from one that reads.
class Progress {
 public:
  Progress(const Clock& clock, const StopFlag& stop, bool quiet);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  void show(const std::string& line);
  void clear();
  /// A line of its own, the progress behind it.
  void say(const std::string& line);

 private:
  std::string erasure() const;
  void write(const std::string& text);
  bool offer(const std::string& text);

  const Clock& clock_;
  const bool quiet_;
  const bool terminal_;
  std::mutex mutex_;  // guards:
  LiveText out_;
  std::string rest_;   // of the last line, that was not taken yet
  bool gone_ = false;  // nobody reads it
  std::string shown_;  // as it stands there, cut
  int64_t last_ns_ = 0;
};

/// Prints notices, once each, beside a progress line that outlives the sink.
NoticeSink notices_beside(Progress& progress);
/// Hands each notice on once, as one line. Any thread.
NoticeSink once_each(NoticeSink sink);

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

}  // namespace spillway
