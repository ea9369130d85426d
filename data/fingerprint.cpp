#include "data/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "core/error.h"
#include "core/units.h"
#include "data/data_file.h"
#include "data/xxh3.h"

namespace spillway {
namespace {

constexpr uint64_t kPieceBytes = kMiB;

/// `read` is told how many bytes came.
template <typename Read>
std::string xxh3_of(const DataFile& file, std::string& buffer, const StopFlag& stop,
                    const Read& read) {
  Xxh3 hash;
  for (uint64_t at = 0; at < file.bytes();) {
    stop.check();
    const std::span<char> piece =
        std::span(buffer).first(std::min<uint64_t>(buffer.size(), file.bytes() - at));
    file.read(at, piece);
    hash.update({piece.data(), piece.size()});
    at += piece.size();
    read(piece.size());
  }
  return hash.text();
}

bool same_content(const FileFingerprint& a, const FileFingerprint& b) {
  return a.bytes == b.bytes && a.xxh3 == b.xxh3;
}

[[noreturn]] void throw_no_fingerprint(const std::string& where) {
  throw Error(
      fmt::format("{}: not a fingerprint of data: expected a list of objects with name, bytes "
                  "and xxh3",
                  where));
}

}  // namespace

DataFingerprint fingerprint_files(const std::vector<std::filesystem::path>& paths,
                                  const StopFlag& stop, const FingerprintProgress& progress) {
  uint64_t total = 0;
  for (const auto& path : paths) total += DataFile(path).bytes();
  uint64_t done = 0;
  std::string buffer(kPieceBytes, '\0');
  DataFingerprint result;
  for (const auto& path : paths) {
    const DataFile file(path);
    const std::string hash = xxh3_of(file, buffer, stop, [&](uint64_t bytes) {
      done += bytes;
      progress(done, total);
    });
    check_unchanged(path, file.state());
    result.files.push_back({file.name(), file.bytes(), hash});
  }
  return result;
}

std::string fingerprint_difference_text(const DataFingerprint& then, const DataFingerprint& now) {
  if (then.files.size() != now.files.size()) {
    return fmt::format("{} when the job began, {} now", counted(then.files.size(), "file"),
                       now.files.size());
  }
  const auto differs = std::mismatch(then.files.begin(), then.files.end(), now.files.begin(),
                                     now.files.end(), same_content);
  if (differs.first == then.files.end()) return "";
  if (std::is_permutation(then.files.begin(), then.files.end(), now.files.begin(), same_content)) {
    return fmt::format("the same files in another order: {} now stands where {} was",
                       differs.second->name, differs.first->name);
  }
  const std::string was =
      differs.first->name == differs.second->name ? "" : " of " + differs.first->name;
  if (differs.first->bytes != differs.second->bytes) {
    return fmt::format("{}: {} now, not the {}{} that the job began with", differs.second->name,
                       counted(differs.second->bytes, "byte"), differs.first->bytes, was);
  }
  return fmt::format("{}: of the same size, but not the content{} that the job began with",
                     differs.second->name, was);
}

nlohmann::ordered_json fingerprint_json(const DataFingerprint& fingerprint) {
  auto list = nlohmann::ordered_json::array();
  for (const FileFingerprint& file : fingerprint.files) {
    list.push_back({{"name", file.name}, {"bytes", file.bytes}, {"xxh3", file.xxh3}});
  }
  return list;
}

DataFingerprint parse_fingerprint(const nlohmann::json& json, const std::string& where) {
  if (!json.is_array()) throw_no_fingerprint(where);
  DataFingerprint result;
  for (const auto& item : json) {
    if (!item.is_object() || !item.contains("name") || !item["name"].is_string() ||
        !item.contains("bytes") || !item["bytes"].is_number_unsigned() || !item.contains("xxh3") ||
        !item["xxh3"].is_string()) {
      throw_no_fingerprint(where);
    }
    result.files.push_back({item["name"], item["bytes"], item["xxh3"]});
  }
  return result;
}

}  // namespace spillway
