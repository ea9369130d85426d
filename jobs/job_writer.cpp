#include "jobs/job_writer.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "core/error.h"
#include "core/thread.h"

namespace spillway {
namespace {

Element element_of(DType dtype) {
  return dtype == DType::kF32   ? Element::kF32
         : dtype == DType::kF16 ? Element::kF16
                                : Element::kBF16;
}

uint64_t sum(const std::vector<uint64_t>& counts) {
  uint64_t sum = 0;
  for (const uint64_t count : counts) sum += count;
  return sum;
}

}  // namespace

/// The files of one record, and the documents on their way into them.
class JobWriter::Record {
 public:
  Record(JobFolder& folder, const JobSinks& sinks, JsonlAppender& scores,
         std::optional<NpyAppender>& array, RecordStart start)
      : folder_(folder),
        sinks_(sinks),
        scores_(scores),
        array_(array),
        start_(std::move(start)),
        first_(folder.next_document()) {
    folder_.begin_sweep(folder_.next_sweep());
    const uint64_t documents = start_.ids.size();
    const uint64_t scored = sum(start_.scored);
    const uint64_t fed = sum(start_.fed);
    if (sinks.logprobs) {
      logprobs_.emplace(with_offsets(
          kTokenLogprobs, token_logprobs_tensors(documents, scored, Element::kI32), start_.scored));
    }
    if (sinks.top_k > 0) {
      top_k_.emplace(
          with_offsets(kTopK, topk_tensors(documents, scored, sinks.top_k), start_.scored));
    }
    for (const uint32_t layer : sinks.hidden_layers) {
      const auto tensors =
          hidden_tensors(documents, fed, sinks.hidden, element_of(sinks.hidden_dtype));
      hidden_.emplace(layer, with_offsets(hidden_sink(layer), tensors, start_.fed));
    }
    if (sinks.embeddings != Pooling::kNone) {
      embeddings_.emplace(
          folder_.new_shard(kEmbeddings, embeddings_tensors(documents, sinks.hidden)));
      pooled_.resize(sinks.hidden);
    }
  }

  void take(const ScoredRows& rows) {
    if (logprobs_) {
      logprobs_->append("ids", as_i32(rows.ids));
      logprobs_->append("logprobs", rows.logprobs);
    }
    if (top_k_) {
      top_k_->append("ids", as_i32(rows.top_ids));
      top_k_->append("logprobs", rows.top_logprobs);
      top_k_->append("logsumexp", rows.log_sum_exp);
    }
    size_t at = 0;
    for (const DocumentRows& part : rows.parts) {
      end_scores_before(part.document);
      for (const size_t end = at + part.rows; at < end; ++at) {
        row_.sum_logprob += double{rows.logprobs[at]};
        greedy_ = greedy_ && rows.greedy[at] != 0;
        ++row_.tokens;
      }
    }
  }

  void take(const StateRows& rows) {
    if (const auto file = hidden_.find(rows.layer); file != hidden_.end()) {
      append_states(file->second, rows.values);
    }
    if (!embeddings_ || rows.layer != sinks_.final_layer) return;
    const float* values = rows.values.data();
    for (const DocumentRows& part : rows.parts) {
      end_embeddings_before(part.document);
      for (uint32_t r = 0; r < part.rows; ++r, values += sinks_.hidden) pool(values);
    }
  }

  void end(const StopFlag& stop) {
    end_scores_before(first_ + start_.ids.size());
    if (embeddings_) end_embeddings_before(first_ + start_.ids.size());
    for (auto* file : {&logprobs_, &top_k_, &embeddings_}) {
      if (*file) folder_.publish(std::move(**file), stop);
    }
    for (auto& [layer, file] : hidden_) folder_.publish(std::move(file), stop);
    folder_.finish_sweep(start_.ids.size(), sum(start_.scored));
  }

 private:
  SafetensorsWriter with_offsets(std::string_view sink, const std::vector<TensorShape>& tensors,
                                 const std::vector<uint64_t>& counts) {
    SafetensorsWriter file = folder_.new_shard(sink, tensors);
    file.append("document_offsets", document_offsets(counts));
    return file;
  }

  /// Ids are below a vocabulary's end, which i32 holds; those of no token become -1.
  std::span<const int32_t> as_i32(const std::vector<uint32_t>& ids) {
    ids_.assign(ids.begin(), ids.end());
    return ids_;
  }

  void append_states(SafetensorsWriter& file, const std::vector<float>& values) {
    if (sinks_.hidden_dtype == DType::kF32) return file.append("hidden", values);
    halves_.resize(values.size());
    std::transform(values.begin(), values.end(), halves_.begin(),
                   sinks_.hidden_dtype == DType::kF16 ? f16_from_f32 : bf16_from_f32);
    file.append("hidden", halves_);
  }

  /// Rows of all documents before `document`, also of those that have none.
  void end_scores_before(uint64_t document) {
    for (; first_ + scored_ < document; ++scored_) {
      row_.id = start_.ids[scored_];
      row_.document = first_ + scored_;
      CHECK(row_.tokens == start_.scored[scored_]);
      row_.mean_logprob = row_.sum_logprob / static_cast<double>(row_.tokens);  // NaN: null
      if (row_.tokens > 0) row_.greedy = greedy_;
      scores_.append(row_);
      row_ = {};
      greedy_ = true;
    }
  }

  void pool(const float* values) {
    ++states_;
    if (sinks_.embeddings == Pooling::kMean) {
      for (size_t i = 0; i < pooled_.size(); ++i) pooled_[i] += double{values[i]};
    } else {
      pooled_.assign(values, values + pooled_.size());
    }
  }

  void end_embeddings_before(uint64_t document) {
    for (; first_ + embedded_ < document; ++embedded_) {
      CHECK(states_ == start_.fed[embedded_]);
      const double by =
          sinks_.embeddings == Pooling::kMean && states_ > 0 ? static_cast<double>(states_) : 1;
      vector_.resize(pooled_.size());
      for (size_t i = 0; i < pooled_.size(); ++i) {
        vector_[i] = static_cast<float>(pooled_[i] / by);
      }
      embeddings_->append("embeddings", vector_);
      array_->append(vector_);
      pooled_.assign(pooled_.size(), 0);
      states_ = 0;
    }
  }

  JobFolder& folder_;
  const JobSinks& sinks_;
  JsonlAppender& scores_;
  std::optional<NpyAppender>& array_;
  const RecordStart start_;
  const uint64_t first_;  // document
  std::optional<SafetensorsWriter> logprobs_;
  std::optional<SafetensorsWriter> top_k_;
  std::optional<SafetensorsWriter> embeddings_;
  std::map<uint32_t, SafetensorsWriter> hidden_;  // by layer
  ScoreRow row_;
  bool greedy_ = true;
  size_t scored_ = 0;    // documents whose row is written
  size_t embedded_ = 0;  // documents whose embedding is
  std::vector<double> pooled_;
  uint64_t states_ = 0;  // in it
  std::vector<float> vector_;
  std::vector<int32_t> ids_;
  std::vector<uint16_t> halves_;
};

JobWriter::JobWriter(JobFolder& folder, JobSinks sinks, const StopFlag& stop)
    : folder_(folder),
      sinks_(std::move(sinks)),
      stop_(stop),
      scores_(folder.scores()),
      queue_(capacity(sinks_)) {
  if (sinks_.embeddings != Pooling::kNone) array_ = folder.embeddings(sinks_.hidden);
  thread_ = start_thread("to write results", [this] { run(); });
}

JobWriter::~JobWriter() {
  queue_.close(BoundedQueue<JobItem>::Rest::kStays);  // a record that is whole is kept
}

void JobWriter::push(JobItem item) {
  if (queue_.push(std::move(item), stop_)) return;
  check();
  stop_.check();
}

void JobWriter::check() {
  if (failed_) rethrow();
}

void JobWriter::finish() {
  queue_.close(BoundedQueue<JobItem>::Rest::kStays);
  if (thread_.joinable()) thread_.join();
  rethrow();
}

void JobWriter::rethrow() {
  if (thread_.joinable()) thread_.join();  // it closed the queue, and ends
  if (failure_) std::rethrow_exception(failure_);
}

void JobWriter::run() {
  try {
    std::optional<Record> record;
    while (auto item = queue_.pop()) {
      if (auto* start = std::get_if<RecordStart>(&*item)) {
        record.emplace(folder_, sinks_, scores_, array_, std::move(*start));
        continue;
      }
      CHECK(record);
      if (const auto* scored = std::get_if<ScoredRows>(&*item)) record->take(*scored);
      if (const auto* states = std::get_if<StateRows>(&*item)) record->take(*states);
      if (std::holds_alternative<RecordEnd>(*item)) {
        record->end(never_);
        record.reset();
      }
    }
  } catch (...) {
    failure_ = std::current_exception();
    failed_ = true;
    queue_.close(BoundedQueue<JobItem>::Rest::kDropped);
  }
}

namespace {

bool wants_states(const JobSinks& sinks) {
  return !sinks.hidden_layers.empty() || sinks.embeddings != Pooling::kNone;
}

}  // namespace

/// Two batches of everything: one is computed while the other is written.
size_t JobWriter::capacity(const JobSinks& sinks) {
  const bool apart = sinks.embeddings != Pooling::kNone &&
                     std::find(sinks.hidden_layers.begin(), sinks.hidden_layers.end(),
                               sinks.final_layer) == sinks.hidden_layers.end();
  return 2 * (2 + sinks.hidden_layers.size() + (apart ? 1 : 0));
}

uint64_t JobWriter::queue_bytes(const JobSinks& sinks, uint32_t rows) {
  const uint64_t items = capacity(sinks) + 2;  // one that is made, one that is written
  const uint64_t scored = 32 + (sinks.top_k > 0 ? 4 + uint64_t{sinks.top_k} * 8 : 0);
  const uint64_t states = wants_states(sinks) ? uint64_t{sinks.hidden} * sizeof(float) : 0;
  // The writer's thread makes others of them: ids that are signed, values of 16 bits.
  const uint64_t converted = std::max<uint64_t>(uint64_t{sinks.top_k} * 4, states / 2);
  return rows * (items * std::max(scored, states) + converted);
}

}  // namespace spillway
