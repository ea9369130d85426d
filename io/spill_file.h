// Blocks of hidden states that do not fit the memory, on a drive and back: a file without a name,
// written and read without waiting, each block checked when it comes back. Owner: the file, its
// table of operations and their order; sources, targets and the reader are the caller's. One
// thread, but wake().
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/config.h"
#include "io/block_reader.h"
#include "io/read_pump.h"
#include "io/unnamed_file.h"

namespace spillway {

struct SpillShape {
  uint64_t blocks = 0;       ///< at least 1
  uint64_t block_bytes = 0;  ///< rounded up to what the drive moves, kMaxSpillBlockBytes at most
  uint32_t max_ops = 0;      ///< that may be under way or wait their turn; at least 1
};

inline constexpr uint64_t kMaxSpillBlockBytes = uint64_t{1} << 30;

/// Operations on one block are done one after the other, in the order they were asked for; those on
/// different blocks in any order, reader.depth() at a time. No allocation after construction.
/// An Error is the end: sources and targets stay until drain(), and nothing else may be called.
class SpillFile {
 public:
  /// Takes all its space in `folder`. `reader` serves this file alone; it and `clock` outlive it.
  /// Throws Error where the folder takes no file or has no room, naming it and the bytes.
  SpillFile(const std::filesystem::path& folder, const SpillShape& shape, DirectChoice choice,
            BlockReader& reader, const Clock& clock);
  SpillFile(const SpillFile&) = delete;
  /// Drains. An owner whose sources and targets go calls drain() itself, to know what came of it.
  ~SpillFile();

  /// What the table of so many blocks takes; those of operations are a few.
  static uint64_t table_bytes(uint64_t blocks) { return blocks * sizeof(Block); }

  /// What sources and targets have, from an address that is a multiple of file().alignment.
  uint64_t block_bytes() const { return block_bytes_; }
  uint64_t blocks() const { return blocks_.size(); }
  const ReadFile& file() const { return file_.info(); }
  /// Why the page cache is in between although that was not wanted; else empty.
  const std::string& refused() const { return file_.refused(); }

  /// Both only queue; poll() and wait() hand to the system what it has room for. False: max_ops are
  /// active, nothing was taken. `source` stays as it is until `tag` is finished; its checksum is
  /// taken here, which is the time that this call takes.
  [[nodiscard]] bool write(uint64_t block, const std::byte* source, uint64_t tag);
  /// Delivers what was last written before this call, finished or not: a block that never was is a
  /// bug of the caller.
  [[nodiscard]] bool read(uint64_t block, std::byte* target, uint64_t tag);
  /// Tags of what finished, valid until the next call: all bytes of a write were taken, a read
  /// delivered what was written. Never blocks. Throws Error once for what failed for good: a full
  /// drive, a drive that fails, other bytes than were written.
  std::span<const uint64_t> poll();
  /// Blocks until poll() may have something to do, wake() was called since the last wait, or
  /// `limit_ns` are over. Returns at once when nothing is under way. Throws like poll().
  void wait(int64_t limit_ns = BlockReader::kNoLimit);
  /// Ends the wait() that is on, or else the next one. Any thread.
  void wake() noexcept { pump_.wake(); }
  /// Not finished.
  uint32_t active() const { return static_cast<uint32_t>(ops_.size() - free_.size()); }

  /// Ends everything, before sources and targets go, as ReadPump::drain() does: what waits is
  /// dropped. False: they must be leaked, and the file's descriptor is. Only the destructor may
  /// follow, or drain() again.
  [[nodiscard]] bool drain() noexcept;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Op {
    IoKind kind = IoKind::kRead;
    uint64_t block = 0;
    std::byte* memory = nullptr;
    uint64_t tag = 0;
    uint64_t checksum = 0;  // of what a read must deliver
    uint32_t next = kNone;  // the operation on the same block that waits for this one
  };
  struct Block {
    uint64_t checksum = 0;  // XXH3-64 of what was last given to write()
    uint32_t last = kNone;  // the last operation on it that is active
    bool written = false;
  };

  bool add(IoKind kind, uint64_t block, std::byte* memory, uint64_t tag);
  /// As many as the reader takes. False: none.
  bool start_ready();
  void finish(uint32_t index);
  void verify(const Op& op) const;
  uint64_t checksum_of(const std::byte* memory) const;

  UnnamedFile file_;
  uint64_t block_bytes_ = 0;
  std::vector<Block> blocks_;
  std::vector<Op> ops_;
  std::vector<uint32_t> free_;   // of ops_
  std::vector<uint32_t> ready_;  // wait for the reader alone, oldest first
  std::vector<uint64_t> finished_;
  ReadPump pump_;
  bool over_ = false;  // after an Error or drain()
};

}  // namespace spillway
