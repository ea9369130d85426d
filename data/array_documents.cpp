#include "data/array_documents.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "core/error.h"
#include "data/json_document.h"

namespace spillway {

bool TokenCollector::add(std::span<const int64_t> values, uint64_t first) {
  if (!problem_.empty()) return false;
  if (values.size() > options_.max_document_tokens - document_.ids.size()) {
    problem_ = too_many_tokens_text(options_.max_document_tokens) + "; cut it into several";
    document_.ids.clear();
    return false;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= int64_t{options_.vocab}) {
      problem_ = outside_vocabulary_text(
          std::to_string(values[i]), fmt::format("at {} of the file", first + i), options_.vocab);
      return false;
    }
    document_.ids.push_back(static_cast<uint32_t>(values[i]));
  }
  return true;
}

void TokenCollector::finish() const {
  if (!problem_.empty()) throw BadDocument(fmt::format("{}: {}", document_.place, problem_));
  if (document_.ids.empty()) {
    throw BadDocument(fmt::format("{}: it is empty; leave it out", document_.place));
  }
}

RowDocuments::RowDocuments(TokenArray array, uint64_t row_tokens, const DataOptions& options)
    : array_(std::move(array)), row_tokens_(row_tokens), options_(options) {
  if (row_tokens == 0) {
    throw Error(fmt::format("{}: its rows have no tokens; write it again", array_.name()));
  }
  if (row_tokens > options.max_document_tokens) {
    throw Error(fmt::format("{}: its rows have {}; write shorter ones", array_.name(),
                            too_many_tokens_text(options.max_document_tokens)));
  }
}

bool RowDocuments::next(Document& document) {
  const uint64_t begin = row_ * row_tokens_;
  if (begin == array_.values()) return false;
  ++row_;
  document.place = fmt::format("{}, row {}", array_.name(), row_);
  TokenCollector collector(options_, document);
  const uint64_t end = begin + row_tokens_;
  for (uint64_t at = begin; at < end;) {
    std::span<const int64_t> values = array_.from(at);
    values = values.first(std::min<uint64_t>(values.size(), end - at));
    if (!collector.add(values, at)) break;
    at += values.size();
  }
  collector.finish();
  return true;
}

void RowDocuments::seek(const FilePosition& position) {
  const uint64_t at = array_.index_at(position.offset);
  if (at % row_tokens_ != 0) {
    throw Error(
        fmt::format("{}: no row begins at byte {}, where the job would go on; the file is "
                    "not the one it began with: start again",
                    array_.name(), position.offset));
  }
  row_ = at / row_tokens_;
}

PackedDocuments::PackedDocuments(TokenArray array, std::unique_ptr<DocumentLengths> lengths,
                                 const DataOptions& options)
    : array_(std::move(array)), lengths_(std::move(lengths)), options_(options) {
  if (lengths_ == nullptr && !options.end_token && array_.values() > options.max_document_tokens) {
    throw Error(
        fmt::format("{}: one document of {}; say which token ends a document, or give the "
                    "documents' lengths",
                    array_.name(), too_many_tokens_text(options.max_document_tokens)));
  }
}

void PackedDocuments::check_whole(const StopFlag& stop) {
  if (lengths_ != nullptr) check_total(*lengths_, array_.values(), array_.name(), stop);
}

void PackedDocuments::collect(uint64_t tokens, TokenCollector& collector) {
  const uint64_t end = at_ + tokens;
  for (bool good = true; good && at_ < end;) {
    std::span<const int64_t> values = array_.from(at_);
    values = values.first(std::min<uint64_t>(values.size(), end - at_));
    good = collector.add(values, at_);
    at_ += values.size();
  }
  at_ = end;
}

void PackedDocuments::collect_to_end_token(TokenCollector& collector) {
  for (bool ended = false; !ended && at_ < array_.values();) {
    std::span<const int64_t> values = array_.from(at_);
    const auto end = std::find(values.begin(), values.end(), int64_t{*options_.end_token});
    ended = end != values.end();
    values = values.first(static_cast<size_t>(end - values.begin()) + (ended ? 1 : 0));
    collector.add(values, at_);
    at_ += values.size();
  }
}

bool PackedDocuments::next(Document& document) {
  uint64_t tokens = array_.values();
  if (lengths_ != nullptr ? !lengths_->next(tokens) : at_ == array_.values()) return false;
  ++document_;
  document.place = fmt::format("{}, document {}", array_.name(), document_);
  TokenCollector collector(options_, document);
  if (lengths_ != nullptr && tokens > array_.values() - at_) {  // they were checked when opened
    throw Error(fmt::format("{}: changed while it was read; start again", lengths_->file().name()));
  }
  if (lengths_ == nullptr && options_.end_token) {
    collect_to_end_token(collector);
  } else {
    collect(tokens, collector);
  }
  collector.finish();
  return true;
}

FilePosition PackedDocuments::position() const {
  return {document_, array_.offset_of(at_), lengths_ != nullptr ? lengths_->offset() : 0};
}

void PackedDocuments::seek(const FilePosition& position) {
  at_ = array_.index_at(position.offset);
  document_ = position.item;
  if (lengths_ != nullptr) lengths_->seek(position.lengths_offset, position.item);
}

uint64_t PackedDocuments::buffer_bytes() const {
  return array_.buffer_bytes() + (lengths_ != nullptr ? lengths_->buffer_bytes() : 0);
}

}  // namespace spillway
