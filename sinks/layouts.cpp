#include "sinks/layouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "sinks/append_file.h"

namespace spillway {
namespace {

constexpr std::string_view kShardEnding = ".safetensors";
constexpr std::string_view kHiddenPrefix = "hidden-";

std::optional<uint64_t> whole_number(std::string_view digits) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return number;
}

bool is_shard_sink(std::string_view sink) {
  if (sink == kTokenLogprobs || sink == kTopK || sink == kEmbeddings) return true;
  if (!sink.starts_with(kHiddenPrefix)) return false;
  const auto layer = whole_number(sink.substr(kHiddenPrefix.size()));
  return layer && *layer <= UINT32_MAX && hidden_sink(static_cast<uint32_t>(*layer)) == sink;
}

constexpr const char* kOffsets = "document_offsets";

TensorShape offsets_tensor(uint64_t documents) {
  return {kOffsets, Element::kI64, {documents + 1}};
}

}  // namespace

std::string hidden_sink(uint32_t layer) {
  return fmt::format("{}{:03}", kHiddenPrefix, layer);
}

std::string shard_name(std::string_view sink, uint64_t sweep) {
  return fmt::format("{}-{:05}{}", sink, sweep, kShardEnding);
}

std::optional<ShardName> parse_shard_name(std::string_view name) {
  if (!name.ends_with(kShardEnding)) return std::nullopt;
  const std::string_view stem = name.substr(0, name.size() - kShardEnding.size());
  const size_t dash = stem.rfind('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto sweep = whole_number(stem.substr(dash + 1));
  const std::string sink(stem.substr(0, dash));
  if (!sweep || !is_shard_sink(sink) || shard_name(sink, *sweep) != name) return std::nullopt;
  return ShardName{sink, *sweep};
}

bool is_append_name(std::string_view name) {
  return name == kScoresName || name == kEmbeddingsArrayName;
}

uint64_t append_head_bytes(std::string_view name) {
  return name == kEmbeddingsArrayName ? kNpyHeadBytes : 0;
}

std::vector<int64_t> document_offsets(std::span<const uint64_t> document_tokens) {
  std::vector<int64_t> offsets = {0};
  for (const uint64_t tokens : document_tokens) {
    offsets.push_back(offsets.back() + static_cast<int64_t>(tokens));
  }
  return offsets;
}

std::vector<TensorShape> token_logprobs_tensors(uint64_t documents, uint64_t tokens, Element ids) {
  CHECK(ids == Element::kU32 || ids == Element::kI32);
  return {offsets_tensor(documents), {"ids", ids, {tokens}}, {"logprobs", Element::kF32, {tokens}}};
}

std::vector<TensorShape> topk_tensors(uint64_t documents, uint64_t tokens, uint64_t k) {
  return {offsets_tensor(documents),
          {"ids", Element::kI32, {tokens, k}},
          {"logprobs", Element::kF32, {tokens, k}},
          {"logsumexp", Element::kF32, {tokens}}};
}

std::vector<TensorShape> hidden_tensors(uint64_t documents, uint64_t tokens, uint64_t hidden,
                                        Element element) {
  return {offsets_tensor(documents), {"hidden", element, {tokens, hidden}}};
}

std::vector<TensorShape> embeddings_tensors(uint64_t documents, uint64_t hidden) {
  return {{"embeddings", Element::kF32, {documents, hidden}}};
}

uint64_t shard_rows(std::span<const TensorShape> tensors) {
  const auto values = std::find_if(tensors.begin(), tensors.end(),
                                   [](const TensorShape& one) { return one.name != kOffsets; });
  CHECK(values != tensors.end());
  return values->shape.at(0);
}

}  // namespace spillway
