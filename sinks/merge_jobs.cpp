#include "sinks/merge_jobs.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/folder_lock.h"
#include "core/one_line.h"
#include "core/read_file.h"
#include "io/json_strict.h"
#include "sinks/content_hash.h"
#include "sinks/job_difference.h"
#include "sinks/job_folder.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// A finished job's folder, held against others while it is read.
struct Part {
  explicit Part(const fs::path& path)
      : folder(path, OutputFolder::Missing::kRefuse), lock(folder.path()) {}
  std::string name() const { return folder.path().string(); }
  std::string shard_text() const { return fmt::format("{}/{}", index, count); }

  OutputFolder folder;
  FolderLock lock;
  Manifest manifest;
  nlohmann::ordered_json summary;
  uint64_t index = 0;
  uint64_t count = 0;
};
using Parts = std::vector<std::unique_ptr<Part>>;

bool is_natural(const Json& object, const char* key) {
  return object.contains(key) && object[key].is_number_unsigned();
}

void read_shard(Part& part) {
  const Json& job = part.manifest.job;
  if (!job.is_object() || !job.contains("shard")) {
    throw Error(
        fmt::format("{}: its job did all documents, not a part of them (--shard i/n); "
                    "leave it out",
                    part.name()));
  }
  const Json& shard = job["shard"];
  const bool known = shard.is_object() && is_natural(shard, "index") && is_natural(shard, "count");
  if (known) {
    part.index = shard["index"].get<uint64_t>();
    part.count = shard["count"].get<uint64_t>();
  }
  if (part.index >= part.count) {
    throw Error(fmt::format("{}: damaged: shard is no index below a count; leave it out",
                            part.folder.text_of(kManifestName)));
  }
}

nlohmann::ordered_json read_summary(const OutputFolder& folder) {
  const Descriptor file = folder.open_file(kSummaryName, O_RDONLY);
  if (!file.valid()) folder.fail("read", kSummaryName, errno);
  const std::string where = folder.text_of(kSummaryName);
  const std::string text = read_text_stream(file.get(), where, {"a summary", kMaxTextBytes});
  parse_json_strict(text, where);
  return nlohmann::ordered_json::parse(text);  // with its order of keys
}

std::unique_ptr<Part> open_part(const fs::path& path) {
  auto part = std::make_unique<Part>(path);
  if (part->lock.state() == FolderLock::State::kElsewhere) {
    throw Error(fmt::format("{}: another process is using it; wait for its end", part->name()));
  }
  if (!part->folder.file_bytes(kManifestName)) {
    throw Error(fmt::format("{}: no folder of a job, for it has no {}; give another", part->name(),
                            kManifestName));
  }
  part->manifest = load_manifest(part->folder);
  read_shard(*part);
  const Manifest& manifest = part->manifest;
  if (!manifest.finished) {
    throw Error(
        fmt::format("{}: its job is not finished ({} of {} documents); start it again with "
                    "the same --out",
                    part->name(), manifest.next_document() - manifest.documents.first,
                    manifest.documents.count));
  }
  part->summary = read_summary(part->folder);
  return part;
}

/// But for the shard's index and what is a matter of the machine: how long records are, and what
/// computed.
Json comparable(Json job) {
  job["shard"].erase("index");
  job.erase("records");
  job.erase("arithmetic");
  return job;
}

void check_same_job(const Part& first, const Part& other) {
  const JobDifference difference =
      difference_of(comparable(other.manifest.job), comparable(first.manifest.job));
  if (difference.text.empty()) return;
  throw Error(fmt::format("{}: {}, which {} has; give the parts of one job", other.name(),
                          difference.text, first.name()));
}

/// Sinks of its shards, and the files that grow.
std::set<std::string> outputs(const Part& part) {
  std::set<std::string> names;
  for (const SweepRecord& sweep : part.manifest.sweeps) {
    for (const ShardRecord& shard : sweep.shards) names.insert(parse_shard_name(shard.name)->sink);
    for (const AppendRecord& file : sweep.appended) names.insert(file.name);
  }
  return names;
}

/// Of all parts that have documents.
void check_outputs(const Parts& parts) {
  const Part* first = nullptr;
  for (const auto& part : parts) {
    if (part->manifest.sweeps.empty()) continue;
    if (first == nullptr) first = part.get();
    const std::set<std::string> is = outputs(*part);
    const std::set<std::string> was = outputs(*first);
    std::vector<std::string> odd;
    std::set_symmetric_difference(is.begin(), is.end(), was.begin(), was.end(),
                                  std::back_inserter(odd));
    if (odd.empty()) continue;
    throw Error(fmt::format("{} {} {}, {} {}; give the parts of one job", part->name(),
                            is.contains(odd.front()) ? "has" : "lacks", odd.front(), first->name(),
                            is.contains(odd.front()) ? "lacks it" : "has it"));
  }
}

/// Sorted by their index; each is there once.
void check_indices(const Parts& parts) {
  const uint64_t count = parts.front()->count;
  std::vector<std::string> missing;
  uint64_t next = 0;
  for (const auto& part : parts) {
    if (part->index < next) {
      throw Error(fmt::format("{} and {} are both shard {}; give one of them",
                              parts[static_cast<size_t>(&part - &parts.front()) - 1]->name(),
                              part->name(), part->shard_text()));
    }
    for (; next < part->index && missing.size() < 1000; ++next) {
      missing.push_back(fmt::format("{}/{}", next, count));
    }
    next = part->index + 1;
  }
  for (; next < count && missing.size() < 1000; ++next) {
    missing.push_back(fmt::format("{}/{}", next, count));
  }
  if (missing.empty()) return;
  throw Error(fmt::format("shard {} is missing; give {} too", first_few(missing),
                          missing.size() > 1 ? "their folders" : "its folder"));
}

std::string documents_text(uint64_t first, uint64_t end) {
  return end - first == 1 ? fmt::format("document {} is", first)
                          : fmt::format("documents {} to {} are", first, end - 1);
}

void check_documents(const Parts& parts) {
  uint64_t next = 0;
  const Part* before = nullptr;
  for (const auto& part : parts) {
    const DocumentRange& documents = part->manifest.documents;
    if (documents.first > next) {
      throw Error(fmt::format(
          "{} in no shard: {}; give the parts of one job", documents_text(next, documents.first),
          before != nullptr
              ? fmt::format("{} ends before, and {} begins behind", before->name(), part->name())
              : fmt::format("{} begins behind", part->name())));
    }
    if (documents.first < next) {
      throw Error(fmt::format("{} in two shards: {} and {}; give the parts of one job",
                              documents_text(documents.first, std::min(next, documents.end())),
                              before->name(), part->name()));
    }
    next = documents.end();
    before = part.get();
  }
}

Parts open_parts(const std::vector<fs::path>& folders) {
  if (folders.empty()) throw Error("nothing to merge; give the folders of the jobs");
  Parts parts;
  for (size_t i = 0; i < folders.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {  // else it would be in use, by ourselves
      std::error_code error;
      if (!fs::equivalent(folders[i], folders[j], error)) continue;
      throw Error(fmt::format("{} and {} are one folder; give it once", folders[j].string(),
                              folders[i].string()));
    }
    parts.push_back(open_part(folders[i]));
  }
  for (const auto& part : parts) check_same_job(*parts.front(), *part);
  std::stable_sort(parts.begin(), parts.end(),
                   [](const auto& a, const auto& b) { return a->index < b->index; });
  check_indices(parts);
  check_documents(parts);
  check_outputs(parts);
  return parts;
}

void check_out(const Parts& parts, const fs::path& out) {
  for (const auto& part : parts) {
    std::error_code error;
    if (!fs::equivalent(part->folder.path(), out, error)) continue;
    throw Error(fmt::format("{} is one of the folders to merge; give another --out", out.string()));
  }
}

/// The head of an append file that begins with a part's first sweep.
std::string head_for(const Part& part, const AppendRecord& file) {
  if (append_head_bytes(file.name) == 0) return "";
  const uint64_t rows = part.manifest.sweeps.front().documents.count;
  const uint64_t begun = part.manifest.bytes_before(file.name, 1);
  return npy_head(0, (begun - kNpyHeadBytes) / rows / sizeof(float));
}

void copy_appended(const Part& part, size_t number, const AppendRecord& record, JobFolder& merged,
                   const StopFlag& stop) {
  const Descriptor source = part.folder.open_file(record.name, O_RDONLY);
  if (!source.valid()) part.folder.fail("read", record.name, errno);
  AppendFile& target = merged.append_file(record.name, head_for(part, record));
  const std::string name = part.folder.text_of(record.name);
  ContentHash hash;
  read_pieces(
      source.get(), name,
      std::max(part.manifest.bytes_before(record.name, number), append_head_bytes(record.name)),
      record.bytes, stop, [&](std::string_view piece) {
        hash.update(piece);
        target.append(piece);
      });
  check_content(part.folder, record.name, hash.digest(), record.xxh3);
}

void copy_sweep(const Part& part, size_t number, JobFolder& merged, const StopFlag& stop) {
  const SweepRecord& sweep = part.manifest.sweeps[number];
  merged.begin_sweep(merged.next_sweep());
  for (const ShardRecord& shard : sweep.shards) merged.copy_shard(part.folder, shard, stop);
  for (const AppendRecord& file : sweep.appended) copy_appended(part, number, file, merged, stop);
  merged.finish_sweep(sweep.documents.count, sweep.tokens);
}

/// A merge that goes on: what is there came from these parts.
void check_merged(const SweepRecord& is, const SweepRecord& was, const fs::path& out) {
  const auto same = [](const auto& a, const auto& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const auto& x, const auto& y) { return x.xxh3 == y.xxh3; });
  };
  if (is.documents == was.documents && is.tokens == was.tokens && same(is.shards, was.shards) &&
      same(is.appended, was.appended)) {
    return;
  }
  throw Error(fmt::format("{}: has documents that are not from these folders; give another --out",
                          out.string()));
}

nlohmann::ordered_json merged_summary(const Parts& parts) {
  auto summaries = nlohmann::ordered_json::array();
  for (const auto& part : parts) summaries.push_back(part->summary);
  return {{"parts", summaries}};
}

}  // namespace

void merge_jobs(const std::vector<fs::path>& folders, const fs::path& out, const StopFlag& stop) {
  const Parts parts = open_parts(folders);
  check_out(parts, out);
  Json job = parts.front()->manifest.job;
  job.erase("shard");
  for (const auto& part : parts) {
    const Json& other = part->manifest.job;
    if (!other.contains("arithmetic")) continue;  // it had nothing to compute
    const bool same = !job.contains("arithmetic") || other["arithmetic"] == job["arithmetic"];
    job["arithmetic"] = same ? other["arithmetic"] : Json("several");
  }
  const uint64_t documents = parts.back()->manifest.documents.end();
  JobFolder merged(out, job, {0, documents}, JobFolder::Check::kSizes, stop);
  const std::vector<SweepRecord> there = merged.manifest().sweeps;
  size_t next = 0;
  for (const auto& part : parts) {
    for (size_t number = 0; number < part->manifest.sweeps.size(); ++number, ++next) {
      stop.check();
      if (next < there.size()) {
        check_merged(part->manifest.sweeps[number], there[next], out);
      } else if (!merged.finished()) {
        copy_sweep(*part, number, merged, stop);
      }
    }
  }
  if (merged.finished()) return;
  merged.finish(merged_summary(parts));
}

}  // namespace spillway
