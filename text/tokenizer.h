// Text to token ids and back, as the model's own tokenizer does it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace spillway {

/// A token that is matched in text before anything else ("<|eot_id|>"), with Hugging Face's flags.
struct AddedToken {
  std::string content;
  uint32_t id = 0;
  bool special = false;
  bool normalized = false;
  bool left_strip = false;
  bool right_strip = false;
  bool single_word = false;
};

/// Immutable; thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Ids of `text`, special tokens in it recognised, without BOS. Throws Error for bad UTF-8.
  virtual std::vector<uint32_t> encode(std::string_view text) const = 0;
  /// The bytes that a token stands for: maybe half a character; empty for special tokens.
  /// `at_start`: it is the first of a text, where some tokenizers drop one space.
  virtual std::string token_bytes(uint32_t id, bool at_start) const = 0;
  /// What is prepended to a prompt; empty when this tokenizer's configuration adds none.
  virtual const std::vector<uint32_t>& bos() const = 0;
  virtual uint32_t vocab_size() const = 0;

  /// encode() with BOS in front, unless the text itself begins with it.
  std::vector<uint32_t> encode_prompt(std::string_view text) const;
  std::string decode(std::span<const uint32_t> ids) const;
};

/// Turns a stream of ids into text that never ends in half a character.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  /// Text that is whole now; may be empty.
  std::string add(uint32_t id);
  /// The rest, malformed bytes replaced.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
  bool at_start_ = true;
};

/// Opens tokenizer.json, else tokenizer.model, of a checkpoint. Null when it has neither. Throws
/// Error naming what a file asks for that is not supported.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory);

std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& file);
std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& where,
                                                std::optional<bool> add_bos,
                                                const std::string& bos_content);
std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& file);

/// Pieces of text between added tokens, and those tokens. Shared by both families.
struct TextPiece {
  std::string_view text;
  const AddedToken* token = nullptr;  ///< set: this piece is the token
};
/// `normalized` picks the tokens that are matched after normalization, or those before.
std::vector<TextPiece> split_at_tokens(std::string_view text, const std::vector<AddedToken>& tokens,
                                       bool normalized);

}  // namespace spillway
