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
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string kind = entry.path().extension().string();
    if (kind == ".gguf" || kind == ".bin" || kind == ".pth") {
      return fmt::format(
          "{} files are not read, only safetensors; most models are published in that form too",
          kind);
    }
  }
  const std::string fetch = fetch_command(directory);
  return fetch.empty() ? "only safetensors checkpoints are read" : "fetch them: " + fetch;
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
      fmt::format("{}: the model has {} shards, which with the rest takes {} open files, but this "
                  "process may have {}; raise the limit (ulimit -Hn; LimitNOFILE of a service)",
                  index, shards, needed, limit.rlim_max));
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& directory, DirectChoice direct,
                            const NoticeSink& notice) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    const std::string dangling = dangling_text(directory);
    if (!dangling.empty()) throw Error(dangling);
    const bool is_file = fs::exists(directory, error);
    throw Error(fmt::format("{}: {}; expected the folder of a Hugging Face checkpoint",
                            directory.string(),
                            is_file ? "is no folder"
                            : error ? errno_text(error.value())
                                    : std::string("no such folder")));
  }
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  const fs::path single = directory / "model.safetensors";
  const fs::path index = directory / "model.safetensors.index.json";
  if (has_entry(single)) {
    allow_open_files(1, single.string());
    checkpoint.add_shard(single, direct);
  } else if (has_entry(index)) {
    checkpoint.open_indexed(index, direct);
  } else {
    throw Error(
        fmt::format("{}: neither model.safetensors nor model.safetensors.index.json is there; {}",
                    directory.string(), advice_on(directory)));
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

}  // namespace spillway
