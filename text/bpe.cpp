#include "text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "core/error.h"
#include "text/byte_level.h"
#include "text/unicode.h"

namespace spillway {
namespace {

constexpr size_t kSpaceMarkClass = 128;
constexpr size_t kOtherClass = 129;
constexpr uint32_t kNoRank = UINT32_MAX;
constexpr size_t kFew = 40;  // symbols, up to which a scan beats a queue

size_t class_of(std::string_view character) {
  if (character.size() == 1) return static_cast<unsigned char>(character[0]);
  return character == kSpaceMark ? kSpaceMarkClass : kOtherClass;
}

}  // namespace

void Bpe::reserve(size_t tokens, size_t merges) {
  ids_.reserve(tokens);
  tokens_.reserve(tokens);
  results_.reserve(merges);
}

bool Bpe::add_token(std::string token, uint32_t id) {
  end_id_ = std::max(end_id_, id + 1);
  const auto [entry, added] = ids_.emplace(std::move(token), id);
  return added && tokens_.emplace(id, &entry->first).second;
}

bool Bpe::add_merge(std::string_view left, std::string_view right) {
  const int64_t a = id_of(left);
  const int64_t b = id_of(right);
  if (a < 0 || b < 0 || left.empty() || right.size() < options_.continuing_prefix.size()) {
    return false;
  }
  joined_.assign(left).append(right.substr(options_.continuing_prefix.size()));
  const int64_t both = id_of(joined_);
  if (both < 0) return false;
  merges_.set(pair_key(static_cast<uint32_t>(a), static_cast<uint32_t>(b)),
              {next_rank_++, static_cast<uint32_t>(both)});
  results_.push_back(static_cast<uint32_t>(both));
  if (!right.empty()) {
    const size_t last = class_of(left.substr(previous_character(left, left.size())));
    const size_t first = class_of(right.substr(0, utf8_length(right, 0)));
    may_cut_[last][first] = true;  // joined, until prepare() turns the table round
  }
  return true;
}

void Bpe::prepare() {
  for (const auto& [token, id] : ids_) {
    if (!token.empty() && utf8_length(token, 0) == token.size()) {
      characters_.set(utf8_code_point(token, 0), id);
    }
  }
  for (unsigned b = 0; b < 256; ++b) fallback_ids_[b] = id_of(fmt::format("<0x{:02X}>", b));
  prepare_bytes();
  prepare_cuts();
}

void Bpe::prepare_bytes() {
  has_byte_symbols_ = options_.continuing_prefix.empty() && options_.end_suffix.empty();
  for (unsigned b = 0; b < 256; ++b) {
    byte_ids_[b] = id_of(byte_level_text(std::string(1, static_cast<char>(b))));
    has_byte_symbols_ = has_byte_symbols_ && byte_ids_[b] >= 0;
  }
}

/// A word may be cut between two characters that are tokens when no merge has anything that ends
/// with the first on its left and anything that begins with the second on its right: no merge ever
/// reaches across, so both parts come out as they would together.
void Bpe::prepare_cuts() {
  cuts_ = options_.continuing_prefix.empty() && options_.end_suffix.empty();
  std::array<bool, kClasses> known{};
  for (uint32_t c = 0; c < 128; ++c) known[c] = characters_.get(c) != nullptr;
  known[kSpaceMarkClass] = characters_.get(0x2581) != nullptr;
  for (size_t a = 0; a < kClasses; ++a) {
    for (size_t b = 0; b < kClasses; ++b) may_cut_[a][b] = known[a] && known[b] && !may_cut_[a][b];
  }
}

int64_t Bpe::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : int64_t{found->second};
}

const std::string* Bpe::token_of(uint32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : found->second;
}

size_t Bpe::class_at(std::string_view text, size_t at) const {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 0x80) return byte;
  return byte == 0xE2 && text.substr(at).starts_with(kSpaceMark) ? kSpaceMarkClass : kOtherClass;
}

size_t Bpe::next_cut(std::string_view word, size_t begin) const {
  size_t before = class_at(word, begin);
  for (size_t at = begin + utf8_length(word, begin); at < word.size();) {
    const size_t here = class_at(word, at);
    if (may_cut_[before][here]) return at;
    before = here;
    at += here < 128 ? 1 : utf8_length(word, at);
  }
  return word.size();
}

void Bpe::encode(std::string_view word, BpeScratch& scratch, std::vector<uint32_t>& ids) const {
  if (word.empty()) return;
  if (options_.ignore_merges) {
    if (const int64_t whole = id_of(word); whole >= 0) {
      ids.push_back(static_cast<uint32_t>(whole));
      return;
    }
  }
  if (!cuts_) return encode_part(word, scratch, ids);
  for (size_t at = 0; at < word.size();) {
    const size_t end = next_cut(word, at);
    encode_part(word.substr(at, end - at), scratch, ids);
    at = end;
  }
}

void Bpe::encode_part(std::string_view word, BpeScratch& scratch,
                      std::vector<uint32_t>& ids) const {
  if (scratch.cache.append(word, ids)) return;
  scratch.symbols.clear();
  characters(word, scratch.symbols);
  const size_t begin = ids.size();
  merge_symbols(scratch, ids);
  scratch.cache.remember(word, ids, begin);
}

void Bpe::encode_bytes(std::string_view word, BpeScratch& scratch,
                       std::vector<uint32_t>& ids) const {
  if (word.empty() || scratch.cache.append(word, ids)) return;
  const size_t begin = ids.size();
  const int64_t whole = options_.ignore_merges ? id_of(byte_level_text(word)) : -1;
  if (whole >= 0) {
    ids.push_back(static_cast<uint32_t>(whole));
  } else {
    scratch.symbols.clear();
    for (const char c : word) {
      scratch.symbols.push_back(static_cast<uint32_t>(byte_ids_[static_cast<unsigned char>(c)]));
    }
    merge_symbols(scratch, ids);
  }
  scratch.cache.remember(word, ids, begin);
}

int64_t Bpe::character_id(std::string_view word, size_t at, size_t bytes) const {
  const bool first = at == 0;
  const bool last = at + bytes == word.size();
  if ((first || options_.continuing_prefix.empty()) && (!last || options_.end_suffix.empty())) {
    const uint32_t* id = characters_.get(utf8_code_point(word, at));
    return id == nullptr ? -1 : int64_t{*id};
  }
  return id_of(fmt::format("{}{}{}", first ? "" : options_.continuing_prefix,
                           word.substr(at, bytes), last ? options_.end_suffix : ""));
}

/// Characters; those outside the vocabulary become their bytes or the unknown token, which is kept
/// back until the next character that is a token (and so comes after bytes that stand behind it).
void Bpe::characters(std::string_view word, std::vector<uint32_t>& symbols) const {
  int64_t unknown = -1;  // kept back
  for (size_t at = 0; at < word.size();) {
    const size_t bytes = utf8_length(word, at);
    const int64_t id = character_id(word, at, bytes);
    const std::string_view character = word.substr(at, bytes);
    const bool first = at == 0;
    at += bytes;
    if (id >= 0) {
      if (unknown >= 0) symbols.push_back(static_cast<uint32_t>(unknown));
      unknown = -1;
      symbols.push_back(static_cast<uint32_t>(id));
      continue;
    }
    if (options_.byte_fallback &&
        append_fallback(fmt::format("{}{}{}", first ? "" : options_.continuing_prefix, character,
                                    at == word.size() ? options_.end_suffix : ""),
                        symbols)) {
      continue;
    }
    if (!options_.unknown) continue;
    if (unknown >= 0 && !options_.fuse_unknown) symbols.push_back(static_cast<uint32_t>(unknown));
    unknown = unknown_id();
  }
  if (unknown >= 0) symbols.push_back(static_cast<uint32_t>(unknown));
}

uint32_t Bpe::unknown_id() const {
  const int64_t id = id_of(*options_.unknown);
  if (id < 0) {
    throw Error(
        fmt::format("the text needs the unknown token \"{}\", which is not in the "
                    "tokenizer's vocabulary",
                    *options_.unknown));
  }
  return static_cast<uint32_t>(id);
}

bool Bpe::append_fallback(std::string_view character, std::vector<uint32_t>& symbols) const {
  for (const char c : character) {
    if (fallback_ids_[static_cast<unsigned char>(c)] < 0) return false;
  }
  for (const char c : character) {
    symbols.push_back(static_cast<uint32_t>(fallback_ids_[static_cast<unsigned char>(c)]));
  }
  return true;
}

std::vector<uint32_t> Bpe::merge(const std::vector<uint32_t>& symbols) const {
  BpeScratch scratch(0);
  scratch.symbols = symbols;
  std::vector<uint32_t> ids;
  merge_symbols(scratch, ids);
  return ids;
}

void Bpe::merge_symbols(BpeScratch& scratch, std::vector<uint32_t>& ids) const {
  if (scratch.symbols.size() > 1) {
    if (scratch.symbols.size() <= kFew) {
      merge_few(scratch);
    } else {
      merge_many(scratch);
    }
  }
  ids.insert(ids.end(), scratch.symbols.begin(), scratch.symbols.end());
}

void Bpe::merge_few(BpeScratch& scratch) const {
  std::vector<uint32_t>& symbols = scratch.symbols;
  std::array<uint32_t, kFew> ranks;  // of each symbol with the next
  size_t count = symbols.size();
  const auto rank_at = [&](size_t at) {
    if (at + 1 >= count) return kNoRank;
    const Merge* merge = merge_of(symbols[at], symbols[at + 1]);
    return merge == nullptr ? kNoRank : merge->rank;
  };
  for (size_t at = 0; at < count; ++at) ranks[at] = rank_at(at);
  while (true) {
    size_t best = 0;
    for (size_t at = 1; at < count; ++at) {
      if (ranks[at] < ranks[best]) best = at;
    }
    if (ranks[best] == kNoRank) break;
    symbols[best] = results_[ranks[best]];
    for (size_t at = best + 1; at + 1 < count; ++at) {
      symbols[at] = symbols[at + 1];
      ranks[at] = ranks[at + 1];
    }
    --count;
    ranks[best] = rank_at(best);
    if (best > 0) ranks[best - 1] = rank_at(best - 1);
  }
  symbols.resize(count);
}

void Bpe::merge_many(BpeScratch& scratch) const {
  std::vector<uint32_t>& symbols = scratch.symbols;
  std::vector<uint64_t>& queue = scratch.queue;  // rank above place, the lowest first
  const auto count = static_cast<int64_t>(symbols.size());
  constexpr int64_t kGone = -2;
  scratch.previous.resize(symbols.size());
  scratch.next.resize(symbols.size());
  queue.clear();
  for (int64_t i = 0; i < count; ++i) {
    scratch.previous[static_cast<size_t>(i)] = i - 1;
    scratch.next[static_cast<size_t>(i)] = i + 1 < count ? i + 1 : -1;
  }
  const auto next = [&](int64_t at) -> int64_t& { return scratch.next[static_cast<size_t>(at)]; };
  const auto symbol = [&](int64_t at) -> uint32_t& { return symbols[static_cast<size_t>(at)]; };
  const auto rank_at = [&](int64_t at) {
    if (at < 0 || next(at) < 0) return kNoRank;
    const Merge* merge = merge_of(symbol(at), symbol(next(at)));
    return merge == nullptr ? kNoRank : merge->rank;
  };
  const auto entry = [](uint32_t rank, int64_t at) {
    return (uint64_t{rank} << 32) | static_cast<uint64_t>(at);
  };
  for (int64_t i = 0; i < count; ++i) {
    if (const uint32_t rank = rank_at(i); rank != kNoRank) queue.push_back(entry(rank, i));
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  const auto offer = [&](int64_t at) {
    const uint32_t rank = rank_at(at);
    if (rank == kNoRank) return;
    queue.push_back(entry(rank, at));
    std::push_heap(queue.begin(), queue.end(), std::greater<>());
  };
  while (!queue.empty()) {
    const auto rank = static_cast<uint32_t>(queue.front() >> 32);
    const auto at = static_cast<int64_t>(queue.front() & UINT32_MAX);
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    queue.pop_back();
    if (next(at) == kGone || rank_at(at) != rank) continue;  // one side was merged since
    const int64_t right = next(at);
    symbol(at) = results_[rank];
    next(at) = next(right);
    if (next(right) >= 0) scratch.previous[static_cast<size_t>(next(right))] = at;
    next(right) = kGone;
    offer(scratch.previous[static_cast<size_t>(at)]);
    offer(at);
  }
  size_t kept = 0;
  for (int64_t at = 0; at >= 0; at = next(at)) symbols[kept++] = symbol(at);
  symbols.resize(kept);
}

}  // namespace spillway
