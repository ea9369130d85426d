// tokenizer.model through the SentencePiece library.
#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <utility>

#include "core/error.h"
#include "core/read_file.h"
#include "text/added_tokens.h"
#include "text/tokenizer.h"
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

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const std::filesystem::path& file) {
    // Read here: the library would wait for a pipe.
    const std::string model = read_text_file(file, {"a SentencePiece model", kMaxTextBytes});
    silence_library();
    const auto status = processor_.LoadFromSerializedProto(model);
    if (!status.ok()) {
      throw Error(fmt::format(
          "{}: not a SentencePiece model, or a damaged one; fetch the file again", file.string()));
    }
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      if (processor_.IsControl(id)) {
        AddedToken token;
        token.content = processor_.IdToPiece(id);
        token.id = static_cast<uint32_t>(id);
        token.special = true;
        control_.push_back(token);
      }
    }
    for (const AddedToken& token : control_) matcher_.add(token.content, &token);
    if (processor_.bos_id() >= 0) bos_ = {static_cast<uint32_t>(processor_.bos_id())};
    std::vector<std::string> pieces;
    processor_.Encode("a", &pieces).IgnoreError();
    drops_first_space_ = !pieces.empty() && pieces[0].rfind(kSpaceMark, 0) == 0;
    processor_.Decode(std::vector<int>{processor_.unk_id()}, &unknown_).IgnoreError();
    const int mark = processor_.PieceToId(std::string(kSpaceMark));
    std::string two;
    processor_.Decode(std::vector<int>{mark, mark}, &two).IgnoreError();
    drops_every_space_ = drops_first_space_ && !processor_.IsUnknown(mark) && two.empty();
  }

  std::vector<uint32_t> encode(std::string_view text) const override {
    require_utf8(text);
    std::vector<uint32_t> ids;
    for (const TextPiece& piece : matcher_.split(text)) {
      if (piece.token != nullptr) {
        ids.push_back(piece.token->id);
        continue;
      }
      std::vector<int> part;
      const auto status = processor_.Encode({piece.text.data(), piece.text.size()}, &part);
      if (!status.ok()) {
        throw Error("the SentencePiece model cannot encode this text; fetch tokenizer.model again");
      }
      for (const int id : part) ids.push_back(static_cast<uint32_t>(id));
    }
    return ids;
  }

  std::unique_ptr<Detokenizer> detokenizer() const override {
    return std::make_unique<Stream>(*this);
  }

  bool is_control(uint32_t id) const {
    return id < vocab_size() && processor_.IsControl(static_cast<int>(id));
  }

  /// The bytes that a token stands for: maybe half a character; empty for control tokens.
  /// `at_start`: it is the first of a text.
  std::string token_bytes(uint32_t id, bool at_start) const {
    if (id >= vocab_size()) return "";
    const int piece_id = static_cast<int>(id);
    if (processor_.IsControl(piece_id)) return "";
    const std::string& piece = processor_.IdToPiece(piece_id);
    if (processor_.IsByte(piece_id)) {  // "<0x0A>"
      return std::string(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
    }
    if (processor_.IsUnknown(piece_id)) return unknown_;
    std::string text;
    for (size_t at = 0; at < piece.size();) {
      if (piece.compare(at, kSpaceMark.size(), kSpaceMark) == 0) {
        text += ' ';
        at += kSpaceMark.size();
      } else {
        text += piece[at++];
      }
    }
    if (at_start && drops_first_space_ && !text.empty() && text[0] == ' ') text.erase(0, 1);
    return text;
  }

  const std::vector<uint32_t>& bos() const override { return bos_; }
  uint32_t vocab_size() const override { return static_cast<uint32_t>(processor_.GetPieceSize()); }

 private:
  class Stream final : public Detokenizer {
   public:
    explicit Stream(const SentencePieceTokenizer& tokenizer) : tokenizer_(tokenizer) {}

    std::string add(uint32_t id) override {
      std::string bytes = tokenizer_.token_bytes(id, false);
      if (!bytes.empty() && at_start_) {  // control tokens have no bytes and start no text
        bytes = tokenizer_.token_bytes(id, true);
        at_start_ = tokenizer_.drops_every_space_ && bytes.empty();
      }
      if (tokenizer_.is_control(id)) return finish();  // bytes beside it are not one character
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

  sentencepiece::SentencePieceProcessor processor_;
  std::vector<AddedToken> control_;
  TokenMatcher matcher_;  // of control_, which does not change any more
  std::vector<uint32_t> bos_;
  std::string unknown_;  // the text of the unknown token, as the model has it
  bool drops_first_space_ = false;
  bool drops_every_space_ = false;  // each token's first, until there is text
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& file) {
  return std::make_unique<SentencePieceTokenizer>(file);
}

}  // namespace spillway
