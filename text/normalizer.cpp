#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/error.h"
#include "text/byte_level.h"

namespace spillway {
namespace {

NormalText replaced(const NormalText& in, const std::vector<Match>& matches,
                    const std::string& to) {
  NormalText out;
  bool first = true;  // all so far stems from the first character
  const auto append = [&](std::string_view part, bool from_first) {
    if (part.empty()) return;
    out.text.append(part);
    first = first && from_first;
    if (first) out.from_first = out.text.size();
  };
  const auto keep = [&](size_t begin, size_t end) {
    const size_t middle = std::clamp(in.from_first, begin, end);
    append(std::string_view(in.text).substr(begin, middle - begin), true);
    append(std::string_view(in.text).substr(middle, end - middle), false);
  };
  size_t at = 0;
  for (const Match& match : matches) {
    keep(at, match.begin);
    append(to, match.end <= in.from_first);  // as old as the last byte it replaces
    at = match.end;
  }
  keep(at, in.text.size());
  return out;
}

std::string nmt(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size(); at += utf8_length(text, at)) {
    const uint32_t c = utf8_code_point(text, at);
    const bool removed = (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F ||
                         c == 0x8F || c == 0x9F;
    const bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 ||
                       (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                       c == 0xFEFF || c == 0xFFFD;
    if (!removed) append_utf8(result, space ? ' ' : c);
  }
  return result;
}

/// SentencePiece's table: a double-array trie of what is replaced, and the texts it becomes.
class CharacterTable {
 public:
  explicit CharacterTable(std::string_view table) {
    uint32_t bytes = 0;
    if (table.size() < 4) throw Error("a precompiled_charsmap that is too short");
    std::memcpy(&bytes, table.data(), 4);
    if (bytes % 4 != 0 || bytes > table.size() - 4) throw Error("a precompiled_charsmap cut short");
    units_.resize(bytes / 4);
    if (bytes > 0) std::memcpy(units_.data(), table.data() + 4, bytes);
    texts_ = table.substr(4 + bytes);
    if (!is_valid_utf8(texts_)) throw Error("a precompiled_charsmap that is not UTF-8");
  }

  /// What the shortest entry that `part` begins with becomes.
  std::optional<std::string_view> find(std::string_view part) const {
    if (units_.empty()) return std::nullopt;
    size_t node = offset(units_[0]);
    for (const char c : part) {
      if (c == 0) break;
      node ^= static_cast<unsigned char>(c);
      if (node >= units_.size()) return std::nullopt;
      const uint32_t unit = units_[node];
      if ((unit & 0x800000FF) != static_cast<unsigned char>(c)) return std::nullopt;
      node ^= offset(unit);
      if ((unit >> 8) & 1) {
        if (node >= units_.size()) return std::nullopt;
        const size_t begin = units_[node] & 0x7FFFFFFF;
        if (begin > texts_.size()) return std::nullopt;
        const std::string_view rest = std::string_view(texts_).substr(begin);
        return rest.substr(0, std::min(rest.find('\0'), rest.size()));
      }
    }
    return std::nullopt;
  }

 private:
  static size_t offset(uint32_t unit) { return size_t{unit >> 10} << ((unit & 512) >> 6); }
  std::vector<uint32_t> units_;
  std::string texts_;
};

size_t grapheme_end(std::string_view text, size_t at) {
  utf8proc_int32_t state = 0;
  auto before = static_cast<utf8proc_int32_t>(utf8_code_point(text, at));
  for (at += utf8_length(text, at); at < text.size(); at += utf8_length(text, at)) {
    const auto here = static_cast<utf8proc_int32_t>(utf8_code_point(text, at));
    if (utf8proc_grapheme_break_stateful(before, here, &state)) break;
    before = here;
  }
  return at;
}

std::string apply_table(const CharacterTable& table, std::string_view text) {
  constexpr size_t kLongestGrapheme = 5;
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const size_t end = grapheme_end(text, at);
    if (end - at <= kLongestGrapheme) {
      if (const auto whole = table.find(text.substr(at, end - at))) {
        result.append(*whole);
        at = end;
        continue;
      }
    }
    for (; at < end; at += utf8_length(text, at)) {
      const std::string_view character = text.substr(at, utf8_length(text, at));
      result.append(table.find(character).value_or(character));
    }
  }
  return result;
}

}  // namespace

std::vector<Match> find_literal(std::string_view text, std::string_view from) {
  std::vector<Match> found;
  for (size_t at = text.find(from); at != std::string_view::npos && at <= text.size();) {
    found.push_back({at, at + from.size()});
    size_t next = at + from.size();
    if (from.empty()) next += at < text.size() ? utf8_length(text, at) : 1;
    at = next <= text.size() ? text.find(from, next) : std::string_view::npos;
  }
  return found;
}

/// A step that maps characters one by one, or nearly so.
void Normalizer::add_map(std::function<std::string(std::string_view)> map) {
  steps_.emplace_back([map = std::move(map)](NormalText& text) {
    std::string mapped = map(text.text);
    if (text.from_first > 0) {
      text.from_first = std::min(
          mapped.size(), map(std::string_view(text.text).substr(0, text.from_first)).size());
    }
    text.text = std::move(mapped);
  });
}

void Normalizer::add_form(NormalForm form) {
  add_map([form](std::string_view text) { return normalize(text, form); });
}

void Normalizer::add_lowercase() {
  add_map(lowercase);
}

void Normalizer::add_strip_accents() {
  add_map(strip_marks);
}

void Normalizer::add_nmt() {
  add_map(nmt);
}

void Normalizer::add_byte_level() {
  add_map(byte_level_text);
}

void Normalizer::add_precompiled(std::string_view table) {
  add_map([shared = std::make_shared<CharacterTable>(table)](std::string_view text) {
    return apply_table(*shared, text);
  });
}

void Normalizer::add_strip(bool left, bool right) {
  steps_.emplace_back([left, right](NormalText& text) {
    size_t begin = 0;
    size_t end = text.text.size();
    while (left && begin < end && is_white_space(utf8_code_point(text.text, begin))) {
      begin += utf8_length(text.text, begin);
    }
    while (right && end > begin) {
      const size_t before = previous_character(text.text, end);
      if (!is_white_space(utf8_code_point(text.text, before))) break;
      end = before;
    }
    text.text = text.text.substr(begin, end - begin);
    text.from_first = std::min(text.from_first - std::min(begin, text.from_first), end - begin);
  });
}

void Normalizer::add_prepend(std::string prefix) {
  steps_.emplace_back([prefix = std::move(prefix)](NormalText& text) {
    if (text.text.empty()) return;
    text.text.insert(0, prefix);
    if (text.from_first > 0) text.from_first += prefix.size();
  });
}

void Normalizer::add_replace(std::string from, std::string to) {
  steps_.emplace_back([from = std::move(from), to = std::move(to)](NormalText& text) {
    if (!text.text.empty()) text = replaced(text, find_literal(text.text, from), to);
  });
}

void Normalizer::add_replace(Regex from, std::string to) {
  steps_.emplace_back(
      [from = std::make_shared<Regex>(std::move(from)), to = std::move(to)](NormalText& text) {
        if (!text.text.empty()) text = replaced(text, from->find_all(text.text), to);
      });
}

NormalText Normalizer::apply(std::string_view text, bool at_start) const {
  NormalText result{std::string(text), 0};
  if (at_start && !text.empty()) result.from_first = utf8_length(text, 0);
  for (const Step& step : steps_) step(result);
  return result;
}

}  // namespace spillway
