// Rows of a table (input embeddings), from resident homes where they are, else from the file, a few
// aligned blocks a row: a table is never streamed whole for the rows of a few tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/stop.h"
#include "io/open_reader.h"
#include "io/read_pump.h"
#include "tiers/layer_layout.h"

namespace spillway {

/// One thread. A gather that fails, or is stopped, leaves no read behind: the next one begins anew.
class RowSource {
 public:
  static constexpr uint32_t kDepth = 128;  ///< rows that are read at the same time
  /// What reading one row fetches, at most.
  static uint64_t read_bytes(const TensorSpec& table, uint32_t alignment);
  /// Bytes of buffers that reading rows takes.
  static uint64_t buffer_bytes(const TensorSpec& table, uint32_t alignment);

  RowSource(const TensorSpec& table, const ReadFile& file, const ReaderFactory& readers,
            const Clock& clock, const StopFlag& stop);

  /// Rows [first, first+count) lie in host memory from now on.
  void add_resident(uint64_t first_row, uint64_t rows, const std::byte* data);
  /// Allocates what reading takes, where some rows do not lie in memory; else gather() does.
  void prepare();
  /// Copies the rows, packed, to `out` (host memory) and returns the bytes read from storage.
  /// Throws Error, Stopped.
  uint64_t gather(std::span<const uint32_t> ids, std::byte* out);

 private:
  struct Span {
    uint64_t first_row;
    uint64_t rows;
    const std::byte* data;
  };
  void open();
  void close() noexcept;
  uint64_t read_rows(std::span<const uint32_t> ids, std::byte* out);
  const std::byte* resident(uint64_t row) const;
  bool start_read(uint32_t index, uint64_t row, uint32_t buffer);
  uint64_t finish_reads(std::span<const uint32_t> ids, std::byte* out);

  TensorSpec table_;
  const ReadFile& file_;
  ReaderFactory readers_;
  const Clock& clock_;
  const StopFlag& stop_;
  std::vector<Span> spans_;
  uint64_t block_bytes_;
  std::vector<uint32_t> free_buffers_;
  std::unique_ptr<BlockReader> reader_;
  std::unique_ptr<PumpedBuffer> buffers_;  // null until needed, and after a failure
  StopSubscription wakes_;                 // last: it calls the pump
};

}  // namespace spillway
