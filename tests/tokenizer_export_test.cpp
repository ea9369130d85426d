#include "text/tokenizer_export.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support.h"
#include "text/gguf_tokenizer.h"
#include "text/tokenizer.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct RealTokenizer {
  const char* folder;
  uint32_t vocab;
  const char* model;
  const char* pre;
};

class ExportedTokenizer : public testing::TestWithParam<RealTokenizer> {};

/// All texts whose ids are known, for every tokenizer there is.
TEST_P(ExportedTokenizer, GivesTheSameTokens) {
  const fs::path data = test::test_data();
  const RealTokenizer& real = GetParam();
  if (data.empty() || !fs::exists(data / real.folder)) GTEST_SKIP() << "no real tokenizers here";
  GgufMetadata metadata;
  EXPECT_EQ(export_tokenizer(data / real.folder, {real.vocab, {2}}, metadata), "");
  EXPECT_EQ(metadata.text("tokenizer.ggml.model"), real.model);
  EXPECT_EQ(metadata.text("tokenizer.ggml.pre"), real.pre);
  EXPECT_EQ(metadata.texts("tokenizer.ggml.tokens")->size(), real.vocab);
  const auto own = load_tokenizer(data / real.folder);
  const auto exported = gguf_tokenizer(metadata);
  EXPECT_EQ(exported->bos(), own->bos());
  const fs::path golden = data / real.folder / "golden_encode.json";
  if (!fs::exists(golden)) return;
  const Json cases = Json::parse(test::read_file(golden));
  for (const Json& one : cases.is_array() ? cases : cases.begin().value()) {
    if (!one.is_object() || !one.contains("text")) continue;
    const auto text = one["text"].get<std::string>();
    EXPECT_EQ(exported->encode(text), own->encode(text)) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Real, ExportedTokenizer,
    testing::Values(RealTokenizer{"tokenizers/gpt2", 50257, "gpt2", "gpt-2"},
                    RealTokenizer{"tokenizers/llama3", 128256, "gpt2", "llama-bpe"},
                    RealTokenizer{"tokenizers/qwen2_5", 151936, "gpt2", "qwen2"},
                    RealTokenizer{"tokenizers/llama2_tinyllama", 32000, "llama", "default"},
                    RealTokenizer{"models/stories15M", 32000, "llama", "default"},
                    RealTokenizer{"models/stories260K", 512, "llama", "default"}),
    [](const auto& test) {
      return std::string(test.param.folder).substr(std::string(test.param.folder).find('/') + 1);
    });

/// A byte-level tokenizer of a few merges.
Json small_tokenizer() {
  Json json = Json::parse(R"({
    "added_tokens": [{"id": 5, "content": "<|end|>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3, "abc": 4,
                                         "<|end|>": 5},
              "merges": ["a b", ["ab", "c"]]}})");
  // Every text can be encoded: the bytes as letters of their own.
  uint32_t id = 6;
  for (uint32_t byte = 0, shifted = 256; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                           (byte >= 0xAE && byte <= 0xFF);
    const uint32_t letter = printable ? byte : shifted++;
    std::string token;
    if (letter < 0x80) {
      token = static_cast<char>(letter);
    } else {
      token = {static_cast<char>(0xC0 | letter >> 6), static_cast<char>(0x80 | (letter & 0x3F))};
    }
    if (!json["model"]["vocab"].contains(token)) json["model"]["vocab"][token] = id++;
  }
  return json;
}

std::string exported(const Json& json, GgufMetadata& metadata, uint32_t vocab = 300) {
  const test::TempDir dir;
  test::write_file(dir / "tokenizer.json", json.dump());
  return export_tokenizer(dir.path(), {vocab, {5, 299, 1000}}, metadata);
}

TEST(TokenizerExport, FillsTheVocabularyUp) {
  GgufMetadata metadata;
  ASSERT_EQ(exported(small_tokenizer(), metadata), "");
  const auto& tokens = *metadata.texts("tokenizer.ggml.tokens");
  const auto types = *metadata.wholes("tokenizer.ggml.token_type");
  EXPECT_EQ(tokens[4], "abc");
  EXPECT_EQ(types[4], 1);
  EXPECT_EQ(tokens[5], "<|end|>");
  EXPECT_EQ(types[5], 3);
  EXPECT_EQ(tokens[299], "[PAD299]");
  EXPECT_EQ(types[299], 5);
  EXPECT_EQ(*metadata.texts("tokenizer.ggml.merges"), (std::vector<std::string>{"a b", "ab c"}));
  EXPECT_EQ(metadata.flag("tokenizer.ggml.add_bos_token"), false);
}

TEST(TokenizerExport, NamesThreeEndTokens) {
  GgufMetadata metadata;
  set_end_tokens({300, {1000, 5, 299, 7, 9}}, metadata);
  EXPECT_EQ(metadata.whole("tokenizer.ggml.eos_token_id"), 5u) << "no token has 1000";
  EXPECT_EQ(metadata.whole("tokenizer.ggml.eot_token_id"), 299u);
  EXPECT_EQ(metadata.whole("tokenizer.ggml.eom_token_id"), 7u);
  EXPECT_EQ(metadata.values().size(), 3u);
}

TEST(TokenizerExport, SaysWhatHasNoKey) {
  const std::pair<const char*, const char*> changes[] = {
      {R"({"normalizer": {"type": "Lowercase"}})", "normalizer \"Lowercase\""},
      {R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true}})", "splits text"},
      {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
          {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated",
           "invert": false},
          {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}})",
       "splits text"},
      {R"({"added_tokens": [{"id": 5, "content": "<|end|>", "special": true, "lstrip": true}]})",
       "lstrip"},
      {R"({"decoder": null})", "no byte-level BPE"},
      {R"({"model": {"ignore_merges": true}})", "splits text"},
  };
  for (const auto& [change, says] : changes) {
    Json json = small_tokenizer();
    json.update(Json::parse(change), true);
    GgufMetadata metadata;
    const std::string why = exported(json, metadata);
    EXPECT_NE(why.find(says), std::string::npos) << change << ": " << why;
    EXPECT_TRUE(metadata.values().empty());
  }
  GgufMetadata metadata;
  EXPECT_NE(exported(small_tokenizer(), metadata, 100).find("but the model only 100"),
            std::string::npos);
  const test::TempDir dir;
  EXPECT_EQ(export_tokenizer(dir.path(), {300, {}}, metadata), "the model has none");
}

/// A field of Protocol Buffers' wire format that holds bytes.
std::string proto_field(char number, const std::string& bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}
std::string piece(const std::string& text, char type) {
  return proto_field(1, proto_field(1, text) + std::string("\x15\0\0\0\0\x18", 6) + type);
}

/// The weights are worth a file also where the tokenizer cannot be compared.
TEST(TokenizerExport, SaysWhatTheTokenizerRefuses) {
  const test::TempDir dir;
  Json json = small_tokenizer();
  json["decoder"] = nullptr;
  json["model"]["unk_token"] = "<unk>";  // and no such token
  json["model"]["vocab"].erase("a");
  json["model"]["merges"] = Json::array();
  test::write_file(dir / "tokenizer.json", json.dump());
  std::string pieces = piece("<unk>", 2) + piece("<s>", 3) + piece("</s>", 3);
  for (int byte = 0; byte < 256; ++byte) pieces += piece(fmt::format("<0x{:02X}>", byte), 6);
  pieces += piece("a", 1) + proto_field(2, std::string("\x18\x02", 2));  // BPE
  test::write_file(dir / "tokenizer.model", pieces);
  GgufMetadata metadata;
  const std::string why = export_tokenizer(dir.path(), {300, {2}}, metadata);
  EXPECT_NE(why.find("needs the unknown token \"<unk>\""), std::string::npos) << why;
  EXPECT_TRUE(metadata.values().empty());
}

TEST(TokenizerExport, TakesChatTemplates) {
  const test::TempDir dir;
  test::write_file(dir / "tokenizer.json", small_tokenizer().dump());
  test::write_file(dir / "tokenizer_config.json", R"({"chat_template": "{{ a }}"})");
  GgufMetadata metadata;
  ASSERT_EQ(export_tokenizer(dir.path(), {300, {}}, metadata), "");
  EXPECT_EQ(metadata.text("tokenizer.chat_template"), "{{ a }}");
}

}  // namespace
}  // namespace spillway
