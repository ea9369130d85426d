#include "text/unigram.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "text/unicode.h"

namespace spillway {
namespace {

constexpr double kUnknownPenalty = 10.0;

}  // namespace

void Unigram::add(const std::string& token, double score) {
  const auto id = static_cast<uint32_t>(tokens_.size());
  tokens_.push_back(token);
  scores_.push_back(score);
  ids_[token] = id;
  lowest_ = std::min(lowest_, score);
  if (token.empty()) return;
  uint32_t node = 0;
  for (const char byte : token) {
    const uint32_t* next = edges_.get(trie_edge(node, byte));
    if (next == nullptr) {
      edges_.set(trie_edge(node, byte), static_cast<uint32_t>(node_ids_.size()));
      node = static_cast<uint32_t>(node_ids_.size());
      node_ids_.push_back(-1);
    } else {
      node = *next;
    }
  }
  node_ids_[node] = id;
}

int64_t Unigram::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : int64_t{found->second};
}

const std::string* Unigram::token_of(uint32_t id) const {
  return id < tokens_.size() ? &tokens_[id] : nullptr;
}

uint32_t Unigram::unknown() const {
  if (!unknown_)
    throw Error("the text needs an unknown token, and the tokenizer has none (unk_id)");
  return *unknown_;
}

void Unigram::find_best(std::string_view word, UnigramScratch& scratch) const {
  scratch.best.assign(word.size() + 1, {});
  const auto offer = [&](size_t start, size_t end, uint32_t id, double score) {
    UnigramScratch::Node& node = scratch.best[end];
    const double sum = score + scratch.best[start].score;
    if (node.start < 0 || sum > node.score) node = {sum, id, static_cast<int64_t>(start)};
  };
  for (size_t start = 0; start < word.size();) {
    const size_t bytes = utf8_length(word, start);
    bool single = false;  // a token of this one character
    uint32_t node = 0;
    for (size_t end = start; end < word.size();) {
      const uint32_t* next = edges_.get(trie_edge(node, word[end]));
      if (next == nullptr) break;
      node = *next;
      ++end;
      const int64_t id = node_ids_[node];
      if (id < 0) continue;
      offer(start, end, static_cast<uint32_t>(id), scores_[static_cast<size_t>(id)]);
      single = single || end - start == bytes;
    }
    if (!single) {
      const double score = lowest_ - kUnknownPenalty;
      const UnigramScratch::Node& target = scratch.best[start + bytes];
      if (target.start < 0 || score + scratch.best[start].score > target.score) {
        offer(start, start + bytes, unknown(), score);
      }
    }
    start += bytes;
  }
}

/// The best way from its end; neighbouring unknown tokens are one piece.
void Unigram::cut(std::string_view word, UnigramScratch& scratch) const {
  scratch.pieces.clear();
  size_t end = word.size();
  while (end > 0) {
    auto begin = static_cast<size_t>(scratch.best[end].start);
    const auto is_unknown = [&](size_t at) { return unknown_ && scratch.best[at].id == *unknown_; };
    if (is_unknown(end)) {
      while (begin > 0 && is_unknown(begin)) begin = static_cast<size_t>(scratch.best[begin].start);
    }
    scratch.pieces.emplace_back(begin, end);
    end = begin;
  }
  std::reverse(scratch.pieces.begin(), scratch.pieces.end());
}

void Unigram::append(std::string_view piece, std::vector<uint32_t>& ids) const {
  if (const int64_t id = id_of(piece); id >= 0) {
    ids.push_back(static_cast<uint32_t>(id));
    return;
  }
  const size_t before = ids.size();
  bool all = byte_fallback_;
  for (size_t i = 0; all && i < piece.size(); ++i) {
    const int64_t id = id_of(fmt::format("<0x{:02X}>", static_cast<unsigned char>(piece[i])));
    all = id >= 0;
    if (all) ids.push_back(static_cast<uint32_t>(id));
  }
  if (all) return;
  ids.resize(before);
  ids.push_back(unknown());
}

void Unigram::encode(std::string_view word, UnigramScratch& scratch,
                     std::vector<uint32_t>& ids) const {
  if (scratch.cache.append(word, ids)) return;
  const size_t begin = ids.size();
  find_best(word, scratch);
  cut(word, scratch);
  for (const auto& [from, to] : scratch.pieces) append(word.substr(from, to - from), ids);
  scratch.cache.remember(word, ids, begin);
}

}  // namespace spillway
