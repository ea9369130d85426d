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

/// Turns ids into text one at a time. Refers to its tokenizer. Not for several threads at once.
class Detokenizer {
 public:
  virtual ~Detokenizer() = default;
  /// Text that is certain now; may be empty, and never ends in half a character.
  virtual std::string add(uint32_t id) = 0;
  /// The rest, malformed bytes replaced.
  virtual std::string finish() = 0;
};

/// Immutable: any number of threads may use one at once, everything that a call changes is its own.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Ids of `text`, special tokens in it recognised, without BOS. Throws Error for bad UTF-8.
  virtual std::vector<uint32_t> encode(std::string_view text) const = 0;
  virtual std::unique_ptr<Detokenizer> detokenizer() const = 0;
  /// What is prepended to a prompt; empty when this tokenizer's configuration adds none.
  virtual const std::vector<uint32_t>& bos() const = 0;
  virtual uint32_t vocab_size() const = 0;

  /// encode() with BOS in front, unless the text itself begins with it.
  std::vector<uint32_t> encode_prompt(std::string_view text) const;
  /// Special tokens have no text.
  std::string decode(std::span<const uint32_t> ids) const;
};

/// A Detokenizer by value.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : detokenizer_(tokenizer.detokenizer()) {}
  std::string add(uint32_t id) { return detokenizer_->add(id); }
  std::string finish() { return detokenizer_->finish(); }

 private:
  std::unique_ptr<Detokenizer> detokenizer_;
};

/// Opens tokenizer.json, else tokenizer.model, of a checkpoint. Null when it has neither. Throws
/// Error naming what a file asks for that is not supported.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory);

std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& file);
std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& where,
                                                std::optional<bool> add_bos,
                                                const std::string& bos_content);
std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& file);

}  // namespace spillway
