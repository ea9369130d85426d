// The documents of one file: what every format of data is behind the DocumentSource.
#pragma once

#include <cstdint>

#include "core/stop.h"
#include "data/document_source.h"

namespace spillway {

/// The part of a DataPosition that is within a file.
struct FilePosition {
  uint64_t item = 0;
  uint64_t offset = 0;
  uint64_t lengths_offset = 0;
};

/// Refers to its file, the options and the tokenizer. Not for several threads at once.
class FileDocuments {
 public:
  virtual ~FileDocuments() = default;
  /// What takes a look at every document, once for a source and before the first next(). Throws
  /// Error, Stopped.
  virtual void check_whole(const StopFlag&) {}
  /// As DocumentSource::next(), without the number. The document's other fields are as new.
  virtual bool next(Document& document) = 0;
  virtual FilePosition position() const = 0;
  virtual void seek(const FilePosition& position) = 0;
  virtual uint64_t buffer_bytes() const = 0;
};

}  // namespace spillway
