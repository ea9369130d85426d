#include "text/tokenizer.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "core/error.h"
#include "tests/support.h"
#include "text/bpe.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace spillway {
namespace {

using Json = nlohmann::json;

struct FamilyCase {
  const char* name;
  const char* folder;
  const char* file;
};

class Families : public ::testing::TestWithParam<FamilyCase> {};

TEST_P(Families, ReproduceTheGoldensAndDecodeBack) {
  SPILLWAY_NEEDS_TEST_DATA();
  const auto folder = test::test_data() / "tokenizers" / GetParam().folder;
  const auto tokenizer = std::string(GetParam().file) == "tokenizer.json"
                             ? load_tokenizer_json(folder / GetParam().file)
                             : load_sentencepiece(folder / GetParam().file);
  const Json goldens = Json::parse(test::read_file(folder / "golden_encode.json"));
  ASSERT_GT(goldens.size(), 40u);
  for (const Json& golden : goldens) {
    const auto text = golden["text"].get<std::string>();
    const auto ids = golden["ids"].get<std::vector<uint32_t>>();
    EXPECT_EQ(tokenizer->encode(text), ids) << text;
    if (normalize(text, NormalForm::kNfc) == text) {
      EXPECT_EQ(tokenizer->decode(ids), text);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Families,
    ::testing::Values(FamilyCase{"gpt2", "gpt2", "tokenizer.json"},
                      FamilyCase{"llama3", "llama3", "tokenizer.json"},
                      FamilyCase{"qwen", "qwen2_5", "tokenizer.json"},
                      FamilyCase{"llama2_json", "llama2_tinyllama", "tokenizer.json"},
                      FamilyCase{"llama2_sentencepiece", "llama2_tinyllama", "tokenizer.model"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(RealTokenizers, SpecialTokensInPromptsAndBos) {
  SPILLWAY_NEEDS_TEST_DATA();
  const auto root = test::test_data() / "tokenizers";
  const auto llama3 = load_tokenizer(root / "llama3");
  EXPECT_EQ(llama3->encode("<|begin_of_text|>Hello"), (std::vector<uint32_t>{128000, 9906}));
  EXPECT_EQ(llama3->decode(std::vector<uint32_t>{128000, 9906}), "Hello");
  const auto llama2 = load_tokenizer(root / "llama2_tinyllama");
  EXPECT_EQ(llama2->encode_prompt("Hello"), (std::vector<uint32_t>{1, 15043}));
  EXPECT_EQ(llama2->encode_prompt("<s>Hello"), (std::vector<uint32_t>{1, 15043})) << "not twice";
  const auto qwen = load_tokenizer(root / "qwen2_5");
  EXPECT_EQ(qwen->encode_prompt("Hello"), (std::vector<uint32_t>{9707})) << "add_bos_token: false";
  const auto bare = load_sentencepiece(root / "llama2_tinyllama" / "tokenizer.model");
  EXPECT_EQ(bare->encode_prompt("Hello"), (std::vector<uint32_t>{1, 15043}));
  EXPECT_EQ(bare->encode("</s>Hello"), (std::vector<uint32_t>{2, 15043}));
  EXPECT_EQ(bare->decode(std::vector<uint32_t>{226, 187}), "\u07f8");
  EXPECT_EQ(bare->decode(std::vector<uint32_t>{226, 2, 187}), "\ufffd\ufffd")
      << "bytes beside a control token are not one character";
}

TEST(RealTokenizers, StreamingNeverPrintsHalfACharacter) {
  SPILLWAY_NEEDS_TEST_DATA();
  for (const char* folder : {"gpt2", "llama2_tinyllama", "llama3"}) {
    const auto tokenizer = load_tokenizer(test::test_data() / "tokenizers" / folder);
    const std::string text = "🚀 ⅞ ទ្រ — 我想 Ω";
    TextStream stream(*tokenizer);
    std::string all;
    for (const uint32_t id : tokenizer->encode(text)) {
      const std::string part = stream.add(id);
      EXPECT_TRUE(is_valid_utf8(part));
      all += part;
    }
    EXPECT_EQ(all + stream.finish(), text) << folder;
  }
}

/// Smallest tokenizer.json with the given parts.
std::string tokenizer_json(const std::string& extra, const std::string& merges = "[]") {
  return R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"c":3,"abc":4,"<s>":5,"▁":6,)"
         R"("<0xC3>":7,"<0xA9>":8,"<unk>":9},"merges":)" +
         merges + R"(,"byte_fallback":true,"unk_token":"<unk>","fuse_unk":true})" + extra + "}";
}

std::unique_ptr<Tokenizer> parse(const std::string& json) {
  return parse_tokenizer_json(json, "t.json", std::nullopt, "");
}

TEST(TokenizerJson, BothSpellingsOfMerges) {
  for (const char* merges : {R"(["a b","ab c"])", R"([["a","b"],["ab","c"]])"}) {
    EXPECT_EQ(parse(tokenizer_json("", merges))->encode("abcab"), (std::vector<uint32_t>{4, 2}));
  }
}

TEST(TokenizerJson, ByteFallbackAndUnknown) {
  const auto tokenizer = parse(tokenizer_json(R"(,"decoder":{"type":"ByteFallback"})"));
  EXPECT_EQ(tokenizer->encode("aé"), (std::vector<uint32_t>{0, 7, 8}));
  EXPECT_EQ(tokenizer->encode("aXYb"), (std::vector<uint32_t>{0, 9, 1})) << "fused";
  EXPECT_EQ(tokenizer->decode(std::vector<uint32_t>{0, 7, 8}), "aé");
  EXPECT_EQ(tokenizer->decode(std::vector<uint32_t>{0, 7}), "a\xEF\xBF\xBD");
}

TEST(TokenizerJson, AddedTokenFlags) {
  const auto tokenizer = parse(tokenizer_json(
      R"(,"added_tokens":[{"id":10,"content":"<x>","special":true,"lstrip":true,"rstrip":true},)"
      R"({"id":11,"content":"ca","single_word":true,"normalized":false},)"
      R"({"id":12,"content":"<x>!","special":true}])"));
  EXPECT_EQ(tokenizer->encode("a  <x>  b"), (std::vector<uint32_t>{0, 10, 1}));
  EXPECT_EQ(tokenizer->encode("a<x>!b"), (std::vector<uint32_t>{0, 12, 1})) << "longest";
  EXPECT_EQ(tokenizer->encode("ca"), (std::vector<uint32_t>{11}));
  EXPECT_EQ(tokenizer->encode("cab"), (std::vector<uint32_t>{3, 0, 1})) << "not a word of its own";
}

TEST(TokenizerJson, BosFollowsTheConfiguration) {
  const std::string with_template = tokenizer_json(
      R"(,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},)"
      R"({"Sequence":{"id":"A"}}]})");
  EXPECT_EQ(parse(with_template)->bos(), (std::vector<uint32_t>{5}));
  for (const char* type : {"RobertaProcessing", "BertProcessing"}) {
    const std::string in_front = std::string(R"(,"post_processor":{"type":")") + type +
                                 R"(","sep":["c",2],"cls":["<s>",5]})";
    EXPECT_EQ(parse(tokenizer_json(in_front))->bos(), (std::vector<uint32_t>{5})) << type;
  }
  EXPECT_TRUE(parse(tokenizer_json(""))->bos().empty());
  EXPECT_TRUE(parse_tokenizer_json(with_template, "t", false, "")->bos().empty());
  EXPECT_EQ(parse_tokenizer_json(tokenizer_json(""), "t", true, "<s>")->bos(),
            (std::vector<uint32_t>{5}));
}

TEST(TokenizerJson, AddedTokensAreMatchedNormalizedAndSaidAsTheyAre) {
  const auto tokenizer =
      parse(tokenizer_json(R"(,"normalizer":{"type":"Lowercase"},"added_tokens":[)"
                           R"({"id":10,"content":"<End>","special":true,"normalized":true},)"
                           R"({"id":11,"content":"<Say>","normalized":true}])"));
  EXPECT_EQ(tokenizer->encode("<END><say>"), (std::vector<uint32_t>{10, 11}));
  EXPECT_EQ(tokenizer->decode(std::vector<uint32_t>{10, 11}), "<Say>");
}

TEST(TokenizerJson, MetaspaceSchemes) {
  const auto ids = [](const std::string& scheme, const std::string& text) {
    return parse(
               tokenizer_json(
                   R"(,"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":")" +
                   scheme + R"("})"))
        ->encode(text);
  };
  EXPECT_EQ(ids("always", "a b"), (std::vector<uint32_t>{6, 0, 6, 1}));
  EXPECT_EQ(ids("never", "a b"), (std::vector<uint32_t>{0, 6, 1}));
  EXPECT_EQ(ids("first", "a"), (std::vector<uint32_t>{6, 0}));
}

std::string many_decoders(int count) {
  std::string steps = R"({"type":"Fuse"})";
  for (int i = 1; i < count; ++i) steps += R"(,{"type":"Fuse"})";
  return R"(,"decoder":{"type":"Sequence","decoders":[)" + steps + "]}";
}

struct BadTokenizer {
  const char* name;
  std::string json;
  const char* expected;
};

class BadTokenizers : public ::testing::TestWithParam<BadTokenizer> {};

TEST_P(BadTokenizers, AreRefusedByName) {
  const std::string message = test::error_of([] { parse(GetParam().json); });
  EXPECT_NE(message.find(GetParam().expected), std::string::npos) << message;
  EXPECT_NE(message.find("t.json"), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    All, BadTokenizers,
    ::testing::Values(
        BadTokenizer{"syntax", "{", "not valid JSON"}, BadTokenizer{"list", "[]", "JSON object"},
        BadTokenizer{"no_model", "{}", "no \"model\""},
        BadTokenizer{"word_piece", R"({"model":{"type":"WordPiece","vocab":{}}})", "WordPiece"},
        BadTokenizer{"dropout", R"({"model":{"vocab":{},"merges":[],"dropout":0.1}})", "dropout"},
        BadTokenizer{"unigram_unknown",
                     R"({"model":{"type":"Unigram","vocab":[["a",0]],"unk_id":1}})", "unk_id"},
        BadTokenizer{"unigram_entry", R"({"model":{"type":"Unigram","vocab":["a"]}})", "score"},
        BadTokenizer{"added_id", tokenizer_json(R"(,"added_tokens":[{"id":99,"content":"x"}])"),
                     "the id 99, but gets 10"},
        BadTokenizer{"added_empty",
                     tokenizer_json(R"(,"normalizer":{"type":"Strip"},"added_tokens":[)"
                                    R"({"id":10,"content":" ","normalized":true}])"),
                     "nothing is left"},
        BadTokenizer{"strip_stop",
                     tokenizer_json(R"(,"decoder":{"type":"Strip","content":" ","stop":1})"),
                     "stop"},
        BadTokenizer{"decoder_order",
                     tokenizer_json(R"(,"decoder":{"type":"Sequence","decoders":[)"
                                    R"({"type":"Fuse"},{"type":"ByteFallback"}]})"),
                     "behind Fuse"},
        BadTokenizer{"decoder_steps", tokenizer_json(many_decoders(65)), "more than 64 steps"},
        BadTokenizer{"cls",
                     tokenizer_json(R"(,"post_processor":{"type":"BertProcessing",)"
                                    R"("sep":["c",2],"cls":["<s>",4]})"),
                     "has not the id 4"},
        BadTokenizer{"post", tokenizer_json(R"(,"post_processor":{"type":"Sevenfold"})"),
                     "Sevenfold"},
        BadTokenizer{"charsmap",
                     tokenizer_json(R"(,"normalizer":{"type":"Precompiled",)"
                                    R"("precompiled_charsmap":"////"})"),
                     "precompiled_charsmap"},
        BadTokenizer{"merge", tokenizer_json("", R"(["a z"])"), "merge"},
        BadTokenizer{"merge_type", tokenizer_json("", "[3]"), "merge"},
        BadTokenizer{"ids", R"({"model":{"vocab":{"a":0,"b":0},"merges":[]}})", "share the id"},
        BadTokenizer{"id_type", R"({"model":{"vocab":{"a":-1},"merges":[]}})", "token id"},
        BadTokenizer{"normalizer", tokenizer_json(R"(,"normalizer":{"type":"BertNormalizer"})"),
                     "BertNormalizer"},
        BadTokenizer{"pre", tokenizer_json(R"(,"pre_tokenizer":{"type":"BertPreTokenizer"})"),
                     "BertPreTokenizer"},
        BadTokenizer{"regex",
                     tokenizer_json(R"(,"pre_tokenizer":{"type":"Split","behavior":"Isolated",)"
                                    R"("pattern":{"Regex":"("}})"),
                     "regular expression"},
        BadTokenizer{"decoder", tokenizer_json(R"(,"decoder":{"type":"WordPiece"})"), "WordPiece"},
        BadTokenizer{"bos",
                     tokenizer_json(R"(,"post_processor":{"type":"TemplateProcessing",)"
                                    R"("single":[{"SpecialToken":{"id":"<zz>"}}]})"),
                     "<zz>"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Bpe, AgreesWithThePlainAlgorithm) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int round = 0; round < 50; ++round) {
    Bpe bpe;
    std::vector<std::string> tokens = {"a", "b", "c"};
    for (uint32_t i = 0; i < 3; ++i) bpe.add_token(tokens[i], i);
    std::vector<std::pair<std::string, std::string>> merges;
    for (int i = 0; i < 12; ++i) {
      const std::string left = tokens[random() % tokens.size()];
      const std::string right = tokens[random() % tokens.size()];
      if (!bpe.add_token(left + right, static_cast<uint32_t>(tokens.size()))) continue;
      tokens.push_back(left + right);
      ASSERT_TRUE(bpe.add_merge(left, right));
      merges.emplace_back(left, right);
    }
    std::vector<std::string> parts;
    std::vector<uint32_t> symbols;
    for (int i = 0; i < 40; ++i) {
      symbols.push_back(static_cast<uint32_t>(random() % 3));
      parts.push_back(tokens[symbols.back()]);
    }
    bool merged = true;
    while (merged) {  // the lowest rank that applies, at its leftmost place
      merged = false;
      for (const auto& [left, right] : merges) {
        for (size_t i = 0; i + 1 < parts.size() && !merged; ++i) {
          if (parts[i] != left || parts[i + 1] != right) continue;
          parts[i] += parts[i + 1];
          parts.erase(parts.begin() + static_cast<ptrdiff_t>(i) + 1);
          merged = true;
        }
        if (merged) break;
      }
    }
    std::vector<std::string> result;
    for (const uint32_t id : bpe.merge(symbols)) result.push_back(*bpe.token_of(id));
    ASSERT_EQ(result, parts);
  }
}

/// tokenizer.json files over all features, with what the tokenizers library said of them.
Json library_cases() {
  return Json::parse(test::read_file(SPILLWAY_TEST_SOURCE "/tokenizer_cases.json"));
}

TEST(TokenizerJson, EncodesAndDecodesAsTheLibraryDoes) {
  const Json cases = library_cases();
  for (Json item : cases["encode"]) {
    SCOPED_TRACE(item["name"].get<std::string>());
    if (!item.contains("model")) item["model"] = cases["model"];
    const auto tokenizer = parse(item.dump());
    const auto ids = item["ids"].get<std::vector<uint32_t>>();
    EXPECT_EQ(tokenizer->encode(item["text"].get<std::string>()), ids);
    EXPECT_EQ(tokenizer->decode(ids), item["decoded"].get<std::string>());
  }
}

TEST(TokenizerJson, DecodersSayWhatTheLibrarySays) {
  Json model = Json::parse(R"({"type":"BPE","merges":[],"vocab":{"▁a":256,"b":257,"▁▁":258}})");
  for (unsigned b = 0; b < 256; ++b) model["vocab"][fmt::format("<0x{:02X}>", b)] = b;
  for (const Json& item : library_cases()["decode"]) {
    SCOPED_TRACE(item["name"].get<std::string>());
    const auto tokenizer = parse(Json{{"model", model}, {"decoder", item["decoder"]}}.dump());
    EXPECT_EQ(tokenizer->decode(item["ids"].get<std::vector<uint32_t>>()),
              item["decoded"].get<std::string>());
  }
}

TEST(TokenizerJson, ByteLevelDecodesMalformedBytesAsOneSignPerSequence) {
  SPILLWAY_NEEDS_TEST_DATA();
  const auto tokenizer = load_tokenizer(test::test_data() / "tokenizers" / "gpt2");
  const auto bytes = [&](const std::string& text) {  // GPT-2 has a token for every byte
    std::vector<uint32_t> ids;
    for (const char c : text) {
      const auto b = static_cast<unsigned char>(c);
      ids.push_back(b >= 0xA1 && b <= 0xAC   ? b - 0xA1u + 94
                    : b >= 0xAE              ? b - 0xAEu + 106
                    : b >= 0x7F && b <= 0xA0 ? b - 0x7Fu + 221
                                             : b - 0x21u);
    }
    return tokenizer->decode(ids);
  };
  EXPECT_EQ(bytes("a\xF0\x9F\x98z"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(bytes("\xF0\x9F\x98\xF0\x9F"), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(bytes("\xE0\x80z"), "\xEF\xBF\xBD\xEF\xBF\xBDz");
  EXPECT_EQ(bytes("\x9F\x98\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

struct BadPatternCase {
  const char* name;
  const char* pattern;
  const char* expected;
};

class UnsupportedPatterns : public ::testing::TestWithParam<BadPatternCase> {};

TEST_P(UnsupportedPatterns, AreRefusedByName) {
  const std::string message = test::error_of([] { Regex regex(GetParam().pattern); });
  EXPECT_NE(message.find(GetParam().expected), std::string::npos) << message;
  EXPECT_NE(message.find(GetParam().pattern), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(
    All, UnsupportedPatterns,
    ::testing::Values(
        BadPatternCase{"open", "(", "regular expression"},
        BadPatternCase{"unmatched", "a)", "unmatched"},
        BadPatternCase{"nothing_to_repeat", "*a", "nothing to repeat"},
        BadPatternCase{"back_reference", "(a)\\1", "not supported: \\1"},
        BadPatternCase{"grapheme", "\\X", "not supported: \\X"},
        BadPatternCase{"quotation", "\\Qa\\E", "not supported: \\Q"},
        BadPatternCase{"property", "\\p{Cyrillic}", "\\p{cyrillic}"},
        BadPatternCase{"property_without_braces", "\\pL", "\\p without {"},
        BadPatternCase{"option", "(?x: a)", "the option x"},
        BadPatternCase{"absent_group", "(?~a)", "the group (?~"},
        BadPatternCase{"pair_ignoring_case", "(?i)stress", "\"st\" that ignores case"},
        BadPatternCase{"class_ignoring_case", "(?i)[a-z]", "a class that ignores case"},
        BadPatternCase{"posix_class", "[[:graph:]]", "[:graph:]"},
        BadPatternCase{"repeated_twice", "a**", "repeated repetition"},
        BadPatternCase{"lazy_count", "a{2}?", "{n}?"},
        BadPatternCase{"lookbehind_of_any_length", "(?<=a+)b",
                       "regular expression that PCRE2 runs"},
        BadPatternCase{"young_characters", "[\U00031350-\U00031360]", "PCRE2 does not know"},
        BadPatternCase{"young_range", "[\\x{1000}-\\x{10FF}\\p{N}]", "PCRE2 does not know"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Regex, LongTextsNeitherOverflowAStackNorTakeLong) {
  const std::string many(300000, 'a');
  EXPECT_EQ(Regex("(?:a|b)+").find_all(many).size(), 1u);
  EXPECT_EQ(Regex("\\s+(?!\\S)|\\s+").find_all(std::string(300000, ' ') + "a").size(), 2u);
}

TEST(Regex, EmptyMatchesAreFoundButNotRightBehindAnother) {
  std::vector<std::pair<size_t, size_t>> found;
  for (const Match& match : Regex("x*").find_all("axb")) found.emplace_back(match.begin, match.end);
  EXPECT_EQ(found, (std::vector<std::pair<size_t, size_t>>{{0, 0}, {1, 2}, {3, 3}}));
}

TEST(Regex, RangesMeanTheirCharactersOnly) {
  // PCRE2 does not know U+1C89; where it need not, the character stands for no older one.
  const Regex range("[\\x{1000}-\\x{10FF}]");
  EXPECT_EQ(range.find_all("\u1C89").size(), 0u);
  EXPECT_EQ(range.find_all("\u10A0").size(), 1u);
  EXPECT_EQ(Regex("\\p{L}").find_all("\u1C89").size(), 1u);
}

TEST(Unicode, NormalizingManyMarksTakesLinearTime) {
  std::string text = "e";
  for (int i = 0; i < 100000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";  // above, below
  std::string expected = "\u1EB9";  // e with a dot below: marks below come first
  for (int i = 1; i < 50000; ++i) expected += "\u0323";
  for (int i = 0; i < 50000; ++i) expected += "\u0301";
  EXPECT_EQ(normalize(text, NormalForm::kNfc), expected);
}

TEST(Unicode, CharactersYoungerThanTheLibrarysNormalFormsStayAsTheyAre) {
  // U+1DFA is a mark below since Unicode 14; U+0301 would have to follow it.
  EXPECT_EQ(normalize("a\u0301\U00001DFA", NormalForm::kNfd), "a\u0301\U00001DFA");
  EXPECT_EQ(normalize("\U0001E030", NormalForm::kNfkd), "\U0001E030");
}

TEST(TokenizerJson, OneTokenizerServesSeveralThreads) {
  const auto tokenizer = parse(tokenizer_json(
      R"(,"pre_tokenizer":{"type":"Split","behavior":"Isolated","pattern":{"Regex":"\\w+|\\s"}},)"
      R"("decoder":{"type":"ByteFallback"})",
      R"(["a b","ab c"])"));
  const std::string text = "abc ab\u00E9 cab  abcabc";
  const auto expected = tokenizer->encode(text);
  std::array<int, 4> wrong{};
  std::vector<std::jthread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        if (tokenizer->encode(text) != expected) ++count;
        if (tokenizer->decode(expected) != tokenizer->decode(expected)) ++count;
      }
    });
  }
  threads.clear();
  EXPECT_EQ(wrong, (std::array<int, 4>{}));
}

/// Each of a run of white space takes all of it: walked over once, not once for each.
TEST(TokenizerJson, TokensOfWhiteSpaceThatStripTakeLinearTime) {
  for (const char* strip : {"lstrip", "rstrip"}) {
    const auto tokenizer = parse(tokenizer_json(fmt::format(
        R"(,"added_tokens":[{{"id":10,"content":"\n","special":true,"{}":true}}])", strip)));
    const auto ids = tokenizer->encode("a" + std::string(200000, '\n') + "b");
    EXPECT_EQ(ids.front(), 0u);
    EXPECT_EQ(ids.back(), 1u);
  }
}

TEST(Bpe, OneWordOfManyCharactersIsMerged) {
  Bpe bpe;
  bpe.add_token("a", 0);
  std::string token = "a";
  for (uint32_t i = 1; i < 18; ++i) {
    ASSERT_TRUE(bpe.add_token(token + token, i));
    ASSERT_TRUE(bpe.add_merge(token, token));
    token += token;
  }
  EXPECT_EQ(bpe.merge(std::vector<uint32_t>(1u << 18, 0)), (std::vector<uint32_t>{17, 17}));
}

TEST(Unicode, TailsAndMalformedBytes) {
  EXPECT_EQ(incomplete_tail("a\xF0\x9F"), 2u);
  EXPECT_EQ(incomplete_tail("a\xC3\xA9"), 0u);
  EXPECT_EQ(incomplete_tail("\xA9"), 0u);
  EXPECT_EQ(incomplete_tail("\xE0\x80"), 0u) << "no character begins so";
  EXPECT_EQ(replace_malformed("a\xFFz"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(replace_malformed("\xF0\x9F\x98z"), "\xEF\xBF\xBDz");
  EXPECT_EQ(replace_malformed_bytes("\xF0\x9F\x98z"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz");
  EXPECT_EQ(replace_malformed("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

}  // namespace
}  // namespace spillway
