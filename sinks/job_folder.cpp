#include "sinks/job_folder.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/error.h"
#include "core/one_line.h"
#include "core/read_file.h"
#include "sinks/content_hash.h"
#include "sinks/job_difference.h"
#include "sinks/partial_file.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kAnew = "put it back as it was, or begin anew with another --out";

[[noreturn]] void throw_changed(const OutputFolder& folder, const std::string& name,
                                const std::string& how) {
  throw Error(fmt::format("{}: {}; {}", folder.text_of(name), how, kAnew));
}

uint64_t hash_of(const OutputFolder& folder, const std::string& name, uint64_t begin, uint64_t end,
                 const StopFlag& stop) {
  const Descriptor file = folder.open_file(name, O_RDONLY);
  if (!file.valid()) folder.fail("read", name, errno);
  ContentHash hash;
  read_pieces(file.get(), folder.text_of(name), begin, end, stop,
              [&](std::string_view piece) { hash.update(piece); });
  return hash.digest();
}

/// The size of a file that was finished, or an Error that says what became of it.
uint64_t finished_bytes(const OutputFolder& folder, const std::string& name) {
  const auto bytes = folder.file_bytes(name);
  if (!bytes) throw_changed(folder, name, "is missing, but was finished");
  return *bytes;
}

bool is_partial(const std::string& name) {
  return name.ends_with(PartialFile::kEnding);
}

std::string without_ending(const std::string& name) {
  return is_partial(name) ? name.substr(0, name.size() - PartialFile::kEnding.size()) : name;
}

/// What a file system keeps in a folder by itself: ext4's root, files removed while NFS has them
/// open.
bool is_of_file_system(const std::string& name) {
  return name == "lost+found" || name.starts_with(".nfs");
}

}  // namespace

void check_content(const OutputFolder& folder, const std::string& name, uint64_t is, uint64_t was) {
  if (is == was) return;
  throw_changed(folder, name,
                fmt::format("its content is not what was written (XXH3 {}, not {})", hash_text(is),
                            hash_text(was)));
}

Manifest load_manifest(const OutputFolder& folder) {
  const std::string where = folder.text_of(kManifestName);
  const Descriptor file = folder.open_file(kManifestName, O_RDONLY);
  if (!file.valid()) folder.fail("read", kManifestName, errno);
  return parse_manifest(read_text_stream(file.get(), where, {"a manifest", kMaxTextBytes}), where);
}

JobFolder::JobFolder(const fs::path& path, const Json& job, DocumentRange documents, Check check,
                     const StopFlag& stop)
    : folder_(path, OutputFolder::Missing::kMake), lock_(folder_.path()) {
  CHECK(job.is_object() && !job.contains("documents"));
  manifest_.job = as_stored(job);
  manifest_.documents = documents;
  if (lock_.state() == FolderLock::State::kElsewhere) {
    throw Error(
        fmt::format("{}: another process is using it; wait for its end or give another "
                    "--out",
                    folder_.path().string()));
  }
  const bool goes_on = folder_.file_bytes(kManifestName).has_value();
  if (goes_on) {
    Manifest before = load_manifest(folder_);
    check_same_job(before);
    manifest_ = std::move(before);
  }
  const std::vector<std::string> rest = leftovers(goes_on);
  check_shards(check, stop);
  check_appended(check, stop);
  if (finished()) return;
  folder_.check_writable();
  open_append_files();
  for (const std::string& name : rest) folder_.remove(name);
  if (!goes_on) replace_file(folder_, kManifestName, manifest_text(manifest_));
}

void JobFolder::check_same_job(const Manifest& before) const {
  // Documents are compared as a key like any other.
  const auto described = [](const Manifest& manifest) {
    Json all = manifest.job;
    all["documents"] = {{"count", manifest.documents.count}, {"first", manifest.documents.first}};
    return all;
  };
  const JobDifference difference = difference_of(described(manifest_), described(before));
  if (difference.text.empty()) return;
  throw Error(fmt::format("{}, which the job in {} began with; give another --out or the same {}",
                          difference.text, folder_.path().string(), first_few(difference.keys)));
}

/// Finished, or what a crash may leave: files of the next sweep, and temporary ones.
bool JobFolder::belongs(const std::string& name) const {
  const std::string whole = without_ending(name);
  if (whole == kManifestName || whole == kIndexName || whole == kSummaryName) return true;
  if (is_append_name(name)) return true;
  const auto shard = parse_shard_name(whole);
  if (!shard || shard->sweep > next_sweep()) return false;
  if (shard->sweep == next_sweep()) return true;
  return manifest_.sweeps[shard->sweep].has_shard(whole);
}

/// What is to be removed. Throws Error where anything is somebody else's.
std::vector<std::string> JobFolder::leftovers(bool has_manifest) const {
  std::vector<std::string> rest;
  for (const std::string& name : folder_.names()) {
    if (is_of_file_system(name)) continue;
    const bool first = has_manifest || (is_partial(name) && without_ending(name) == kManifestName);
    if (!first || !belongs(name) || !folder_.file_bytes(name)) {
      throw Error(
          fmt::format("{}: {} is no file of this job; move it elsewhere or give another "
                      "--out",
                      folder_.path().string(), printable(name)));
    }
    const auto shard = parse_shard_name(name);
    const bool unfinished = is_partial(name) || (shard && shard->sweep == next_sweep()) ||
                            name == kIndexName || name == kSummaryName ||
                            (is_append_name(name) && next_sweep() == 0);
    if (unfinished && name != kManifestName) rest.push_back(name);
  }
  return rest;
}

void JobFolder::check_shards(Check check, const StopFlag& stop) const {
  for (const SweepRecord& sweep : manifest_.sweeps) {
    for (const ShardRecord& shard : sweep.shards) {
      const uint64_t bytes = finished_bytes(folder_, shard.name);
      if (bytes != shard.bytes) {
        throw_changed(folder_, shard.name,
                      fmt::format("{} bytes, but {} were written", bytes, shard.bytes));
      }
      if (check == Check::kHashes) {
        check_content(folder_, shard.name, hash_of(folder_, shard.name, 0, bytes, stop),
                      shard.xxh3);
      }
    }
  }
}

void JobFolder::check_appended(Check check, const StopFlag& stop) const {
  for (size_t i = 0; i < manifest_.sweeps.size(); ++i) {
    for (const AppendRecord& file : manifest_.sweeps[i].appended) {
      const uint64_t bytes = finished_bytes(folder_, file.name);
      if (bytes < file.bytes) {
        throw_changed(folder_, file.name,
                      fmt::format("{} bytes, but {} were written", bytes, file.bytes));
      }
      if (check == Check::kSizes) continue;
      const uint64_t begin =
          std::max(manifest_.bytes_before(file.name, i), append_head_bytes(file.name));
      check_content(folder_, file.name, hash_of(folder_, file.name, begin, file.bytes, stop),
                    file.xxh3);
    }
  }
}

void JobFolder::open_append_files() {
  if (manifest_.sweeps.empty()) return;
  const std::vector<AppendRecord>& files = manifest_.sweeps.back().appended;
  // All are looked at before the first is cut.
  for (const AppendRecord& file : files) append_files_.try_emplace(file.name, folder_, file.name);
  for (const AppendRecord& file : files) append_files_.at(file.name).begin(file.bytes, "");
}

NpyAppender JobFolder::embeddings(uint64_t columns) {
  AppendFile& file = append_file(kEmbeddingsArrayName, npy_head(0, columns));
  const uint64_t rows = next_document() - manifest_.documents.first;
  if (!sweep_ && file.bytes() != kNpyHeadBytes + rows * columns * sizeof(float)) {
    throw_changed(folder_, kEmbeddingsArrayName,
                  fmt::format("its rows are not {} numbers long", columns));
  }
  return {file, columns};
}

AppendFile& JobFolder::append_file(const std::string& name, std::string_view head) {
  CHECK(is_append_name(name) && head.size() == append_head_bytes(name) && !finished());
  const auto there = append_files_.find(name);
  if (there != append_files_.end()) return there->second;
  CHECK(manifest_.sweeps.empty());
  AppendFile& file = append_files_.try_emplace(name, folder_, name).first->second;
  file.begin(0, head);
  return file;
}

void JobFolder::begin_sweep(uint64_t number) {
  CHECK(number == next_sweep() && !sweep_ && !finished());
  sweep_.emplace();
}

SafetensorsWriter JobFolder::new_shard(std::string_view sink, std::vector<TensorShape> tensors) {
  CHECK(sweep_);
  const std::string name = shard_name(sink, next_sweep());
  CHECK(parse_shard_name(name) && !sweep_->has_shard(name) && !open_shards_.contains(name));
  const uint64_t rows = shard_rows(tensors);
  SafetensorsWriter shard(folder_, name, std::move(tensors),
                          {{"first_document", std::to_string(next_document())}});
  open_shards_.emplace(name, rows);
  return shard;
}

void JobFolder::publish(SafetensorsWriter&& shard, const StopFlag& stop) {
  CHECK(sweep_ && open_shards_.contains(shard.name()));
  ShardRecord record = shard.publish(stop);
  record.rows = open_shards_.at(shard.name());
  sweep_->shards.push_back(std::move(record));
  open_shards_.erase(shard.name());  // one that failed stays: its sweep is not to be recorded
}

void JobFolder::copy_shard(const OutputFolder& from, const ShardRecord& record,
                           const StopFlag& stop) {
  CHECK(sweep_);
  const Descriptor source = from.open_file(record.name, O_RDONLY);
  if (!source.valid()) from.fail("read", record.name, errno);
  ShardRecord copy = record;
  copy.name = shard_name(parse_shard_name(record.name)->sink, next_sweep());
  PartialFile file(folder_, copy.name, record.bytes);
  ContentHash hash;
  uint64_t offset = 0;
  read_pieces(source.get(), from.text_of(record.name), 0, record.bytes, stop,
              [&](std::string_view piece) {
                hash.update(piece);
                file.write_at(offset, piece);
                offset += piece.size();
              });
  check_content(from, record.name, hash.digest(), record.xxh3);
  file.publish();
  sweep_->shards.push_back(std::move(copy));
}

void JobFolder::finish_sweep(uint64_t documents, uint64_t tokens) {
  CHECK(sweep_ && open_shards_.empty() && documents > 0);
  sweep_->documents = {next_document(), documents};
  CHECK(sweep_->documents.end() <= manifest_.documents.end());
  sweep_->tokens = tokens;
  for (auto& [name, file] : append_files_) sweep_->appended.push_back(file.sync());
  if (next_sweep() == 0) folder_.sync();  // the names of append files
  manifest_.sweeps.push_back(std::move(*sweep_));
  sweep_.reset();
  replace_file(folder_, kManifestName, manifest_text(manifest_));
}

/// A row for each document, whose length the file says.
void JobFolder::finish_array() {
  const auto array = append_files_.find(kEmbeddingsArrayName);
  const uint64_t rows = next_document() - manifest_.documents.first;
  if (array == append_files_.end() || rows == 0) return;
  const uint64_t row_bytes = (array->second.bytes() - kNpyHeadBytes) / rows;
  if (array->second.bytes() != kNpyHeadBytes + rows * row_bytes || row_bytes % sizeof(float) != 0) {
    throw_changed(folder_, kEmbeddingsArrayName, "has not a row for each document");
  }
  array->second.rewrite_head(npy_head(rows, row_bytes / sizeof(float)));
}

void JobFolder::finish(const nlohmann::ordered_json& summary) {
  CHECK(!sweep_ && !finished() && next_document() == manifest_.documents.end());
  check_shards(Check::kSizes, StopFlag());
  finish_array();
  replace_file(folder_, kIndexName, index_text(manifest_));
  replace_file(folder_, kSummaryName,
               summary.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  manifest_.finished = true;
  replace_file(folder_, kManifestName, manifest_text(manifest_));
}

}  // namespace spillway
