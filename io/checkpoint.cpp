#include "io/checkpoint.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/one_line.h"
#include "core/units.h"
#include "core/user_path.h"
#include "io/json_strict.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxIndexBytes = 256 * kMiB;
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

/// Dangling links, too: they are said to be that, not passed over.
bool has_safetensors(const fs::path& folder) {
  return has_entry(folder / kSingleFile) || has_entry(folder / kIndexFile);
}

/// tensor name → shard file name, from "weight_map".
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const nlohmann::json json = load_json_strict(index, kMaxIndexBytes);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    throw Error(fmt::format("{}: no \"weight_map\" object; fetch the file again", index.string()));
  }
  std::map<std::string, std::string> map;
  for (const auto& [name, shard] : json["weight_map"].items()) {
    if (!shard.is_string()) {
      throw Error(fmt::format("{}: tensor {}: expected the name of a file beside this one",
                              index.string(), name));
    }
    const auto file = shard.get<std::string>();
    if (file.empty() || fs::path(file).filename() != file) {
      throw Error(
          fmt::format("{}: tensor {}: {} is not a plain file name; shards lie beside this "
                      "file",
                      index.string(), name, in_quotes(file)));
    }
    map[name] = file;
  }
  if (map.empty()) {
    throw Error(fmt::format("{}: \"weight_map\" is empty; fetch the file again", index.string()));
  }
  return map;
}

/// What to do about a folder without weights.
std::string advice_on(const fs::path& directory) {
  std::error_code error;
  if (fs::is_directory(directory / "snapshots", error)) {
    return "in a Hugging Face cache the model lies in a folder below snapshots/";
  }
  const std::vector<fs::path> entries = entries_of(directory, error);
  for (const fs::path& entry : entries) {
    const std::string kind = entry.extension().string();
    if (kind == ".bin" || kind == ".pth") {
      return fmt::format(
          "{} files are not read, only safetensors and GGUF; most models are published in such a "
          "form too",
          kind);
    }
  }
  for (const fs::path& entry : entries) {
    if (fs::is_directory(entry, error) && has_gguf(entry)) {
      return fmt::format("there is one in {}: name that folder", entry.string());
    }
  }
  const std::string fetch = fetch_command(directory);
  return fetch.empty() ? "only safetensors and GGUF are read" : "fetch them: " + fetch;
}

/// Of a path that is no folder: throws Error that says what it is, where that is no GGUF file.
void check_is_gguf(const fs::path& path) {
  std::error_code error;
  const std::string dangling = dangling_text(path);
  if (!dangling.empty()) throw Error(dangling);
  const bool there = fs::exists(path, error);
  const std::string expected = "expected the folder of a Hugging Face checkpoint, or a GGUF file";
  if (!there) {
    throw Error(fmt::format("{}: {}; {}", path.string(),
                            error ? errno_text(error.value()) : "no such folder or file",
                            expected));
  }
  const DirectFile file(path, DirectChoice::kOff);
  const std::string first = file.read_text(0, std::min<uint64_t>(4, file.info().bytes));
  if (looks_like_gguf(first) || path.extension() == ".gguf") return;
  const std::string folder = path.has_parent_path() ? path.parent_path().string() : ".";
  throw Error(fmt::format("{}: is neither a folder nor a GGUF file; {}", path.string(),
                          path.extension() == ".safetensors"
                              ? "name the folder that it lies in, " + folder
                              : expected));
}

/// Beside the shards: standard streams, rings and their wake-ups, report, trace, a device's own.
constexpr uint64_t kOtherFiles = 24;

/// Makes room for so many open files, up to the hard limit. Throws Error when that is too low.
void allow_open_files(uint64_t shards, const std::string& index) {
  rlimit limit{};
  const uint64_t needed = shards + kOtherFiles;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed) return;
  limit.rlim_cur = limit.rlim_max;
  if (limit.rlim_max >= needed && setrlimit(RLIMIT_NOFILE, &limit) == 0) return;
  throw Error(
      fmt::format("{}: the model has {}, which with the rest takes {} open files, but this "
                  "process may have {}; raise the limit (ulimit -Hn; LimitNOFILE of a service)",
                  index, counted(shards, "shard"), needed, limit.rlim_max));
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& path, DirectChoice direct, const NoticeSink& notice) {
  std::error_code error;
  Checkpoint checkpoint;
  if (fs::is_directory(path, error)) {
    checkpoint.directory_ = checkpoint.path_ = path;
    checkpoint.open_folder(direct, notice);
  } else {
    check_is_gguf(path);
    checkpoint.open_gguf(path, direct);
  }
  for (const DirectFile& file : checkpoint.files_) {
    if (file.refused().empty()) continue;
    notice(fmt::format(
        "{}: {}: reading through the page cache instead; put the model on ext4 or xfs for the "
        "faster path",
        file.info().path, file.refused()));
    break;
  }
  return checkpoint;
}

void Checkpoint::open_folder(DirectChoice direct, const NoticeSink& notice) {
  const fs::path folder = directory_;
  const fs::path single = folder / kSingleFile;
  const fs::path index = folder / kIndexFile;
  const bool safetensors = has_safetensors(folder);
  const fs::path gguf = gguf_to_read(folder);
  if (safetensors && gguf.empty()) {
    if (has_gguf(folder)) {
      notice(
          fmt::format("{}: holds safetensors and GGUF; reading the safetensors: name a .gguf "
                      "file to read that instead",
                      folder.string()));
    }
    return open_safetensors(single, index, direct);
  }
  if (!gguf.empty()) {
    const auto first = parse_gguf_part(gguf.filename().string());
    if (first && !has_entry(gguf)) throw Error(missing_part(folder, *first, 1));
    if (safetensors) {
      notice(fmt::format("{}: reading the GGUF file: there is no config.json for the safetensors",
                         folder.string()));
    }
    return open_gguf(gguf, direct);
  }
  throw Error(
      fmt::format("{}: neither model.safetensors nor model.safetensors.index.json is there, nor a "
                  "GGUF file; {}",
                  folder.string(), advice_on(folder)));
}

void Checkpoint::open_safetensors(const fs::path& single, const fs::path& index,
                                  DirectChoice direct) {
  if (!has_entry(single)) return open_indexed(index, direct);
  allow_open_files(1, single.string());
  add_shard(single, direct);
}

void Checkpoint::open_gguf(const fs::path& file, DirectChoice direct) {
  path_ = file;
  directory_ = file.has_parent_path() ? file.parent_path() : fs::path(".");
  allow_open_files(1, file.string());
  metadata_ = add_gguf(file, direct);
  if (const auto name = check_gguf_start(file, *metadata_)) {
    allow_open_files(name->parts, file.string());
    for (uint32_t part = 2; part <= name->parts; ++part) {
      const fs::path path = file.parent_path() / name->file_of(part);
      if (!has_entry(path)) throw Error(missing_part(file.parent_path(), *name, part));
      check_gguf_part(add_gguf(path, direct), part, *metadata_);
    }
    const uint64_t tensors = split_of(*metadata_)->tensors;
    if (tensors != tensors_.size()) {
      throw Error(
          fmt::format("{}: the model has {} tensors but its {} parts hold {}; fetch them "
                      "again",
                      file.string(), tensors, name->parts, tensors_.size()));
    }
  }
  if (tensors_.empty()) {
    throw Error(fmt::format("{}: holds no tensors, a vocabulary at most; fetch the model itself",
                            file.string()));
  }
}

GgufMetadata Checkpoint::add_gguf(const fs::path& path, DirectChoice direct) {
  files_.emplace_back(path, direct);
  const DirectFile& file = files_.back();
  GgufHeader header = read_gguf_header(
      [&](uint64_t offset, uint64_t bytes) { return file.read_text(offset, bytes); },
      file.info().bytes, file.info().path);
  for (TensorEntry& entry : header.tensors) {
    entry.file = static_cast<uint32_t>(files_.size() - 1);
    const auto [known, added] = by_name_.emplace(entry.name, tensors_.size());
    if (!added) {
      throw Error(fmt::format("{}: tensor {} is also in {}; fetch them again", file.info().path,
                              entry.name, files_[tensors_[known->second].file].info().path));
    }
    tensors_.push_back(std::move(entry));
  }
  return std::move(header.metadata);
}

void Checkpoint::add_shard(const fs::path& path, DirectChoice direct) {
  files_.emplace_back(path, direct);
  const DirectFile& file = files_.back();
  const uint64_t file_bytes = file.info().bytes;
  const std::string first = file.read_text(0, std::min<uint64_t>(8, file_bytes));
  const uint64_t header_bytes = safetensors_header_bytes(first, file_bytes, file.info().path);
  const std::string header = file.read_text(8, header_bytes);
  for (TensorEntry& entry : parse_safetensors_header(header, file_bytes, file.info().path)) {
    entry.file = static_cast<uint32_t>(files_.size() - 1);
    const auto [known, added] = by_name_.emplace(entry.name, tensors_.size());
    if (!added) {
      disputes_.emplace(
          entry.name, fmt::format("{}: tensor {} is also in {}; remove one of the files, or fetch "
                                  "them again",
                                  file.info().path, entry.name,
                                  files_[tensors_[known->second].file].info().path));
    }
    tensors_.push_back(std::move(entry));
  }
}

void Checkpoint::open_indexed(const fs::path& index, DirectChoice direct) {
  const auto weight_map = read_weight_map(index);
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) shards.insert(shard);
  allow_open_files(shards.size(), index.string());
  for (const std::string& shard : shards) {
    if (!has_entry(directory_ / shard)) {
      const std::string fetch = fetch_command(index);
      throw Error(fmt::format("{}: lists {}, which is not there; fetch it again{}", index.string(),
                              shard, fetch.empty() ? "" : ": " + fetch));
    }
    add_shard(directory_ / shard, direct);
  }
  for (const auto& [name, shard] : weight_map) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end() ||
        fs::path(files_[tensors_[found->second].file].info().path).filename() != shard) {
      disputes_.emplace(name,
                        fmt::format("{}: lists tensor {} in {}, but that file does not hold it; "
                                    "fetch them again",
                                    index.string(), name, shard));
    }
  }
  for (const TensorEntry& entry : tensors_) {
    if (!weight_map.contains(entry.name)) {
      disputes_.emplace(entry.name,
                        fmt::format("{}: does not list tensor {} of {}; fetch them again",
                                    index.string(), entry.name, files_[entry.file].info().path));
    }
  }
}

void Checkpoint::drop_tokenizer_keys() {
  if (metadata_) metadata_->drop("tokenizer.");
}

const TensorEntry* Checkpoint::find(const std::string& name) const {
  if (const auto dispute = disputes_.find(name); dispute != disputes_.end()) {
    throw Error(dispute->second);
  }
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

uint64_t Checkpoint::payload_bytes() const {
  uint64_t total = 0;
  for (const TensorEntry& entry : tensors_) total += entry.bytes;
  return total;
}

const DirectFile& Checkpoint::largest_file() const {
  const auto less = [](const DirectFile& a, const DirectFile& b) {
    return a.info().bytes < b.info().bytes;
  };
  return *std::max_element(files_.begin(), files_.end(), less);
}

bool Checkpoint::direct() const {
  return std::all_of(files_.begin(), files_.end(),
                     [](const DirectFile& file) { return file.info().direct; });
}

/// Safetensors go first, where the folder has what a model needs beside them.
fs::path gguf_to_read(const fs::path& folder) {
  if (has_safetensors(folder) && (has_entry(folder / "config.json") || !has_gguf(folder)))
    return {};
  return find_gguf(folder);
}

}  // namespace spillway
