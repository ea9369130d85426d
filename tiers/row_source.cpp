#include "tiers/row_source.h"

#include <cstring>

#include "core/error.h"
#include "core/units.h"

namespace spillway {

/// A row at any offset, rounded out to whole blocks.
uint64_t RowSource::read_bytes(const TensorSpec& table, uint32_t alignment) {
  return align_up(table.row_bytes, alignment) + alignment;
}

uint64_t RowSource::buffer_bytes(const TensorSpec& table, uint32_t alignment) {
  return kDepth * read_bytes(table, alignment);
}

RowSource::RowSource(const TensorSpec& table, const ReadFile& file, const ReaderFactory& readers,
                     const Clock& clock, const StopFlag& stop)
    : table_(table),
      file_(file),
      readers_(readers),
      clock_(clock),
      stop_(stop),
      block_bytes_(read_bytes(table, file.alignment)) {}

void RowSource::prepare() {
  uint64_t rows = 0;
  for (const Span& span : spans_) rows += span.rows;
  if (rows < table_.rows && buffers_ == nullptr) open();
}

void RowSource::open() {
  reader_ = readers_(kDepth);
  buffers_ =
      std::make_unique<PumpedBuffer>(*reader_, clock_, buffer_bytes(table_, file_.alignment));
  free_buffers_.clear();
  for (uint32_t i = 0; i < reader_->depth(); ++i) free_buffers_.push_back(i);
  wakes_ = stop_.on_request([pump = &buffers_->pump()] { pump->wake(); });
}

/// Ends the reads in flight; their buffers go with the last of them, or never.
void RowSource::close() noexcept {
  wakes_ = {};
  buffers_.reset();
  reader_.reset();
}

void RowSource::add_resident(uint64_t first_row, uint64_t rows, const std::byte* data) {
  spans_.push_back({first_row, rows, data});
}

const std::byte* RowSource::resident(uint64_t row) const {
  for (const Span& span : spans_) {
    if (row >= span.first_row && row - span.first_row < span.rows) {
      return span.data + (row - span.first_row) * table_.row_bytes;
    }
  }
  return nullptr;
}

bool RowSource::start_read(uint32_t index, uint64_t row, uint32_t buffer) {
  const uint64_t offset = table_.offset + row * table_.row_bytes;
  const uint64_t begin = align_down(offset, file_.alignment);
  const uint64_t end = align_up(offset + table_.row_bytes, file_.alignment);
  ReadRequest request;
  request.file = &file_;
  request.offset = begin;
  request.target = buffers_->data() + buffer * block_bytes_;
  request.bytes = static_cast<uint32_t>(end - begin);
  request.needed = static_cast<uint32_t>(offset + table_.row_bytes - begin);
  request.tag = (uint64_t{index} << 32) | buffer;
  return buffers_->pump().start(request);
}

uint64_t RowSource::finish_reads(std::span<const uint32_t> ids, std::byte* out) {
  stop_.check();
  uint64_t bytes = 0;
  const auto finished = buffers_->pump().poll();
  for (const uint64_t tag : finished) {
    const auto index = static_cast<uint32_t>(tag >> 32);
    const auto buffer = static_cast<uint32_t>(tag);
    const uint64_t offset = table_.offset + ids[index] * table_.row_bytes;
    const uint64_t skip = offset % file_.alignment;
    std::memcpy(out + index * table_.row_bytes, buffers_->data() + buffer * block_bytes_ + skip,
                table_.row_bytes);
    free_buffers_.push_back(buffer);
    bytes += align_up(skip + table_.row_bytes, file_.alignment);
  }
  if (finished.empty()) buffers_->pump().wait();
  return bytes;
}

uint64_t RowSource::gather(std::span<const uint32_t> ids, std::byte* out) {
  try {
    return read_rows(ids, out);
  } catch (...) {
    close();
    throw;
  }
}

uint64_t RowSource::read_rows(std::span<const uint32_t> ids, std::byte* out) {
  stop_.check();
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < ids.size(); ++i) {
    CHECK(ids[i] < table_.rows);
    if (const std::byte* row = resident(ids[i])) {
      std::memcpy(out + i * table_.row_bytes, row, table_.row_bytes);
      continue;
    }
    if (buffers_ == nullptr) open();
    while (free_buffers_.empty() || !start_read(i, ids[i], free_buffers_.back())) {
      bytes += finish_reads(ids, out);
    }
    free_buffers_.pop_back();
  }
  while (buffers_ != nullptr && buffers_->pump().active() > 0) bytes += finish_reads(ids, out);
  return bytes;
}

}  // namespace spillway
