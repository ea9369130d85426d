// A checkpoint, a Hugging Face folder or GGUF files: every tensor's place over all files,
// validated. Never touches payload. Immutable after open(); owns the open files.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/direct_file.h"
#include "io/gguf_files.h"
#include "io/safetensors.h"

namespace spillway {

class Checkpoint {
 public:
  /// Of a folder: model.safetensors, or the shards that model.safetensors.index.json lists, or the
  /// only model in GGUF that is there. Of a file: GGUF, with all parts where it is the first of a
  /// split. Notices once when the file system refuses O_DIRECT. Throws Error for any file that is
  /// not whole.
  static Checkpoint open(const std::filesystem::path& path, DirectChoice direct,
                         const NoticeSink& notice);

  const std::vector<DirectFile>& files() const { return files_; }
  const DirectFile& largest_file() const;
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  /// Null where there is none. Throws Error where index and shards disagree about it: only those
  /// tensors have to agree that somebody asks for.
  const TensorEntry* find(const std::string& name) const;
  bool has(const std::string& name) const { return by_name_.contains(name); }
  /// The folder that all files lie in.
  const std::filesystem::path& directory() const { return directory_; }
  /// For messages: the folder, or the file in GGUF, the first of a split.
  const std::filesystem::path& path() const { return path_; }
  /// Of the file in GGUF, the first of a split; null for safetensors.
  const GgufMetadata* metadata() const { return metadata_ ? &*metadata_ : nullptr; }
  /// Frees the keys of the tokenizer, once it is loaded: they are nearly all of the metadata.
  void drop_tokenizer_keys();
  uint64_t payload_bytes() const;
  bool direct() const;

 private:
  void open_folder(DirectChoice direct, const NoticeSink& notice);
  void open_safetensors(const std::filesystem::path& single, const std::filesystem::path& index,
                        DirectChoice direct);
  void open_indexed(const std::filesystem::path& index, DirectChoice direct);
  void open_gguf(const std::filesystem::path& file, DirectChoice direct);
  void add_shard(const std::filesystem::path& path, DirectChoice direct);
  GgufMetadata add_gguf(const std::filesystem::path& path, DirectChoice direct);

  std::filesystem::path directory_;
  std::filesystem::path path_;
  std::optional<GgufMetadata> metadata_;
  std::vector<DirectFile> files_;
  std::vector<TensorEntry> tensors_;
  std::unordered_map<std::string, size_t> by_name_;
  std::unordered_map<std::string, std::string> disputes_;  // name → what is wrong
};

/// The file of a folder's model in GGUF, or its first part, where Checkpoint::open() reads that;
/// empty where it reads safetensors, or nothing. Throws Error where there are several.
std::filesystem::path gguf_to_read(const std::filesystem::path& folder);

}  // namespace spillway
