// The lines of a file, one after the other, through one small buffer. Refers to its file. Not for
// several threads at once.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "data/data_file.h"

namespace spillway {

struct Line {
  std::string_view text;  ///< without line end, carriage return and byte order mark
  uint64_t number = 0;    ///< the first is 1
  bool too_long = false;  ///< then `text` is empty
};

class LineReader {
 public:
  static constexpr uint64_t kBufferBytes = uint64_t{1} << 20;

  /// Lines of more than `max_line_bytes` are passed over without being kept.
  LineReader(const DataFile& file, uint64_t max_line_bytes, uint64_t buffer_bytes = kBufferBytes);

  /// The next line; it stays until the next call. False at the end of the file. An Error leaves the
  /// reader before the line.
  bool next(Line& line);
  /// Where the next line begins, in bytes, and how many lines are before it.
  uint64_t offset() const { return base_ + begin_; }
  uint64_t lines() const { return lines_; }
  /// Goes on at `offset`, after `lines`. Throws Error when no line begins there.
  void seek(uint64_t offset, uint64_t lines);
  /// What it keeps at present.
  uint64_t buffer_bytes() const { return buffer_.capacity() + long_.capacity(); }

 private:
  bool refill(uint64_t line_begin);
  bool keep(std::string_view piece);

  const DataFile& file_;
  uint64_t max_line_bytes_;
  std::string buffer_;
  uint64_t base_ = 0;   // of the buffer in the file
  uint64_t begin_ = 0;  // what is not handed out yet
  uint64_t end_ = 0;
  std::string long_;  // a line that does not lie in the buffer as a whole
  uint64_t lines_ = 0;
};

/// A byte order mark, which begins many files and is no text.
inline constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace spillway
