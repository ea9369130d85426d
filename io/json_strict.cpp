#include "io/json_strict.h"

#include <fmt/format.h>

#include <cerrno>
#include <fstream>
#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr int kMaxDepth = 64;

using Json = nlohmann::json;

}  // namespace

Json parse_json_strict(std::string_view text, const std::string& where) {
  std::vector<std::unordered_set<std::string>> open_objects;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) throw Error(fmt::format("{}: JSON nested too deeply", where));
    if (event == Json::parse_event_t::object_start) {
      open_objects.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      open_objects.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second) {
        throw Error(fmt::format("{}: the key \"{}\" stands in one object twice", where, key));
      }
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), check);
  } catch (const Json::exception& error) {
    std::string reason = error.what();
    const size_t tail = reason.find("] ");
    if (tail != std::string::npos) reason.erase(0, tail + 2);
    throw Error(fmt::format("{}: not valid JSON: {}", where, reason));
  }
}

Json load_json_strict(const std::filesystem::path& file, uint64_t max_bytes) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) throw Error(fmt::format("cannot read {}: {}", file.string(), errno_text(errno)));
  const auto bytes = static_cast<int64_t>(in.tellg());
  if (bytes < 0 || static_cast<uint64_t>(bytes) > max_bytes) {
    throw Error(fmt::format("{}: expected a JSON file of at most {}", file.string(),
                            format_bytes(max_bytes)));
  }
  std::string text(static_cast<size_t>(bytes), '\0');
  in.seekg(0);
  in.read(text.data(), bytes);
  if (!in) throw Error(fmt::format("cannot read {}: {}", file.string(), errno_text(errno)));
  return parse_json_strict(text, file.string());
}

}  // namespace spillway
