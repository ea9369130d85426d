// A Hugging Face checkpoint folder: every tensor's place over all shards, fully validated.
// Never touches payload. Immutable after open(); owns the open files.
#pragma once

#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/direct_file.h"
#include "io/safetensors.h"

namespace spillway {

class Checkpoint {
 public:
  /// Opens model.safetensors, or the shards that model.safetensors.index.json lists. Notices once
  /// when the file system refuses O_DIRECT. Throws Error for any file that is not whole.
  static Checkpoint open(const std::filesystem::path& directory, DirectChoice direct,
                         const NoticeSink& notice);

  const std::vector<DirectFile>& files() const { return files_; }
  const DirectFile& largest_file() const;
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  /// Null where there is none. Throws Error where index and shards disagree about it: only those
  /// tensors have to agree that somebody asks for.
  const TensorEntry* find(const std::string& name) const;
  bool has(const std::string& name) const { return by_name_.contains(name); }
  const std::filesystem::path& directory() const { return directory_; }
  uint64_t payload_bytes() const;
  bool direct() const;

 private:
  void add_shard(const std::filesystem::path& path, DirectChoice direct);
  void open_indexed(const std::filesystem::path& index, DirectChoice direct);

  std::filesystem::path directory_;
  std::vector<DirectFile> files_;
  std::vector<TensorEntry> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
  std::unordered_map<std::string, std::string> disputes_;  // name → what is wrong
};

}  // namespace spillway
