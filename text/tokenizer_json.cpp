// Reads tokenizer.json (Hugging Face tokenizers). Anything that a file asks for and that is not
// computed here is refused by name: a tokenizer that is almost right is wrong.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/one_line.h"
#include "core/units.h"
#include "core/user_path.h"
#include "io/json_strict.h"
#include "text/json_tokenizer.h"
#include "text/unicode.h"

namespace spillway {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxTokenizerBytes = 256 * kMiB;

/// Reads values of one file; what it throws names the file.
class Reader {
 public:
  /// More steps of one kind than any tokenizer has; some are nested calls.
  static constexpr size_t kMaxSteps = 64;
  explicit Reader(std::string where) : where_(std::move(where)) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(fmt::format("{}: {}", where_, what));
  }
  [[noreturn]] void unsupported(const std::string& stage, const Json& json,
                                const std::string& supported) const {
    fail(fmt::format("{} {} is not supported; supported are {}", stage,
                     shown(json.is_object() && json.contains("type") ? json["type"] : json),
                     supported));
  }
  const Json& object(const Json& json, const char* key) const {
    if (!json.contains(key) || !json[key].is_object()) fail(fmt::format("no \"{}\" object", key));
    return json[key];
  }
  /// A value in a message, which may be of any length.
  static std::string shown(const Json& json) { return cut_middle(printable(json.dump()), 80); }
  static std::string type_of(const Json& json) {
    return json.is_object() && json.contains("type") && json["type"].is_string()
               ? json["type"].get<std::string>()
               : "";
  }
  /// "ByteLevel: ", where a step has a type.
  static std::string prefix_of(const Json& json) {
    const std::string type = type_of(json);
    return type.empty() ? "" : cut_middle(printable(type), 40) + ": ";
  }
  std::string text(const Json& json, const char* key) const {
    if (!json.contains(key) || !json[key].is_string()) {
      fail(fmt::format("{}\"{}\" is not a text", prefix_of(json), key));
    }
    return json[key].get<std::string>();
  }
  std::string text_or(const Json& json, const char* key, const char* fallback) const {
    return json.contains(key) && !json[key].is_null() ? text(json, key) : fallback;
  }
  bool flag(const Json& json, const char* key, bool fallback) const {
    if (!json.contains(key) || json[key].is_null()) return fallback;
    if (!json[key].is_boolean()) fail(fmt::format("\"{}\" is not true or false", key));
    return json[key].get<bool>();
  }
  /// The items of a Sequence, or the one item itself; none for null.
  std::vector<Json> items(const Json& json, const char* list) const {
    if (json.is_null()) return {};
    if (type_of(json) != "Sequence") return {json};
    if (!json.contains(list) || !json[list].is_array()) fail("a Sequence without its list");
    std::vector<Json> all;
    for (const Json& item : json[list]) {
      for (Json& inner : items(item, list)) all.push_back(std::move(inner));
      if (all.size() > kMaxSteps)
        fail(fmt::format("\"{}\" has more than {} steps", list, kMaxSteps));
    }
    return all;
  }
  uint32_t token_id(const Json& value) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= (1u << 24)) {
      fail(fmt::format("{} is not a token id", shown(value)));
    }
    return value.get<uint32_t>();
  }
  /// One character, as UTF-8.
  std::string character(const Json& json, const char* key) const {
    const std::string value = text(json, key);
    if (value.empty() || utf8_length(value, 0) != value.size()) {
      fail(fmt::format("{}\"{}\" is not one character", prefix_of(json), key));
    }
    return value;
  }

  /// A text to find, or a pattern.
  struct Pattern {
    std::string literal;
    std::optional<Regex> regex;
  };
  Pattern pattern(const Json& item) const {
    const Json& json = object(item, "pattern");
    if (json.contains("Regex")) return {"", Regex(text(json, "Regex"))};
    return {text(json, "String"), std::nullopt};
  }

 private:
  std::string where_;
};

// ---- model --------------------------------------------------------------------------------------

/// "a b", or ["a", "b"] since tokenizers 0.20.
void read_merge(const Reader& read, const Json& merge, Bpe& bpe) {
  std::string left;
  std::string right;
  if (merge.is_string()) {
    const auto& pair = merge.get_ref<const std::string&>();
    if (pair.starts_with("#version")) return;
    const size_t space = pair.find(' ');
    if (space != std::string::npos && pair.find(' ', space + 1) == std::string::npos) {
      left = pair.substr(0, space);
      right = pair.substr(space + 1);
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
             merge[1].is_string()) {
    left = merge[0].get<std::string>();
    right = merge[1].get<std::string>();
  }
  if (left.empty() || right.empty() || !bpe.add_merge(left, right)) {
    read.fail(fmt::format("merge {} does not join two tokens into a third", Reader::shown(merge)));
  }
}

Bpe read_bpe(const Reader& read, const Json& model) {
  BpeOptions options;
  options.byte_fallback = read.flag(model, "byte_fallback", false);
  options.ignore_merges = read.flag(model, "ignore_merges", false);
  options.fuse_unknown = read.flag(model, "fuse_unk", false);
  options.continuing_prefix = read.text_or(model, "continuing_subword_prefix", "");
  options.end_suffix = read.text_or(model, "end_of_word_suffix", "");
  if (model.contains("unk_token") && !model["unk_token"].is_null()) {
    options.unknown = read.text(model, "unk_token");
  }
  if (model.contains("dropout") && !model["dropout"].is_null() && model["dropout"] != Json(0.0)) {
    read.fail("model dropout is not supported: it is for training");
  }
  Bpe bpe(options);
  const Json& vocab = read.object(model, "vocab");
  if (!model.contains("merges") || !model["merges"].is_array()) read.fail("no list of merges");
  bpe.reserve(vocab.size(), model["merges"].size());
  for (const auto& [token, id] : vocab.get_ref<const Json::object_t&>()) {
    if (!bpe.add_token(token, read.token_id(id))) {
      read.fail(fmt::format("two tokens share the id {}", id.dump()));
    }
  }
  for (const Json& merge : model["merges"]) read_merge(read, merge, bpe);
  return bpe;
}

Unigram read_unigram(const Reader& read, const Json& model) {
  for (const char* key : {"alpha", "nbest_size"}) {
    if (model.contains(key) && !model[key].is_null()) {
      read.fail(fmt::format("model {} is not supported: it is for training", key));
    }
  }
  if (!model.contains("vocab") || !model["vocab"].is_array()) read.fail("no list \"vocab\"");
  const Json& vocab = model["vocab"];
  std::optional<uint32_t> unknown;
  if (model.contains("unk_id") && !model["unk_id"].is_null()) {
    unknown = read.token_id(model["unk_id"]);
    if (*unknown >= vocab.size()) read.fail("unk_id lies outside the vocabulary");
  }
  Unigram unigram(unknown, read.flag(model, "byte_fallback", false));
  for (const Json& entry : vocab) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      read.fail(fmt::format("{} is not a token and its score", Reader::shown(entry)));
    }
    unigram.add(entry[0].get<std::string>(), entry[1].get<double>());
  }
  return unigram;
}

WordModel read_model(const Reader& read, const Json& model) {
  const std::string type = model.contains("type") ? Reader::type_of(model) : "BPE";
  if (type == "BPE") return read_bpe(read, model);
  if (type == "Unigram") return read_unigram(read, model);
  read.unsupported("model", model, "BPE, Unigram");
}

// ---- normalizer ---------------------------------------------------------------------------------

std::string decode_base64(const Reader& read, const std::string& text) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::array<int, 256> values;
  values.fill(-1);
  for (size_t i = 0; i < kDigits.size(); ++i) {
    values[static_cast<unsigned char>(kDigits[i])] = static_cast<int>(i);
  }
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    if (c == '=') break;
    const int value = values[static_cast<unsigned char>(c)];
    if (value < 0) read.fail("a precompiled_charsmap that is not base64");
    bits = (bits << 6) | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>((bits >> count) & 0xFF);
    }
  }
  return bytes;
}

void read_replace(const Reader& read, const Json& item, Normalizer& normalizer) {
  Reader::Pattern from = read.pattern(item);
  std::string to = read.text(item, "content");
  if (from.regex) {
    normalizer.add_replace(std::move(*from.regex), std::move(to));
  } else {
    normalizer.add_replace(std::move(from.literal), std::move(to));
  }
}

Normalizer read_normalizer(const Reader& read, const Json& json) {
  Normalizer normalizer;
  for (const Json& item : read.items(json, "normalizers")) {
    const std::string type = Reader::type_of(item);
    if (type == "NFC") {
      normalizer.add_form(NormalForm::kNfc);
    } else if (type == "NFD") {
      normalizer.add_form(NormalForm::kNfd);
    } else if (type == "NFKC") {
      normalizer.add_form(NormalForm::kNfkc);
    } else if (type == "NFKD") {
      normalizer.add_form(NormalForm::kNfkd);
    } else if (type == "Prepend") {
      normalizer.add_prepend(read.text(item, "prepend"));
    } else if (type == "Replace") {
      read_replace(read, item, normalizer);
    } else if (type == "Lowercase") {
      normalizer.add_lowercase();
    } else if (type == "Strip") {
      normalizer.add_strip(read.flag(item, "strip_left", true),
                           read.flag(item, "strip_right", true));
    } else if (type == "StripAccents") {
      normalizer.add_strip_accents();
    } else if (type == "Nmt") {
      normalizer.add_nmt();
    } else if (type == "ByteLevel") {
      normalizer.add_byte_level();
    } else if (type == "Precompiled") {
      const Json table = item.value("precompiled_charsmap", Json());
      if (!table.is_null()) {
        normalizer.add_precompiled(decode_base64(read, read.text(item, "precompiled_charsmap")));
      }
    } else {
      read.unsupported("normalizer", item,
                       "NFC, NFD, NFKC, NFKD, Prepend, Replace, Lowercase, Strip, StripAccents, "
                       "Nmt, ByteLevel, Precompiled");
    }
  }
  return normalizer;
}

// ---- pre-tokenizer ------------------------------------------------------------------------------

SplitBehavior read_behavior(const Reader& read, const std::string& name) {
  static const std::pair<const char*, SplitBehavior> kNames[] = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  for (const auto& [key, behavior] : kNames) {
    if (name == key) return behavior;
  }
  read.fail(fmt::format("the behavior \"{}\" of a pre_tokenizer is not supported", name));
}

PreTokenizer::Prepend read_prepend(const Reader& read, const Json& item) {
  const std::string scheme = read.text_or(item, "prepend_scheme", "always");
  const bool prefix = read.flag(item, "add_prefix_space", true);
  if (!prefix && item.contains("prepend_scheme") && scheme != "never") {
    read.fail("Metaspace: add_prefix_space and prepend_scheme contradict each other");
  }
  if (!prefix || scheme == "never") return PreTokenizer::Prepend::kNever;
  if (scheme == "always") return PreTokenizer::Prepend::kAlways;
  if (scheme == "first") return PreTokenizer::Prepend::kFirst;
  read.fail(fmt::format("Metaspace: prepend_scheme \"{}\" is not supported", scheme));
}

void read_split(const Reader& read, const Json& item, PreTokenizer& pre_tokenizer) {
  Reader::Pattern pattern = read.pattern(item);
  const SplitBehavior behavior = read_behavior(read, read.text(item, "behavior"));
  const bool invert = read.flag(item, "invert", false);
  if (pattern.regex) {
    pre_tokenizer.add_split(std::move(*pattern.regex), behavior, invert);
  } else {
    pre_tokenizer.add_split(std::move(pattern.literal), behavior, invert);
  }
}

void read_pre_tokenizer(const Reader& read, const Json& json, TokenizerParts& parts) {
  PreTokenizer& pre_tokenizer = parts.pre_tokenizer;
  bool rewritten = !parts.normalizer.empty();
  for (const Json& item : read.items(json, "pretokenizers")) {
    const std::string type = Reader::type_of(item);
    if (std::exchange(parts.byte_level, false)) pre_tokenizer.add_byte_level_text();
    if (type == "ByteLevel") {
      pre_tokenizer.add_byte_level(read.flag(item, "add_prefix_space", true),
                                   read.flag(item, "use_regex", true));
      parts.byte_level = true;
      rewritten = true;
    } else if (type == "Split") {
      read_split(read, item, pre_tokenizer);
    } else if (type == "Digits") {
      pre_tokenizer.add_digits(read.flag(item, "individual_digits", false));
    } else if (type == "Punctuation") {
      pre_tokenizer.add_punctuation(
          read_behavior(read, read.text_or(item, "behavior", "Isolated")));
    } else if (type == "Whitespace") {
      pre_tokenizer.add_whitespace();
    } else if (type == "WhitespaceSplit") {
      pre_tokenizer.add_whitespace_split();
    } else if (type == "Metaspace") {
      const PreTokenizer::Prepend prepend = read_prepend(read, item);
      if (prepend == PreTokenizer::Prepend::kFirst && rewritten && !pre_tokenizer.empty()) {
        read.fail(
            "Metaspace with prepend_scheme \"first\" behind a normalizer and another "
            "pre_tokenizer is not supported");
      }
      pre_tokenizer.add_metaspace(read.character(item, "replacement"), prepend,
                                  read.flag(item, "split", true));
      rewritten = true;
    } else {
      read.unsupported("pre_tokenizer", item,
                       "ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, "
                       "Metaspace");
    }
  }
}

// ---- decoder ------------------------------------------------------------------------------------

DecoderStep read_decoder_step(const Reader& read, const Json& item) {
  using StepKind = DecoderStep::Kind;
  const std::string type = Reader::type_of(item);
  DecoderStep step{};
  if (type == "ByteLevel") {
    step.kind = StepKind::kByteLevel;
  } else if (type == "ByteFallback") {
    step.kind = StepKind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = StepKind::kFuse;
  } else if (type == "Replace") {
    Reader::Pattern pattern = read.pattern(item);
    step.kind = pattern.regex ? StepKind::kReplacePattern : StepKind::kReplace;
    step.from = pattern.literal;
    step.to = read.text(item, "content");
    if (pattern.regex) step.pattern = std::make_shared<Regex>(std::move(*pattern.regex));
  } else if (type == "Strip") {
    step.kind = StepKind::kStrip;
    step.from = read.character(item, "content");
    step.count = read.token_id(item.value("start", Json(0u)));
    if (read.token_id(item.value("stop", Json(0u))) > 0) {
      read.fail("decoder Strip with stop above 0 is not supported");
    }
  } else if (type == "Metaspace") {
    step.kind = StepKind::kMetaspace;
    step.from = read.character(item, "replacement");
    step.drops_first = read_prepend(read, item) != PreTokenizer::Prepend::kNever;
  } else {
    read.unsupported("decoder", item, "ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace");
  }
  return step;
}

/// Behind Fuse or ByteLevel a step sees the whole text, which here comes in pieces.
bool works_in_pieces(const DecoderStep& step) {
  using StepKind = DecoderStep::Kind;
  const bool one_character = !step.from.empty() && utf8_length(step.from, 0) == step.from.size();
  return step.kind == StepKind::kStrip || step.kind == StepKind::kMetaspace ||
         step.kind == StepKind::kFuse || (step.kind == StepKind::kReplace && one_character);
}

Decoder read_decoder(const Reader& read, const Json& json) {
  Decoder decoder;
  decoder.spaces_between = json.is_null();
  bool fused = false;
  for (const Json& item : read.items(json, "decoders")) {
    const DecoderStep step = read_decoder_step(read, item);
    if (fused && !works_in_pieces(step)) {
      read.fail(fmt::format("decoder {} behind Fuse or ByteLevel is not supported",
                            Reader::type_of(item)));
    }
    fused = fused || step.kind == DecoderStep::Kind::kFuse ||
            step.kind == DecoderStep::Kind::kByteLevel;
    decoder.steps.push_back(step);
  }
  return decoder;
}

// ---- added tokens, beginning of text ------------------------------------------------------------

std::vector<AddedToken> read_added_tokens(const Reader& read, const Json& json) {
  std::vector<AddedToken> tokens;
  if (!json.contains("added_tokens") || json["added_tokens"].is_null()) return tokens;
  if (!json["added_tokens"].is_array()) read.fail("\"added_tokens\" is not a list");
  for (const Json& item : json["added_tokens"]) {
    if (!item.is_object() || !item.contains("id")) read.fail("an added token without an id");
    AddedToken token;
    token.content = read.text(item, "content");
    token.id = read.token_id(item["id"]);
    token.special = read.flag(item, "special", false);
    token.normalized = read.flag(item, "normalized", !token.special);
    token.left_strip = read.flag(item, "lstrip", false);
    token.right_strip = read.flag(item, "rstrip", false);
    token.single_word = read.flag(item, "single_word", false);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

/// What Roberta's and Bert's processing puts in front: ["<s>", 0].
uint32_t read_class_token(const Reader& read, const Json& item, const JsonTokenizer& tokenizer) {
  const Json& token = item.value("cls", Json());
  if (!token.is_array() || token.size() != 2 || !token[0].is_string()) {
    read.fail(fmt::format("{}: \"cls\" is not a token and its id", Reader::type_of(item)));
  }
  const uint32_t id = read.token_id(token[1]);
  if (tokenizer.id_of(token[0].get<std::string>()) != id) {
    read.fail(fmt::format("{}: the token {} has not the id {}", Reader::type_of(item),
                          token[0].get<std::string>(), id));
  }
  return id;
}

/// The special tokens that the post-processor puts in front of a single text.
std::vector<uint32_t> read_template(const Reader& read, const Json& json,
                                    const JsonTokenizer& tokenizer) {
  std::vector<uint32_t> bos;
  for (const Json& item : read.items(json, "processors")) {
    const std::string type = Reader::type_of(item);
    if (type != "TemplateProcessing") {
      if (type == "ByteLevel") continue;  // moves offsets only
      if (type != "RobertaProcessing" && type != "BertProcessing") {
        read.fail(fmt::format("post_processor {} is not supported", type));
      }
      bos.push_back(read_class_token(read, item, tokenizer));
      continue;
    }
    if (!item.contains("single") || !item["single"].is_array()) {
      read.fail("a template without single");
    }
    for (const Json& part : item["single"]) {
      if (!part.is_object() || !part.contains("SpecialToken")) break;  // the text itself
      const Json& special = part["SpecialToken"];
      const std::string name = special.is_object() ? read.text(special, "id") : "";
      const auto id = tokenizer.id_of(name);
      if (!id) read.fail(fmt::format("the template's token {} is not in the vocabulary", name));
      bos.push_back(*id);
    }
  }
  return bos;
}

struct BosSetting {
  std::optional<bool> add;  // add_bos_token
  std::string content;      // bos_token
};

std::vector<uint32_t> read_bos(const Reader& read, const Json& json, const JsonTokenizer& tokenizer,
                               const BosSetting& setting) {
  if (setting.add && !*setting.add) return {};
  std::vector<uint32_t> bos = read_template(read, json.value("post_processor", Json()), tokenizer);
  if (!setting.add || !bos.empty()) return bos;
  const auto id = tokenizer.id_of(setting.content);
  if (!id) {
    read.fail(
        fmt::format("add_bos_token is set but bos_token \"{}\" is no token", setting.content));
  }
  return {*id};
}

std::unique_ptr<Tokenizer> read_tokenizer(const Reader& read, const Json& json,
                                          const BosSetting& setting) {
  if (!json.is_object()) read.fail("not a JSON object, so not a tokenizer");
  TokenizerParts parts{read_model(read, read.object(json, "model")), {}, {}, false, {}};
  parts.normalizer = read_normalizer(read, json.value("normalizer", Json()));
  read_pre_tokenizer(read, json.value("pre_tokenizer", Json()), parts);
  parts.decoder = read_decoder(read, json.value("decoder", Json()));
  auto tokenizer = std::make_unique<JsonTokenizer>(std::move(parts));
  tokenizer->add_tokens(read_added_tokens(read, json));
  tokenizer->set_bos(read_bos(read, json, *tokenizer, setting));
  return tokenizer;
}

std::unique_ptr<Tokenizer> build(const Json& json, const std::string& where,
                                 const BosSetting& setting) {
  try {
    return read_tokenizer(Reader(where), json, setting);
  } catch (const Json::exception&) {  // its words are the library's
    throw Error(
        fmt::format("{}: not a tokenizer.json as the tokenizers library writes it: a value is of "
                    "another kind than expected; fetch the file again",
                    where));
  } catch (const Error& error) {
    const std::string message = error.what();
    throw Error(
        fmt::format("{}{}; without this file token ids still work "
                    "(generate.prompt_token_ids)",
                    message.starts_with(where) ? "" : where + ": ", message));
  }
}

/// "<s>", or an object with "content".
std::string token_content(const Json& json) {
  if (json.is_string()) return json.get<std::string>();
  if (json.is_object() && json.contains("content") && json["content"].is_string()) {
    return json["content"].get<std::string>();
  }
  return "";
}

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& where,
                                                std::optional<bool> add_bos,
                                                const std::string& bos_content) {
  return build(parse_json_strict(text, where), where, {add_bos, bos_content});
}

std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& file) {
  const auto settings_file = file.parent_path() / "tokenizer_config.json";
  BosSetting setting;
  if (has_entry(settings_file)) {
    const Json settings = load_json_strict(settings_file, kMaxTokenizerBytes);
    if (settings.is_object()) {
      if (settings.contains("add_bos_token") && settings["add_bos_token"].is_boolean()) {
        setting.add = settings["add_bos_token"].get<bool>();
      }
      if (settings.contains("bos_token")) setting.content = token_content(settings["bos_token"]);
    }
  }
  return build(load_json_strict(file, kMaxTokenizerBytes), file.string(), setting);
}

}  // namespace spillway
