// A tokenizer around the SentencePiece library: certain tokens are cut out of a text, the library
// turns what lies between into ids.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/added_tokens.h"
#include "text/tokenizer.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace spillway {

struct SentencePieceParts {
  SentencePieceParts();
  SentencePieceParts(SentencePieceParts&&) noexcept;
  ~SentencePieceParts();

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor;
  /// Found in a text before the library sees it. Special ones have no text when decoded; one
  /// without content is not found either.
  std::vector<AddedToken> added;
  std::vector<uint32_t> bos;
  uint32_t vocab_size = 0;  ///< ids that the library may give
  std::string unknown;      ///< the text of its unknown token
  bool drops_first_space = false;
  bool drops_every_space = false;  ///< each token's first, until there is text
};

/// Null when `model`, a serialized ModelProto, is none or is damaged.
std::unique_ptr<sentencepiece::SentencePieceProcessor> open_sentencepiece(const std::string& model);

/// Spaces for U+2581.
void replace_space_marks(std::string& text);

/// Immutable.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(SentencePieceParts parts);
  SentencePieceTokenizer(const SentencePieceTokenizer&) = delete;
  SentencePieceTokenizer& operator=(const SentencePieceTokenizer&) = delete;
  ~SentencePieceTokenizer() override;

  std::vector<uint32_t> encode(std::string_view text) const override;
  std::unique_ptr<Detokenizer> detokenizer() const override;
  const std::vector<uint32_t>& bos() const override { return parts_.bos; }
  uint32_t vocab_size() const override { return parts_.vocab_size; }

  bool is_special(uint32_t id) const;
  /// The bytes that a token stands for: maybe half a character; empty for special tokens.
  /// `at_start`: it is the first of a text.
  std::string token_bytes(uint32_t id, bool at_start) const;
  bool drops_every_space() const { return parts_.drops_every_space; }

 private:
  SentencePieceParts parts_;
  std::unordered_map<uint32_t, const AddedToken*> added_;
  TokenMatcher matcher_;  // of the added tokens, which do not change any more
};

}  // namespace spillway
