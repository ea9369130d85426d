#include "sinks/job_difference.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "core/one_line.h"

namespace spillway {
namespace {

using Json = nlohmann::json;

constexpr size_t kShownDifferences = 3;

std::string value_text(const Json& value) {
  if (value.is_string()) return in_quotes(value.get_ref<const std::string&>());
  const std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return cut_middle(printable(text), 80);
}

class Comparison {
 public:
  /// `place`: keys below the outermost, each followed by a blank.
  void compare(const std::string& place, const Json& now, const Json& before) {
    if (now == before) return;
    if (now.is_object() && before.is_object()) return compare_members(place, now, before);
    if (now.is_array() && before.is_array() && now.size() == before.size()) {
      for (size_t i = 0; i < now.size(); ++i) {
        compare(fmt::format("{}[{}] ", place, i), now[i], before[i]);
      }
      return;
    }
    found_.push_back(fmt::format("{}{} is not {}", place, value_text(now), value_text(before)));
  }
  void compare_member(const std::string& place, const std::string& key, const Json& now,
                      const Json& before, bool named = true) {
    const std::string name = named ? place + printable(key) + " " : place;
    if (!now.contains(key)) {
      found_.push_back(fmt::format("{}is missing, not {}", name, value_text(before[key])));
    } else if (!before.contains(key)) {
      found_.push_back(fmt::format("{}{} is new", name, value_text(now[key])));
    } else {
      compare(name, now[key], before[key]);
    }
  }
  const std::vector<std::string>& found() const { return found_; }

 private:
  void compare_members(const std::string& place, const Json& now, const Json& before) {
    for (const auto& [key, value] : before.items()) compare_member(place, key, now, before);
    for (const auto& [key, value] : now.items()) {
      if (!before.contains(key)) compare_member(place, key, now, before);
    }
  }

  std::vector<std::string> found_;
};

}  // namespace

JobDifference difference_of(const Json& now, const Json& before) {
  std::set<std::string> keys;
  for (const Json* side : {&now, &before}) {
    for (const auto& member : side->items()) keys.insert(member.key());
  }
  JobDifference difference;
  size_t count = 0;
  for (const std::string& key : keys) {
    Comparison comparison;
    comparison.compare_member("", key, now, before, false);
    const std::vector<std::string>& found = comparison.found();
    if (found.empty()) continue;
    difference.keys.push_back(printable(key));
    for (size_t i = 0; i < found.size(); ++i, ++count) {
      if (count >= kShownDifferences) continue;
      if (count > 0) difference.text += i == 0 ? "; " : ", ";
      if (i == 0) difference.text += printable(key) + ": ";
      difference.text += found[i];
    }
  }
  if (count > kShownDifferences) {
    difference.text += fmt::format(" and {} more", count - kShownDifferences);
  }
  return difference;
}

}  // namespace spillway
