// A small job with all sinks, whose values are functions of document and token alone: whoever
// writes a document writes the same bytes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "sinks/job_folder.h"

namespace spillway::test {

struct SinksJob {
  uint64_t documents = 11;
  uint64_t sweep_documents = 3;
  uint64_t hidden = 5;
  uint64_t k = 3;
  uint64_t seed = 1;
  uint64_t piece_tokens = 4;  // how many rows are appended at a time
  uint64_t shard_index = 0;
  uint64_t shard_count = 0;  // 0: all documents
  JobFolder::Check check = JobFolder::Check::kHashes;

  DocumentRange range() const {
    return shard_count == 0 ? DocumentRange{0, documents}
                            : shard_documents(documents, shard_index, shard_count);
  }
  nlohmann::json description() const {
    nlohmann::json job = {{"config", "c0ffee"},
                          {"model", {{"fingerprint", "a"}, {"layers", 4}}},
                          {"sinks", {"scores", "topk"}}};
    if (shard_count > 0) job["shard"] = {{"index", shard_index}, {"count", shard_count}};
    return job;
  }
};

/// Some number of document `d`'s row `i`.
inline float sinks_value(const SinksJob& job, uint64_t d, uint64_t i) {
  return -static_cast<float>((job.seed * 7919 + d * 104729 + i * 31) % 1009) / 64.0f;
}
inline uint64_t sinks_tokens(const SinksJob& job, uint64_t d) {
  return 1 + (job.seed + d * 5) % 9;
}

/// Appends `rows` rows of `width` values each, a few at a time.
template <typename T, typename Value>
void append_in_pieces(SafetensorsWriter& shard, const char* tensor, uint64_t rows, uint64_t width,
                      uint64_t piece, const Value& value) {
  for (uint64_t row = 0; row < rows; row += piece) {
    std::vector<T> values;
    for (uint64_t r = row; r < std::min(rows, row + piece); ++r) {
      for (uint64_t c = 0; c < width; ++c) values.push_back(value(r * width + c));
    }
    shard.append(tensor, values);
  }
}

inline ScoreRow sinks_row(const SinksJob& job, uint64_t d) {
  ScoreRow row;
  row.id = "doc-" + std::to_string(d) + (d % 4 == 0 ? " \"ü\"\n" : "");
  row.document = d;
  row.tokens = sinks_tokens(job, d);
  for (uint64_t i = 0; i < row.tokens; ++i) row.sum_logprob += sinks_value(job, d, i);
  row.mean_logprob = row.sum_logprob / static_cast<double>(row.tokens);
  if (d % 3 != 0) row.greedy = d % 3 == 1;
  return row;
}

inline void write_sinks_sweep(JobFolder& folder, const SinksJob& job) {
  const uint64_t first = folder.next_document();
  const uint64_t end = std::min(job.range().end(), first + job.sweep_documents);
  JsonlAppender scores = folder.scores();
  NpyAppender array = folder.embeddings(job.hidden);
  folder.begin_sweep(folder.next_sweep());
  std::vector<uint64_t> lengths;
  std::vector<std::pair<uint64_t, uint64_t>> rows;  // document, token
  for (uint64_t d = first; d < end; ++d) {
    lengths.push_back(sinks_tokens(job, d));
    for (uint64_t t = 0; t < lengths.back(); ++t) rows.emplace_back(d, t);
    scores.append(sinks_row(job, d));
  }
  const uint64_t tokens = rows.size();
  const auto number = [&](uint64_t width) {
    return [&rows, &job, width](uint64_t i) {
      const auto [d, t] = rows[i / width];
      return sinks_value(job, d, t * width + i % width);
    };
  };
  const auto id = [&](uint64_t width) {
    return [value = number(width)](uint64_t i) { return static_cast<int32_t>(-value(i) * 64); };
  };
  auto logprobs =
      folder.new_shard(kTokenLogprobs, token_logprobs_tensors(end - first, tokens, Element::kI32));
  auto topk = folder.new_shard(kTopK, topk_tensors(end - first, tokens, job.k));
  auto hidden = folder.new_shard(hidden_sink(3),
                                 hidden_tensors(end - first, tokens, job.hidden, Element::kBF16));
  auto embeddings = folder.new_shard(kEmbeddings, embeddings_tensors(end - first, job.hidden));
  for (SafetensorsWriter* shard : {&logprobs, &topk, &hidden}) {
    shard->append("document_offsets", document_offsets(lengths));
  }
  const uint64_t piece = job.piece_tokens;
  append_in_pieces<int32_t>(logprobs, "ids", tokens, 1, piece, id(1));
  append_in_pieces<float>(logprobs, "logprobs", tokens, 1, piece, number(1));
  append_in_pieces<float>(topk, "logsumexp", tokens, 1, piece, number(1));
  append_in_pieces<float>(topk, "logprobs", tokens, job.k, piece, number(job.k));
  append_in_pieces<int32_t>(topk, "ids", tokens, job.k, piece, id(job.k));
  append_in_pieces<uint16_t>(
      hidden, "hidden", tokens, job.hidden, piece,
      [value = number(job.hidden)](uint64_t i) { return bf16_from_f32(value(i)); });
  for (uint64_t d = first; d < end; ++d) {
    std::vector<float> values;
    for (uint64_t c = 0; c < job.hidden; ++c) values.push_back(sinks_value(job, d, c));
    embeddings.append("embeddings", values);
    array.append(values);
  }
  for (SafetensorsWriter* shard : {&logprobs, &topk, &hidden, &embeddings}) {
    folder.publish(std::move(*shard), StopFlag());
  }
  folder.finish_sweep(end - first, tokens);
}

/// Begins or goes on; `sweeps`: at most so many, and then it is not finished.
inline void run_sinks_job(const std::filesystem::path& out, const SinksJob& job,
                          uint64_t sweeps = UINT64_MAX) {
  JobFolder folder(out, job.description(), job.range(), job.check, StopFlag());
  if (folder.finished()) return;
  while (folder.next_document() < job.range().end()) {
    if (sweeps-- == 0) return;
    write_sinks_sweep(folder, job);
  }
  folder.finish({{"documents", job.range().count}, {"mean", -1.5}});
}

}  // namespace spillway::test
