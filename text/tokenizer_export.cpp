#include "text/tokenizer_export.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "core/one_line.h"
#include "core/units.h"
#include "core/user_path.h"
#include "io/json_strict.h"
#include "text/gguf_pre_tokenizer.h"
#include "text/gguf_tokenizer.h"
#include "text/gguf_vocabulary.h"
#include "text/tokenizer.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr uint64_t kMaxExportBytes = 256 * kMiB;

/// A tokenizer does what the format cannot say. Caught here.
struct NotExported {
  std::string why;
};

/// The list of a GGUF file while it is made.
class TokenList {
 public:
  explicit TokenList(uint32_t vocab) : tokens_(vocab), types_(vocab, kUnusedType), scores_(vocab) {}

  void set(uint64_t id, std::string token, GgufTokenType type, float score = 0) {
    if (id >= tokens_.size()) {
      throw NotExported{
          fmt::format("it has a token {}, but the model only {}", id, tokens_.size())};
    }
    tokens_[id] = std::move(token);
    types_[id] = static_cast<int32_t>(type);
    scores_[id] = score;
  }
  void store(GgufMetadata& metadata, bool with_scores) {
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (types_[id] != kUnusedType || !tokens_[id].empty()) continue;
      tokens_[id] = fmt::format("[PAD{}]", id);
      scores_[id] = kPaddingScore;
    }
    metadata.set(std::string(gguf_keys::kTokens), tokens_);
    metadata.set(std::string(gguf_keys::kTypes), types_);
    if (with_scores) metadata.set(std::string(gguf_keys::kScores), scores_);
  }

 private:
  static constexpr auto kUnusedType = static_cast<int32_t>(GgufTokenType::kUnused);
  static constexpr float kPaddingScore = -10000;
  std::vector<std::string> tokens_;
  std::vector<int32_t> types_;
  std::vector<float> scores_;
};

// ---- tokenizer.json, byte-level BPE -------------------------------------------------------------

std::string type_in(const Json& json) {
  return json.is_object() ? json.value("type", std::string()) : std::string();
}

/// The steps of a stage: of a Sequence's list, or the one that there is.
std::vector<Json> steps_of(const Json& json, const char* stage, const char* list) {
  const Json step = json.value(stage, Json());
  if (step.is_null()) return {};
  if (type_in(step) != "Sequence") return {step};
  return step.at(list).get<std::vector<Json>>();
}

bool composes(const Json& json) {
  const std::vector<Json> steps = steps_of(json, "normalizer", "normalizers");
  if (steps.empty()) return false;
  if (steps.size() == 1 && type_in(steps[0]) == "NFC") return true;
  throw NotExported{fmt::format("its normalizer {} has no key", in_quotes(type_in(steps[0])))};
}

bool is_byte_level(const Json& step, bool with_pattern) {
  return type_in(step) == "ByteLevel" && !step.value("add_prefix_space", true) &&
         step.value("use_regex", true) == with_pattern;
}

/// What `tokenizer.ggml.pre` is to be.
std::string_view pre_tokenizer_name(const Json& json) {
  const bool nfc = composes(json);
  const bool whole_words = json.at("model").value("ignore_merges", false);
  const std::vector<Json> steps = steps_of(json, "pre_tokenizer", "pretokenizers");
  std::string_view name;
  if (steps.size() == 1 && is_byte_level(steps[0], true) && !whole_words) {
    name = nfc ? "olmo" : "gpt-2";
  } else if (steps.size() == 2 && type_in(steps[0]) == "Digits" && is_byte_level(steps[1], true) &&
             steps[0].value("individual_digits", false) && !whole_words) {
    name = nfc ? "command-r" : "smollm";
  } else if (steps.size() == 2 && type_in(steps[0]) == "Split" && is_byte_level(steps[1], false) &&
             steps[0].value("behavior", "") == "Isolated" && !steps[0].value("invert", false)) {
    const std::string pattern = steps[0].at("pattern").value("Regex", std::string());
    name = gguf_name_of_pattern(pattern, nfc, whole_words);
  }
  if (name.empty()) throw NotExported{"the way it splits text has no name"};
  return name;
}

std::string merge_text(const Json& merge) {
  if (merge.is_string()) return merge.get<std::string>();
  return merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>();
}

void set_added_tokens(const Json& json, TokenList& list) {
  for (const Json& token : json.value("added_tokens", Json::array())) {
    for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
      if (token.value(flag, false)) {
        throw NotExported{fmt::format("{} of its token {} has no key", flag,
                                      in_quotes(token.at("content").get<std::string>()))};
      }
    }
    const bool special = token.value("special", false);
    list.set(token.at("id").get<uint64_t>(), token.at("content").get<std::string>(),
             special ? GgufTokenType::kControl : GgufTokenType::kUserDefined);
  }
}

bool is_byte_level_bpe(const Json& json) {
  const Json& model = json.at("model");
  const std::vector<Json> decoders = steps_of(json, "decoder", "decoders");
  return model.value("type", "BPE") == "BPE" && !model.value("byte_fallback", false) &&
         decoders.size() == 1 && type_in(decoders[0]) == "ByteLevel";
}

void export_byte_level(const Json& json, uint32_t vocab, GgufMetadata& metadata) {
  const Json& model = json.at("model");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix", "unk_token"}) {
    const Json value = model.value(key, Json());
    const bool none = value.is_null() || (value.is_string() && value.get<std::string>().empty());
    if (!none) throw NotExported{fmt::format("its {} has no key", key)};
  }
  metadata.set(std::string(gguf_keys::kModel), "gpt2");
  metadata.set(std::string(gguf_keys::kPre), std::string(pre_tokenizer_name(json)));
  TokenList list(vocab);
  for (const auto& [token, id] : model.at("vocab").items()) {
    list.set(id.get<uint64_t>(), token, GgufTokenType::kNormal);
  }
  set_added_tokens(json, list);
  list.store(metadata, false);
  std::vector<std::string> merges;
  for (const Json& merge : model.at("merges")) {
    merges.push_back(merge_text(merge));
    if (merges.back().starts_with("#version")) merges.pop_back();
  }
  metadata.set(std::string(gguf_keys::kMerges), merges);
}

// ---- tokenizer.model ----------------------------------------------------------------------------

/// Protocol Buffers' wire format, as much of it as a ModelProto has.
class ProtoReader {
 public:
  explicit ProtoReader(std::string_view bytes) : bytes_(bytes) {}

  /// The next field; false at the end.
  bool next() {
    if (bytes_.empty()) return false;
    const uint64_t tag = varint();
    field_ = tag >> 3;
    switch (tag & 7u) {
      case 0:
        whole_ = varint();
        return true;
      case 1:
        text_ = take(8);
        return true;
      case 2:
        text_ = take(varint());
        return true;
      case 5:
        text_ = take(4);
        return true;
      default:
        damaged();
    }
  }
  uint64_t field() const { return field_; }
  uint64_t whole() const { return whole_; }
  std::string_view text() const { return text_; }
  float number() const {
    float value = 0;
    if (text_.size() != sizeof(value)) damaged();
    std::memcpy(&value, text_.data(), sizeof(value));
    return value;
  }

 private:
  [[noreturn]] static void damaged() { throw NotExported{"tokenizer.model is damaged"}; }
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    damaged();
  }
  std::string_view take(uint64_t count) {
    if (count > bytes_.size()) damaged();
    const std::string_view part = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return part;
  }

  std::string_view bytes_;
  uint64_t field_ = 0;
  uint64_t whole_ = 0;
  std::string_view text_;
};

/// Both number types the same way.
GgufTokenType piece_type(uint64_t type) {
  if (type < 1 || type > 6) throw NotExported{"it has a piece of an unknown type"};
  return static_cast<GgufTokenType>(type);
}

void add_piece(std::string_view bytes, uint32_t id, TokenList& list) {
  ProtoReader piece(bytes);
  std::string text;
  float score = 0;
  uint64_t type = 1;
  while (piece.next()) {
    if (piece.field() == 1) text = piece.text();
    if (piece.field() == 2) score = piece.number();
    if (piece.field() == 3) type = piece.whole();
  }
  list.set(id, std::move(text), piece_type(type), score);
}

struct PieceModel {
  uint64_t kind = 1;  ///< 1 = unigram, 2 = BPE
  bool add_space = true;
  bool remove_spaces = true;
  bool has_table = false;
};

void read_spec(std::string_view bytes, uint64_t field, PieceModel& model) {
  ProtoReader spec(bytes);
  while (spec.next()) {
    if (field == 2 && spec.field() == 3) model.kind = spec.whole();
    if (field != 3) continue;
    if (spec.field() == 2) model.has_table = !spec.text().empty();
    if (spec.field() == 3) model.add_space = spec.whole() != 0;
    if (spec.field() == 4) model.remove_spaces = spec.whole() != 0;
  }
}

void export_pieces(const std::string& bytes, uint32_t vocab, GgufMetadata& metadata) {
  TokenList list(vocab);
  PieceModel model;
  uint32_t pieces = 0;
  ProtoReader proto(bytes);
  while (proto.next()) {
    if (proto.field() == 1) add_piece(proto.text(), pieces++, list);
    if (proto.field() == 2 || proto.field() == 3) read_spec(proto.text(), proto.field(), model);
  }
  if (model.kind != 2) throw NotExported{"tokenizer.model is no BPE"};
  if (model.has_table) throw NotExported{"tokenizer.model has a table of characters"};
  metadata.set(std::string(gguf_keys::kModel), "llama");
  metadata.set(std::string(gguf_keys::kPre), "default");
  metadata.set(std::string(gguf_keys::kAddSpacePrefix), model.add_space);
  if (model.remove_spaces) metadata.set(std::string(gguf_keys::kRemoveSpaces), true);
  list.store(metadata, true);
}

// ---- both ---------------------------------------------------------------------------------------

void set_first_ids(const Tokenizer& tokenizer, GgufMetadata& metadata) {
  const std::vector<uint32_t>& bos = tokenizer.bos();
  if (bos.size() > 1) throw NotExported{"it puts several tokens in front of a text"};
  metadata.set(std::string(gguf_keys::kAddBos), !bos.empty());
  if (!bos.empty()) metadata.set(std::string(gguf_keys::kBos), bos[0]);
}

/// Where there is one.
void set_chat_template(const fs::path& folder, GgufMetadata& metadata) {
  const fs::path own = folder / "chat_template.jinja";
  std::string text;
  if (has_entry(own)) {
    text = read_text_file(own, {"a chat template", kMaxExportBytes});
  } else if (const fs::path settings = folder / "tokenizer_config.json"; has_entry(settings)) {
    const Json json = load_json_strict(settings, kMaxExportBytes);
    if (json.is_object() && json.contains("chat_template") && json["chat_template"].is_string()) {
      text = json["chat_template"].get<std::string>();
    }
  }
  if (!text.empty()) metadata.set(std::string(gguf_keys::kChatTemplate), std::move(text));
}

/// Texts on which tokenizers differ that split, compose or mark spaces in different ways.
constexpr std::array kProbes = {
    "Hello, world! It's 12345 o'clock.\n\n  Two  spaces\tand a tab",
    "DON'T we'll I'VE 'tis they're",
    "na\u00efve caf\u00e9 e\u0301 \u00c5ngstr\u00f6m \u1e69\u0323",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \u6f22\u5b57 \ud55c\uad6d\uc5b4",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0645\u0631\u062d\u0628\u0627",
    "\U0001F642\U0001F44D\U0001F3FD \u200d zero\u00a0width",
    "x = y**2 + 3.14159; // comment\r\nint main() { return 0; }\n",
    "   leading and trailing   ",
    "a\n\n\nb \n c\r\n\r\nd",
    "\uff11\uff12\uff13 \u0663\u0664\u0665 \u00bd \u2167 1 12 123 1234 1234567890",
    "\u2018quotes\u2019 \u2014 dash\u2026 $100 #tag @you a_b-c/d\\e",
    "<s> </s><|endoftext|> <|im_start|>user <0x0A>",
    "CamelCaseWord HTTPServer iPhone XMLHttpRequest",
    " ",
    "\n",
    "a",
};

/// The metadata is to give the tokens and texts that the model's own tokenizer gives.
void check_same(const Tokenizer& own, const GgufMetadata& metadata) {
  try {
    const std::unique_ptr<Tokenizer> exported = gguf_tokenizer(metadata);
    for (const char* text : kProbes) {
      const std::vector<uint32_t> ids = own.encode(text);
      if (exported->encode(text) == ids && exported->decode(ids) == own.decode(ids)) continue;
      throw NotExported{fmt::format("it would give other tokens, for one of {}", in_quotes(text))};
    }
  } catch (const Error& error) {  // of either one: no model is left without a file for that
    throw NotExported{error.what()};
  }
}

bool export_json(const fs::path& file, uint32_t vocab, GgufMetadata& metadata) {
  const Json json = load_json_strict(file, kMaxExportBytes);
  if (!is_byte_level_bpe(json)) return false;
  export_byte_level(json, vocab, metadata);
  return true;
}

void export_from(const fs::path& folder, const TokenizerExport& wanted, GgufMetadata& metadata) {
  const std::unique_ptr<Tokenizer> own = load_tokenizer(folder);
  if (own == nullptr) throw NotExported{"the model has none"};
  const fs::path json = folder / "tokenizer.json";
  const fs::path pieces = folder / "tokenizer.model";
  if (!has_entry(json) || !export_json(json, wanted.vocab, metadata)) {
    if (!has_entry(pieces)) {
      throw NotExported{"tokenizer.json is no byte-level BPE, and there is no tokenizer.model"};
    }
    export_pieces(read_text_file(pieces, {"a SentencePiece model", kMaxTextBytes}), wanted.vocab,
                  metadata);
  }
  set_first_ids(*own, metadata);
  check_same(*own, metadata);
  set_chat_template(folder, metadata);
}

}  // namespace

void set_end_tokens(const TokenizerExport& wanted, GgufMetadata& metadata) {
  constexpr std::array kEnds = {gguf_keys::kEos, gguf_keys::kEot, gguf_keys::kEom};
  size_t key = 0;
  for (const uint32_t token : wanted.end_tokens) {
    if (key == kEnds.size()) return;
    if (token < wanted.vocab) metadata.set(std::string(kEnds[key++]), token);
  }
}

std::string export_tokenizer(const fs::path& folder, const TokenizerExport& wanted,
                             GgufMetadata& metadata) {
  GgufMetadata made("the new file");
  try {
    export_from(folder, wanted, made);
  } catch (const NotExported& problem) {
    return problem.why;
  } catch (const Json::exception&) {  // what load_tokenizer() does not look at
    return "a value in tokenizer.json is of another kind than expected";
  }
  for (const auto& [key, value] : made.values()) metadata.set(key, value);
  return "";
}

}  // namespace spillway
