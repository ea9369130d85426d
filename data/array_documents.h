// Documents that stand in files as token ids: rows of an array, or packed one after the other.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "data/data_file.h"
#include "data/document_lengths.h"
#include "data/file_documents.h"
#include "data/token_array.h"

namespace spillway {

/// Puts the tokens of a document together from pieces of an array, and remembers the first thing
/// that is wrong with them.
class TokenCollector {
 public:
  TokenCollector(const DataOptions& options, Document& document)
      : options_(options), document_(document) {}
  /// `first`: the index of the first value in its file. False once something is wrong: what
  /// follows is of no use.
  bool add(std::span<const int64_t> values, uint64_t first);
  /// Throws BadDocument when something was wrong, or when nothing came.
  void finish() const;

 private:
  const DataOptions& options_;
  Document& document_;
  std::string problem_;
};

/// Documents of `row_tokens` each.
class RowDocuments final : public FileDocuments {
 public:
  RowDocuments(TokenArray array, uint64_t row_tokens, const DataOptions& options);
  bool next(Document& document) override;
  FilePosition position() const override { return {row_, array_.offset_of(row_ * row_tokens_), 0}; }
  void seek(const FilePosition& position) override;
  uint64_t buffer_bytes() const override { return array_.buffer_bytes(); }

 private:
  TokenArray array_;
  uint64_t row_tokens_;
  const DataOptions& options_;
  uint64_t row_ = 0;
};

/// Packed documents: each ends with the end token, or has the length that a file beside gives; all
/// is one document where there is neither.
class PackedDocuments final : public FileDocuments {
 public:
  /// `lengths` may be null; check_whole() says whether they fit the array. Throws Error.
  PackedDocuments(TokenArray array, std::unique_ptr<DocumentLengths> lengths,
                  const DataOptions& options);
  void check_whole(const StopFlag& stop) override;
  bool next(Document& document) override;
  FilePosition position() const override;
  void seek(const FilePosition& position) override;
  uint64_t buffer_bytes() const override;

 private:
  void collect(uint64_t tokens, TokenCollector& collector);
  void collect_to_end_token(TokenCollector& collector);

  TokenArray array_;
  std::unique_ptr<DocumentLengths> lengths_;
  const DataOptions& options_;
  uint64_t document_ = 0;
  uint64_t at_ = 0;  // in array_
};

}  // namespace spillway
