// Files that grow sweep by sweep: rows as JSON lines, and an array of numpy. What was appended
// since the last sync() may be lost in a crash, and is cut off when the file is opened again. The
// folder outlives them. One thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/descriptor.h"
#include "sinks/content_hash.h"
#include "sinks/manifest.h"
#include "sinks/output_folder.h"

namespace spillway {

class AppendFile {
 public:
  /// Opens the file, makes it where it is missing, and changes nothing of one that is there. Throws
  /// Error, also where the file has another name, whose content would change with it.
  AppendFile(const OutputFolder& folder, const std::string& name);
  /// Cuts it back to `kept_bytes`, before anything is appended. A new one, of 0, begins with
  /// `head`. Throws Error.
  void begin(uint64_t kept_bytes, std::string_view head);

  void append(std::string_view bytes);
  /// All is on the drive when this returns: its length, and the hash of what came since the last.
  /// Throws Error, also where the file was removed in the meantime.
  AppendRecord sync();
  /// Other bytes in the place of the first ones, on the drive when this returns; after sync().
  /// Throws Error.
  void rewrite_head(std::string_view head);
  uint64_t bytes() const { return bytes_ + waiting_.size(); }

 private:
  void check_only_name() const;
  void flush();
  void sync_content();
  void write_at(uint64_t offset, std::string_view bytes);

  const OutputFolder* folder_;
  std::string name_;
  Descriptor file_;
  uint64_t bytes_ = 0;  // in the file
  std::string waiting_;
  ContentHash hash_;  // since the last sync
};

/// A document's row of scores.jsonl.
struct ScoreRow {
  std::string id;
  uint64_t document = 0;
  uint64_t tokens = 0;
  double sum_logprob = 0;
  double mean_logprob = 0;
  std::optional<bool> greedy;
};
/// Numbers that JSON has not (NaN, infinities) become null.
nlohmann::ordered_json to_json(const ScoreRow& row);

/// Handle on a file that somebody else owns.
class JsonlAppender {
 public:
  explicit JsonlAppender(AppendFile& file) : file_(&file) {}
  /// One line. Bytes that are not UTF-8 become U+FFFD. Throws Error.
  void append(const nlohmann::ordered_json& row);
  void append(const ScoreRow& row) { append(to_json(row)); }

 private:
  AppendFile* file_;
};

inline constexpr uint64_t kNpyHeadBytes = 128;
/// Of a two-dimensional array of f32: always kNpyHeadBytes, whatever the shape.
std::string npy_head(uint64_t rows, uint64_t columns);

/// Handle on an array [rows, columns] of f32 that somebody else owns. Its head says 0 rows until
/// it is finished.
class NpyAppender {
 public:
  /// At least one column.
  NpyAppender(AppendFile& file, uint64_t columns);
  /// Whole rows. Throws Error.
  void append(std::span<const float> values);

 private:
  AppendFile* file_;
  uint64_t columns_;
};

}  // namespace spillway
