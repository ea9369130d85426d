#include "text/gguf_sentencepiece.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/one_line.h"
#include "text/sentencepiece_tokenizer.h"

namespace spillway {
namespace {

/// Protocol Buffers' wire format, as much of it as a ModelProto needs.
class ProtoWriter {
 public:
  void whole(uint32_t field, uint64_t value) {
    varint(uint64_t{field} << 3);
    varint(value);
  }
  void text(uint32_t field, std::string_view value) {
    varint((uint64_t{field} << 3) | 2);
    varint(value.size());
    bytes_ += value;
  }
  void number(uint32_t field, float value) {
    varint((uint64_t{field} << 3) | 5);
    char bytes[sizeof(value)];
    std::memcpy(bytes, &value, sizeof(value));
    bytes_.append(bytes, sizeof(bytes));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

std::vector<float> read_scores(const GgufVocabulary& vocabulary) {
  const GgufMetadata& metadata = vocabulary.metadata();
  if (!metadata.has(gguf_keys::kScores)) {
    refuse_gguf(metadata, gguf_keys::kScores, "it is missing, and scores decide what is merged");
  }
  if (const size_t count = metadata.length(gguf_keys::kScores); count != vocabulary.size()) {
    refuse_gguf(metadata, gguf_keys::kScores,
                fmt::format("{} scores for {} tokens", count, vocabulary.size()));
  }
  std::vector<float> scores;
  scores.reserve(vocabulary.size());
  const std::vector<double> numbers = metadata.numbers(gguf_keys::kScores).value();
  for (const double number : numbers) {
    scores.push_back(static_cast<float>(number));
    if (!std::isfinite(scores.back())) {
      refuse_gguf(metadata, gguf_keys::kScores,
                  fmt::format("that of token {} is not finite", scores.size() - 1));
    }
  }
  return scores;
}

/// The byte of "<0x0A>", or -1.
int byte_of_token(std::string_view token) {
  for (int byte = 0; byte < 256; ++byte) {
    if (token == fmt::format("<0x{:02X}>", byte)) return byte;
  }
  return -1;
}

/// Whether there are tokens for bytes; then there must be all.
bool has_bytes(const GgufVocabulary& vocabulary) {
  std::array<bool, 256> found{};
  size_t count = 0;
  for (uint32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.type(id) != GgufTokenType::kByte) continue;
    const int byte = byte_of_token(vocabulary.token(id));
    if (byte < 0) {
      refuse_gguf(vocabulary.metadata(), gguf_keys::kTokens,
                  fmt::format("token {} is to be a byte such as <0x0A>, but is {}", id,
                              in_quotes(vocabulary.token(id))));
    }
    if (!std::exchange(found[static_cast<size_t>(byte)], true)) ++count;
  }
  if (count != 0 && count != found.size()) {
    refuse_gguf(vocabulary.metadata(), gguf_keys::kTypes,
                fmt::format("there are tokens for {} of the 256 bytes", count));
  }
  return count != 0;
}

/// The library wants to know exactly one; converters may have made it a control token.
std::optional<uint32_t> find_unknown(const GgufVocabulary& vocabulary) {
  const auto fits = [&](uint32_t id) {
    return vocabulary.type(id) == GgufTokenType::kUnknown ||
           vocabulary.type(id) == GgufTokenType::kControl;
  };
  const std::optional<uint32_t> named = vocabulary.id_at(gguf_keys::kUnknown);
  if (named && fits(*named)) return named;
  for (uint32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.type(id) == GgufTokenType::kUnknown) return id;
  }
  return vocabulary.control("<unk>");
}

std::string piece(std::string_view text, float score, GgufTokenType type) {
  ProtoWriter writer;
  writer.text(1, text);
  writer.number(2, score);
  writer.whole(3, static_cast<uint64_t>(type));  // both number types the same way
  return writer.bytes();
}

/// Tokens that are cut out of texts are never to come of merging: control tokens to the library.
std::string pieces(const GgufVocabulary& vocabulary, const std::vector<float>& scores) {
  const std::optional<uint32_t> unknown = find_unknown(vocabulary);
  ProtoWriter writer;
  std::string stand_in = "<unk>";
  for (uint32_t id = 0; id < vocabulary.size(); ++id) {
    GgufTokenType type = vocabulary.type(id);
    if (type == GgufTokenType::kUnknown || type == GgufTokenType::kUserDefined) {
      type = GgufTokenType::kControl;
    }
    if (unknown == id) type = GgufTokenType::kUnknown;
    writer.text(1, piece(vocabulary.token(id), scores[id], type));
    if (vocabulary.token(id).size() > stand_in.size()) stand_in = vocabulary.token(id);
  }
  // One behind all tokens where there is none: longer than any, so that it is not there yet.
  if (!unknown) writer.text(1, piece(stand_in + "?", 0, GgufTokenType::kUnknown));
  return writer.bytes();
}

std::string model_proto(const GgufVocabulary& vocabulary) {
  const GgufMetadata& metadata = vocabulary.metadata();
  ProtoWriter trainer;
  trainer.whole(3, 2);  // model_type: BPE
  trainer.whole(35, has_bytes(vocabulary) ? 1 : 0);
  ProtoWriter normalizer;
  normalizer.text(1, "identity");
  normalizer.whole(3, metadata.flag(gguf_keys::kAddSpacePrefix).value_or(true) ? 1 : 0);
  normalizer.whole(4, metadata.flag(gguf_keys::kRemoveSpaces).value_or(false) ? 1 : 0);
  normalizer.whole(5, 1);  // spaces become U+2581
  ProtoWriter model;
  model.text(2, trainer.bytes());
  model.text(3, normalizer.bytes());
  return pieces(vocabulary, read_scores(vocabulary)) + model.bytes();
}

/// Phi 3's special tokens take the white space behind them, which metadata does not say.
void strip_right(std::vector<AddedToken>& added) {
  for (AddedToken& token : added) {
    token.right_strip =
        token.content != "<unk>" && token.content != "<s>" && token.content != "<|endoftext|>";
  }
}

std::vector<AddedToken> added_of(const GgufVocabulary& vocabulary) {
  std::vector<AddedToken> added = vocabulary.added();
  if (vocabulary.metadata().text("general.architecture") == "phi3") strip_right(added);
  for (uint32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.type(id) != GgufTokenType::kUnused) continue;
    AddedToken token;  // converters fill gaps with texts of their own: neither found nor said
    token.id = id;
    token.special = true;
    added.push_back(token);
  }
  return added;
}

}  // namespace

std::unique_ptr<Tokenizer> gguf_sentencepiece(const GgufVocabulary& vocabulary) {
  const GgufMetadata& metadata = vocabulary.metadata();
  if (metadata.has(gguf_keys::kCharsmap)) {
    refuse_gguf(metadata, gguf_keys::kCharsmap,
                "a table of characters is not supported beside the tokenizer \"llama\"");
  }
  SentencePieceParts parts;
  parts.processor = open_sentencepiece(model_proto(vocabulary));
  if (parts.processor == nullptr) {
    refuse_gguf(metadata, gguf_keys::kTokens, "they make no SentencePiece model");
  }
  parts.added = added_of(vocabulary);
  parts.bos = vocabulary.bos(true);
  parts.vocab_size = vocabulary.size();
  parts.drops_every_space = metadata.flag(gguf_keys::kRemoveSpaces).value_or(false);
  parts.drops_first_space =
      parts.drops_every_space || metadata.flag(gguf_keys::kAddSpacePrefix).value_or(true);
  return std::make_unique<SentencePieceTokenizer>(std::move(parts));
}

}  // namespace spillway
