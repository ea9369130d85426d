#include "sinks/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "core/error.h"
#include "core/one_line.h"
#include "io/json_strict.h"
#include "sinks/content_hash.h"
#include "sinks/layouts.h"

namespace spillway {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr uint64_t kVersion = 1;

std::string dumped(const auto& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

OrderedJson file_json(const AppendRecord& file) {
  return {{"name", file.name}, {"bytes", file.bytes}, {"xxh3", hash_text(file.xxh3)}};
}

OrderedJson file_json(const ShardRecord& file) {
  return {{"name", file.name},
          {"bytes", file.bytes},
          {"xxh3", hash_text(file.xxh3)},
          {"rows", file.rows}};
}

OrderedJson range_json(const DocumentRange& range) {
  return {{"first", range.first}, {"count", range.count}};
}

OrderedJson sweep_json(const SweepRecord& sweep, size_t number) {
  OrderedJson json = {{"number", number},
                      {"documents", range_json(sweep.documents)},
                      {"tokens", sweep.tokens},
                      {"shards", OrderedJson::array()},
                      {"appended", OrderedJson::array()}};
  for (const ShardRecord& shard : sweep.shards) json["shards"].push_back(file_json(shard));
  for (const AppendRecord& file : sweep.appended) json["appended"].push_back(file_json(file));
  return json;
}

bool has(const SweepRecord& sweep, const std::string& append_name) {
  return std::any_of(sweep.appended.begin(), sweep.appended.end(),
                     [&](const AppendRecord& file) { return file.name == append_name; });
}

class ManifestParser {
 public:
  ManifestParser(std::string_view text, const std::string& where) : where_(where) {
    const Json json = parse_json_strict(text, where);
    const uint64_t version = natural(json, "version");
    if (version != kVersion) {
      throw Error(
          fmt::format("{}: version {}, but this program knows {}; use the program that "
                      "wrote it or give another --out",
                      where, version, kVersion));
    }
    manifest_.job = member(json, "job");
    if (!manifest_.job.is_object()) damaged("job is no object");
    if (manifest_.job.contains("documents")) damaged("job has documents of its own");
    manifest_.documents = range(json);
    const Json& finished = member(json, "finished");
    if (!finished.is_boolean()) damaged("finished is neither true nor false");
    manifest_.finished = finished.get<bool>();
    for (const Json& sweep : list(json, "sweeps")) add_sweep(sweep);
    check_documents();
  }
  Manifest take() { return std::move(manifest_); }

 private:
  [[noreturn]] void damaged(const std::string& what) const {
    throw Error(fmt::format("{}: damaged: {}; give another --out", where_, what));
  }
  const Json& member(const Json& object, const char* key) const {
    if (!object.is_object() || !object.contains(key)) damaged(fmt::format("no {}", key));
    return object[key];
  }
  const Json& list(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    if (!value.is_array()) damaged(fmt::format("{} is no list", key));
    return value;
  }
  uint64_t natural(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    if (!value.is_number_unsigned()) damaged(fmt::format("{} is no whole number", key));
    return value.get<uint64_t>();
  }
  std::string text(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    if (!value.is_string()) damaged(fmt::format("{} is no text", key));
    return value.get<std::string>();
  }
  DocumentRange range(const Json& object) const {
    const Json& value = member(object, "documents");
    const DocumentRange documents{natural(value, "first"), natural(value, "count")};
    if (documents.end() < documents.first) damaged("documents without end");
    return documents;
  }
  uint64_t hash(const Json& object) const {
    const std::string digits = text(object, "xxh3");
    uint64_t number = 0;
    const char* end = digits.data() + digits.size();
    const auto [last, error] = std::from_chars(digits.data(), end, number, 16);
    if (error != std::errc() || last != end) damaged("xxh3 is no hash");
    return number;
  }

  void add_sweep(const Json& json) {
    const size_t number = manifest_.sweeps.size();
    SweepRecord sweep{range(json), natural(json, "tokens"), {}, {}};
    const bool follows = natural(json, "number") == number && sweep.documents.count > 0 &&
                         sweep.documents.first == manifest_.next_document();
    if (!follows) damaged(fmt::format("sweep {} does not follow the one before", number));
    for (const Json& file : list(json, "shards")) {
      ShardRecord shard{text(file, "name"), natural(file, "bytes"), hash(file),
                        natural(file, "rows")};
      const auto name = parse_shard_name(shard.name);
      if (!name || name->sweep != number) no_file(shard.name);
      sweep.shards.push_back(std::move(shard));
    }
    for (const Json& file : list(json, "appended")) {
      AppendRecord record{text(file, "name"), natural(file, "bytes"), hash(file)};
      const bool grows = record.bytes >= manifest_.bytes_before(record.name, number) &&
                         record.bytes >= append_head_bytes(record.name);
      if (!is_append_name(record.name) || !grows) no_file(record.name);
      sweep.appended.push_back(std::move(record));
    }
    check_names(sweep);
    manifest_.sweeps.push_back(std::move(sweep));
  }
  void check_documents() const {
    const uint64_t next = manifest_.next_document();
    const uint64_t end = manifest_.documents.end();
    if (next > end) damaged("more documents than all");
    if (next < end && manifest_.finished) damaged("finished without all documents");
  }
  /// Each file once, and append files in every sweep.
  void check_names(const SweepRecord& sweep) const {
    std::set<std::string> names;
    for (const ShardRecord& shard : sweep.shards) {
      if (!names.insert(shard.name).second) no_file(shard.name);
    }
    names.clear();
    for (const AppendRecord& file : sweep.appended) {
      const bool goes_on = manifest_.sweeps.empty() || has(manifest_.sweeps.back(), file.name);
      if (!names.insert(file.name).second || !goes_on) no_file(file.name);
    }
    const bool all = manifest_.sweeps.empty() ||
                     manifest_.sweeps.back().appended.size() == sweep.appended.size();
    if (!all) damaged(fmt::format("sweep {} lacks a file that grows", manifest_.sweeps.size()));
  }
  [[noreturn]] void no_file(const std::string& name) const {
    damaged(fmt::format("{} is no file of sweep {}", in_quotes(name), manifest_.sweeps.size()));
  }

  const std::string& where_;
  Manifest manifest_;
};

}  // namespace

DocumentRange shard_documents(uint64_t documents, uint64_t index, uint64_t count) {
  CHECK(index < count);
  const auto begin_of = [&](uint64_t part) {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(documents) * part / count);
  };
  return {begin_of(index), begin_of(index + 1) - begin_of(index)};
}

uint64_t Manifest::bytes_before(const std::string& append_name, size_t number) const {
  if (number == 0) return 0;
  for (const AppendRecord& file : sweeps[number - 1].appended) {
    if (file.name == append_name) return file.bytes;
  }
  return 0;
}

bool SweepRecord::has_shard(std::string_view name) const {
  return std::any_of(shards.begin(), shards.end(),
                     [&](const ShardRecord& shard) { return shard.name == name; });
}

Json as_stored(const Json& job) {
  return Json::parse(dumped(job));
}

/// A line per sweep: it is written anew after each.
std::string manifest_text(const Manifest& manifest) {
  std::string text = fmt::format(
      "{{\n\"version\": {},\n\"job\": {},\n\"documents\": {},\n\"finished\": {},\n\"sweeps\": [",
      kVersion, dumped(manifest.job), dumped(range_json(manifest.documents)), manifest.finished);
  for (size_t i = 0; i < manifest.sweeps.size(); ++i) {
    text += (i > 0 ? ",\n" : "\n") + dumped(sweep_json(manifest.sweeps[i], i));
  }
  return text + "\n]\n}\n";
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  return ManifestParser(text, where).take();
}

std::string index_text(const Manifest& manifest) {
  OrderedJson sinks = OrderedJson::object();
  uint64_t tokens = 0;
  std::map<std::string, uint64_t> rows;  // of a sink, before the sweep
  for (const SweepRecord& sweep : manifest.sweeps) {
    for (const ShardRecord& shard : sweep.shards) {
      const std::string sink = parse_shard_name(shard.name)->sink;
      uint64_t& first_row = rows[sink];
      sinks[sink].push_back({{"name", shard.name},
                             {"documents", range_json(sweep.documents)},
                             {"first_row", first_row},
                             {"rows", shard.rows}});
      first_row += shard.rows;
    }
    tokens += sweep.tokens;
  }
  const OrderedJson index = {{"version", kVersion},
                             {"documents", range_json(manifest.documents)},
                             {"tokens", tokens},
                             {"sinks", sinks}};
  return index.dump(1) + "\n";
}

}  // namespace spillway
