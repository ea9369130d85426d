// Documents that stand in files as text: lines of JSON, lines of text, a whole text.
#pragma once

#include "data/data_file.h"
#include "data/file_documents.h"
#include "data/line_reader.h"

namespace spillway {

/// One document a line, of JSON or text. Lines of white space are passed over.
class LineDocuments final : public FileDocuments {
 public:
  enum class Content { kJson, kText };
  LineDocuments(const DataFile& file, Content content, const DataOptions& options,
                const Tokenizer* tokenizer);
  bool next(Document& document) override;
  FilePosition position() const override { return {lines_.lines(), lines_.offset(), 0}; }
  void seek(const FilePosition& position) override { lines_.seek(position.offset, position.item); }
  uint64_t buffer_bytes() const override { return lines_.buffer_bytes(); }

 private:
  const DataFile& file_;
  Content content_;
  const DataOptions& options_;
  const Tokenizer* tokenizer_;
  LineReader lines_;
};

/// A file that is one text. It must be in memory as a whole to be encoded, and is refused where it
/// is larger than a text may be.
class WholeText final : public FileDocuments {
 public:
  /// Throws Error when it is too large.
  WholeText(const DataFile& file, const DataOptions& options, const Tokenizer* tokenizer);
  bool next(Document& document) override;
  FilePosition position() const override { return {read_ ? 1u : 0u, 0, 0}; }
  void seek(const FilePosition& position) override { read_ = position.item > 0; }
  uint64_t buffer_bytes() const override { return 0; }

 private:
  const DataFile& file_;
  const DataOptions& options_;
  const Tokenizer* tokenizer_;
  bool read_ = false;
};

}  // namespace spillway
