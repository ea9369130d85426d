// The output folder of one job, which a crash at any moment leaves whole: what the manifest names
// is complete and on the drive, all else is removed or cut off when the folder is opened again.
//
//   JobFolder folder(out, job, documents, JobFolder::Check::kSizes, stop);
//   JsonlAppender scores = folder.scores();
//   while (folder.next_document() < documents.end()) {
//     folder.begin_sweep(folder.next_sweep());
//     SafetensorsWriter shard = folder.new_shard(kTopK, topk_tensors(…));
//     …append rows to the shard and to scores…
//     folder.publish(std::move(shard), stop);
//     folder.finish_sweep(documents_of_sweep, tokens_of_sweep);
//   }
//   folder.finish(summary);
//
// Holds the folder's lock. Appenders and writers that it hands out must not outlive it; after an
// Error of any of them it is of no more use. One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/folder_lock.h"
#include "core/stop.h"
#include "sinks/append_file.h"
#include "sinks/layouts.h"
#include "sinks/manifest.h"
#include "sinks/output_folder.h"
#include "sinks/safetensors_writer.h"

namespace spillway {

/// The manifest of a folder that holds one. Throws Error.
Manifest load_manifest(const OutputFolder& folder);

/// Throws Error unless the XXH3 of what was read of a file is that of what was written.
void check_content(const OutputFolder& folder, const std::string& name, uint64_t is, uint64_t was);

class JobFolder {
 public:
  /// What is compared with the manifest when a job goes on: reading all of it takes its time.
  enum class Check { kSizes, kHashes };

  /// Opens the folder of this job, or makes it. `job` is an object without a key "documents", which
  /// `documents` stands for. Throws Error, and has changed nothing then: the folder holds another
  /// job, or something else, or a process is using it; or what was finished is not as it was.
  /// Throws Stopped.
  JobFolder(const std::filesystem::path& path, const nlohmann::json& job, DocumentRange documents,
            Check check, const StopFlag& stop);
  JobFolder(const JobFolder&) = delete;

  /// False where the file system knows no locks.
  bool locked() const { return lock_.held(); }
  bool finished() const { return manifest_.finished; }
  uint64_t next_sweep() const { return manifest_.sweeps.size(); }
  uint64_t next_document() const { return manifest_.next_document(); }
  const Manifest& manifest() const { return manifest_; }
  const OutputFolder& folder() const { return folder_; }

  /// Each sweep has a part in every append file that the job has: open them before the first.
  JsonlAppender scores() { return JsonlAppender(append_file(kScoresName, "")); }
  /// Throws Error where the rows that are there have not so many columns.
  NpyAppender embeddings(uint64_t columns);
  AppendFile& append_file(const std::string& name, std::string_view head);

  /// `number` is next_sweep().
  void begin_sweep(uint64_t number);
  /// A shard of the sweep, one of a sink; its metadata say which documents it begins with.
  SafetensorsWriter new_shard(std::string_view sink, std::vector<TensorShape> tensors);
  /// Reads back what was not written in order. Throws Error, Stopped; then finish_sweep() must not
  /// be called any more.
  void publish(SafetensorsWriter&& shard, const StopFlag& stop);
  /// One that lies elsewhere, with the sweep's number in its name. Throws Error where it is not as
  /// `record` says, Stopped.
  void copy_shard(const OutputFolder& from, const ShardRecord& record, const StopFlag& stop);
  /// The sweep is on the drive when this returns. Throws Error, and the sweep is absent when the
  /// folder is opened again, or, where only the last step failed, maybe whole.
  void finish_sweep(uint64_t documents, uint64_t tokens);

  /// All documents are there: writes the index, the summary and the array's shape. Throws Error;
  /// may be called again when the folder is opened again.
  void finish(const nlohmann::ordered_json& summary);

 private:
  void check_same_job(const Manifest& before) const;
  std::vector<std::string> leftovers(bool has_manifest) const;
  bool belongs(const std::string& name) const;
  void check_shards(Check check, const StopFlag& stop) const;
  void check_appended(Check check, const StopFlag& stop) const;
  void open_append_files();
  void finish_array();

  OutputFolder folder_;
  FolderLock lock_;
  Manifest manifest_;
  std::map<std::string, AppendFile> append_files_;
  std::optional<SweepRecord> sweep_;             // the one that is being written
  std::map<std::string, uint64_t> open_shards_;  // rows of those of it that are not published yet
};

}  // namespace spillway
