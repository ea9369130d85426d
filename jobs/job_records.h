// What of a job is written together: whole documents, some batches full of them. Records follow
// from the data, the cut and the length of a record alone, so that a job that goes on finds the
// same ones; and a part of a job (--shard) computes the batches that the whole job would, of which
// it keeps its own documents. Pure; one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "model/score.h"
#include "sinks/manifest.h"

namespace spillway {

struct JobRecord {
  DocumentRange documents;          ///< that the record keeps
  std::vector<ScoreBatch> batches;  ///< at its ends may be rows of other documents
  uint64_t rows = 0;                ///< of the batches
  uint64_t fed = 0;                 ///< tokens of the documents that go through the layers
  uint64_t scored = 0;              ///< tokens of the documents that are scored

  /// Documents that the batches take tokens of.
  DocumentRange texts() const;
};

class JobRecords {
 public:
  /// `documents`: those of the job, of all that `texts` has. A record ends before the batch that
  /// begins a document and would bring it above `record_rows`.
  JobRecords(TextShapes texts, const ScoreCut& cut, DocumentRange documents, uint64_t record_rows);
  JobRecords(const JobRecords&) = delete;
  /// False behind the last.
  bool next(JobRecord& record);
  /// The next batch that has rows of the job's documents; instead of records. False behind the
  /// last.
  bool next_batch(ScoreBatch& batch);

 private:
  void count(JobRecord& record) const;

  TextShapes texts_;
  ScoreCut cut_;
  DocumentRange documents_;
  uint64_t record_rows_;
  BatchPacker packer_;
  std::deque<ScoreBatch> packed_;
  std::optional<ScoreBatch> held_;  // begins the next record
  uint64_t next_text_ = 0;
  uint64_t next_document_;
  bool over_ = false;
};

}  // namespace spillway
