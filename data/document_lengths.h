// How many tokens each document of a packed file has, from a file beside it. Owns its file. Not for
// several threads at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "core/stop.h"
#include "data/data_file.h"
#include "data/line_reader.h"
#include "data/token_array.h"

namespace spillway {

class DocumentLengths {
 public:
  /// A 1-D .npy, else a text of one number a line. Throws Error.
  explicit DocumentLengths(const std::filesystem::path& path);
  DocumentLengths(const DocumentLengths&) = delete;  // its readers refer to its file
  DocumentLengths& operator=(const DocumentLengths&) = delete;

  /// False at the end. Throws Error naming the line of what is no length.
  bool next(uint64_t& tokens);
  /// Bytes in the file.
  uint64_t offset() const;
  /// Goes on at `offset`, after `documents`. Throws Error where no length begins.
  void seek(uint64_t offset, uint64_t documents);
  const DataFile& file() const { return file_; }
  uint64_t buffer_bytes() const;

 private:
  bool next_line(uint64_t& tokens);

  DataFile file_;
  std::optional<TokenArray> array_;
  std::optional<LineReader> lines_;
  uint64_t index_ = 0;  // in array_
};

/// Reads all of them. Throws Error when they do not add up to `tokens` of `packed`, Stopped;
/// afterwards they stand at the first.
void check_total(DocumentLengths& lengths, uint64_t tokens, const std::string& packed,
                 const StopFlag& stop);

/// The array of an open .npy file and its shape. Throws Error.
TokenArray open_npy(const DataFile& file, std::vector<uint64_t>& shape);

}  // namespace spillway
