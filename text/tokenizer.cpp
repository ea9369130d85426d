#include "text/tokenizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "core/error.h"
#include "text/unicode.h"

namespace spillway {
namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

bool is_word(std::string_view text, size_t at) {
  const uint32_t c = utf8_code_point(text, at);
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return c == '_' || (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NO);
}

/// Start of the character that ends before `at`.
size_t previous_character(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool matches(std::string_view text, size_t at, const AddedToken& token) {
  if (token.content.empty() || text.substr(at, token.content.size()) != token.content) return false;
  if (!token.single_word) return true;
  const size_t end = at + token.content.size();
  return (at == 0 || !is_word(text, previous_character(text, at))) &&
         (end == text.size() || !is_word(text, end));
}

}  // namespace

std::vector<TextPiece> split_at_tokens(std::string_view text, const std::vector<AddedToken>& tokens,
                                       bool normalized) {
  std::vector<TextPiece> pieces;
  std::vector<const AddedToken*> by_first[256];
  for (const AddedToken& token : tokens) {
    if (token.normalized == normalized && !token.content.empty()) {
      by_first[static_cast<unsigned char>(token.content[0])].push_back(&token);
    }
  }
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const AddedToken* best = nullptr;  // the longest that starts here
    for (const AddedToken* token : by_first[static_cast<unsigned char>(text[at])]) {
      if ((best == nullptr || token->content.size() > best->content.size()) &&
          matches(text, at, *token)) {
        best = token;
      }
    }
    if (best == nullptr) {
      ++at;
      continue;
    }
    size_t left = at;
    size_t right = at + best->content.size();
    while (best->left_strip && left > begin && is_space(text[left - 1])) --left;
    while (best->right_strip && right < text.size() && is_space(text[right])) ++right;
    if (left > begin) pieces.push_back({text.substr(begin, left - begin), nullptr});
    pieces.push_back({text.substr(left, right - left), best});
    begin = at = right;
  }
  if (begin < text.size()) pieces.push_back({text.substr(begin), nullptr});
  return pieces;
}

std::vector<uint32_t> Tokenizer::encode_prompt(std::string_view text) const {
  std::vector<uint32_t> ids = encode(text);
  const std::vector<uint32_t>& prefix = bos();
  if (ids.size() < prefix.size() || !std::equal(prefix.begin(), prefix.end(), ids.begin())) {
    ids.insert(ids.begin(), prefix.begin(), prefix.end());
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const uint32_t> ids) const {
  TextStream stream(*this);
  std::string text;
  for (const uint32_t id : ids) text += stream.add(id);
  return text + stream.finish();
}

std::string TextStream::add(uint32_t id) {
  std::string bytes = tokenizer_.token_bytes(id, false);
  if (!bytes.empty() && at_start_) {  // special tokens have no bytes and start no text
    bytes = tokenizer_.token_bytes(id, true);
    at_start_ = false;
  }
  pending_ += bytes;
  const size_t whole = pending_.size() - incomplete_tail(pending_);
  std::string ready = replace_malformed(std::string_view(pending_).substr(0, whole));
  pending_.erase(0, whole);
  return ready;
}

std::string TextStream::finish() {
  return replace_malformed(std::exchange(pending_, {}));
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory) {
  std::error_code error;
  const auto json = directory / "tokenizer.json";
  if (std::filesystem::exists(json, error)) return load_tokenizer_json(json);
  const auto model = directory / "tokenizer.model";
  if (std::filesystem::exists(model, error)) return load_sentencepiece(model);
  return nullptr;
}

}  // namespace spillway
