#include "data/line_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "core/error.h"

namespace spillway {

LineReader::LineReader(const DataFile& file, uint64_t max_line_bytes, uint64_t buffer_bytes)
    : file_(file), max_line_bytes_(max_line_bytes), buffer_(buffer_bytes, '\0') {
  CHECK(buffer_bytes > 0);
}

/// Reads on behind what is in the buffer, all of which was handed out. False at the file's end.
bool LineReader::refill(uint64_t line_begin) {
  const uint64_t base = base_ + end_;
  const uint64_t bytes = std::min<uint64_t>(buffer_.size(), file_.bytes() - base);
  base_ = line_begin;  // should the read fail
  begin_ = end_ = 0;
  file_.read(base, std::span(buffer_).first(bytes));
  base_ = base;
  end_ = bytes;
  return bytes > 0;
}

/// Adds to the line that is being put together. False when it becomes too long.
bool LineReader::keep(std::string_view piece) {
  if (piece.size() <= max_line_bytes_ - long_.size()) {
    long_ += piece;
    return true;
  }
  long_.clear();
  return false;
}

bool LineReader::next(Line& line) {
  const uint64_t line_begin = offset();
  line = {};
  long_.clear();
  bool pieces = false;  // the line does not lie in the buffer as a whole
  bool ended = false;
  while (!ended) {
    if (begin_ == end_ && !refill(line_begin)) break;
    const std::string_view rest(buffer_.data() + begin_, end_ - begin_);
    const size_t newline = rest.find('\n');
    ended = newline != std::string_view::npos;
    const std::string_view piece = rest.substr(0, newline);
    begin_ += piece.size() + (ended ? 1 : 0);
    if (ended && !pieces) {
      line.too_long = piece.size() > max_line_bytes_;
      if (!line.too_long) line.text = piece;
      break;
    }
    pieces = true;
    line.too_long = line.too_long || !keep(piece);
  }
  if (!ended && !pieces) return false;
  if (pieces && !line.too_long) line.text = long_;
  if (line_begin == 0 && line.text.starts_with(kByteOrderMark)) {
    line.text.remove_prefix(kByteOrderMark.size());
  }
  if (line.text.ends_with('\r')) line.text.remove_suffix(1);
  line.number = ++lines_;
  return true;
}

void LineReader::seek(uint64_t offset, uint64_t lines) {
  char before = '\n';
  if (offset > 0 && offset < file_.bytes()) file_.read(offset - 1, {&before, 1});
  if (offset > file_.bytes() || before != '\n') {
    throw Error(
        fmt::format("{}: no line begins at byte {}, where the job would go on; the file is "
                    "not the one it began with: start again",
                    file_.name(), offset));
  }
  base_ = offset;
  begin_ = end_ = 0;
  lines_ = lines;
}

}  // namespace spillway
