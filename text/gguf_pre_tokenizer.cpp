#include "text/gguf_pre_tokenizer.h"

#include <algorithm>
#include <initializer_list>
#include <iterator>

namespace spillway {
namespace {

// The patterns, as the models' own tokenizer.json have them.
constexpr const char* kLlama3Words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen35Words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N})"
    R"(| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt4oWords =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekkenWords =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Letters that have cases, as of an older Unicode.
constexpr const char* kCasedLetters =
    R"(A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386})"
    R"(\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F})"
    R"(\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA})"
    R"(\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A})"
    R"(\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D})"
    R"(\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4})"
    R"(\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3})"
    R"(\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107})"
    R"(\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D})"
    R"(\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184})"
    R"(\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D})"
    R"(\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E})"
    R"(\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A})"
    R"(\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB})"
    R"(\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943})";

void split(TokenizerParts& parts, const std::string& pattern) {
  parts.pre_tokenizer.add_split(Regex(pattern), SplitBehavior::kIsolated, false);
}

/// One pattern, and the words' bytes.
template <const char* const& kWords>
void words(TokenizerParts& parts) {
  split(parts, kWords);
  parts.byte_level = true;
}

/// GPT-2's pattern, and the words' bytes.
void gpt2(TokenizerParts& parts) {
  parts.pre_tokenizer.add_byte_level(false, true);
  parts.byte_level = true;
}

void single_digits(TokenizerParts& parts) {
  parts.pre_tokenizer.add_digits(true);
  gpt2(parts);
}

/// What converters fall back to: no model's own, but defined by the name.
void fallback(TokenizerParts& parts) {
  split(parts, R"([\p{P}$+<=>^~|]+)");
  gpt2(parts);
  split(parts, R"(\p{N}+)");
  split(parts, "[0-9][0-9][0-9]");
}

/// Digits are looked for in the byte-level alphabet, some of whose letters are digits.
void falcon(TokenizerParts& parts) {
  parts.pre_tokenizer.add_punctuation(SplitBehavior::kContiguous);
  parts.pre_tokenizer.add_byte_level(false, true);
  parts.pre_tokenizer.add_byte_level_text();
  parts.pre_tokenizer.add_digits(false);
  split(parts, "[0-9][0-9][0-9]");
}

/// Lines, then what `patterns` say, then characters that are written without spaces, then digits.
void deepseek(TokenizerParts& parts, std::initializer_list<std::string> patterns) {
  split(parts, R"([\r\n])");
  for (const std::string& pattern : patterns) split(parts, pattern);
  split(parts, R"([一-龥ࠀ-一가-퟿]+)");
  parts.pre_tokenizer.add_digits(true);
  parts.byte_level = true;
}

void deepseek_llm(TokenizerParts& parts) {
  deepseek(parts, {R"(\s?[)" + std::string(kCasedLetters) + "]+",
                   R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)", R"(\s+$)"});
}

void deepseek_coder(TokenizerParts& parts) {
  deepseek(parts, {R"(\s?\p{L}+)", R"(\s?\p{P}+)"});
}

void deepseek_v3(TokenizerParts& parts) {
  split(parts, R"(\p{N}{1,3})");
  split(parts, R"([一-龥぀-ゟ゠-ヿ]+)");
  split(parts,
        R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
        R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)");
  parts.byte_level = true;
}

constexpr GgufPreTokenizer kKnown[] = {
    {.name = "default", .build = fallback},
    {.name = "gpt-2", .build = gpt2},
    {.name = "phi-2", .build = gpt2},
    {.name = "mpt", .build = gpt2, .composes = true},
    {.name = "olmo", .build = gpt2, .composes = true},
    {.name = "llama-bpe",
     .build = words<kLlama3Words>,
     .pattern = kLlama3Words,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "llama3",
     .build = words<kLlama3Words>,
     .pattern = kLlama3Words,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "llama-v3",
     .build = words<kLlama3Words>,
     .pattern = kLlama3Words,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "dbrx", .build = words<kLlama3Words>, .pattern = kLlama3Words},
    {.name = "qwen2", .build = words<kQwen2Words>, .pattern = kQwen2Words, .composes = true},
    {.name = "deepseek-r1-qwen",
     .build = words<kQwen2Words>,
     .pattern = kQwen2Words,
     .composes = true},
    {.name = "qwen35", .build = words<kQwen35Words>, .pattern = kQwen35Words, .composes = true},
    {.name = "gpt-4o", .build = words<kGpt4oWords>, .pattern = kGpt4oWords},
    {.name = "tekken",
     .build = words<kTekkenWords>,
     .pattern = kTekkenWords,
     .ignores_merges = true,
     .adds_bos = true},
    {.name = "smollm", .build = single_digits},
    {.name = "starcoder", .build = single_digits},
    {.name = "refact", .build = single_digits},
    {.name = "command-r", .build = single_digits, .composes = true},
    {.name = "falcon", .build = falcon},
    {.name = "deepseek-llm", .build = deepseek_llm},
    {.name = "deepseek-coder", .build = deepseek_coder},
    {.name = "deepseek-v3", .build = deepseek_v3},
};

}  // namespace

const GgufPreTokenizer* find_gguf_pre_tokenizer(std::string_view name) {
  const auto* found = std::find_if(std::begin(kKnown), std::end(kKnown),
                                   [&](const auto& known) { return known.name == name; });
  return found == std::end(kKnown) ? nullptr : found;
}

std::string_view gguf_name_of_pattern(std::string_view pattern, bool composes,
                                      bool ignores_merges) {
  const auto* found = std::find_if(std::begin(kKnown), std::end(kKnown), [&](const auto& known) {
    return known.pattern == pattern && known.composes == composes &&
           known.ignores_merges == ignores_merges;
  });
  return found == std::end(kKnown) ? std::string_view() : found->name;
}

}  // namespace spillway
