#include "text/pre_tokenizer.h"

#include <algorithm>

#include "text/byte_level.h"
#include "text/normalizer.h"
#include "text/unicode.h"

namespace spillway {
namespace {

/// GPT-2's word pattern, which ByteLevel stands for when it splits itself.
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Part {
  Match place;
  bool is_match;
};

/// Matches and what lies between them.
std::vector<Part> parts_of(size_t bytes, const std::vector<Match>& matches, bool invert) {
  std::vector<Part> parts;
  size_t at = 0;
  for (const Match& match : matches) {
    if (match.begin > at) parts.push_back({{at, match.begin}, invert});
    parts.push_back({match, !invert});
    at = match.end;
  }
  if (at < bytes) parts.push_back({{at, bytes}, invert});
  return parts;
}

/// Neighbours of `parts` joined as the behavior asks. An empty match is a part like any other.
std::vector<Match> behave(const std::vector<Part>& parts, SplitBehavior behavior) {
  std::vector<Match> words;
  bool before_is_match = false;
  switch (behavior) {
    case SplitBehavior::kIsolated:
    case SplitBehavior::kRemoved:
      for (const Part& part : parts) {
        if (behavior == SplitBehavior::kIsolated || !part.is_match) words.push_back(part.place);
      }
      break;
    case SplitBehavior::kContiguous:
    case SplitBehavior::kMergedWithPrevious:
      for (const Part& part : parts) {
        const bool join = behavior == SplitBehavior::kContiguous
                              ? part.is_match == before_is_match
                              : part.is_match && !before_is_match;
        if (join && !words.empty()) {
          words.back().end = part.place.end;
        } else {
          words.push_back(part.place);
        }
        before_is_match = part.is_match;
      }
      break;
    case SplitBehavior::kMergedWithNext:
      for (size_t i = parts.size(); i-- > 0;) {
        if (parts[i].is_match && !before_is_match && !words.empty()) {
          words.back().begin = parts[i].place.begin;
        } else {
          words.push_back(parts[i].place);
        }
        before_is_match = parts[i].is_match;
      }
      std::reverse(words.begin(), words.end());
      break;
  }
  return words;
}

template <typename Test>
void find_characters(std::string_view text, std::vector<Match>& found, Test&& test) {
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = utf8_length(text, at);
    if (test(utf8_code_point(text, at))) found.push_back({at, at + bytes});
    at += bytes;
  }
}

/// Every word written anew by `write(word, at_start, out)`, which appends to the new text.
template <typename Write>
void rewrite(Words& words, Write&& write) {
  std::string text;
  text.reserve(words.text.size() + words.words.size());
  bool at_start = words.at_start;
  for (Match& word : words.words) {
    const size_t begin = text.size();
    write(std::string_view(words.text).substr(word.begin, word.end - word.begin), at_start, text);
    word = {begin, text.size()};
    at_start = false;
  }
  words.text = std::move(text);
}

}  // namespace

void PreTokenizer::add_finder(Find find, SplitBehavior behavior, bool invert) {
  steps_.emplace_back([find = std::move(find), behavior, invert](Words& words) {
    std::vector<Match> result;
    std::vector<Match> matches;
    bool first = true;
    for (const Match& word : words.words) {
      const std::string_view text =
          std::string_view(words.text).substr(word.begin, word.end - word.begin);
      matches.clear();
      find(text, matches);
      for (const Match& part : behave(parts_of(text.size(), matches, invert), behavior)) {
        if (part.begin == part.end) continue;
        if (first && part.begin > 0) words.at_start = false;
        first = false;
        result.push_back({word.begin + part.begin, word.begin + part.end});
      }
      if (first) words.at_start = false;  // the first word is gone
    }
    words.words = std::move(result);
  });
}

void PreTokenizer::add_split(Regex pattern, SplitBehavior behavior, bool invert) {
  add_finder(
      [shared = std::make_shared<Regex>(std::move(pattern))](
          std::string_view text, std::vector<Match>& found) { found = shared->find_all(text); },
      behavior, invert);
}

void PreTokenizer::add_split(std::string literal, SplitBehavior behavior, bool invert) {
  add_finder(
      [literal = std::move(literal)](std::string_view text, std::vector<Match>& found) {
        found = find_literal(text, literal);
      },
      behavior, invert);
}

void PreTokenizer::add_digits(bool individual) {
  add_finder([](std::string_view text,
                std::vector<Match>& found) { find_characters(text, found, is_numeric); },
             individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false);
}

void PreTokenizer::add_punctuation(SplitBehavior behavior) {
  add_finder([](std::string_view text,
                std::vector<Match>& found) { find_characters(text, found, is_punctuation); },
             behavior, false);
}

void PreTokenizer::add_whitespace_split() {
  add_finder([](std::string_view text,
                std::vector<Match>& found) { find_characters(text, found, is_white_space); },
             SplitBehavior::kRemoved, false);
}

/// Runs of word characters, and runs of what is neither those nor white space.
void PreTokenizer::add_whitespace() {
  enum class Kind { kSpace, kWord, kOther };
  add_finder(
      [](std::string_view text, std::vector<Match>& found) {
        Kind before = Kind::kSpace;
        for (size_t at = 0; at < text.size();) {
          const uint32_t c = utf8_code_point(text, at);
          const size_t end = at + utf8_length(text, at);
          const Kind kind = is_word(c)          ? Kind::kWord
                            : is_white_space(c) ? Kind::kSpace
                                                : Kind::kOther;
          if (kind != Kind::kSpace) {
            if (kind == before) {
              found.back().end = end;
            } else {
              found.push_back({at, end});
            }
          }
          before = kind;
          at = end;
        }
      },
      SplitBehavior::kRemoved, true);
}

void PreTokenizer::add_metaspace(std::string mark, Prepend prepend, bool split) {
  steps_.emplace_back([mark, prepend](Words& words) {
    rewrite(words, [&](std::string_view word, bool at_start, std::string& out) {
      const bool wanted = prepend == Prepend::kAlways || (prepend == Prepend::kFirst && at_start);
      if (wanted && !word.starts_with(mark) && !word.starts_with(' ')) out += mark;
      for (const char c : word) {
        if (c == ' ') {
          out += mark;
        } else {
          out += c;
        }
      }
    });
  });
  if (split) add_split(mark, SplitBehavior::kMergedWithNext, false);
}

void PreTokenizer::add_byte_level(bool prefix_space, bool split) {
  if (prefix_space) {
    steps_.emplace_back([](Words& words) {
      rewrite(words, [](std::string_view word, bool, std::string& out) {
        if (!word.starts_with(' ')) out += ' ';
        out += word;
      });
    });
  }
  if (split) add_split(Regex(kByteLevelPattern), SplitBehavior::kIsolated, false);
}

void PreTokenizer::add_byte_level_text() {
  steps_.emplace_back([](Words& words) {
    rewrite(words,
            [](std::string_view word, bool, std::string& out) { out += byte_level_text(word); });
  });
}

void PreTokenizer::apply(Words& words) const {
  for (const Step& step : steps_) step(words);
}

}  // namespace spillway
