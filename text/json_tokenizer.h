// The tokenizer that a tokenizer.json describes, put together from its stages: added tokens are cut
// out, the rest is normalized, added tokens that match normalized text are cut out, and what is
// left is split into words, which the model turns into ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <variant>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"
#include "text/unigram.h"

namespace spillway {

using WordModel = std::variant<Bpe, Unigram>;

struct TokenizerParts {
  WordModel model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  bool byte_level = false;  ///< the last pre-tokenizer maps words to the byte-level alphabet
  Decoder decoder;
};

/// Immutable once built: the add and set functions come before the first use.
class JsonTokenizer final : public Tokenizer {
 public:
  explicit JsonTokenizer(TokenizerParts parts);
  JsonTokenizer(const JsonTokenizer&) = delete;
  JsonTokenizer& operator=(const JsonTokenizer&) = delete;

  /// All at once. Throws Error when a token's id is not the one that the reference gives it, or
  /// when nothing is left of one that is normalized.
  void add_tokens(const std::vector<AddedToken>& tokens);
  void set_bos(std::vector<uint32_t> bos) { bos_ = std::move(bos); }

  std::vector<uint32_t> encode(std::string_view text) const override;
  std::unique_ptr<Detokenizer> detokenizer() const override;
  const std::vector<uint32_t>& bos() const override { return bos_; }
  uint32_t vocab_size() const override { return vocab_size_; }

  std::optional<uint32_t> id_of(const std::string& content) const;
  /// Null for ids without a text of their own: unknown ones and special tokens.
  const std::string* text_of(uint32_t id) const;

 private:
  template <typename Scratch, typename Encode>
  void encode_with(std::string_view text, std::vector<uint32_t>& ids, Encode&& encode) const;
  uint32_t reference_id(const AddedToken& token) const;
  void match_tokens(const std::vector<AddedToken>& tokens);

  TokenizerParts parts_;
  std::unordered_map<std::string, uint32_t> added_ids_;
  std::unordered_map<uint32_t, AddedToken> added_;  // its nodes stay where they are
  std::unordered_set<std::string> special_;
  TokenMatcher before_;  // matched in the text as it is
  TokenMatcher after_;   // matched in normalized text
  std::vector<uint32_t> bos_;
  uint32_t vocab_size_ = 0;
  uint32_t next_added_id_ = 0;
};

}  // namespace spillway
