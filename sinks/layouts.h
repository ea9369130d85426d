// Names and shapes of what a job's sinks write (docs/FORMATS.md). Pure; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sinks/safetensors_writer.h"

namespace spillway {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kIndexName = "index.json";
inline constexpr const char* kSummaryName = "summary.json";
inline constexpr const char* kScoresName = "scores.jsonl";
inline constexpr const char* kEmbeddingsArrayName = "embeddings.npy";

inline constexpr const char* kTokenLogprobs = "token_logprobs";
inline constexpr const char* kTopK = "topk";
inline constexpr const char* kEmbeddings = "embeddings";
/// "hidden-012"
std::string hidden_sink(uint32_t layer);

/// "topk-00000.safetensors"
std::string shard_name(std::string_view sink, uint64_t sweep);
struct ShardName {
  std::string sink;
  uint64_t sweep = 0;
};
/// Empty unless shard_name() gives it, of a sink that there is.
std::optional<ShardName> parse_shard_name(std::string_view name);
bool is_append_name(std::string_view name);
/// Bytes of an append file that are no rows, in front of them.
uint64_t append_head_bytes(std::string_view name);

/// Where each document's tokens begin, and where the last one's end.
std::vector<int64_t> document_offsets(std::span<const uint64_t> document_tokens);

/// `ids`: kU32 or kI32.
std::vector<TensorShape> token_logprobs_tensors(uint64_t documents, uint64_t tokens, Element ids);
std::vector<TensorShape> topk_tensors(uint64_t documents, uint64_t tokens, uint64_t k);
std::vector<TensorShape> hidden_tensors(uint64_t documents, uint64_t tokens, uint64_t hidden,
                                        Element element);
std::vector<TensorShape> embeddings_tensors(uint64_t documents, uint64_t hidden);

/// Rows of values that a shard of these tensors has.
uint64_t shard_rows(std::span<const TensorShape> tensors);

}  // namespace spillway
