#include "data/json_document.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/one_line.h"
#include "core/units.h"
#include "data/pair_encoding.h"
#include "io/json_strict.h"
#include "text/unicode.h"

namespace spillway {
namespace {

using Json = nlohmann::json;

enum Member {
  kText,
  kInputIds,
  kPrompt,
  kCompletion,
  kContext,
  kContinuation,
  kContextIds,
  kContinuationIds,
  kId,
  kMembers
};
constexpr std::array<const char*, kMembers> kMemberNames{
    "text",         "input_ids",   "prompt",           "completion", "context",
    "continuation", "context_ids", "continuation_ids", "id"};

bool holds_ids(size_t member) {
  return member == kInputIds || member == kContextIds || member == kContinuationIds;
}

enum class JsonKind { kAbsent, kNull, kBoolean, kNumber, kString, kList, kObject };

const char* kind_text(JsonKind kind) {
  switch (kind) {
    case JsonKind::kNull:
      return "null";
    case JsonKind::kBoolean:
      return "true or false";
    case JsonKind::kNumber:
      return "a number";
    case JsonKind::kString:
      return "a text";
    case JsonKind::kList:
      return "a list";
    default:
      return "an object";
  }
}

struct MemberValue {
  JsonKind kind = JsonKind::kAbsent;
  std::string text;           // of a string or a number
  std::vector<uint32_t> ids;  // of a list of them
};

/// What of a line is of use; everything else was read past.
struct JsonRecord {
  JsonKind kind = JsonKind::kAbsent;  // of the line
  std::array<MemberValue, kMembers> members;
  std::string bad_id;  // the first thing that is wrong with a list of ids
};

/// Keeps members of the outermost object that have a meaning, and nothing of what is inside others.
class RecordReader final : public nlohmann::json_sax<Json> {
 public:
  RecordReader(const std::string& place, const DataOptions& options, std::vector<uint32_t>& ids)
      : place_(place), vocab_(options.vocab), max_ids_(options.max_document_tokens) {
    record_.members[kInputIds].ids = std::move(ids);
    record_.members[kInputIds].ids.clear();
  }
  JsonRecord take() { return std::move(record_); }

  bool null() override { return value(JsonKind::kNull, "null"); }
  bool boolean(bool truth) override { return value(JsonKind::kBoolean, truth ? "true" : "false"); }
  bool number_integer(number_integer_t number) override {
    if (number == 0) return number_unsigned(0);  // "-0"
    return value(JsonKind::kNumber, std::to_string(number));
  }
  bool number_unsigned(number_unsigned_t number) override {
    if (in_ids() && number < vocab_) return id(static_cast<uint32_t>(number));
    return value(JsonKind::kNumber, std::to_string(number), true);
  }
  bool number_float(number_float_t, const string_t& written) override {
    return value(JsonKind::kNumber, written);
  }
  bool string(string_t& text) override {
    if (in_ids()) return bad_item(in_quotes(text), false);
    if (MemberValue* member = set(JsonKind::kString)) member->text = std::move(text);
    return true;
  }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(JsonKind::kObject); }
  bool start_array(std::size_t) override { return open(JsonKind::kList); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    if (depth_ != 1) return true;
    const auto found = std::find(kMemberNames.begin(), kMemberNames.end(), key);
    member_ = static_cast<size_t>(found - kMemberNames.begin());
    if (member_ < kMembers && record_.members[member_].kind != JsonKind::kAbsent) {
      throw BadDocument(
          fmt::format("{}: the key {} stands in it twice; keep one", place_, in_quotes(key)));
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string& token,
                   const Json::exception& error) override {
    throw BadDocument(fmt::format("{}: not valid JSON: column {}: {}", place_,
                                  std::max<size_t>(position, 1),
                                  json_problem(error.what(), token, "line")));
  }

 private:
  bool in_ids() const {
    return depth_ == 2 && holds_ids(member_) && record_.members[member_].kind == JsonKind::kList;
  }
  /// Where a value that begins here is kept; null when it is not.
  MemberValue* set(JsonKind kind) {
    if (depth_ == 0) record_.kind = kind;
    if (depth_ != 1 || record_.kind != JsonKind::kObject || member_ >= kMembers) return nullptr;
    record_.members[member_].kind = kind;
    return &record_.members[member_];
  }
  bool value(JsonKind kind, const std::string& written, bool whole = false) {
    if (in_ids()) return bad_item(written, whole);
    if (MemberValue* member = set(kind)) member->text = written;
    return true;
  }
  bool id(uint32_t token) {
    ++items_;
    if (!record_.bad_id.empty()) return true;
    if (ids_++ < max_ids_) {
      record_.members[member_].ids.push_back(token);
    } else {
      record_.bad_id = too_many_tokens_text(max_ids_) + "; cut it into several";
    }
    return true;
  }
  bool bad_item(const std::string& written, bool whole) {
    ++items_;
    if (!record_.bad_id.empty()) return true;
    const std::string at = fmt::format("item {} of {}", items_, kMemberNames[member_]);
    record_.bad_id = whole
                         ? outside_vocabulary_text(written, at, vocab_)
                         : fmt::format("{} is {}, not a token id; give whole numbers from 0 to {}",
                                       at, written, vocab_ - 1);
    return true;
  }
  bool open(JsonKind kind) {
    if (in_ids()) bad_item(kind_text(kind), false);
    if (set(kind) != nullptr) items_ = 0;
    ++depth_;
    return true;
  }
  bool close() {
    --depth_;
    return true;
  }

  const std::string& place_;
  uint32_t vocab_;
  uint64_t max_ids_;
  size_t depth_ = 0;
  size_t member_ = kMembers;  // of the outermost object, being read
  uint64_t items_ = 0;        // of the list of ids being read
  uint64_t ids_ = 0;          // of all lists
  JsonRecord record_;
};

JsonRecord read_record(std::string_view line, const std::string& place, const DataOptions& options,
                       std::vector<uint32_t>& ids) {
  RecordReader reader(place, options, ids);
  CHECK(Json::sax_parse(line.begin(), line.end(), &reader));
  return reader.take();
}

/// Documents are given in one of these ways.
struct Form {
  Member first;
  Member second;  // the same where it stands alone
};
constexpr std::array<Form, 5> kForms{{{kText, kText},
                                      {kInputIds, kInputIds},
                                      {kPrompt, kCompletion},
                                      {kContext, kContinuation},
                                      {kContextIds, kContinuationIds}}};

bool has(const JsonRecord& record, Member member) {
  return record.members[member].kind != JsonKind::kAbsent;
}

Member present_of(const JsonRecord& record, const Form& form) {
  return has(record, form.first) ? form.first : form.second;
}

Form form_of(const JsonRecord& record, const std::string& place) {
  const Form* found = nullptr;
  for (const Form& form : kForms) {
    if (!has(record, form.first) && !has(record, form.second)) continue;
    if (found != nullptr) {
      throw BadDocument(fmt::format("{}: both {} and {} are in it; keep one of them", place,
                                    kMemberNames[present_of(record, *found)],
                                    kMemberNames[present_of(record, form)]));
    }
    found = &form;
  }
  if (found == nullptr) {
    throw BadDocument(
        fmt::format("{}: no text, input_ids, prompt with completion, context with continuation, or "
                    "context_ids with continuation_ids; give one of these",
                    place));
  }
  for (const Member member : {found->first, found->second}) {
    if (has(record, member)) continue;
    throw BadDocument(fmt::format("{}: {} without {}; give both", place,
                                  kMemberNames[present_of(record, *found)], kMemberNames[member]));
  }
  return *found;
}

void require_kind(const JsonRecord& record, Member member, JsonKind kind,
                  const std::string& place) {
  const JsonKind is = record.members[member].kind;
  if (is == kind) return;
  throw BadDocument(fmt::format("{}: {} is {}; give {}", place, kMemberNames[member], kind_text(is),
                                kind == JsonKind::kList ? "a list of token ids" : "a text"));
}

void require_content(bool empty, Member member, const std::string& place) {
  if (!empty) return;
  throw BadDocument(fmt::format("{}: {} is empty; give one that is not, or leave the line out",
                                place, kMemberNames[member]));
}

void take_id(JsonRecord& record, const std::string& place, Document& document) {
  MemberValue& id = record.members[kId];
  if (id.kind == JsonKind::kAbsent) return;
  if (id.kind != JsonKind::kString && id.kind != JsonKind::kNumber) {
    throw BadDocument(
        fmt::format("{}: id is {}; give a text or a number", place, kind_text(id.kind)));
  }
  document.id = std::move(id.text);
}

/// What is scored begins with the second list, where the form has two.
void take_ids(JsonRecord& record, const Form& form, const std::string& place, Document& document) {
  if (!record.bad_id.empty()) throw BadDocument(fmt::format("{}: {}", place, record.bad_id));
  const std::vector<uint32_t>& second = record.members[form.second].ids;
  require_content(record.members[form.first].ids.empty(), form.first, place);
  require_content(second.empty(), form.second, place);
  document.ids = std::move(record.members[form.first].ids);
  if (form.first == form.second) return;
  document.scored_from = static_cast<uint32_t>(document.ids.size());
  document.ids.insert(document.ids.end(), second.begin(), second.end());
}

void require_tokenizer(const Tokenizer* tokenizer, const std::string& place) {
  if (tokenizer != nullptr) return;
  throw Error(fmt::format(
      "{}: a text, and this model has no tokenizer; give token ids (input_ids, .npy or .bin)",
      place));
}

/// A tokenizer may know more tokens than its model has.
void require_vocabulary(const Document& document, const std::string& place, uint32_t vocab) {
  for (const uint32_t id : document.ids) {
    if (id < vocab) continue;
    throw BadDocument(fmt::format("{}: {}", place,
                                  outside_vocabulary_text(std::to_string(id), "its text", vocab)));
  }
}

std::optional<uint32_t> prefix_of(const DataOptions& options, const Tokenizer& tokenizer) {
  if (options.prefix_token.has_value() || tokenizer.bos().empty()) return options.prefix_token;
  return tokenizer.bos().back();
}

void encode_pair_document(const JsonRecord& record, const Form& form, const std::string& place,
                          const DataOptions& options, const Tokenizer& tokenizer,
                          Document& document) {
  TokenPair pair = encode_pair(tokenizer, record.members[form.first].text,
                               record.members[form.second].text, prefix_of(options, tokenizer));
  const char* first = kMemberNames[form.first];
  const char* second = kMemberNames[form.second];
  if (pair.context.empty()) {
    throw BadDocument(
        fmt::format("{}: {} is empty, and this tokenizer puts no token in its place; give a {}, or "
                    "the token that takes its place",
                    place, first, first));
  }
  if (pair.continuation.empty()) {
    throw BadDocument(
        fmt::format("{}: no token is left to {}: its text joins the last token of {}; "
                    "leave the line out, or cut elsewhere",
                    place, second, first));
  }
  document.ids = std::move(pair.context);
  document.scored_from = static_cast<uint32_t>(document.ids.size());
  document.ids.insert(document.ids.end(), pair.continuation.begin(), pair.continuation.end());
}

/// Runs `encode`; whatever a text cannot be encoded for is the document's fault.
template <typename Encode>
void encode_at(const std::string& place, const Encode& encode) {
  try {
    encode();
  } catch (const BadDocument&) {
    throw;
  } catch (const Error& error) {
    throw BadDocument(fmt::format("{}: {}", place, error.what()));
  }
}

}  // namespace

std::string too_many_tokens_text(uint64_t most) {
  return fmt::format("more than {}, which is as much as a document may have",
                     counted(most, "token"));
}

std::string outside_vocabulary_text(const std::string& value, const std::string& at,
                                    uint32_t vocab) {
  return fmt::format(
      "token id {} ({}) is outside the vocabulary of {}: ids end at {}; encode with this model's "
      "tokenizer",
      value, at, vocab, vocab - 1);
}

void encode_text_document(std::string_view text, const std::string& place,
                          const DataOptions& options, const Tokenizer* tokenizer,
                          Document& document) {
  require_tokenizer(tokenizer, place);
  encode_at(place, [&] { document.ids = tokenizer->encode_prompt(text); });
  if (document.ids.empty()) {
    throw BadDocument(fmt::format("{}: the tokenizer makes no token of it; leave it out", place));
  }
  require_vocabulary(document, place, options.vocab);
}

void read_json_document(std::string_view line, const std::string& place, const DataOptions& options,
                        const Tokenizer* tokenizer, Document& document) {
  encode_at(place, [&] { require_utf8(line); });
  JsonRecord record = read_record(line, place, options, document.ids);
  if (record.kind != JsonKind::kObject) {
    throw BadDocument(
        fmt::format("{}: {}; every line must be an object", place, kind_text(record.kind)));
  }
  const Form form = form_of(record, place);
  take_id(record, place, document);
  const JsonKind kind = holds_ids(form.first) ? JsonKind::kList : JsonKind::kString;
  require_kind(record, form.first, kind, place);
  require_kind(record, form.second, kind, place);
  if (holds_ids(form.first)) return take_ids(record, form, place, document);
  // A context may be empty, what is scored may not.
  require_content(record.members[form.second].text.empty(), form.second, place);
  if (form.first == kText) {
    return encode_text_document(record.members[kText].text, place, options, tokenizer, document);
  }
  require_tokenizer(tokenizer, place);
  encode_at(place,
            [&] { encode_pair_document(record, form, place, options, *tokenizer, document); });
  require_vocabulary(document, place, options.vocab);
}

}  // namespace spillway
