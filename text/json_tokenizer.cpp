#include "text/json_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "text/unicode.h"

namespace spillway {
namespace {

class JsonDetokenizer final : public Detokenizer {
 public:
  JsonDetokenizer(const JsonTokenizer& tokenizer, const Decoder& decoder)
      : tokenizer_(tokenizer), stream_(decoder) {}
  std::string add(uint32_t id) override {
    const std::string* text = tokenizer_.text_of(id);
    return text == nullptr ? "" : stream_.add(*text);
  }
  std::string finish() override { return stream_.finish(); }

 private:
  const JsonTokenizer& tokenizer_;
  DecodeStream stream_;
};

}  // namespace

JsonTokenizer::JsonTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {
  next_added_id_ = static_cast<uint32_t>(
      std::visit([](const auto& model) { return model.size(); }, parts_.model));
  if (Bpe* bpe = std::get_if<Bpe>(&parts_.model)) {
    bpe->prepare();
    vocab_size_ = bpe->end_id();
  } else {
    vocab_size_ = next_added_id_;
  }
  const Bpe* bpe = std::get_if<Bpe>(&parts_.model);
  if (parts_.byte_level && (bpe == nullptr || !bpe->has_byte_symbols())) {
    parts_.pre_tokenizer.add_byte_level_text();  // word by word, instead of inside the model
    parts_.byte_level = false;
  }
}

/// The id of a token that the model knows, or the next free one behind the model's.
uint32_t JsonTokenizer::reference_id(const AddedToken& token) const {
  return id_of(token.content).value_or(next_added_id_);
}

void JsonTokenizer::add_tokens(const std::vector<AddedToken>& tokens) {
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    const uint32_t id = reference_id(token);
    if (id != token.id) {
      throw Error(
          fmt::format("the added token \"{}\" has the id {}, but gets {} from the "
                      "tokenizers library, which numbers added tokens behind the {} of the "
                      "model; such a file is not supported",
                      token.content, token.id, id,
                      std::visit([](const auto& m) { return m.size(); }, parts_.model)));
    }
    if (id >= next_added_id_) next_added_id_ = id + 1;
    added_ids_[token.content] = id;
    added_[id] = token;
    vocab_size_ = std::max(vocab_size_, id + 1);
    if (token.special) special_.insert(token.content);
  }
  match_tokens(tokens);
}

/// Special tokens first: of equal texts the first is matched.
void JsonTokenizer::match_tokens(const std::vector<AddedToken>& tokens) {
  for (const bool special : {true, false}) {
    for (const AddedToken& token : tokens) {
      if (token.content.empty() || (special_.count(token.content) > 0) != special) continue;
      if (special && !token.special) continue;
      const AddedToken* added = &added_.at(added_ids_.at(token.content));
      if (!token.normalized) {
        before_.add(token.content, added);
        continue;
      }
      const std::string text = parts_.normalizer.apply(token.content, true).text;
      if (text.empty()) {
        throw Error(
            fmt::format("nothing is left of the added token \"{}\" when it is normalized; "
                        "this is not supported",
                        token.content));
      }
      after_.add(text, added);
    }
  }
}

std::optional<uint32_t> JsonTokenizer::id_of(const std::string& content) const {
  const auto added = added_ids_.find(content);
  if (added != added_ids_.end()) return added->second;
  const int64_t id =
      std::visit([&](const auto& model) { return model.id_of(content); }, parts_.model);
  return id < 0 ? std::nullopt : std::optional(static_cast<uint32_t>(id));
}

const std::string* JsonTokenizer::text_of(uint32_t id) const {
  const auto added = added_.find(id);
  const std::string* text =
      added != added_.end()
          ? &added->second.content
          : std::visit([&](const auto& model) { return model.token_of(id); }, parts_.model);
  return text == nullptr || special_.count(*text) > 0 ? nullptr : text;
}

template <typename Scratch, typename Encode>
void JsonTokenizer::encode_with(std::string_view text, std::vector<uint32_t>& ids,
                                Encode&& encode) const {
  Scratch scratch(text.size());
  for (const TextPiece& piece : before_.split(text)) {
    if (piece.token != nullptr) {
      ids.push_back(piece.token->id);
      continue;
    }
    const NormalText normal = parts_.normalizer.apply(piece.text, piece.text.data() == text.data());
    for (const TextPiece& inner : after_.split(normal.text)) {
      if (inner.token != nullptr) {
        ids.push_back(inner.token->id);
        continue;
      }
      const auto begin = static_cast<size_t>(inner.text.data() - normal.text.data());
      Words words{std::string(inner.text), {{0, inner.text.size()}}, begin < normal.from_first};
      parts_.pre_tokenizer.apply(words);
      for (const Match& word : words.words) {
        encode(std::string_view(words.text).substr(word.begin, word.end - word.begin), scratch,
               ids);
      }
    }
  }
}

std::vector<uint32_t> JsonTokenizer::encode(std::string_view text) const {
  require_utf8(text);
  std::vector<uint32_t> ids;
  ids.reserve(text.size() / 3);
  if (const auto* unigram = std::get_if<Unigram>(&parts_.model)) {
    encode_with<UnigramScratch>(text, ids, [&](std::string_view word, auto& scratch, auto& out) {
      unigram->encode(word, scratch, out);
    });
    return ids;
  }
  const Bpe& bpe = std::get<Bpe>(parts_.model);
  encode_with<BpeScratch>(text, ids, [&](std::string_view word, auto& scratch, auto& out) {
    if (parts_.byte_level) {
      bpe.encode_bytes(word, scratch, out);
    } else {
      bpe.encode(word, scratch, out);
    }
  });
  return ids;
}

std::unique_ptr<Detokenizer> JsonTokenizer::detokenizer() const {
  return std::make_unique<JsonDetokenizer>(*this, parts_.decoder);
}

}  // namespace spillway
