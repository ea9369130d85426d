// Oniguruma's syntax read and written again as PCRE2's. Only what is known to mean the same, or how
// to say the same, gets through.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "core/one_line.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace spillway {
namespace {

constexpr std::string_view kSpaces =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F})"
    R"(\x{3000})";
constexpr std::string_view kNoSpaces =
    R"(\x{0}-\x{8}\x{E}-\x{1F}\x{21}-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF})"
    R"(\x{200B}-\x{2027}\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF})";
constexpr std::string_view kWords = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
/// A lone \w takes these as well, \w in brackets does not.
constexpr std::string_view kMoreWords = R"(\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";
constexpr int kMaxDepth = 64;

/// Names of properties as the field writes them, and PCRE2's.
struct Property {
  std::string_view name;  // lower case, without blanks, '-' and '_'
  std::string_view pcre2;
};
constexpr auto kProperties = std::to_array<Property>({
    {"l", "L"},
    {"letter", "L"},
    {"lu", "Lu"},
    {"uppercaseletter", "Lu"},
    {"ll", "Ll"},
    {"lowercaseletter", "Ll"},
    {"lt", "Lt"},
    {"titlecaseletter", "Lt"},
    {"lm", "Lm"},
    {"modifierletter", "Lm"},
    {"lo", "Lo"},
    {"otherletter", "Lo"},
    {"m", "M"},
    {"mark", "M"},
    {"mn", "Mn"},
    {"nonspacingmark", "Mn"},
    {"mc", "Mc"},
    {"spacingmark", "Mc"},
    {"me", "Me"},
    {"enclosingmark", "Me"},
    {"n", "N"},
    {"number", "N"},
    {"nd", "Nd"},
    {"decimalnumber", "Nd"},
    {"nl", "Nl"},
    {"letternumber", "Nl"},
    {"no", "No"},
    {"othernumber", "No"},
    {"p", "P"},
    {"punctuation", "P"},
    {"pc", "Pc"},
    {"connectorpunctuation", "Pc"},
    {"pd", "Pd"},
    {"dashpunctuation", "Pd"},
    {"ps", "Ps"},
    {"openpunctuation", "Ps"},
    {"pe", "Pe"},
    {"closepunctuation", "Pe"},
    {"pi", "Pi"},
    {"initialpunctuation", "Pi"},
    {"pf", "Pf"},
    {"finalpunctuation", "Pf"},
    {"po", "Po"},
    {"otherpunctuation", "Po"},
    {"s", "S"},
    {"symbol", "S"},
    {"sm", "Sm"},
    {"mathsymbol", "Sm"},
    {"sc", "Sc"},
    {"currencysymbol", "Sc"},
    {"sk", "Sk"},
    {"modifiersymbol", "Sk"},
    {"so", "So"},
    {"othersymbol", "So"},
    {"z", "Z"},
    {"separator", "Z"},
    {"zs", "Zs"},
    {"spaceseparator", "Zs"},
    {"zl", "Zl"},
    {"lineseparator", "Zl"},
    {"zp", "Zp"},
    {"paragraphseparator", "Zp"},
    {"c", "C"},
    {"other", "C"},
    {"cc", "Cc"},
    {"control", "Cc"},
    {"cf", "Cf"},
    {"format", "Cf"},
    {"co", "Co"},
    {"privateuse", "Co"},
    {"cn", "Cn"},
    {"unassigned", "Cn"},
    {"alphabetic", "Alphabetic"},
    {"uppercase", "Uppercase"},
    {"han", "sc:Han"},
    {"hiragana", "sc:Hiragana"},
    {"katakana", "sc:Katakana"},
    {"hangul", "sc:Hangul"},
    {"latin", "sc:Latin"},
    {"greek", "sc:Greek"},
    {"hebrew", "sc:Hebrew"},
    {"thai", "sc:Thai"},
});

/// POSIX brackets as members of a class.
constexpr auto kPosix = std::to_array<Property>({
    {"alpha", R"(\p{Alphabetic})"},
    {"digit", R"(\p{Nd})"},
    {"alnum", R"(\p{Alphabetic}\p{Nd})"},
    {"upper", R"(\p{Uppercase})"},
    {"punct", R"(\p{P}\p{S})"},
    {"cntrl", R"(\p{Cc})"},
    {"blank", R"(\p{Zs}\x{9})"},
    {"space", kSpaces},
    {"word", kWords},
    {"xdigit", "0-9A-Fa-f"},
    {"ascii", R"(\x{0}-\x{7F})"},
});

std::optional<std::string_view> find_property(const auto& table, std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const Property& entry) { return entry.name == name; });
  return found == table.end() ? std::nullopt : std::optional(found->pcre2);
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    std::string result = alternatives(Options{}, 0);
    if (at_ < pattern_.size()) bad("an unmatched )");
    if (unequal_range_ && asks_properties(result)) {
      unsupported("a range with characters that PCRE2 does not know beside a property");
    }
    return result;
  }

 private:
  struct Options {
    bool ignore_case = false;
    bool dot_all = false;
  };
  /// One element of a class, or an escape: members for [...], and what it is as an expression.
  struct Members {
    std::string members;
    std::optional<uint32_t> character;  // set: a single character, which may begin a range
  };

  [[noreturn]] void bad(const std::string& what) const {
    throw BadPattern(fmt::format("the pattern {} is not a regular expression: {} at byte {}",
                                 in_quotes(pattern_), what, at_));
  }
  [[noreturn]] void unsupported(const std::string& what) const {
    throw BadPattern(fmt::format("the pattern {} is not supported: {}", in_quotes(pattern_), what));
  }

  bool ended() const { return at_ >= pattern_.size(); }
  bool starts(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!starts(text)) return false;
    at_ += text.size();
    return true;
  }
  char next() {
    if (ended()) bad("an end too soon");
    return pattern_[at_++];
  }
  uint32_t next_character() {
    const uint32_t c = utf8_code_point(pattern_, at_);
    at_ += utf8_length(pattern_, at_);
    if (same_for_patterns(c) != c) unsupported("a character that PCRE2 does not know");
    return c;
  }

  /// Where PCRE2 gets a substitute to match, both or none must lie in a range.
  void check_range(uint32_t first, uint32_t last) {
    const auto inside = [&](uint32_t c) { return c >= first && c <= last; };
    for (const Substitute& range : pattern_substitutes()) {
      const bool same = inside(static_cast<uint32_t>(range.same));
      const bool touched = range.first <= last && range.last >= first;
      if (touched != same || inside(range.first) != inside(range.last)) {
        unequal_range_ = true;
      }
    }
  }

  static std::string literal(uint32_t c) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    return plain ? std::string(1, static_cast<char>(c)) : fmt::format("\\x{{{:X}}}", c);
  }

  std::string alternatives(Options options, int depth) {
    if (depth > kMaxDepth) unsupported("groups nested so deeply");
    std::string result;
    while (!ended() && pattern_[at_] != ')') {
      if (take("|")) {
        result += '|';
        last_letter_ = 0;
        continue;
      }
      if (const auto rest = isolated_options(options, depth)) return result + *rest;
      const std::string element = atom(options, depth);
      result += quantified(element);
    }
    return result;
  }

  /// "(?i)": holds for the rest of the group, alternatives included.
  std::optional<std::string> isolated_options(Options options, int depth) {
    if (!starts("(?")) return std::nullopt;
    size_t end = at_ + 2;
    while (end < pattern_.size() &&
           std::string_view("imx-").find(pattern_[end]) != std::string_view::npos) {
      ++end;
    }
    if (end >= pattern_.size() || pattern_[end] != ')' || end == at_ + 2) return std::nullopt;
    const Options inner = read_options(options);
    at_ = end + 1;
    return group(inner, alternatives(inner, depth + 1));
  }

  Options read_options(Options options) {
    at_ += 2;
    bool on = true;
    for (; !ended() && pattern_[at_] != ')' && pattern_[at_] != ':'; ++at_) {
      const char c = pattern_[at_];
      if (c == '-') {
        on = false;
      } else if (c == 'i') {
        options.ignore_case = on;
      } else if (c == 'm') {
        options.dot_all = on;
      } else {
        unsupported(fmt::format("the option {}", c));
      }
    }
    return options;
  }

  static std::string group(Options options, const std::string& inner) {
    return fmt::format("({}:{})", options.ignore_case ? "?i" : "?-i", inner);
  }

  std::string parenthesis(Options options, int depth) {
    std::string opening = "(?:";
    if (take("(?")) {
      at_ -= 2;
      for (const std::string_view kind : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
        if (take(kind)) {
          opening = kind;
          return closed(opening, alternatives(options, depth + 1));
        }
      }
      const size_t letter = at_ + 2;
      if (letter >= pattern_.size() ||
          std::string_view("imx-").find(pattern_[letter]) == std::string_view::npos) {
        unsupported(fmt::format("the group {}", pattern_.substr(at_, 3)));
      }
      const Options inner = read_options(options);
      if (!take(":")) bad("options without an end");
      return closed(fmt::format("(?{}:", inner.ignore_case ? "i" : "-i"),
                    alternatives(inner, depth + 1));
    }
    take("(");  // what it captures cannot be asked for
    return closed(opening, alternatives(options, depth + 1));
  }

  std::string closed(std::string_view opening, const std::string& inner) {
    if (!take(")")) bad("a ( that is not closed");
    last_letter_ = 0;
    return fmt::format("{}{})", opening, inner);
  }

  std::string atom(Options options, int depth) {
    const char c = pattern_[at_];
    if (c == '(') return parenthesis(options, depth);
    if (c == '[') {
      last_letter_ = 0;
      if (options.ignore_case) unsupported("a class that ignores case");
      return bracket(depth + 1);
    }
    if (c == '\\') return escape(options);
    if (std::string_view("*+?").find(c) != std::string_view::npos) bad("nothing to repeat");
    if (c == '.') return ++at_, last_letter_ = 0, options.dot_all ? "(?s:.)" : "[^\\n]";
    if (c == '^') return ++at_, last_letter_ = 0, "(?m:^)";
    if (c == '$') return ++at_, last_letter_ = 0, "(?m:$)";
    return character(options, next_character());
  }

  /// Ignoring case, Oniguruma also matches characters that fold to several; only what no such
  /// character can stand for is the same in both.
  std::string character(Options options, uint32_t c) {
    if (options.ignore_case) {
      if (c >= 0x80) unsupported("letters beyond ASCII that ignore case");
      const uint32_t lower = c >= 'A' && c <= 'Z' ? c + 32 : c;
      for (const std::string_view pair : {"ss", "ff", "fi", "fl", "st"}) {
        if (last_letter_ == static_cast<uint32_t>(pair[0]) &&
            lower == static_cast<uint32_t>(pair[1])) {
          unsupported(fmt::format("\"{}\" that ignores case", pair));
        }
      }
      last_letter_ = lower;
    }
    return literal(c);
  }

  std::string quantified(const std::string& element) {
    if (ended()) return element;
    const bool place = element.starts_with("(?=") || element.starts_with("(?!") ||
                       element.starts_with("(?<") || element.starts_with("(?m:") ||
                       element == "\\A" || element == "\\Z" || element == "\\z" ||
                       element.starts_with("(?:(?<");  // a place between characters
    std::string repeat;
    bool counted = false;
    const char c = pattern_[at_];
    if (c == '*' || c == '+' || c == '?') {
      repeat = c;
      ++at_;
    } else if (c == '{') {
      const auto interval = read_interval();
      if (!interval) return element;  // Oniguruma takes it literally
      repeat = *interval;
      counted = true;
    } else {
      return element;
    }
    if (place) unsupported("a repeated place");
    last_letter_ = 0;
    std::string result = element + repeat;
    if (!ended() && (pattern_[at_] == '?' || pattern_[at_] == '+')) {
      const char mode = pattern_[at_++];
      if (!counted || (mode == '?' && repeat.find(',') != std::string::npos)) {
        result += mode;  // lazy or possessive
      } else if (mode == '+') {
        result = fmt::format("(?:{})+", result);  // repeated once more, not possessive
      } else {
        unsupported("{n}?");
      }
    }
    if (!ended() && std::string_view("*+?").find(pattern_[at_]) != std::string_view::npos) {
      unsupported("a repeated repetition");
    }
    return result;
  }

  /// "{n}", "{n,}", "{,m}" or "{n,m}" as PCRE2 writes it; nothing when it is none of these.
  std::optional<std::string> read_interval() {
    size_t at = at_ + 1;
    const auto number = [&] {
      std::string digits;
      while (at < pattern_.size() && pattern_[at] >= '0' && pattern_[at] <= '9') {
        digits += pattern_[at++];
      }
      return digits;
    };
    const std::string low = number();
    const bool comma = at < pattern_.size() && pattern_[at] == ',';
    if (comma) ++at;
    const std::string high = comma ? number() : "";
    if (at >= pattern_.size() || pattern_[at] != '}' || (low.empty() && high.empty())) {
      return std::nullopt;
    }
    if (low.size() > 4 || high.size() > 4) unsupported("so many repetitions");
    if (!low.empty() && !high.empty() && std::stoi(low) > std::stoi(high)) {
      unsupported("an interval that goes down");
    }
    at_ = at + 1;
    return fmt::format("{{{}{}{}}}", low.empty() ? "0" : low, comma ? "," : "", high);
  }

  std::string escape(Options options) {
    const size_t begin = at_;
    ++at_;
    if (ended()) bad("a \\ at the end");
    const char c = pattern_[at_];
    const auto word = [](bool inside) {
      return fmt::format("[{}{}{}]", inside ? "" : "^", kWords, kMoreWords);
    };
    if (options.ignore_case && std::string_view("wWpPhH").find(c) != std::string_view::npos) {
      unsupported("a class that ignores case");
    }
    if (std::string_view("wWbBAZzR").find(c) != std::string_view::npos) {
      ++at_;
      last_letter_ = 0;
    }
    switch (c) {
      case 'w':
        return word(true);
      case 'W':
        return word(false);
      case 'b':
        return fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word(true));
      case 'B':
        return fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word(true));
      case 'A':
      case 'Z':
      case 'z':
        return fmt::format("\\{}", c);
      case 'R':
        return R"((?>\r\n|[\x{A}-\x{D}\x{85}\x{2028}\x{2029}]))";
      default:
        break;
    }
    at_ = begin;
    const Members members = escaped_members();
    if (members.character) return character(options, *members.character);
    last_letter_ = 0;
    return "[" + members.members + "]";
  }

  /// An escape that means the same in brackets and outside.
  Members escaped_members() {
    ++at_;  // the backslash
    const char c = next();
    const auto one = [](uint32_t point) { return Members{literal(point), point}; };
    switch (c) {
      case 't':
        return one('\t');
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 'a':
        return one('\a');
      case 'e':
        return one(0x1B);
      case 's':
        return {std::string(kSpaces), std::nullopt};
      case 'S':
        return {std::string(kNoSpaces), std::nullopt};
      case 'd':
        return {R"(\p{Nd})", std::nullopt};
      case 'D':
        return {R"(\P{Nd})", std::nullopt};
      case 'h':
        return {"0-9A-Fa-f", std::nullopt};
      case 'H':
        return {R"(\x{0}-/:-@G-`g-\x{10FFFF})", std::nullopt};
      case 'x':
      case 'u':
        return one(hexadecimal(c));
      case 'p':
      case 'P':
        return {property(c == 'P'), std::nullopt};
      default:
        break;
    }
    const bool letter = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (letter) unsupported(fmt::format("\\{}", c));
    --at_;
    return one(next_character());
  }

  uint32_t hexadecimal(char kind) {
    const bool braces = kind == 'x' && take("{");
    std::string digits;
    const size_t most = braces ? 6 : kind == 'x' ? 2 : 4;
    while (digits.size() < most && !ended() &&
           std::string_view("0123456789ABCDEFabcdef").find(pattern_[at_]) !=
               std::string_view::npos) {
      digits += next();
    }
    if (digits.empty() || (kind == 'u' && digits.size() != 4)) bad("a \\x without a number");
    if (braces && !take("}")) unsupported("this \\x{...}");
    const auto point = static_cast<uint32_t>(std::stoul(digits, nullptr, 16));
    if (!braces && kind == 'x' && point >= 0x80) unsupported("\\xHH of half a character");
    if (point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) bad("no such character");
    return point;
  }

  std::string property(bool negated) {
    if (!take("{")) unsupported("\\p without {");
    if (take("^")) negated = !negated;
    std::string name;
    while (!ended() && pattern_[at_] != '}') {
      const char c = next();
      if (c == ' ' || c == '-' || c == '_') continue;
      name += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    }
    if (!take("}")) bad("a \\p{ that is not closed");
    const auto found = find_property(kProperties, name);
    if (!found) unsupported(fmt::format("\\p{{{}}}", name));
    return fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', *found);
  }

  std::optional<std::string> posix_bracket() {
    if (!starts("[:")) return std::nullopt;
    const size_t end = pattern_.find(":]", at_);
    if (end == std::string_view::npos) unsupported("[: without :]");
    const std::string_view name = pattern_.substr(at_ + 2, end - at_ - 2);
    const auto found = find_property(kPosix, name);
    if (!found) unsupported(fmt::format("[:{}:]", name));
    at_ = end + 2;
    return std::string(*found);
  }

  /// A class as an expression that matches one character. Classes within it, and what stands on
  /// both sides of &&, become looks ahead.
  std::string bracket(int depth) {
    if (depth > kMaxDepth) unsupported("classes nested so deeply");
    ++at_;  // the [
    const bool negated = take("^");
    if (starts("]")) unsupported("a class that begins with ]");
    std::vector<std::string> sides;
    std::string members;
    std::vector<std::string> inner;
    const auto end_side = [&] {
      if (members.empty() && inner.empty()) unsupported("an empty side of &&");
      std::string side = members.empty() ? "" : "[" + members + "]";
      for (const std::string& part : inner) side += (side.empty() ? "" : "|") + part;
      sides.push_back(inner.empty() ? side : "(?:" + side + ")");
      members.clear();
      inner.clear();
    };
    while (!take("]")) {
      if (ended()) bad("a [ that is not closed");
      if (take("&&")) {
        end_side();
      } else if (const auto posix = posix_bracket()) {
        members += *posix;
      } else if (starts("[")) {
        inner.push_back(bracket(depth + 1));
      } else {
        members += range();
      }
    }
    if (sides.empty() && inner.empty()) return fmt::format("[{}{}]", negated ? "^" : "", members);
    end_side();
    std::string result;
    for (size_t i = 0; i + 1 < sides.size(); ++i) result += "(?=" + sides[i] + ")";
    result += sides.back();
    return negated ? fmt::format("(?:(?!{})(?s:.))", result) : fmt::format("(?:{})", result);
  }

  Members class_member() {
    if (starts("\\")) {
      if (take("\\b")) return {literal('\b'), uint32_t{'\b'}};
      if (take("\\w")) return {std::string(kWords), std::nullopt};
      if (starts("\\W")) unsupported("\\W in a class");
      return escaped_members();
    }
    const uint32_t c = next_character();
    return {literal(c), c};
  }

  std::string range() {
    const Members first = class_member();
    if (!starts("-") || pattern_.substr(at_).starts_with("-]")) return first.members;
    if (!first.character || pattern_.substr(at_).starts_with("-[")) {
      unsupported("a range that does not begin and end with characters");
    }
    take("-");
    if (ended()) bad("a [ that is not closed");
    const Members last = class_member();
    if (!last.character) unsupported("a range that does not begin and end with characters");
    if (*last.character < *first.character) bad("a range that goes down");
    check_range(*first.character, *last.character);
    return first.members + "-" + last.members;
  }

  std::string_view pattern_;
  size_t at_ = 0;
  uint32_t last_letter_ = 0;  // the literal before, where case is ignored
  bool unequal_range_ = false;
};

}  // namespace

/// Literals are written without backslashes of their own.
bool asks_properties(std::string_view pcre2) {
  return pcre2.find("\\p{") != std::string_view::npos ||
         pcre2.find("\\P{") != std::string_view::npos;
}

std::string pcre2_pattern(std::string_view oniguruma) {
  if (!is_valid_utf8(oniguruma)) throw BadPattern("a pattern is not valid UTF-8");
  return Translator(oniguruma).run();
}

}  // namespace spillway
