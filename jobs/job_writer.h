// Writes what a job computes, on a thread of its own, so that a slow drive holds computing only
// when the queue between them is full.
//
// The owner's thread pushes, in order: a start, results batch by batch, an end, for each record.
// From construction to finish() the folder belongs to the writer's thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "core/config.h"
#include "core/stop.h"
#include "jobs/bounded_queue.h"
#include "sinks/job_folder.h"

namespace spillway {

/// What a job keeps.
struct JobSinks {
  bool logprobs = false;
  uint32_t top_k = 0;                   ///< 0 = none
  std::vector<uint32_t> hidden_layers;  ///< ascending
  DType hidden_dtype = DType::kF32;
  Pooling embeddings = Pooling::kNone;
  uint32_t hidden = 0;       ///< values of a state
  uint32_t final_layer = 0;  ///< whose states embeddings are made of
};

/// Of a record's documents, in their order.
struct RecordStart {
  std::vector<std::string> ids;
  std::vector<uint64_t> scored;  ///< tokens
  std::vector<uint64_t> fed;
};

/// Consecutive rows that are one document's.
struct DocumentRows {
  uint64_t document = 0;
  uint32_t rows = 0;
};

/// Results of a batch: a row for each scored token, in the order of documents and tokens.
struct ScoredRows {
  std::vector<DocumentRows> parts;
  std::vector<uint32_t> ids;  ///< of the tokens
  std::vector<float> logprobs;
  std::vector<uint8_t> greedy;
  std::vector<float> log_sum_exp;   ///< these three with top_k alone
  std::vector<uint32_t> top_ids;    ///< [rows, k]
  std::vector<float> top_logprobs;  ///< [rows, k]
};

/// Hidden states of a batch: a row for each token that no window before held.
struct StateRows {
  uint32_t layer = 0;
  std::vector<DocumentRows> parts;
  std::vector<float> values;  ///< [rows, hidden]
};

struct RecordEnd {};

using JobItem = std::variant<RecordStart, ScoredRows, StateRows, RecordEnd>;

class JobWriter {
 public:
  /// All outlive it. Opens the files that grow. Throws Error.
  JobWriter(JobFolder& folder, JobSinks sinks, const StopFlag& stop);
  ~JobWriter();
  JobWriter(const JobWriter&) = delete;

  /// Waits while the queue is full. Throws what the writer's thread failed with, Stopped.
  void push(JobItem item);
  /// Throws what the writer's thread failed with, if it did: for whoever has nothing to push yet.
  void check();
  /// All is on the drive. Throws what the writer's thread failed with.
  void finish();

  /// Items that wait at most, and what they and the one being written hold: of `rows` a batch.
  static size_t capacity(const JobSinks& sinks);
  static uint64_t queue_bytes(const JobSinks& sinks, uint32_t rows);

 private:
  class Record;

  void run();
  void rethrow();

  JobFolder& folder_;
  const JobSinks sinks_;
  const StopFlag& stop_;
  const StopFlag never_;  // a record that is whole is finished, whoever stops
  JsonlAppender scores_;
  std::optional<NpyAppender> array_;
  BoundedQueue<JobItem> queue_;
  std::exception_ptr failure_;  // written by the thread, before:
  std::atomic<bool> failed_ = false;
  std::jthread thread_;
};

}  // namespace spillway
