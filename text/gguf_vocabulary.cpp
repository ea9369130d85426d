#include "text/gguf_vocabulary.h"

#include <fmt/format.h>

#include <unordered_map>

#include "core/error.h"
#include "core/one_line.h"
#include "text/unicode.h"

namespace spillway {
namespace {

constexpr size_t kMaxTokens = size_t{1} << 24;
/// The SentencePiece library and its like walk tokens byte by byte, some of them by recursion.
constexpr size_t kMaxTokenBytes = 4096;

const GgufTexts& read_tokens(const GgufMetadata& metadata) {
  const GgufTexts* tokens = metadata.texts(gguf_keys::kTokens);
  if (tokens == nullptr || tokens->empty()) {
    refuse_gguf(metadata, gguf_keys::kTokens, "there are no tokens");
  }
  if (tokens->size() > kMaxTokens) {
    refuse_gguf(metadata, gguf_keys::kTokens,
                fmt::format("{} tokens are more than the {} that are supported", tokens->size(),
                            kMaxTokens));
  }
  return *tokens;
}

}  // namespace

void refuse_gguf(const GgufMetadata& metadata, std::string_view key, const std::string& what) {
  throw Error(fmt::format(
      "{}: {}: {}; fetch the file again, or convert the model anew with a current converter",
      metadata.path(), key, what));
}

GgufVocabulary::GgufVocabulary(const GgufMetadata& metadata)
    : metadata_(metadata), tokens_(read_tokens(metadata)) {
  if (!metadata.has(gguf_keys::kTypes)) {
    refuse_gguf(metadata, gguf_keys::kTypes,
                "it is missing, so that control tokens cannot be told from text");
  }
  if (const size_t count = metadata.length(gguf_keys::kTypes); count != tokens_.size()) {
    refuse_gguf(metadata, gguf_keys::kTypes,
                fmt::format("{} types for {} tokens", count, tokens_.size()));
  }
  types_.reserve(tokens_.size());
  const std::vector<int64_t> types = metadata.wholes(gguf_keys::kTypes).value();
  for (const int64_t type : types) {
    if (type < 1 || type > 6) {
      refuse_gguf(
          metadata, gguf_keys::kTypes,
          fmt::format("token {} has the type {}, which is none of 1 to 6", types_.size(), type));
    }
    types_.push_back(static_cast<GgufTokenType>(type));
  }
}

void GgufVocabulary::check_tokens() const {
  std::unordered_map<std::string_view, size_t> known;
  known.reserve(tokens_.size());
  for (size_t id = 0; id < tokens_.size(); ++id) {
    const std::string_view token = tokens_[id];
    const auto fail = [&](const std::string& what) {
      refuse_gguf(metadata_, gguf_keys::kTokens, fmt::format("token {} {}", id, what));
    };
    if (token.empty()) fail("is empty");
    if (token.size() > kMaxTokenBytes) {
      fail(fmt::format("has {} bytes, more than the {} that are supported", token.size(),
                       kMaxTokenBytes));
    }
    if (!is_valid_utf8(token)) fail(fmt::format("{} is not UTF-8", in_quotes(token)));
    const auto [entry, added] = known.emplace(token, id);
    if (!added) fail(fmt::format("{} is the same as token {}", in_quotes(token), entry->second));
  }
}

std::optional<uint32_t> GgufVocabulary::id_at(std::string_view key) const {
  const std::optional<uint64_t> id = metadata_.whole(key);
  if (!id) return std::nullopt;
  if (*id >= size()) {
    refuse_gguf(metadata_, key, fmt::format("{} is none of the {} tokens", *id, size()));
  }
  return static_cast<uint32_t>(*id);
}

std::optional<uint32_t> GgufVocabulary::control(std::string_view text) const {
  for (uint32_t id = 0; id < size(); ++id) {
    if (types_[id] == GgufTokenType::kControl && tokens_[id] == text) return id;
  }
  return std::nullopt;
}

std::vector<AddedToken> GgufVocabulary::added() const {
  std::vector<AddedToken> added;
  for (uint32_t id = 0; id < size(); ++id) {
    const bool own = types_[id] == GgufTokenType::kUserDefined;
    if (!own && types_[id] != GgufTokenType::kControl && types_[id] != GgufTokenType::kUnknown) {
      continue;
    }
    AddedToken token;
    token.content = tokens_[id];
    token.id = id;
    token.special = !own;
    added.push_back(std::move(token));
  }
  return added;
}

std::vector<uint32_t> GgufVocabulary::bos(bool by_default) const {
  if (!metadata_.flag(gguf_keys::kAddBos).value_or(by_default)) return {};
  std::optional<uint32_t> id = id_at(gguf_keys::kBos);
  if (!id) id = control("<s>");
  if (!id) {
    refuse_gguf(metadata_, gguf_keys::kBos,
                "it is missing, and this tokenizer puts that token in front of a prompt");
  }
  return {*id};
}

}  // namespace spillway
