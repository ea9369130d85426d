#include "io/json_strict.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "core/error.h"

namespace spillway {
namespace {

constexpr size_t kMaxDepth = 64;

using Json = nlohmann::json;

/// Builds the document: a value that is complete goes to the object or array it stands in.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(const std::string& where, DuplicateKeys duplicates)
      : where_(where), duplicates_(duplicates) {}
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
      throw Error(fmt::format("{}: the key \"{}\" stands in one object twice", where_, key));
    }
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception& error) override {
    std::string reason = error.what();
    const size_t tail = reason.find("] ");
    if (tail != std::string::npos) reason.erase(0, tail + 2);
    throw Error(fmt::format("{}: not valid JSON: {}", where_, reason));
  }

 private:
  struct Open {
    Json value;
    Json::object_t::iterator member{};  // objects: the one that is being read
    bool repeats = false;               // it was there already
  };

  bool open(Json value) {
    if (open_.size() >= kMaxDepth) throw Error(fmt::format("{}: JSON nested too deeply", where_));
    open_.push_back({std::move(value), {}, false});
    return true;
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
          fmt::format("{}: the key \"{}\" stands in one object twice, with different values",
                      where_, parent.member->first));
    }
    return true;
  }

  const std::string& where_;
  DuplicateKeys duplicates_;
  std::vector<Open> open_;
  Json root_;
};

}  // namespace

Json parse_json_strict(std::string_view text, const std::string& where, DuplicateKeys duplicates) {
  Builder builder(where, duplicates);
  CHECK(Json::sax_parse(text.begin(), text.end(), &builder));
  return builder.take();
}

Json load_json_strict(const std::filesystem::path& file, uint64_t max_bytes,
                      DuplicateKeys duplicates, FileKind kind) {
  const std::string text = read_text_file(file, {"a JSON file", max_bytes, kind});
  return parse_json_strict(text, file.string(), duplicates);
}

}  // namespace spillway
