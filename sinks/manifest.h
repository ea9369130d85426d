// What a job's folder holds for certain: plain data, and its text (manifest.json). Pure; any
// thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace spillway {

struct DocumentRange {
  uint64_t first = 0;
  uint64_t count = 0;
  uint64_t end() const { return first + count; }
  bool operator==(const DocumentRange&) const = default;
};

/// The documents of job `index` (from 0) of `count` that share `documents` of them: contiguous, and
/// equal parts up to one.
DocumentRange shard_documents(uint64_t documents, uint64_t index, uint64_t count);

struct ShardRecord {
  std::string name;
  uint64_t bytes = 0;
  uint64_t xxh3 = 0;  ///< of the whole file
  uint64_t rows = 0;  ///< of its values: tokens, or documents
  bool operator==(const ShardRecord&) const = default;
};

struct AppendRecord {
  std::string name;
  uint64_t bytes = 0;  ///< the file's length when the sweep was finished
  uint64_t xxh3 = 0;   ///< of what the sweep appended
  bool operator==(const AppendRecord&) const = default;
};

struct SweepRecord {
  DocumentRange documents;
  uint64_t tokens = 0;  ///< scored
  std::vector<ShardRecord> shards;
  std::vector<AppendRecord> appended;

  bool has_shard(std::string_view name) const;
};

struct Manifest {
  nlohmann::json job;
  DocumentRange documents;  ///< of the whole job
  std::vector<SweepRecord> sweeps;
  bool finished = false;

  uint64_t next_document() const {
    return sweeps.empty() ? documents.first : sweeps.back().documents.end();
  }
  /// Length of an append file before sweep `number`: 0 where it had not begun.
  uint64_t bytes_before(const std::string& append_name, size_t number) const;
};

/// The job as its manifest gives it back: bytes that are not UTF-8 become U+FFFD, numbers that JSON
/// has not (NaN, infinities) null.
nlohmann::json as_stored(const nlohmann::json& job);
std::string manifest_text(const Manifest& manifest);
/// Throws Error that names `where`: it is damaged, of another version, or names files that no job
/// writes.
Manifest parse_manifest(std::string_view text, const std::string& where);
/// index.json: the shards of each sink with their documents and tokens.
std::string index_text(const Manifest& manifest);

}  // namespace spillway
