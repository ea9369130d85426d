// tokenizer.model through the SentencePiece library.
#include "text/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <utility>

#include "core/error.h"
#include "core/read_file.h"
#include "text/unicode.h"

// The library has this and does not declare it where it is installed.
namespace sentencepiece::logging {
void SetMinLogLevel(int level);
}

namespace spillway {
namespace {

/// Its errors come back as values; what it says of them beside that is for its developers.
void silence_library() {
  constexpr int kFatal = 3;
  sentencepiece::logging::SetMinLogLevel(kFatal);
}

class SentencePieceStream final : public Detokenizer {
 public:
  explicit SentencePieceStream(const SentencePieceTokenizer& tokenizer) : tokenizer_(tokenizer) {}

  std::string add(uint32_t id) override {
    std::string bytes = tokenizer_.token_bytes(id, false);
    if (!bytes.empty() && at_start_) {  // special tokens have no bytes and start no text
      bytes = tokenizer_.token_bytes(id, true);
      at_start_ = tokenizer_.drops_every_space() && bytes.empty();
    }
    if (tokenizer_.is_special(id)) return finish();  // bytes beside it are not one character
    pending_ += bytes;
    const size_t whole = pending_.size() - incomplete_tail(pending_);
    std::string ready = replace_malformed_bytes(std::string_view(pending_).substr(0, whole));
    pending_.erase(0, whole);
    return ready;
  }
  std::string finish() override { return replace_malformed_bytes(std::exchange(pending_, {})); }

 private:
  const SentencePieceTokenizer& tokenizer_;
  std::string pending_;
  bool at_start_ = true;
};

}  // namespace

SentencePieceParts::SentencePieceParts() = default;
SentencePieceParts::SentencePieceParts(SentencePieceParts&&) noexcept = default;
SentencePieceParts::~SentencePieceParts() = default;

std::unique_ptr<sentencepiece::SentencePieceProcessor> open_sentencepiece(
    const std::string& model) {
  silence_library();
  auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  return processor->LoadFromSerializedProto(model).ok() ? std::move(processor) : nullptr;
}

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceParts parts)
    : parts_(std::move(parts)) {
  for (const AddedToken& token : parts_.added) {
    added_.emplace(token.id, &token);
    matcher_.add(token.content, &token);
  }
  for (const AddedToken& token : parts_.added) {  // the first of equal texts wins
    std::string content = token.content;
    replace_space_marks(content);
    if (!token.special) matcher_.add(content, &token);
  }
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

void replace_space_marks(std::string& text) {
  for (size_t at = text.find(kSpaceMark); at != std::string::npos; at = text.find(kSpaceMark, at)) {
    text.replace(at, kSpaceMark.size(), " ");
  }
}

std::vector<uint32_t> SentencePieceTokenizer::encode(std::string_view text) const {
  require_utf8(text);
  std::vector<uint32_t> ids;
  for (const TextPiece& piece : matcher_.split(text)) {
    if (piece.token != nullptr) {
      ids.push_back(piece.token->id);
      continue;
    }
    std::vector<int> part;
    const auto status = parts_.processor->Encode({piece.text.data(), piece.text.size()}, &part);
    if (!status.ok()) {
      throw Error("the SentencePiece model cannot encode this text; fetch the tokenizer again");
    }
    for (const int id : part) {
      ids.push_back(static_cast<uint32_t>(id));
      if (ids.back() >= parts_.vocab_size) {
        throw Error("the text needs an unknown token, and the tokenizer has none");
      }
    }
  }
  return ids;
}

std::unique_ptr<Detokenizer> SentencePieceTokenizer::detokenizer() const {
  return std::make_unique<SentencePieceStream>(*this);
}

bool SentencePieceTokenizer::is_special(uint32_t id) const {
  const auto added = added_.find(id);
  return added != added_.end() && added->second->special;
}

std::string SentencePieceTokenizer::token_bytes(uint32_t id, bool at_start) const {
  if (id >= parts_.vocab_size || is_special(id)) return "";
  const int piece_id = static_cast<int>(id);
  const auto added = added_.find(id);
  std::string text;
  if (added != added_.end()) {
    text = added->second->content;
  } else if (parts_.processor->IsByte(piece_id)) {  // "<0x0A>"
    const std::string& piece = parts_.processor->IdToPiece(piece_id);
    return std::string(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
  } else if (parts_.processor->IsUnknown(piece_id)) {
    return parts_.unknown;
  } else {
    text = parts_.processor->IdToPiece(piece_id);
  }
  replace_space_marks(text);
  if (at_start && parts_.drops_first_space && !text.empty() && text[0] == ' ') text.erase(0, 1);
  return text;
}

std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& file) {
  // Read here: the library would wait for a pipe.
  const std::string model = read_text_file(file, {"a SentencePiece model", kMaxTextBytes});
  SentencePieceParts parts;
  parts.processor = open_sentencepiece(model);
  if (parts.processor == nullptr) {
    throw Error(fmt::format("{}: not a SentencePiece model, or a damaged one; fetch the file again",
                            file.string()));
  }
  const sentencepiece::SentencePieceProcessor& processor = *parts.processor;
  parts.vocab_size = static_cast<uint32_t>(processor.GetPieceSize());
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    if (!processor.IsControl(id)) continue;
    AddedToken token;
    token.content = processor.IdToPiece(id);
    token.id = static_cast<uint32_t>(id);
    token.special = true;
    parts.added.push_back(std::move(token));
  }
  if (processor.bos_id() >= 0) parts.bos = {static_cast<uint32_t>(processor.bos_id())};
  std::vector<std::string> pieces;
  processor.Encode("a", &pieces).IgnoreError();
  parts.drops_first_space = !pieces.empty() && pieces[0].rfind(kSpaceMark, 0) == 0;
  processor.Decode(std::vector<int>{processor.unk_id()}, &parts.unknown).IgnoreError();
  const int mark = processor.PieceToId(std::string(kSpaceMark));
  std::string two;
  processor.Decode(std::vector<int>{mark, mark}, &two).IgnoreError();
  parts.drops_every_space = parts.drops_first_space && !processor.IsUnknown(mark) && two.empty();
  return std::make_unique<SentencePieceTokenizer>(std::move(parts));
}

}  // namespace spillway
