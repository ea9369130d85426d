#include "jobs/job_records.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace spillway {

DocumentRange JobRecord::texts() const {
  if (batches.empty()) return documents;
  const uint64_t first = std::min(documents.first, batches.front().slices.front().text);
  const uint64_t end = std::max(documents.end(), batches.back().slices.back().text + 1);
  return {first, end - first};
}

JobRecords::JobRecords(TextShapes texts, const ScoreCut& cut, DocumentRange documents,
                       uint64_t record_rows)
    : texts_(std::move(texts)),
      cut_(cut),
      documents_(documents),
      record_rows_(record_rows),
      packer_(cut, [this](ScoreBatch&& batch) { packed_.push_back(std::move(batch)); }),
      next_document_(documents.first) {
  CHECK(documents.end() <= texts_->size());
}

/// A document's batches follow each other, so that those before the job's first one can be dropped
/// as they come.
bool JobRecords::next_batch(ScoreBatch& batch) {
  while (true) {
    while (packed_.empty() && next_text_ < texts_->size()) {
      packer_.add(next_text_, (*texts_)[next_text_]);
      if (++next_text_ == texts_->size()) packer_.finish();
    }
    if (packed_.empty() || packed_.front().slices.front().text >= documents_.end()) return false;
    batch = std::move(packed_.front());
    packed_.pop_front();
    const bool has =
        std::any_of(batch.slices.begin(), batch.slices.end(), [&](const ScoreSlice& slice) {
          return slice.text >= documents_.first && slice.text < documents_.end();
        });
    if (has) return true;
  }
}

bool JobRecords::next(JobRecord& record) {
  if (over_ || next_document_ == documents_.end()) return false;
  record = {};
  record.documents.first = next_document_;
  ScoreBatch next;
  if (held_) {
    record.rows = held_->rows();
    record.batches.push_back(std::move(*held_));
    held_.reset();
  }
  while (true) {
    if (!next_batch(next)) {
      over_ = true;
      next_document_ = documents_.end();
      break;
    }
    const uint64_t rows = next.rows();
    const uint64_t text = next.slices.front().text;
    if (!record.batches.empty() && next.begins_text && record.rows + rows > record_rows_ &&
        text > record.documents.first) {
      next_document_ = text;
      held_ = std::move(next);
      break;
    }
    record.rows += rows;
    record.batches.push_back(std::move(next));
  }
  record.documents.count = next_document_ - record.documents.first;
  count(record);
  return true;
}

void JobRecords::count(JobRecord& record) const {
  for (uint64_t d = record.documents.first; d < record.documents.end(); ++d) {
    const TextCounts counts = counts_of((*texts_)[d], cut_);
    record.fed += counts.fed;
    record.scored += counts.scored;
  }
}

}  // namespace spillway
