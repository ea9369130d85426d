#include "text/bpe.h"

#include <queue>

namespace spillway {

bool Bpe::add_token(std::string token, uint32_t id) {
  const auto [entry, added] = ids_.emplace(std::move(token), id);
  return added && tokens_.emplace(id, &entry->first).second;
}

bool Bpe::add_merge(std::string_view left, std::string_view right) {
  const int64_t a = id_of(left);
  const int64_t b = id_of(right);
  const int64_t both = id_of(std::string(left) + std::string(right));
  if (a < 0 || b < 0 || both < 0) return false;
  merges_.try_emplace(pair_key(static_cast<uint32_t>(a), static_cast<uint32_t>(b)),
                      Merge{static_cast<uint32_t>(merges_.size()), static_cast<uint32_t>(both)});
  return true;
}

int64_t Bpe::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : int64_t{found->second};
}

const std::string* Bpe::token_of(uint32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : found->second;
}

std::vector<uint32_t> Bpe::merge(const std::vector<uint32_t>& symbols) const {
  struct Node {
    uint32_t id;
    int64_t previous;
    int64_t next;  // -1 = none; a merged-away node has alive = false
    bool alive;
  };
  struct Candidate {
    uint32_t rank;
    int64_t left;
    uint32_t left_id;
    uint32_t right_id;
    bool operator>(const Candidate& other) const {
      return std::pair(rank, left) > std::pair(other.rank, other.left);
    }
  };
  const auto count = static_cast<int64_t>(symbols.size());
  std::vector<Node> nodes;
  nodes.reserve(symbols.size());
  for (int64_t i = 0; i < count; ++i) {
    nodes.push_back({symbols[static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1, true});
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](int64_t left) {
    if (left < 0) return;
    const Node& node = nodes[static_cast<size_t>(left)];
    if (node.next < 0) return;
    const uint32_t right_id = nodes[static_cast<size_t>(node.next)].id;
    const auto found = merges_.find(pair_key(node.id, right_id));
    if (found != merges_.end()) queue.push({found->second.rank, left, node.id, right_id});
  };
  for (int64_t i = 0; i < count; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Node& left = nodes[static_cast<size_t>(best.left)];
    if (!left.alive || left.id != best.left_id || left.next < 0) continue;
    Node& right = nodes[static_cast<size_t>(left.next)];
    if (right.id != best.right_id) continue;  // an older candidate: one side was merged since
    left.id = merges_.at(pair_key(best.left_id, best.right_id)).result;
    right.alive = false;
    left.next = right.next;
    if (right.next >= 0) nodes[static_cast<size_t>(right.next)].previous = best.left;
    offer(left.previous);
    offer(best.left);
  }
  std::vector<uint32_t> result;
  for (int64_t i = count > 0 ? 0 : -1; i >= 0; i = nodes[static_cast<size_t>(i)].next) {
    result.push_back(nodes[static_cast<size_t>(i)].id);
  }
  return result;
}

}  // namespace spillway
