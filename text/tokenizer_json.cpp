// tokenizer.json (Hugging Face tokenizers): byte-level BPE and SentencePiece-style BPE.
//
// The stages of the format, in order: added tokens are cut out, the rest is normalized, split into
// words, and each word is merged. Anything a file asks for that is not computed here is refused by
// name: a tokenizer that is almost right is wrong.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/units.h"
#include "io/json_strict.h"
#include "text/bpe.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace spillway {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxTokenizerBytes = 256 * kMiB;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581
/// GPT-2's word pattern, which ByteLevel stands for when it splits itself.
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Byte-level alphabet: printable bytes stand for themselves, the others are shifted to U+0100.
std::array<uint32_t, 256> byte_alphabet() {
  std::array<uint32_t, 256> alphabet{};
  uint32_t next = 256;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable =
        (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
    alphabet[b] = printable ? b : next++;
  }
  return alphabet;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  size_t at = 0;
  while (true) {
    const size_t found = from.empty() ? std::string_view::npos : text.find(from, at);
    if (found == std::string_view::npos) break;
    result.append(text.substr(at, found - at));
    result.append(to);
    at = found + from.size();
  }
  return result.append(text.substr(at));
}

using Normalizer = std::function<std::string(std::string)>;
using Words = std::vector<std::string>;
using Splitter = std::function<Words(const std::string&, bool first_piece)>;

class JsonTokenizer final : public Tokenizer {
 public:
  JsonTokenizer(const Json& json, std::string where, std::optional<bool> add_bos,
                const std::string& bos_content)
      : where_(std::move(where)) {
    if (!json.is_object()) fail("not a JSON object");
    read_model(object(json, "model"));
    read_added_tokens(json);
    read_normalizer(json.value("normalizer", Json()));
    read_splitter(json.value("pre_tokenizer", Json()));
    read_decoder(json.value("decoder", Json()));
    read_template(json.value("post_processor", Json()));
    apply_bos_setting(add_bos, bos_content);
  }

  std::vector<uint32_t> encode(std::string_view text) const override {
    if (!is_valid_utf8(text)) throw Error("the text is not valid UTF-8");
    std::vector<uint32_t> ids;
    for (const TextPiece& piece : split_at_tokens(text, added_, false)) {
      if (piece.token != nullptr) {
        ids.push_back(piece.token->id);
        continue;
      }
      std::string normal(piece.text);
      for (const Normalizer& normalizer : normalizers_) normal = normalizer(std::move(normal));
      const bool first_piece = piece.text.data() == text.data();
      for (const TextPiece& inner : split_at_tokens(normal, added_, true)) {
        if (inner.token != nullptr) {
          ids.push_back(inner.token->id);
        } else {
          encode_words(std::string(inner.text), first_piece, ids);
        }
      }
    }
    return ids;
  }

  std::string token_bytes(uint32_t id, bool at_start) const override {
    const auto added = std::find_if(added_.begin(), added_.end(),
                                    [&](const AddedToken& token) { return token.id == id; });
    if (added != added_.end()) return added->special ? "" : added->content;
    const std::string* token = bpe_.token_of(id);
    if (token == nullptr) return "";
    if (byte_level_) return byte_level_text(*token);
    if (const int byte = byte_fallback_ ? fallback_byte(*token) : -1; byte >= 0) {
      return std::string(1, static_cast<char>(byte));
    }
    std::string text = replace_all(*token, kSpaceMark, " ");
    if (at_start && strips_first_space_ && !text.empty() && text[0] == ' ') text.erase(0, 1);
    return text;
  }

  const std::vector<uint32_t>& bos() const override { return bos_; }
  uint32_t vocab_size() const override { return vocab_size_; }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(fmt::format("{}: {}", where_, what));
  }
  [[noreturn]] void unsupported(const std::string& stage, const Json& json,
                                const std::string& supported) const {
    fail(fmt::format("{} {} is not supported; supported are {}", stage,
                     json.is_object() && json.contains("type") ? json["type"].dump() : json.dump(),
                     supported));
  }
  const Json& object(const Json& json, const char* key) const {
    if (!json.contains(key) || !json[key].is_object()) fail(fmt::format("no \"{}\" object", key));
    return json[key];
  }
  static std::string type_of(const Json& json) {
    return json.is_object() && json.contains("type") && json["type"].is_string()
               ? json["type"].get<std::string>()
               : "";
  }
  std::string text(const Json& json, const char* key) const {
    if (!json.contains(key) || !json[key].is_string()) {
      fail(fmt::format("{}: \"{}\" is not a text", type_of(json), key));
    }
    return json[key].get<std::string>();
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
    }
    return all;
  }

  uint32_t token_id(const Json& value) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= (1u << 24)) {
      fail(fmt::format("{} is not a token id", value.dump()));
    }
    const auto id = value.get<uint32_t>();
    vocab_size_ = std::max(vocab_size_, id + 1);
    return id;
  }

  void read_model(const Json& model) {
    const std::string type = model.contains("type") ? type_of(model) : "BPE";
    if (type != "BPE") unsupported("model", model, "BPE");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (model.contains(key) && model[key].is_string() && !model[key].get<std::string>().empty()) {
        fail(fmt::format("model {} is not supported", key));
      }
    }
    const Json& vocab = object(model, "vocab");
    for (const auto& [token, id] : vocab.items()) {
      if (!bpe_.add_token(token, token_id(id))) {
        fail(fmt::format("two tokens share the id {}", id.dump()));
      }
    }
    if (!model.contains("merges") || !model["merges"].is_array()) fail("no list of merges");
    for (const Json& merge : model["merges"]) read_merge(merge);
    byte_fallback_ = flag(model, "byte_fallback", false);
    ignore_merges_ = flag(model, "ignore_merges", false);
    fuse_unknown_ = flag(model, "fuse_unk", false);
    if (model.contains("unk_token") && model["unk_token"].is_string()) {
      unknown_ = bpe_.id_of(model["unk_token"].get<std::string>());
    }
  }

  /// "a b", or ["a", "b"] since tokenizers 0.20.
  void read_merge(const Json& merge) {
    std::string left;
    std::string right;
    if (merge.is_string()) {
      const auto& pair = merge.get_ref<const std::string&>();
      const size_t space = pair.find(' ');
      if (space != std::string::npos) {
        left = pair.substr(0, space);
        right = pair.substr(space + 1);
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    }
    if (left.empty() || right.empty() || !bpe_.add_merge(left, right)) {
      fail(fmt::format("merge {} does not join two tokens into a third", merge.dump()));
    }
  }

  void read_added_tokens(const Json& json) {
    if (!json.contains("added_tokens") || json["added_tokens"].is_null()) return;
    if (!json["added_tokens"].is_array()) fail("\"added_tokens\" is not a list");
    for (const Json& item : json["added_tokens"]) {
      if (!item.is_object() || !item.contains("id")) fail("an added token without an id");
      AddedToken token;
      token.content = text(item, "content");
      token.id = token_id(item["id"]);
      token.special = flag(item, "special", false);
      token.normalized = flag(item, "normalized", !token.special);
      token.left_strip = flag(item, "lstrip", false);
      token.right_strip = flag(item, "rstrip", false);
      token.single_word = flag(item, "single_word", false);
      added_.push_back(std::move(token));
    }
  }

  void read_normalizer(const Json& json) {
    for (const Json& item : items(json, "normalizers")) {
      const std::string type = type_of(item);
      if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
        const NormalForm form = type == "NFC"    ? NormalForm::kNfc
                                : type == "NFD"  ? NormalForm::kNfd
                                : type == "NFKC" ? NormalForm::kNfkc
                                                 : NormalForm::kNfkd;
        normalizers_.emplace_back([form](const std::string& s) { return normalize(s, form); });
      } else if (type == "Prepend") {
        normalizers_.emplace_back([prefix = text(item, "prepend")](const std::string& s) {
          return s.empty() ? s : prefix + s;
        });
      } else if (type == "Replace" && item.contains("pattern") &&
                 item["pattern"].contains("String")) {
        normalizers_.emplace_back([from = text(item["pattern"], "String"),
                                   to = text(item, "content")](const std::string& s) {
          return replace_all(s, from, to);
        });
      } else {
        unsupported("normalizer", item, "NFC, NFD, NFKC, NFKD, Prepend, Replace (String)");
      }
    }
  }

  void read_splitter(const Json& json) {
    for (const Json& item : items(json, "pretokenizers")) {
      const std::string type = type_of(item);
      if (type == "ByteLevel") {
        byte_level_ = true;
        if (flag(item, "add_prefix_space", true)) splitters_.emplace_back(prefix_space);
        if (flag(item, "use_regex", true)) add_regex(kByteLevelPattern);
      } else if (type == "Split") {
        read_split(item);
      } else if (type == "Digits") {
        add_regex(flag(item, "individual_digits", false) ? R"(\p{N}|\P{N}+)" : R"(\p{N}+|\P{N}+)");
      } else if (type == "Metaspace") {
        read_metaspace(item);
      } else {
        unsupported("pre_tokenizer", item, "ByteLevel, Split, Digits, Metaspace");
      }
    }
  }

  void read_split(const Json& item) {
    if (text(item, "behavior") != "Isolated" || flag(item, "invert", false) ||
        !item.contains("pattern") || !item["pattern"].is_object()) {
      fail("pre_tokenizer Split is supported with behavior Isolated and a pattern");
    }
    const Json& pattern = item["pattern"];
    if (pattern.contains("Regex")) return add_regex(text(pattern, "Regex"));
    add_regex("\\Q" + text(pattern, "String") + "\\E");
  }

  /// Matches become words of their own, and so does what lies between them.
  void add_regex(const std::string& pattern) {
    splitters_.emplace_back([regex = std::make_shared<Regex>(pattern)](const std::string& s, bool) {
      Words words;
      size_t at = 0;
      for (const auto& [begin, end] : regex->find_all(s)) {
        if (begin > at) words.push_back(s.substr(at, begin - at));
        words.push_back(s.substr(begin, end - begin));
        at = end;
      }
      if (at < s.size()) words.push_back(s.substr(at));
      return words;
    });
  }

  static Words prefix_space(const std::string& s, bool) {
    return {s.empty() || s[0] == ' ' ? s : " " + s};
  }

  void read_metaspace(const Json& item) {
    if (text(item, "replacement") != kSpaceMark) fail("Metaspace with another mark than U+2581");
    std::string scheme = flag(item, "add_prefix_space", true) ? "always" : "never";
    if (item.contains("prepend_scheme")) scheme = text(item, "prepend_scheme");
    const bool split = flag(item, "split", true);
    splitters_.emplace_back([scheme, split](const std::string& s, bool first_piece) {
      std::string marked = replace_all(s, " ", kSpaceMark);
      const bool prepend = scheme == "always" || (scheme == "first" && first_piece);
      if (prepend && !marked.starts_with(kSpaceMark)) marked.insert(0, kSpaceMark);
      if (!split) return Words{marked};
      Words words;
      size_t at = 0;
      while (at < marked.size()) {
        const size_t next = marked.find(kSpaceMark, at + (at < marked.size() ? 1 : 0));
        words.push_back(marked.substr(at, next - at));
        at = std::min(next, marked.size());
      }
      return words;
    });
    strips_first_space_ = scheme != "never";
  }

  void read_decoder(const Json& json) {
    for (const Json& item : items(json, "decoders")) {
      const std::string type = type_of(item);
      if (type == "ByteLevel") {
        byte_level_ = true;
      } else if (type == "Strip") {
        const Json start = item.value("start", Json(0));
        strips_first_space_ = start.is_number_unsigned() && start.get<uint64_t>() > 0;
      } else if (type == "Metaspace") {
        strips_first_space_ = item.value("prepend_scheme", std::string("always")) != "never";
      } else if (type != "Replace" && type != "ByteFallback" && type != "Fuse") {
        unsupported("decoder", item, "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace");
      }
    }
    if (!byte_level_) return;
    const auto alphabet = byte_alphabet();
    for (uint32_t b = 0; b < 256; ++b) {
      byte_of_[alphabet[b]] = static_cast<char>(b);
      std::string token;
      append_utf8(token, alphabet[b]);
      byte_tokens_[b] = bpe_.id_of(token);
    }
  }

  /// The special tokens that the template puts in front of a single text.
  void read_template(const Json& json) {
    for (const Json& item : items(json, "processors")) {
      if (type_of(item) != "TemplateProcessing") continue;
      if (!item.contains("single") || !item["single"].is_array()) fail("a template without single");
      for (const Json& part : item["single"]) {
        if (!part.is_object() || !part.contains("SpecialToken")) break;  // the text itself
        const Json& special = part["SpecialToken"];
        const std::string name = special.is_object() ? text(special, "id") : "";
        const auto id = content_id(name);
        if (!id) fail(fmt::format("the template's token {} is not in the vocabulary", name));
        bos_.push_back(*id);
      }
    }
  }

  std::optional<uint32_t> content_id(const std::string& content) const {
    for (const AddedToken& token : added_) {
      if (token.content == content) return token.id;
    }
    const int64_t id = bpe_.id_of(content);
    return id < 0 ? std::nullopt : std::optional(static_cast<uint32_t>(id));
  }

  void apply_bos_setting(std::optional<bool> add_bos, const std::string& bos_content) {
    if (!add_bos) return;
    if (!*add_bos) return bos_.clear();
    if (!bos_.empty()) return;
    const auto id = content_id(bos_content);
    if (!id)
      fail(fmt::format("add_bos_token is set but bos_token \"{}\" is no token", bos_content));
    bos_.push_back(*id);
  }

  void encode_words(const std::string& piece, bool first_piece, std::vector<uint32_t>& ids) const {
    Words words = {piece};
    for (const Splitter& splitter : splitters_) {
      Words next;
      for (const std::string& word : words) {
        for (std::string& part : splitter(word, first_piece)) next.push_back(std::move(part));
      }
      words = std::move(next);
    }
    for (const std::string& word : words) encode_word(word, ids);
  }

  void encode_word(const std::string& word, std::vector<uint32_t>& ids) const {
    if (ignore_merges_) {
      const int64_t whole = bpe_.id_of(byte_level_ ? byte_level_token(word) : word);
      if (whole >= 0) {
        ids.push_back(static_cast<uint32_t>(whole));
        return;
      }
    }
    for (const uint32_t id : bpe_.merge(byte_level_ ? byte_symbols(word) : symbols(word))) {
      ids.push_back(id);
    }
  }

  static std::string byte_level_token(const std::string& word) {
    static const auto alphabet = byte_alphabet();
    std::string token;
    for (const char c : word) append_utf8(token, alphabet[static_cast<unsigned char>(c)]);
    return token;
  }

  std::vector<uint32_t> byte_symbols(const std::string& word) const {
    std::vector<uint32_t> result;
    for (const char c : word) {
      const int64_t id = byte_tokens_[static_cast<unsigned char>(c)];
      if (id >= 0) {
        result.push_back(static_cast<uint32_t>(id));
      } else if (unknown_ >= 0) {
        result.push_back(static_cast<uint32_t>(unknown_));
      }
    }
    return result;
  }

  /// Characters; those outside the vocabulary become their bytes or the unknown token.
  std::vector<uint32_t> symbols(const std::string& word) const {
    std::vector<uint32_t> result;
    bool after_unknown = false;
    for (size_t at = 0; at < word.size();) {
      const size_t bytes = utf8_length(word, at);
      const std::string_view character = std::string_view(word).substr(at, bytes);
      at += bytes;
      const int64_t id = bpe_.id_of(character);
      if (id >= 0) {
        result.push_back(static_cast<uint32_t>(id));
        after_unknown = false;
      } else if (!append_fallback(character, result)) {
        if (unknown_ >= 0 && !(fuse_unknown_ && after_unknown)) {
          result.push_back(static_cast<uint32_t>(unknown_));
        }
        after_unknown = true;
      }
    }
    return result;
  }

  bool append_fallback(std::string_view character, std::vector<uint32_t>& result) const {
    if (!byte_fallback_) return false;
    std::vector<uint32_t> ids;
    for (const char c : character) {
      const int64_t id = bpe_.id_of(fmt::format("<0x{:02X}>", static_cast<unsigned char>(c)));
      if (id < 0) return false;
      ids.push_back(static_cast<uint32_t>(id));
    }
    result.insert(result.end(), ids.begin(), ids.end());
    return true;
  }

  /// The byte of a "<0x0A>" token, or -1.
  static int fallback_byte(const std::string& token) {
    if (token.size() != 6 || token.rfind("<0x", 0) != 0 || token[5] != '>') return -1;
    int byte = -1;
    const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
    return error == std::errc() && end == token.data() + 5 ? byte : -1;
  }

  std::string byte_level_text(const std::string& token) const {
    std::string bytes;
    for (size_t at = 0; at < token.size(); at += utf8_length(token, at)) {
      const auto found = byte_of_.find(utf8_code_point(token, at));
      if (found == byte_of_.end()) return token;  // not in the alphabet: it stands for itself
      bytes += found->second;
    }
    return bytes;
  }

  std::string where_;
  Bpe bpe_;
  std::vector<AddedToken> added_;
  std::vector<Normalizer> normalizers_;
  std::vector<Splitter> splitters_;
  std::vector<uint32_t> bos_;
  std::unordered_map<uint32_t, char> byte_of_;
  std::array<int64_t, 256> byte_tokens_{};
  int64_t unknown_ = -1;
  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  bool fuse_unknown_ = false;
  bool strips_first_space_ = false;
  mutable uint32_t vocab_size_ = 0;
};

std::unique_ptr<Tokenizer> build(const Json& json, const std::string& where,
                                 std::optional<bool> add_bos, const std::string& bos_content) {
  try {
    return std::make_unique<JsonTokenizer>(json, where, add_bos, bos_content);
  } catch (const Json::exception& error) {
    throw Error(fmt::format("{}: not a tokenizer: {}", where, error.what()));
  } catch (const BadPattern& error) {
    throw Error(fmt::format("{}: {}", where, error.what()));
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
  return build(parse_json_strict(text, where), where, add_bos, bos_content);
}

std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& file) {
  const auto settings_file = file.parent_path() / "tokenizer_config.json";
  std::optional<bool> add_bos;
  std::string bos_content;
  std::error_code error;
  if (std::filesystem::exists(settings_file, error)) {
    const Json settings = load_json_strict(settings_file, kMaxTokenizerBytes);
    if (settings.is_object()) {
      if (settings.contains("add_bos_token") && settings["add_bos_token"].is_boolean()) {
        add_bos = settings["add_bos_token"].get<bool>();
      }
      if (settings.contains("bos_token")) bos_content = token_content(settings["bos_token"]);
    }
  }
  return build(load_json_strict(file, kMaxTokenizerBytes), file.string(), add_bos, bos_content);
}

}  // namespace spillway
