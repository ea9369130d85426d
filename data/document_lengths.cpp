#include "data/document_lengths.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/one_line.h"
#include "core/units.h"
#include "data/npy_header.h"

namespace spillway {
namespace {

constexpr uint64_t kMaxLengthBytes = 64;  // of a line with a number

TokenArray open_lengths(const DataFile& file) {
  std::vector<uint64_t> shape;
  TokenArray array = open_npy(file, shape);
  if (shape.size() == 1) return array;
  throw Error(fmt::format("{}: lengths of documents in two dimensions; expected one", file.name()));
}

}  // namespace

TokenArray open_npy(const DataFile& file, std::vector<uint64_t>& shape) {
  std::string start(std::min(file.bytes(), kMaxNpyHeaderBytes), '\0');
  file.read(0, start);
  const NpyHeader header = parse_npy_header(start, file.bytes(), file.name());
  shape = header.shape;
  return TokenArray(file, header.values_begin, header.type, header.values);
}

DocumentLengths::DocumentLengths(const std::filesystem::path& path) : file_(path) {
  if (ending_of(path) == ".npy") {
    array_.emplace(open_lengths(file_));
  } else {
    lines_.emplace(file_, kMaxLengthBytes, kMiB / 16);
  }
}

bool DocumentLengths::next(uint64_t& tokens) {
  if (!array_) return next_line(tokens);
  if (index_ == array_->values()) return false;
  const int64_t value = array_->from(index_)[0];
  ++index_;
  if (value < 0) {
    throw Error(fmt::format("{}: item {} is {}, not a length; write it again", file_.name(), index_,
                            value));
  }
  tokens = static_cast<uint64_t>(value);
  return true;
}

bool DocumentLengths::next_line(uint64_t& tokens) {
  Line line;
  if (!lines_->next(line)) return false;
  const char* end = line.text.data() + line.text.size();
  const auto [last, error] = std::from_chars(line.text.data(), end, tokens);
  if (line.too_long || line.text.empty() || error != std::errc() || last != end) {
    throw Error(fmt::format("{}, line {}: {} is not a length; give one whole number a line",
                            file_.name(), line.number,
                            line.too_long ? "what stands there" : in_quotes(line.text)));
  }
  return true;
}

uint64_t DocumentLengths::offset() const {
  return array_ ? array_->offset_of(index_) : lines_->offset();
}

void DocumentLengths::seek(uint64_t offset, uint64_t documents) {
  if (array_) {
    index_ = array_->index_at(offset);
  } else {
    lines_->seek(offset, documents);
  }
}

uint64_t DocumentLengths::buffer_bytes() const {
  return array_ ? array_->buffer_bytes() : lines_->buffer_bytes();
}

void check_total(DocumentLengths& lengths, uint64_t tokens, const std::string& packed,
                 const StopFlag& stop) {
  const uint64_t begin = lengths.offset();
  uint64_t total = 0;
  bool too_large = false;
  for (uint64_t length = 0; !too_large && lengths.next(length);) {
    stop.check();
    too_large = __builtin_add_overflow(total, length, &total);
  }
  if (too_large || total != tokens) {
    throw Error(fmt::format(
        "{}: its lengths add up to {}, and {} has {}; give the lengths that were "
        "written with it",
        lengths.file().name(), too_large ? "more tokens than fit a file" : counted(total, "token"),
        packed, tokens));
  }
  lengths.seek(begin, 0);
}

}  // namespace spillway
