#include "model/synthetic.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <thread>

#include "core/buffer.h"
#include "core/descriptor.h"
#include "core/error.h"
#include "core/thread.h"
#include "core/units.h"
#include "model/weight_map.h"
#include "text/unicode.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr uint64_t kWriteBytes = 8 * kMiB;
constexpr uint64_t kBlock = 4096;
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr uint32_t kFirstSpecial = 256;  // ids 0..255 are bytes, then begin, end, fillers

struct Preset {
  const char* name;
  const char* architecture;
  uint32_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, context;
  double rope_theta;
  bool tied;
};
constexpr Preset kPresets[] = {
    {"tiny", "LlamaForCausalLM", 4, 256, 768, 8, 4, 32, 1024, 1024, 1e4, false},
    {"quickstart", "LlamaForCausalLM", 12, 2048, 5632, 32, 8, 64, 32000, 4096, 1e4, false},
    {"bench-7gb", "LlamaForCausalLM", 16, 4096, 11008, 32, 32, 128, 32000, 4096, 1e4, false},
    {"llama-2-7b", "LlamaForCausalLM", 32, 4096, 11008, 32, 32, 128, 32000, 4096, 1e4, false},
    {"llama-3-8b", "LlamaForCausalLM", 32, 4096, 14336, 32, 8, 128, 128256, 8192, 5e5, false},
    {"llama-3-70b", "LlamaForCausalLM", 80, 8192, 28672, 64, 8, 128, 128256, 8192, 5e5, false},
    {"mistral-7b", "MistralForCausalLM", 32, 4096, 14336, 32, 8, 128, 32768, 32768, 1e6, false},
    {"qwen2.5-7b", "Qwen2ForCausalLM", 28, 3584, 18944, 28, 4, 128, 152064, 32768, 1e6, false},
    {"qwen3-8b", "Qwen3ForCausalLM", 36, 4096, 12288, 32, 8, 128, 151936, 40960, 1e6, false},
};

/// Quantile function of the normal distribution (P. J. Acklam's rational approximation).
double normal_quantile(double p) {
  constexpr double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                          1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
  constexpr double b[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                          6.680131188771972e+01, -1.328068155288572e+01};
  constexpr double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                          -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
  constexpr double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                          3.754408661907416e+00};
  if (p > 0.97575) return -normal_quantile(1 - p);
  if (p < 0.02425) {
    const double q = std::sqrt(-2 * std::log(p));
    return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
           ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
  }
  const double q = p - 0.5;
  const double r = q * q;
  return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
         (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

uint64_t mix(uint64_t x) {  // splitmix64's finalizer: a counter in, an independent word out
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

/// Weights as a function of their place, so that threads can fill any part: 16 random bits look up
/// one of 65536 normal quantiles.
class WeightSource {
 public:
  WeightSource(DType dtype, uint64_t seed) : dtype_(dtype), seed_(mix(seed)) {
    constexpr double kStandardDeviation = 0.02;
    for (uint32_t i = 0; i < 65536; ++i) {
      const auto value =
          static_cast<float>(kStandardDeviation * normal_quantile((i + 0.5) / 65536));
      floats_.push_back(value);
      halves_.push_back(dtype == DType::kF16 ? f16_from_f32(value) : bf16_from_f32(value));
    }
  }

  /// Elements [first, first+count) of a tensor; first is a multiple of 4.
  void fill(uint64_t tensor, bool ones, uint64_t first, uint64_t count, std::byte* out) const {
    const uint64_t key = seed_ ^ mix(tensor + 1);
    for (uint64_t i = 0; i < count; i += 4) {
      const uint64_t bits = ones ? 0 : mix(key + (first + i) / 4);
      for (uint64_t lane = 0; lane < std::min<uint64_t>(4, count - i); ++lane) {
        const auto pick = static_cast<uint16_t>(bits >> (16 * lane));
        store(out, i + lane, ones, pick);
      }
    }
  }

 private:
  void store(std::byte* out, uint64_t index, bool one, uint16_t pick) const {
    if (dtype_ == DType::kF32) {
      const float value = one ? 1.0f : floats_[pick];
      std::memcpy(out + index * 4, &value, 4);
    } else {
      const uint16_t unit = dtype_ == DType::kF16 ? 0x3C00 : 0x3F80;
      const uint16_t value = one ? unit : halves_[pick];
      std::memcpy(out + index * 2, &value, 2);
    }
  }
  DType dtype_;
  uint64_t seed_;
  std::vector<float> floats_;
  std::vector<uint16_t> halves_;
};

struct SyntheticTensor {
  WeightSpec spec;
  uint64_t number = 0;  ///< over the whole model
  uint64_t elements() const { return uint64_t{spec.rows} * spec.cols; }
};

/// Stands in a folder while it is being written: a first line, then the names of the files. Locked
/// by who writes.
constexpr const char* kMarkerName = ".spillway-synth";
constexpr const char* kMarkerTitle = "spillway synth is writing these files";
constexpr const char* kPartial = ".partial";

/// The names that an unfinished run wrote; empty when there is no marker of ours. An empty marker
/// was just made.
std::set<std::string> marked_names(const fs::path& directory) {
  std::ifstream in(directory / kMarkerName);
  if (!in) return {};
  std::string line;
  if (std::getline(in, line) && line != kMarkerTitle) return {};
  std::set<std::string> names = {kMarkerName};
  while (std::getline(in, line)) names.insert({line, line + kPartial});
  return names;
}

/// Nothing may be there but what an unfinished run left.
void check_folder(const fs::path& directory) {
  const std::set<std::string> names = marked_names(directory);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;
    if (names.contains(name) && entry.is_regular_file(ignored) && !entry.is_symlink(ignored)) {
      continue;
    }
    throw Error(fmt::format("{}: exists and is not empty ({}); choose another folder",
                            directory.string(), name));
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw Error(fmt::format("{}: {}; choose another folder", directory.string(),
                            errno_text(error.value())));
  }
}

/// A folder's files while they are being written; removed unless keep() is called.
class WrittenFiles {
 public:
  WrittenFiles(const fs::path& directory, const std::vector<std::string>& names)
      : directory_(directory) {
    check_folder(directory);
    make_folder();
    try {
      mark(names);
    } catch (...) {
      remove_folders();
      throw;
    }
  }
  WrittenFiles(const WrittenFiles&) = delete;
  ~WrittenFiles() {
    if (!kept_) remove_files();
    unlink((directory_ / kMarkerName).c_str());
    if (!kept_) remove_folders();
  }
  void keep() { kept_ = true; }

 private:
  void make_folder() {
    fs::path missing = fs::absolute(directory_).lexically_normal();
    if (!missing.has_filename()) missing = missing.parent_path();
    std::error_code error;
    for (; !fs::exists(missing, error) && missing.has_relative_path();
         missing = missing.parent_path()) {
      made_.push_back(missing);
    }
    fs::create_directories(directory_, error);
    if (!error) return;
    const std::string cause = errno_text(error.value());
    remove_folders();
    throw Error(fmt::format("cannot make folder {}: {}", directory_.string(), cause));
  }

  /// Takes the folder for this run, and removes what an unfinished one left.
  void mark(const std::vector<std::string>& names) {
    const fs::path file = directory_ / kMarkerName;
    marker_ = Descriptor(open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!marker_.valid()) {
      throw Error(fmt::format("cannot create {}: {}", file.string(), errno_text(errno)));
    }
    if (flock(marker_.get(), LOCK_EX | LOCK_NB) != 0) {
      throw Error(fmt::format("{}: another spillway synth is writing there; choose another folder",
                              directory_.string()));
    }
    struct stat status {};
    if (fstat(marker_.get(), &status) != 0 || status.st_nlink == 0) {
      throw Error(fmt::format("{}: another spillway synth wrote there; choose another folder",
                              directory_.string()));
    }
    remove_leftovers();
    std::string text = std::string(kMarkerTitle) + "\n";
    for (const std::string& name : names) text += name + "\n";
    names_ = names;
    if (ftruncate(marker_.get(), 0) != 0 ||
        pwrite(marker_.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
      const std::string cause = errno_text(errno);
      unlink(file.c_str());
      throw Error(fmt::format("cannot write {}: {}", file.string(), cause));
    }
  }

  void remove_leftovers() {
    check_folder(directory_);
    for (const std::string& name : marked_names(directory_)) {
      if (name != kMarkerName) unlink((directory_ / name).c_str());
    }
  }

  void remove_files() {
    for (const std::string& name : names_) {
      unlink((directory_ / name).c_str());
      unlink((directory_ / (name + kPartial)).c_str());
    }
  }

  /// The deepest first; those with anything in them stay.
  void remove_folders() {
    for (const fs::path& folder : made_) rmdir(folder.c_str());
  }

  fs::path directory_;
  std::vector<fs::path> made_;
  std::vector<std::string> names_;
  Descriptor marker_;
  bool kept_ = false;
};

/// One file under a temporary name: preallocated, written front to back in whole blocks.
class FileWriter {
 public:
  FileWriter(const fs::path& path, uint64_t bytes)
      : path_(path), temporary_(path.string() + kPartial), bytes_(bytes), buffer_(kWriteBytes) {
    fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_DIRECT, 0644);
    if (fd_ < 0) fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) fail("create");
    if (bytes > 0 && fallocate(fd_, 0, 0, static_cast<off_t>(align_up(bytes, kBlock))) != 0 &&
        errno != EOPNOTSUPP) {
      fail("reserve space for");
    }
  }
  FileWriter(const FileWriter&) = delete;
  ~FileWriter() {
    if (fd_ >= 0) close(fd_);
  }

  /// Room for the next bytes; commit() what was filled.
  std::span<std::byte> room() {
    if (filled_ == kWriteBytes) flush(kWriteBytes);
    return {buffer_.data() + filled_, kWriteBytes - filled_};
  }
  void commit(uint64_t bytes) { filled_ += bytes; }
  void write(std::string_view text) {
    while (!text.empty()) {
      const auto space = room();
      const size_t count = std::min(space.size(), text.size());
      std::memcpy(space.data(), text.data(), count);
      commit(count);
      text.remove_prefix(count);
    }
  }
  void finish() {
    const uint64_t rest = align_up(filled_, kBlock);
    std::memset(buffer_.data() + filled_, 0, rest - filled_);
    flush(rest);
    if (ftruncate(fd_, static_cast<off_t>(bytes_)) != 0) fail("cut");
    if (fsync(fd_) != 0) fail("sync");
    close(std::exchange(fd_, -1));
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename");
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    const int error = errno;
    std::string advice;
    if (error == ENOSPC) advice = "; free some space or choose a smaller model, nothing was kept";
    throw Error(fmt::format("cannot {} {}: {}{}", what, path_.string(), errno_text(error), advice));
  }
  void flush(uint64_t bytes) {
    errno = write_all(fd_, {reinterpret_cast<const char*>(buffer_.data()), bytes});
    if (errno != 0) fail("write");
    filled_ = 0;
  }

  fs::path path_;
  fs::path temporary_;
  uint64_t bytes_;
  HugeBuffer buffer_;
  uint64_t filled_ = 0;
  int fd_ = -1;
};

class SyntheticWriter {
 public:
  SyntheticWriter(const fs::path& directory, const SyntheticOptions& options, const StopFlag& stop,
                  const SyntheticProgress& progress)
      : directory_(directory),
        options_(options),
        stop_(stop),
        progress_(progress),
        source_(options.dtype, options.seed) {
    list_tensors();
    check_folder(directory_);
    check_space();
  }

  void run() {
    WrittenFiles written(directory_, file_names());
    write_text("config.json", config_json());
    write_text(
        "generation_config.json",
        OrderedJson{{"bos_token_id", kFirstSpecial}, {"eos_token_id", kFirstSpecial + 1}}.dump(2));
    write_text("tokenizer.json", tokenizer_json());
    OrderedJson weight_map = OrderedJson::object();
    for (size_t s = 0; s < shards_.size(); ++s) {
      const std::string name = shard_name(s);
      write_shard(name, shards_[s]);
      for (const SyntheticTensor& tensor : shards_[s]) weight_map[tensor.spec.name] = name;
    }
    if (shards_.size() > 1) {
      const OrderedJson index = {{"metadata", {{"total_size", total_bytes_}}},
                                 {"weight_map", weight_map}};
      write_text(kIndexName, index.dump(1));
    }
    stop_.check();
    written.keep();
  }

 private:
  std::string shard_name(size_t shard) const {
    if (shards_.size() == 1) return "model.safetensors";
    return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards_.size());
  }

  std::vector<std::string> file_names() const {
    std::vector<std::string> names = {"config.json", "generation_config.json", "tokenizer.json"};
    for (size_t s = 0; s < shards_.size(); ++s) names.push_back(shard_name(s));
    if (shards_.size() > 1) names.emplace_back(kIndexName);
    return names;
  }

  void list_tensors() {
    const ModelConfig& model = options_.model;
    std::vector<SyntheticTensor> all;
    const auto add = [&](const WeightSpec& spec) {
      all.push_back({spec, all.size()});
      total_bytes_ += all.back().elements() * dtype_bytes(options_.dtype);
    };
    add(embedding_weight(model));
    for (uint32_t i = 0; i < model.layers; ++i) {
      for (const WeightSpec& spec : decoder_weights(model, i)) add(spec);
    }
    for (const WeightSpec& spec : head_weights(model)) {
      if (spec.name != all[0].spec.name) add(spec);
    }
    const uint64_t shard_bytes = ceil_div(total_bytes_, options_.shards);
    uint64_t bytes = 0;
    for (SyntheticTensor& tensor : all) {
      if (shards_.empty() || (bytes >= shard_bytes && shards_.size() < options_.shards)) {
        shards_.emplace_back();
        bytes = 0;
      }
      bytes += tensor.elements() * dtype_bytes(options_.dtype);
      shards_.back().push_back(std::move(tensor));
    }
  }

  void check_space() const {
    struct statvfs info {};
    fs::path there = fs::absolute(directory_);
    while (statvfs(there.c_str(), &info) != 0) {
      if (!there.has_relative_path()) return;  // writing will tell
      there = there.parent_path();
    }
    const uint64_t free_bytes = uint64_t{info.f_bavail} * info.f_frsize;
    if (free_bytes < total_bytes_ + 64 * kMiB) {
      throw Error(
          fmt::format("{}: {} are needed but {} are free; free some space or choose a "
                      "smaller model",
                      directory_.string(), format_bytes(total_bytes_), format_bytes(free_bytes)));
    }
  }

  void write_text(const std::string& name, const std::string& text) {
    FileWriter writer(directory_ / name, text.size());
    writer.write(text);
    writer.finish();
  }

  std::string config_json() const {
    const ModelConfig& m = options_.model;
    // "LlamaForCausalLM" is of the model type "llama": other programs want to see it.
    std::string type = m.architecture.substr(0, m.architecture.find("ForCausalLM"));
    std::transform(type.begin(), type.end(), type.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    OrderedJson json = {{"architectures", {m.architecture}},
                        {"model_type", type},
                        {"hidden_size", m.hidden},
                        {"intermediate_size", m.intermediate},
                        {"num_hidden_layers", m.layers},
                        {"num_attention_heads", m.heads},
                        {"num_key_value_heads", m.kv_heads},
                        {"head_dim", m.head_dim},
                        {"vocab_size", m.vocab},
                        {"max_position_embeddings", m.context},
                        {"rms_norm_eps", m.rms_epsilon},
                        {"rope_theta", m.rope_theta},
                        {"hidden_act", "silu"},
                        {"tie_word_embeddings", m.tied_embeddings},
                        {"bos_token_id", kFirstSpecial},
                        {"eos_token_id", kFirstSpecial + 1}};
    add_window(json);
    return json.dump(2);
  }

  /// Not to say anything would be a window of 4096 for Mistral.
  void add_window(OrderedJson& json) const {
    const ModelConfig& m = options_.model;
    if (m.architecture == "LlamaForCausalLM") return;
    json["sliding_window"] = m.sliding_window ? OrderedJson(*m.sliding_window) : OrderedJson();
    if (m.architecture == "MistralForCausalLM" || !m.sliding_window) return;
    json["use_sliding_window"] = true;
    for (const bool slides : m.sliding_layers) {
      json["layer_types"].push_back(slides ? "sliding_attention" : "full_attention");
    }
  }

  /// Byte-level: every text can be encoded, and every id of the vocabulary prints something.
  std::string tokenizer_json() const {
    OrderedJson vocab = OrderedJson::object();
    uint32_t shifted = 256;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable =
          (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
      std::string token;
      append_utf8(token, printable ? b : shifted++);
      vocab[token] = b;
    }
    // Known to the model too: others would be numbered behind it, whatever id they claim.
    vocab["<|begin|>"] = kFirstSpecial;
    vocab["<|end|>"] = kFirstSpecial + 1;
    for (uint32_t id = kFirstSpecial + 2; id < options_.model.vocab; ++id) {
      vocab[fmt::format("\u0120w{}", id)] = id;  // U+0120 stands for a space
    }
    const auto special = [](uint32_t id, const char* content) {
      return OrderedJson{{"id", id},        {"content", content}, {"single_word", false},
                         {"lstrip", false}, {"rstrip", false},    {"normalized", false},
                         {"special", true}};
    };
    const OrderedJson byte_level = {{"type", "ByteLevel"},
                                    {"add_prefix_space", false},
                                    {"trim_offsets", true},
                                    {"use_regex", true}};
    const OrderedJson single =
        OrderedJson::array({{{"SpecialToken", {{"id", "<|begin|>"}, {"type_id", 0}}}},
                            {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}});
    const OrderedJson json = {
        {"version", "1.0"},
        {"added_tokens",
         {special(kFirstSpecial, "<|begin|>"), special(kFirstSpecial + 1, "<|end|>")}},
        {"normalizer", nullptr},
        {"pre_tokenizer", byte_level},
        {"post_processor", {{"type", "TemplateProcessing"}, {"single", single}}},
        {"decoder", byte_level},
        {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", OrderedJson::array()}}}};
    return json.dump(1);
  }

  void write_shard(const std::string& name, const std::vector<SyntheticTensor>& tensors) {
    OrderedJson header = {{"__metadata__", {{"format", "pt"}}}};
    uint64_t offset = 0;
    for (const SyntheticTensor& tensor : tensors) {
      const uint64_t bytes = tensor.elements() * dtype_bytes(options_.dtype);
      const OrderedJson shape = tensor.spec.vector
                                    ? OrderedJson{tensor.spec.cols}
                                    : OrderedJson{tensor.spec.rows, tensor.spec.cols};
      header[tensor.spec.name] = {{"dtype", dtype_name(options_.dtype)},
                                  {"shape", shape},
                                  {"data_offsets", {offset, offset + bytes}}};
      offset += bytes;
    }
    std::string text = header.dump();
    text.resize(align_up(text.size() + 8, 8) - 8, ' ');
    FileWriter writer(directory_ / name, 8 + text.size() + offset);
    const uint64_t length = text.size();
    writer.write({reinterpret_cast<const char*>(&length), 8});
    writer.write(text);
    for (const SyntheticTensor& tensor : tensors) write_tensor(writer, tensor);
    writer.finish();
  }

  void write_tensor(FileWriter& writer, const SyntheticTensor& tensor) {
    const uint64_t element_bytes = dtype_bytes(options_.dtype);
    uint64_t done = 0;
    while (done < tensor.elements()) {
      stop_.check();
      const auto room = writer.room();
      uint64_t count = std::min(tensor.elements() - done, room.size() / element_bytes);
      if (count < tensor.elements() - done) count = align_down(count, 4);
      if (count == 0) {  // the next four elements straddle the buffer's end
        std::byte few[16];
        const uint64_t rest = std::min<uint64_t>(4, tensor.elements() - done);
        source_.fill(tensor.number, tensor.spec.vector, done, rest, few);
        writer.write({reinterpret_cast<const char*>(few), rest * element_bytes});
        done += rest;
        continue;
      }
      fill_on_threads(tensor, done, count, room.data());
      writer.commit(count * element_bytes);
      done += count;
      done_bytes_ += count * element_bytes;
      progress_(done_bytes_, total_bytes_);
    }
  }

  void fill_on_threads(const SyntheticTensor& tensor, uint64_t first, uint64_t count,
                       std::byte* out) const {
    constexpr uint64_t kMinPerThread = 256 * 1024;
    const uint64_t threads = std::clamp<uint64_t>(
        count / kMinPerThread, 1, std::max(1u, std::thread::hardware_concurrency()));
    const uint64_t each = align_up(ceil_div(count, threads), 4);
    const auto fill_part = [&](uint64_t begin) {
      source_.fill(tensor.number, tensor.spec.vector, first + begin, std::min(each, count - begin),
                   out + begin * dtype_bytes(options_.dtype));
    };
    std::vector<std::jthread> helpers;
    helpers.reserve(threads);
    for (uint64_t begin = each; begin < count; begin += each) {
      helpers.push_back(start_thread("that fills weights", [&, begin] { fill_part(begin); }));
    }
    fill_part(0);
  }

  fs::path directory_;
  const SyntheticOptions& options_;
  const StopFlag& stop_;
  const SyntheticProgress& progress_;
  WeightSource source_;
  std::vector<std::vector<SyntheticTensor>> shards_;
  uint64_t total_bytes_ = 0;
  uint64_t done_bytes_ = 0;
};

}  // namespace

ModelConfig preset_config(const std::string& name) {
  ModelConfig config;
  for (const Preset& preset : kPresets) {
    if (name != preset.name) continue;
    config.architecture = preset.architecture;
    config.layers = preset.layers;
    config.hidden = preset.hidden;
    config.intermediate = preset.intermediate;
    config.heads = preset.heads;
    config.kv_heads = preset.kv_heads;
    config.head_dim = preset.head_dim;
    config.vocab = preset.vocab;
    config.context = preset.context;
    config.rope_theta = preset.rope_theta;
    config.tied_embeddings = preset.tied;
    config.rms_epsilon = 1e-5;
    config.qkv_bias = config.architecture == "Qwen2ForCausalLM";
    config.qk_norm = config.architecture == "Qwen3ForCausalLM";
  }
  return config;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

void write_synthetic(const fs::path& directory, const SyntheticOptions& options,
                     const StopFlag& stop, const SyntheticProgress& progress) {
  SyntheticWriter(directory, options, stop, progress).run();
}

}  // namespace spillway
