// The tokens of a GGUF file, checked: what both kinds of tokenizers are made of.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"
#include "text/added_tokens.h"

namespace spillway {

/// Kinds of tokens, as the format numbers them.
enum class GgufTokenType : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

namespace gguf_keys {
inline constexpr std::string_view kModel = "tokenizer.ggml.model";
inline constexpr std::string_view kPre = "tokenizer.ggml.pre";
inline constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
inline constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
inline constexpr std::string_view kScores = "tokenizer.ggml.scores";
inline constexpr std::string_view kMerges = "tokenizer.ggml.merges";
inline constexpr std::string_view kBos = "tokenizer.ggml.bos_token_id";
inline constexpr std::string_view kEos = "tokenizer.ggml.eos_token_id";
inline constexpr std::string_view kEot = "tokenizer.ggml.eot_token_id";
inline constexpr std::string_view kEom = "tokenizer.ggml.eom_token_id";
inline constexpr std::string_view kUnknown = "tokenizer.ggml.unknown_token_id";
inline constexpr std::string_view kAddBos = "tokenizer.ggml.add_bos_token";
inline constexpr std::string_view kAddSpacePrefix = "tokenizer.ggml.add_space_prefix";
inline constexpr std::string_view kRemoveSpaces = "tokenizer.ggml.remove_extra_whitespaces";
inline constexpr std::string_view kCharsmap = "tokenizer.ggml.precompiled_charsmap";
inline constexpr std::string_view kChatTemplate = "tokenizer.chat_template";
}  // namespace gguf_keys

/// Throws Error: file, key, what is wrong, and what to do.
[[noreturn]] void refuse_gguf(const GgufMetadata& metadata, std::string_view key,
                              const std::string& what);

/// Refers to the metadata, which must outlive it. Immutable.
class GgufVocabulary {
 public:
  /// Throws Error: no tokens or types, lists of differing lengths, a type that is none.
  explicit GgufVocabulary(const GgufMetadata& metadata);
  /// What takes time, for tokenizers alone. Throws Error: a token that is empty, overlong, not
  /// UTF-8 or there twice.
  void check_tokens() const;

  const GgufMetadata& metadata() const { return metadata_; }
  uint32_t size() const { return static_cast<uint32_t>(types_.size()); }
  std::string_view token(uint32_t id) const { return tokens_[id]; }
  GgufTokenType type(uint32_t id) const { return types_[id]; }

  /// The id that a key holds, if it is there. Throws Error when no token has it.
  std::optional<uint32_t> id_at(std::string_view key) const;
  /// A control token with this text.
  std::optional<uint32_t> control(std::string_view text) const;
  /// Tokens that are cut out of a text before it is split: control tokens and the unknown one,
  /// which have no text when decoded, and the user's own, which have.
  std::vector<AddedToken> added() const;
  /// What is put in front of a prompt; `by_default` where the file does not say whether anything
  /// is.
  std::vector<uint32_t> bos(bool by_default) const;

 private:
  const GgufMetadata& metadata_;
  const GgufTexts& tokens_;
  std::vector<GgufTokenType> types_;
};

}  // namespace spillway
