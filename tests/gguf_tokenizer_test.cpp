#include "text/gguf_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "core/error.h"
#include "tests/support.h"
#include "text/sentencepiece_tokenizer.h"
#include "text/unicode.h"

namespace spillway {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<uint32_t>;

enum Type : int32_t { kNormal = 1, kUnknown, kControl, kUser, kUnused, kByte };

/// What a converter writes of a tokenizer.
struct Source {
  std::string model;
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<float> scores;
  std::vector<std::string> merges;
  std::vector<std::pair<std::string, GgufMetadata::Value>> more;

  void add(std::string token, Type type = kNormal, float score = 0) {
    tokens.push_back(std::move(token));
    types.push_back(type);
    scores.push_back(score);
  }
  GgufMetadata metadata() const {
    GgufMetadata metadata("m.gguf");
    for (const auto& [key, value] : more) metadata.set(key, value);  // the first of a key counts
    metadata.set("tokenizer.ggml.model", model);
    metadata.set("tokenizer.ggml.tokens", tokens);
    metadata.set("tokenizer.ggml.token_type", types);
    if (model == "llama") {
      metadata.set("tokenizer.ggml.scores", scores);
    } else {
      metadata.set("tokenizer.ggml.merges", merges);
    }
    return metadata;
  }
  std::unique_ptr<Tokenizer> tokenizer() const { return gguf_tokenizer(metadata()); }
};

bool looks_special(const std::string& token) {
  return token.starts_with("<|") && token.ends_with("|>");
}

/// Of a byte-level tokenizer.json, with a tail of padding.
Source source_of_json(const std::filesystem::path& file, const std::string& pre) {
  const Json json = Json::parse(test::read_file(file));
  Source source;
  source.model = "gpt2";
  source.more.emplace_back("tokenizer.ggml.pre", pre);
  std::map<uint32_t, std::pair<std::string, Type>> tokens;
  for (const auto& [token, id] : json["model"]["vocab"].items()) tokens[id] = {token, kNormal};
  for (const Json& token : json["added_tokens"]) {
    const auto content = token["content"].get<std::string>();
    const bool special = token["special"].get<bool>() || looks_special(content);
    tokens[token["id"]] = {content, special ? kControl : kUser};
  }
  const uint32_t count = tokens.rbegin()->first + 5;
  for (uint32_t id = 0; id < count; ++id) {
    const auto found = tokens.find(id);
    if (found == tokens.end()) {
      source.add(fmt::format("[PAD{}]", id), kUnused);
    } else {
      source.add(found->second.first, found->second.second);
    }
  }
  for (const Json& merge : json["model"]["merges"]) {
    source.merges.push_back(merge.is_string()
                                ? merge.get<std::string>()
                                : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  return source;
}

/// Of a tokenizer.model, as it is.
Source source_of_sentencepiece(const std::string& proto) {
  const auto library = open_sentencepiece(proto);
  Source source;
  source.model = "llama";
  for (int id = 0; id < library->GetPieceSize(); ++id) {
    source.add(library->IdToPiece(id),
               library->IsUnknown(id)   ? kUnknown
               : library->IsControl(id) ? kControl
               : library->IsUnused(id)  ? kUnused
               : library->IsByte(id)    ? kByte
                                        : kNormal,
               library->GetScore(id));
  }
  source.more.emplace_back("tokenizer.ggml.bos_token_id", uint32_t{1});
  return source;
}

/// Texts of every kind that tokenizers look at: words of many scripts, digits, white space, code,
/// emoji, combining marks, and pieces and wholes of special tokens.
class Texts {
 public:
  Texts(uint64_t seed, std::vector<std::string> special)
      : random_(seed), special_(std::move(special)) {}

  std::string next() {
    std::string text;
    for (size_t parts = below(12); parts > 0; --parts) text += part();
    return text;
  }

 private:
  struct Range {
    uint32_t first;
    uint32_t last;
  };
  size_t below(size_t end) { return std::uniform_int_distribution<size_t>(0, end - 1)(random_); }
  template <size_t N>
  std::string one_of(const char* const (&list)[N]) {
    return list[below(N)];
  }
  std::string of_range(Range range, size_t count) {
    std::string text;
    for (; count > 0; --count) {
      append_utf8(text, range.first + static_cast<uint32_t>(below(range.last - range.first + 1)));
    }
    return text;
  }
  std::string part() {
    static constexpr Range kScripts[] = {{'a', 'z'},       {'A', 'Z'},         {0xC0, 0x24F},
                                         {0x300, 0x36F},   {0x370, 0x3FF},     {0x400, 0x4FF},
                                         {0x5D0, 0x5EA},   {0x600, 0x6FF},     {0x900, 0x97F},
                                         {0xE00, 0xE5B},   {0x1100, 0x11FF},   {0x1E00, 0x1FFF},
                                         {0x2000, 0x206F}, {0x2100, 0x218F},   {0x2500, 0x259F},
                                         {0x3000, 0x30FF}, {0x4E00, 0x9FA5},   {0xAC00, 0xD7A3},
                                         {0xFE00, 0xFFEF}, {0x1F300, 0x1F6FF}, {0x10000, 0x10FFFF}};
    switch (below(11)) {
      case 0:
      case 1:
        return one_of({" the", " of", "Hello", " world", "don't", " I'LL", "iPhone", " naïve", "'s",
                       " HTTPServer", "straße", " Ελληνικά", " привет", "你好", "안녕"});
      case 2:
        return one_of({" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u3000",
                       "        ", "\u2581", " \u2581 ", "\u200d", std::string_view("\0").data()});
      case 3:
        return of_range({'0', '9'}, 1 + below(8));
      case 4:
        return one_of({"def f(x):\n    return x ** 2\n", "if (a[i] != b) { i++; }", "</div>",
                       "https://a.b/c?d=1&e=%20", "$100.50", "// TODO: ...\n\n", "<|", "|>", "</",
                       "<0x41>", "[INST]", "####", "\\n"});
      case 5:
        return one_of({"🚀", "👩‍👩‍👧", "❤️", "🇩🇪", "e\u0301", "\u1100\u1161", "½²", "٣٤",
                       "Ⅷ", "fi"});
      case 6:
        return of_range({'!', '~'}, 1 + below(6));
      case 7:
        return of_range({1, 0x2FF}, 1 + below(4));
      case 8: {
        if (special_.empty()) return "";
        const std::string& token = special_[below(special_.size())];
        return below(4) == 0 ? token.substr(0, utf8_length(token, 0)) : token;
      }
      default:
        return of_range(kScripts[below(std::size(kScripts))], 1 + below(7));
    }
  }

  std::mt19937_64 random_;
  std::vector<std::string> special_;
};

/// Tokens that a converter marks as special because they look so.
Ids without(const Ids& ids, const std::set<uint32_t>& left_out) {
  Ids kept;
  for (const uint32_t id : ids) {
    if (!left_out.contains(id)) kept.push_back(id);
  }
  return kept;
}

void expect_same(const Tokenizer& ours, const Tokenizer& reference, Texts texts,
                 const std::set<uint32_t>& other_when_decoded = {}) {
  for (int i = 0; i < 10000; ++i) {
    const std::string text = texts.next();
    const Ids ids = reference.encode(text);
    ASSERT_EQ(ours.encode(text), ids) << text;
    const Ids said = without(ids, other_when_decoded);
    ASSERT_EQ(ours.decode(said), reference.decode(said)) << text;
  }
}

struct ByteLevelCase {
  const char* folder;
  const char* pre;
};

class GgufFamilies : public ::testing::TestWithParam<ByteLevelCase> {};

TEST_P(GgufFamilies, GivesTheTokensOfTokenizerJson) {
  SPILLWAY_NEEDS_TEST_DATA();
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  const auto file = test::test_data() / "tokenizers" / GetParam().folder / "tokenizer.json";
  const auto reference = load_tokenizer_json(file);
  Source source = source_of_json(file, GetParam().pre);
  source.more.emplace_back("tokenizer.ggml.add_bos_token", false);
  std::vector<std::string> special;
  std::set<uint32_t> look_special;
  const Json json = Json::parse(test::read_file(file));
  for (const Json& token : json["added_tokens"]) {
    special.push_back(token["content"]);
    if (!token["special"].get<bool>()) look_special.insert(token["id"].get<uint32_t>());
  }
  expect_same(*source.tokenizer(), *reference, Texts(test::run_seed(), special), look_special);
}

INSTANTIATE_TEST_SUITE_P(All, GgufFamilies,
                         ::testing::Values(ByteLevelCase{"gpt2", "gpt-2"},
                                           ByteLevelCase{"llama3", "llama-bpe"},
                                           ByteLevelCase{"qwen2_5", "qwen2"}),
                         [](const auto& test) { return std::string(test.param.folder); });

TEST(GgufSentencePiece, GivesTheTokensOfTokenizerModelAndTokenizerJson) {
  SPILLWAY_NEEDS_TEST_DATA();
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (const char* folder :
       {"tokenizers/llama2_tinyllama", "models/stories15M", "models/stories260K"}) {
    SCOPED_TRACE(folder);
    const auto path = test::test_data() / folder;
    Source source = source_of_sentencepiece(test::read_file(path / "tokenizer.model"));
    if (folder == std::string("models/stories260K")) {
      source.more.emplace_back("tokenizer.ggml.remove_extra_whitespaces", true);
    }
    const auto ours = source.tokenizer();
    const Texts texts(test::run_seed(), {"<s>", "</s>"});
    expect_same(*ours, *load_sentencepiece(path / "tokenizer.model"), texts);
    if (!std::filesystem::exists(path / "tokenizer.json")) continue;
    const Texts more(test::run_seed() + 1, {"<s>", "</s>", "<unk>"});
    expect_same(*ours, *load_tokenizer_json(path / "tokenizer.json"), more);
  }
}

TEST(GgufSentencePiece, TakesWhatConvertersMakeOfSpecialTokens) {
  SPILLWAY_NEEDS_TEST_DATA();
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  const auto path = test::test_data() / "tokenizers" / "llama2_tinyllama";
  Source source = source_of_sentencepiece(test::read_file(path / "tokenizer.model"));
  for (size_t id = 0; id < 3; ++id) {  // also <unk>
    source.types[id] = kControl;
    source.scores[id] = -1000;
  }
  source.add("[PAD32000]", kUnused, -10000);
  const auto ours = source.tokenizer();
  const Texts texts(test::run_seed(), {"<s>", "</s>", "<unk>", "[PAD32000]"});
  expect_same(*ours, *load_tokenizer_json(path / "tokenizer.json"), texts);
  EXPECT_EQ(ours->decode(Ids{0, 32000, 15043}), "Hello");
  EXPECT_EQ(ours->vocab_size(), 32001u);
  EXPECT_EQ(ours->encode_prompt("Hello"), (Ids{1, 15043}));
}

/// A ModelProto with more in it: Protocol Buffers joins what is written one behind the other.
std::string with_pieces(std::string proto, const std::vector<std::string>& own) {
  for (const std::string& piece : own) {
    const std::string body = "\x0a" + std::string(1, static_cast<char>(piece.size())) + piece +
                             std::string("\x18\x04", 2);  // type: user defined
    proto += "\x0a" + std::string(1, static_cast<char>(body.size())) + body;
  }
  return proto + std::string("\x1a\x02\x18\x00", 4);  // no space in front
}

TEST(GgufSentencePiece, RunsOfSpacesAsTheUsersOwnTokens) {
  SPILLWAY_NEEDS_TEST_DATA();
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  const auto path = test::test_data() / "tokenizers" / "llama2_tinyllama";
  const std::string proto = test::read_file(path / "tokenizer.model");
  const std::vector<std::string> own = {"\n\n", "▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁", "<table>", "hello wor"};
  std::vector<std::string> in_model = own;
  in_model[3] = "hello▁wor";
  const auto library = open_sentencepiece(with_pieces(proto, in_model));
  ASSERT_NE(library, nullptr);
  for (const bool spaces : {false, true}) {
    Source source = source_of_sentencepiece(proto);
    source.more.emplace_back("tokenizer.ggml.add_space_prefix", false);
    for (std::string token : own) {
      if (spaces) replace_space_marks(token);
      source.add(token, kUser, -1000);
    }
    const auto ours = source.tokenizer();
    Texts texts(test::run_seed(), {"\n\n", "                    ", "<table>", "hello wor", "<ta"});
    for (int i = 0; i < 10000; ++i) {
      const std::string text = texts.next();
      if (text.find("▁") != std::string::npos) continue;  // the library takes it for a space
      std::vector<int> ids;
      ASSERT_TRUE(library->Encode(text, &ids).ok());
      ASSERT_EQ(ours->encode(text), Ids(ids.begin(), ids.end())) << text;
    }
    EXPECT_EQ(ours->decode(ours->encode("a\n\n<table>  b")), "a\n\n<table>  b");
  }
}

/// Bytes, letters and what is merged of them.
Source little_sentencepiece() {
  Source source;
  source.model = "llama";
  source.add("<unk>", kUnknown);
  source.add("<s>", kControl);
  source.add("</s>", kControl);
  for (unsigned byte = 0; byte < 256; ++byte) source.add(fmt::format("<0x{:02X}>", byte), kByte);
  for (const char* token : {"▁", "a", "b", "c"}) source.add(token, kNormal, -9);  // from 259
  source.add("bc", kNormal, -1);
  source.add("ab", kNormal, -2);
  source.add("▁a", kNormal, -3);
  source.add("<|user|>", kControl);  // 266
  source.add("<own>", kUser);
  return source;
}

TEST(GgufSentencePiece, ScoresDecideMerges) {
  const auto tokenizer = little_sentencepiece().tokenizer();
  EXPECT_EQ(tokenizer->encode("abc"), (Ids{265, 263})) << "bc before ab, then the space with a";
  EXPECT_EQ(tokenizer->encode("\n"), (Ids{259, 3 + 10}));
  EXPECT_EQ(tokenizer->encode(" <own>a<|user|> b<unk>"),
            (Ids{259, 259, 267, 265, 266, 259, 259, 261, 0}));
  EXPECT_EQ(tokenizer->decode(Ids{1, 265, 263, 267, 266, 3 + 0xC3, 3 + 0xA9}), "abc<own>é");
  EXPECT_EQ(tokenizer->bos(), (Ids{1})) << "by its text, where the file names none";
}

TEST(GgufSentencePiece, HonoursItsFlags) {
  Source source = little_sentencepiece();
  source.more.emplace_back("tokenizer.ggml.add_space_prefix", false);
  source.more.emplace_back("tokenizer.ggml.remove_extra_whitespaces", true);
  source.more.emplace_back("tokenizer.ggml.add_bos_token", false);
  const auto tokenizer = source.tokenizer();
  EXPECT_EQ(tokenizer->encode("  a   b "), (Ids{260, 259, 261}));
  EXPECT_EQ(tokenizer->decode(Ids{259, 265, 259, 261}), "a b");
  EXPECT_TRUE(tokenizer->bos().empty());
}

TEST(GgufSentencePiece, SpecialTokensOfPhi3TakeTheSpacesBehindThem) {
  Source source = little_sentencepiece();
  source.more.emplace_back("general.architecture", "phi3");
  EXPECT_EQ(source.tokenizer()->encode("<|user|> \n a"), (Ids{266, 265}));
  EXPECT_EQ(source.tokenizer()->encode("<s> a"), (Ids{1, 259, 265}));
}

TEST(GgufSentencePiece, WithoutUnknownTokenAndBytes) {
  Source source;
  source.model = "llama";
  for (const char* token : {"▁", "a"}) source.add(token);
  source.add("[PAD]", kUnused);
  source.more.emplace_back("tokenizer.ggml.add_bos_token", false);
  const auto tokenizer = source.tokenizer();
  EXPECT_EQ(tokenizer->encode("a"), (Ids{0, 1}));
  EXPECT_EQ(tokenizer->vocab_size(), 3u);
  EXPECT_NE(test::error_of([&] { tokenizer->encode("b"); }).find("unknown token"),
            std::string::npos);
  source.add("<unk>", kUnknown);
  source.add("<more>", kUnknown);
  EXPECT_EQ(source.tokenizer()->encode("b<more>"), (Ids{0, 3, 4}));
}

/// The 256 bytes in their alphabet, and pieces of "abc".
Source little_byte_level(const std::string& pre) {
  Source source;
  source.model = "gpt2";
  source.more.emplace_back("tokenizer.ggml.pre", pre);
  const Json cases =
      Json::parse(test::read_file(SPILLWAY_TEST_SOURCE "/gguf_tokenizer_cases.json"));
  for (const Json& token : cases["tokens"]) source.add(token);
  source.merges = cases["merges"].get<std::vector<std::string>>();
  return source;
}

TEST(GgufByteLevel, SplitsTextAsTheLibraryDoesByEveryName) {
  const Json cases =
      Json::parse(test::read_file(SPILLWAY_TEST_SOURCE "/gguf_tokenizer_cases.json"));
  size_t names = 0;
  for (const Json& item : cases["cases"]) {
    for (const Json& pre : item["pre"]) {
      ++names;
      SCOPED_TRACE(pre.get<std::string>());
      Source source = little_byte_level(pre);
      source.more.emplace_back("tokenizer.ggml.add_bos_token", false);
      const auto tokenizer = source.tokenizer();
      for (size_t i = 0; i < cases["texts"].size(); ++i) {
        const auto text = cases["texts"][i].get<std::string>();
        EXPECT_EQ(tokenizer->encode(text), item["ids"][i].get<Ids>()) << text;
        if (normalize(text, NormalForm::kNfc) == text) {
          EXPECT_EQ(tokenizer->decode(item["ids"][i].get<Ids>()), text);
        }
      }
    }
  }
  EXPECT_EQ(names, 22u);
}

TEST(GgufByteLevel, AWordThatIsATokenIsThatTokenWhereMergesAreIgnored) {
  for (const char* pre : {"llama-bpe", "gpt-2"}) {
    Source source = little_byte_level(pre);
    source.more.emplace_back("tokenizer.ggml.add_bos_token", false);
    source.add("qzqzq");
    const bool whole = source.tokenizer()->encode("qzqzq") == Ids{900};
    EXPECT_EQ(whole, pre == std::string("llama-bpe"));
  }
}

TEST(GgufByteLevel, TokensOfEveryTypeInText) {
  Source source = little_byte_level("gpt-2");
  source.add("<|im_end|>", kControl);  // 900
  source.add("<think>", kUser);
  source.add("    ", kUser);
  source.add("[PAD903]", kUnused);
  source.add("<unk>", kUnknown);
  const auto tokenizer = source.tokenizer();
  const auto ids = tokenizer->encode("<|im_end|><think>    <unk>[PAD903]");
  EXPECT_EQ(Ids(ids.begin(), ids.begin() + 4), (Ids{900, 901, 902, 904}));
  EXPECT_GT(ids.size(), 5u) << "what fills a gap is text";
  EXPECT_EQ(tokenizer->decode(ids), "<think>    [PAD903]");
  EXPECT_EQ(tokenizer->decode(Ids{903}), "");
  EXPECT_TRUE(tokenizer->bos().empty());
}

TEST(GgufTokenizer, BosFollowsFlagsAndNames) {
  Source llama3 = little_byte_level("llama-bpe");
  llama3.add("<|begin_of_text|>", kControl);
  llama3.more.emplace_back("tokenizer.ggml.bos_token_id", uint32_t{900});
  EXPECT_EQ(llama3.tokenizer()->bos(), (Ids{900}));
  Source gpt2 = little_byte_level("gpt-2");
  gpt2.more.emplace_back("tokenizer.ggml.bos_token_id", uint32_t{7});
  EXPECT_TRUE(gpt2.tokenizer()->bos().empty());
  gpt2.more.emplace_back("tokenizer.ggml.add_bos_token", true);
  EXPECT_EQ(gpt2.tokenizer()->bos(), (Ids{7}));
}

TEST(GgufTokenizer, EndTokens) {
  Source source = little_byte_level("gpt-2");
  source.more.emplace_back("tokenizer.ggml.eos_token_id", uint32_t{5});
  source.more.emplace_back("tokenizer.ggml.eom_token_id", uint32_t{3});
  source.add("<|im_end|>", kControl);  // 900
  source.add("<|eot_id|>", kUser);
  source.add("<|end|>", kControl);
  EXPECT_EQ(gguf_end_tokens(source.metadata()), (Ids{3, 5, 900, 902}));
  source.add("<|return|>", kControl);
  source.add("<|call|>", kControl);
  EXPECT_EQ(gguf_end_tokens(source.metadata()), (Ids{3, 5, 900, 903, 904})) << "<|end|> goes on";
  EXPECT_EQ(gguf_end_tokens(little_sentencepiece().metadata()), (Ids{2})) << "</s>";
  GgufMetadata none("m.gguf");
  EXPECT_TRUE(gguf_end_tokens(none).empty());
  none.set("tokenizer.ggml.eos_token_id", uint32_t{70000});
  EXPECT_EQ(gguf_end_tokens(none), (Ids{70000}));
}

TEST(GgufTokenizer, NoTokenizer) {
  GgufMetadata metadata("m.gguf");
  EXPECT_EQ(gguf_tokenizer(metadata), nullptr);
  for (const char* model : {"none", "no_vocab"}) {
    Source source;
    source.model = model;
    EXPECT_EQ(source.tokenizer(), nullptr);
  }
}

struct BadGguf {
  const char* name;
  void (*spoil)(Source& source);
  const char* expected;
  bool sentencepiece = false;
};

class BadGgufTokenizers : public ::testing::TestWithParam<BadGguf> {};

TEST_P(BadGgufTokenizers, AreRefusedInOneLine) {
  Source source = GetParam().sentencepiece ? little_sentencepiece() : little_byte_level("gpt-2");
  GetParam().spoil(source);
  const std::string message = test::error_of([&] { source.tokenizer(); });
  EXPECT_NE(message.find(GetParam().expected), std::string::npos) << message;
  EXPECT_TRUE(message.starts_with("m.gguf: ")) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 600u) << message;
}

void set(Source& source, const std::string& key, GgufMetadata::Value value) {
  source.more.insert(source.more.begin(), {"tokenizer." + key, std::move(value)});
}

INSTANTIATE_TEST_SUITE_P(
    All, BadGgufTokenizers,
    ::testing::Values(
        BadGguf{"bert", [](Source& s) { s.model = "bert"; }, "\"bert\" is not supported"},
        BadGguf{"control_characters", [](Source& s) { s.model = "a\nb\x1b"; }, "not supported"},
        BadGguf{"model_kind", [](Source& s) { set(s, "ggml.model", uint32_t{1}); }, "ggml.model"},
        BadGguf{"pre", [](Source& s) { set(s, "ggml.pre", "new-one"); },
                "how \"new-one\" splits text is not known"},
        BadGguf{"no_pre", [](Source& s) { s.more.clear(); }, "ggml.pre: it is missing"},
        BadGguf{"no_tokens", [](Source& s) { s.tokens.clear(); }, "there are no tokens"},
        BadGguf{"tokens_kind", [](Source& s) { set(s, "ggml.tokens", uint32_t{1}); },
                "ggml.tokens"},
        BadGguf{"empty", [](Source& s) { s.tokens[300].clear(); }, "token 300 is empty"},
        BadGguf{"overlong", [](Source& s) { s.tokens[300] = std::string(4097, 'x'); }, "4097"},
        BadGguf{"utf8", [](Source& s) { s.tokens[300] = "\xff"; }, "not UTF-8"},
        BadGguf{"twice", [](Source& s) { s.tokens[300] = s.tokens[299]; },
                "is the same as token 299"},
        BadGguf{"types", [](Source& s) { s.types.pop_back(); }, "899 types for 900 tokens"},
        BadGguf{"type", [](Source& s) { s.types[7] = 9; }, "token 7 has the type 9"},
        BadGguf{"types_kind", [](Source& s) { set(s, "ggml.token_type", "x"); }, "token_type"},
        BadGguf{"merge", [](Source& s) { s.merges[5] = "ab"; }, "merge 5, \"ab\""},
        BadGguf{"merge_half", [](Source& s) { s.merges[5] = "a "; }, "merge 5"},
        BadGguf{"merge_empty", [](Source& s) { s.merges[5] = ""; }, "merge 5"},
        BadGguf{"merge_three", [](Source& s) { s.merges[5] = "a b c"; }, "merge 5"},
        BadGguf{"merge_unknown", [](Source& s) { s.merges[5] = "qq zz"; }, "merge 5"},
        BadGguf{"merge_bytes", [](Source& s) { s.merges[5] = "\xff\n \x80"; }, "merge 5"},
        BadGguf{"merges_kind", [](Source& s) { set(s, "ggml.merges", uint32_t{1}); }, "merges"},
        BadGguf{"bos",
                [](Source& s) {
                  set(s, "ggml.add_bos_token", true);
                  set(s, "ggml.bos_token_id", uint32_t{900});
                },
                "900 is none of the 900 tokens"},
        BadGguf{"no_bos", [](Source& s) { set(s, "ggml.add_bos_token", true); }, "bos_token_id"},
        BadGguf{"bos_flag", [](Source& s) { set(s, "ggml.add_bos_token", "yes"); }, "add_bos"},
        BadGguf{"space_prefix", [](Source& s) { set(s, "ggml.add_space_prefix", true); },
                "add_space_prefix"},
        BadGguf{"scores", [](Source& s) { s.scores.pop_back(); }, "267 scores for 268 tokens",
                true},
        BadGguf{"score_nan", [](Source& s) { s.scores[9] = NAN; }, "ggml.scores", true},
        BadGguf{"score_range",
                [](Source& s) {
                  std::vector<double> scores(s.scores.size());
                  scores[9] = 1e300;
                  set(s, "ggml.scores", scores);
                },
                "token 9 is not finite", true},
        BadGguf{"some_bytes", [](Source& s) { s.types[9] = kNormal; }, "255 of the 256 bytes",
                true},
        BadGguf{"byte_text", [](Source& s) { s.tokens[9] = "<0x0>"; }, "to be a byte", true},
        BadGguf{"charsmap",
                [](Source& s) {
                  set(s, "ggml.precompiled_charsmap", std::vector<uint8_t>{1, 2, 3});
                },
                "precompiled_charsmap", true},
        BadGguf{"unknown_id", [](Source& s) { set(s, "ggml.unknown_token_id", uint32_t{999}); },
                "999 is none of the 268 tokens", true}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(GgufTokenizer, MissingListsAreNamed) {
  for (const char* key : {"token_type", "merges", "scores"}) {
    GgufMetadata metadata("m.gguf");
    const bool scores = key == std::string("scores");
    const Source source = scores ? little_sentencepiece() : little_byte_level("gpt-2");
    const GgufMetadata whole = source.metadata();
    for (const auto& [name, value] : whole.values()) {
      if (!name.ends_with(key)) metadata.set(name, value);
    }
    const std::string message = test::error_of([&] { gguf_tokenizer(metadata); });
    EXPECT_NE(message.find(std::string("tokenizer.ggml.") + key + ": it is missing"),
              std::string::npos)
        << message;
  }
}

/// Metadata of noise: whatever comes of it, it is a tokenizer or an Error.
TEST(GgufTokenizer, NoiseInMetadataIsNeverMoreThanAnError) {
  const uint64_t seed = test::run_seed();
  SCOPED_TRACE(test::seed_note(seed));
  std::mt19937_64 random(seed);
  const auto below = [&](size_t end) {
    return std::uniform_int_distribution<size_t>(0, end - 1)(random);
  };
  size_t made = 0;
  for (int round = 0; round < 2000; ++round) {
    Source source;
    source.model = below(2) == 0 ? "llama" : "gpt2";
    source.more.emplace_back("tokenizer.ggml.pre", "gpt-2");
    source.more.emplace_back("tokenizer.ggml.add_bos_token", below(8) == 0);
    const size_t count = 1 + below(40);
    for (size_t id = 0; id < count; ++id) {
      std::string token;
      for (size_t n = 1 + below(4); n > 0; --n) token += std::string("ab▁<> \0Ġ\n", 12)[below(12)];
      source.add(is_valid_utf8(token) ? token : fmt::format("t{}", id),
                 static_cast<Type>(1 + below(5)), static_cast<float>(below(7)) - 3);
    }
    for (size_t n = below(6); n > 0; --n) {
      source.merges.push_back(source.tokens[below(count)] + " " + source.tokens[below(count)]);
    }
    try {
      const auto tokenizer = source.tokenizer();
      ++made;
      (void)tokenizer->decode(tokenizer->encode_prompt(std::string("ab <>\0▁ a\nĠé", 16)));
    } catch (const Error&) {  // the only way out that bad metadata may take
    }
  }
  EXPECT_GT(made, 0u);
}

}  // namespace
}  // namespace spillway
