#include "io/json_strict.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/one_line.h"

namespace spillway {
namespace {

constexpr size_t kMaxDepth = 64;

using Json = nlohmann::json;

/// "line 3, column 7" of the byte that was read last; `read`: how many were.
std::string place_of(std::string_view text, size_t read) {
  const std::string_view before = text.substr(0, std::min(read > 0 ? read - 1 : 0, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const size_t begin = before.rfind('\n') + 1;  // npos + 1 is 0
  return fmt::format("line {}, column {}", line, before.size() - begin + 1);
}

/// Builds the document: a value that is complete goes to the object or array it stands in.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& where, DuplicateKeys duplicates)
      : text_(text), where_(where), duplicates_(duplicates) {}
  Json take() { return std::move(root_); }

  bool null() override { return add(Json()); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(number_integer_t value) override { return add(Json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return add(Json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return add(Json(value)); }
  bool string(string_t& value) override { return add(Json(std::move(value))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    Open& object = open_.back();
    // One search for a key, of which a vocabulary has many.
    const auto [member, added] = object.value.get_ref<Json::object_t&>().try_emplace(key);
    object.member = member;
    object.repeats = !added;
    if (object.repeats && duplicates_ == DuplicateKeys::kRefused) {
      throw Error(fmt::format("{}: the key {} stands in one object twice; keep one", where_,
                              in_quotes(key)));
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string& token,
                   const Json::exception& error) override {
    throw Error(fmt::format("{}: not valid JSON: {}: {}", where_, place_of(text_, position),
                            json_problem(error.what(), token)));
  }

 private:
  struct Open {
    Json value;
    Json::object_t::iterator member{};  // objects: the one that is being read
    bool repeats = false;               // it was there already
  };

  bool open(Json value) {
    if (open_.size() >= kMaxDepth) throw_too_deep();
    open_.push_back({std::move(value), {}, false});
    return true;
  }
  [[noreturn]] void throw_too_deep() const {
    throw Error(fmt::format("{}: lists and objects nested more than {} deep; such JSON is not read",
                            where_, kMaxDepth));
  }
  bool close() {
    Json value = std::move(open_.back().value);
    open_.pop_back();
    return add(std::move(value));
  }
  bool add(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return true;
    }
    Open& parent = open_.back();
    if (parent.value.is_array()) {
      parent.value.push_back(std::move(value));
    } else if (!parent.repeats) {
      parent.member->second = std::move(value);
    } else if (parent.member->second != value) {
      throw Error(
          fmt::format("{}: the key {} stands in one object twice, with different values; keep one",
                      where_, in_quotes(parent.member->first)));
    }
    return true;
  }

  std::string_view text_;
  const std::string& where_;
  DuplicateKeys duplicates_;
  std::vector<Open> open_;
  Json root_;
};

}  // namespace

std::string json_problem(std::string_view complaint, std::string_view token, const char* whole) {
  // Behind it stands the document's own text, which may say anything.
  const std::string_view own_words = complaint.substr(0, complaint.find("; last read:"));
  const auto says = [&](std::string_view part) {
    return own_words.find(part) != std::string_view::npos;
  };
  if (says("unexpected end of input") || says("missing closing quote")) {
    return fmt::format("it ends in the middle: the {} is cut short", whole);
  }
  if (says("UTF-8")) return "bytes that are not UTF-8";
  if (says("must be escaped")) return "a control character inside a text; it must be escaped";
  if (says("number overflow")) return fmt::format("the number {} is too large", in_quotes(token));
  if (complaint.ends_with("expected end of input")) {
    return fmt::format("{} behind the end", in_quotes(token));
  }
  if (token.empty()) return "it is not read any further";
  return fmt::format("unexpected {}", in_quotes(token));
}

Json parse_json_strict(std::string_view text, const std::string& where, DuplicateKeys duplicates) {
  Builder builder(text, where, duplicates);
  CHECK(Json::sax_parse(text.begin(), text.end(), &builder));
  return builder.take();
}

Json load_json_strict(const std::filesystem::path& file, uint64_t max_bytes,
                      DuplicateKeys duplicates, FileKind kind) {
  const std::string text = read_text_file(file, {"a JSON file", max_bytes, kind});
  return parse_json_strict(text, file.string(), duplicates);
}

}  // namespace spillway
