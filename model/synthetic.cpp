#include "model/synthetic.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <thread>

#include "core/error.h"
#include "core/new_file.h"
#include "core/thread.h"
#include "core/units.h"
#include "core/user_path.h"
#include "io/gguf_files.h"
#include "io/gguf_writer.h"
#include "model/gguf_metadata.h"
#include "model/gguf_names.h"
#include "model/new_folder.h"
#include "model/synthetic_values.h"
#include "model/weight_map.h"
#include "text/unicode.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr uint64_t kMaxUnitBytes = 256;  // of a format's block
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr uint32_t kFirstSpecial = 256;  // ids 0..255 are bytes, then begin, end, fillers

constexpr const char* kGemma2Class = "Gemma2ForCausalLM";
constexpr const char* kGemma3Class = "Gemma3ForCausalLM";
constexpr const char* kPhi3Class = "Phi3ForCausalLM";

struct Preset {
  const char* name;
  const char* architecture;
  uint32_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, context;
  double rope_theta;
  bool tied;
  uint32_t window = 0;
  uint32_t query_scalar = 0;  ///< what scores are divided by the root of; 0 = head_dim
  double rope_factor = 1;     ///< linear scaling
  uint32_t rotary_dim = 0;
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
    {"gemma-2-2b", kGemma2Class, 26, 2304, 9216, 8, 4, 256, 256000, 8192, 1e4, true, 4096},
    {"gemma-2-9b", kGemma2Class, 42, 3584, 14336, 16, 8, 256, 256000, 8192, 1e4, true, 4096},
    {"gemma-2-27b", kGemma2Class, 46, 4608, 36864, 32, 16, 128, 256000, 8192, 1e4, true, 4096, 144},
    {"gemma-3-1b", kGemma3Class, 26, 1152, 6912, 4, 1, 256, 262144, 32768, 1e6, true, 512},
    {"gemma-3-4b", kGemma3Class, 34, 2560, 10240, 8, 4, 256, 262208, 131072, 1e6, true, 1024, 0, 8},
    {"gemma-3-12b", kGemma3Class, 48, 3840, 15360, 16, 8, 256, 262208, 131072, 1e6, true, 1024, 0,
     8},
    {"gemma-3-27b", kGemma3Class, 62, 5376, 21504, 32, 16, 128, 262208, 131072, 1e6, true, 1024,
     168, 8},
    {"phi-3-mini", kPhi3Class, 32, 3072, 8192, 32, 32, 96, 32064, 4096, 1e4, false, 2047},
    {"phi-4", kPhi3Class, 40, 5120, 17920, 40, 10, 128, 100352, 16384, 2.5e5, false},
    {"phi-4-mini", kPhi3Class, 32, 3072, 8192, 24, 8, 128, 200064, 4096, 1e4, true, 0, 0, 1, 96},
};

struct SyntheticTensor {
  WeightSpec spec;
  uint64_t number = 0;  ///< over the whole model
  WeightFormat format = WeightFormat::kBF16;
  uint64_t elements() const { return uint64_t{spec.rows} * spec.cols; }
  uint64_t bytes() const { return spec.rows * row_bytes(format, spec.cols); }
};

/// Files that have their names already; removed unless all are there.
class PublishedFiles {
 public:
  PublishedFiles() = default;
  PublishedFiles(const PublishedFiles&) = delete;
  ~PublishedFiles() {
    if (kept_) return;
    for (const fs::path& file : files_) unlink(file.c_str());
  }
  void publish(NewFile& file) {
    file.finish();
    file.publish();
    files_.push_back(file.path());
  }
  void keep() { kept_ = true; }

 private:
  std::vector<fs::path> files_;
  bool kept_ = false;
};

std::string token_of_byte(uint32_t byte, uint32_t& shifted) {
  const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
                         (byte >= 0xAE && byte <= 0xFF);
  std::string token;
  append_utf8(token, printable ? byte : shifted++);
  return token;
}

/// Byte-level: every text can be encoded, and every id of the vocabulary prints something.
std::vector<std::string> synthetic_tokens(uint32_t vocab) {
  std::vector<std::string> tokens;
  uint32_t shifted = 256;
  for (uint32_t b = 0; b < kFirstSpecial; ++b) tokens.push_back(token_of_byte(b, shifted));
  tokens.emplace_back("<|begin|>");
  tokens.emplace_back("<|end|>");
  for (uint32_t id = kFirstSpecial + 2; id < vocab; ++id) {
    tokens.push_back(fmt::format("\u0120w{}", id));  // U+0120 stands for a space
  }
  return tokens;
}

class SyntheticWriter {
 public:
  SyntheticWriter(const fs::path& path, const SyntheticOptions& options, const StopFlag& stop,
                  const SyntheticProgress& progress)
      : path_(path), options_(options), stop_(stop), progress_(progress) {
    // What no run would take is not written.
    parse_model_config(nlohmann::json::parse(config_json()), path_.string() + ": config.json");
    list_tensors();
    if (!in_one_file()) check_folder_is_free(path_);
    check_room(path_, total_bytes_ + 64 * kMiB, "free some space or choose a smaller model");
  }

  void run() {
    if (in_one_file()) return run_beside_others();
    NewFolder folder(path_, file_names());
    if (in_gguf()) {
      write_gguf(path_);
    } else {
      write_safetensors();
    }
    stop_.check();
    folder.keep();
  }

 private:
  bool in_gguf() const { return options_.kind == CheckpointKind::kGguf; }
  /// In a folder where other things may be.
  bool in_one_file() const { return in_gguf() && path_.extension() == ".gguf"; }

  /// Names are looked at before the work starts, and again when a file is there.
  void run_beside_others() {
    const fs::path folder = path_.parent_path();
    for (const std::string& name : file_names()) {
      if (has_entry(folder / name)) {
        throw Error(
            fmt::format("{}: exists; choose another name or remove it", (folder / name).string()));
      }
    }
    write_gguf(folder);
    stop_.check();
    published_.keep();
  }

  std::string shard_name(size_t shard) const {
    if (in_gguf()) {
      const std::string name = in_one_file() ? path_.filename().string() : "model.gguf";
      return gguf_part_name(name, static_cast<uint32_t>(shard),
                            static_cast<uint32_t>(shards_.size()));
    }
    if (shards_.size() == 1) return "model.safetensors";
    return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards_.size());
  }

  std::vector<std::string> file_names() const {
    std::vector<std::string> names;
    for (size_t s = 0; s < shards_.size(); ++s) names.push_back(shard_name(s));
    if (in_gguf()) return names;
    names.insert(names.end(), {"config.json", "generation_config.json", "tokenizer.json"});
    if (shards_.size() > 1) names.emplace_back(kIndexName);
    return names;
  }

  void list_tensors() {
    const ModelConfig& model = options_.model;
    std::vector<SyntheticTensor> all;
    for (WeightSpec& spec : model_weights(model)) {
      const WeightFormat format = format_in(options_.type, model, spec, in_gguf());
      all.push_back({std::move(spec), all.size(), format});
      total_bytes_ += all.back().bytes();
    }
    tensors_ = all.size();
    const uint64_t shard_bytes = ceil_div(total_bytes_, options_.shards);
    uint64_t bytes = 0;
    for (SyntheticTensor& tensor : all) {
      if (shards_.empty() || (bytes >= shard_bytes && shards_.size() < options_.shards)) {
        shards_.emplace_back();
        bytes = 0;
      }
      bytes += tensor.bytes();
      shards_.back().push_back(std::move(tensor));
    }
  }

  // ---- safetensors

  void write_safetensors() {
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
  }

  void write_text(const std::string& name, const std::string& text) {
    NewFile file(path_ / name, text.size());
    file.write(text);
    file.finish();
    file.publish();
  }

  std::string config_json() const {
    const ModelConfig& m = options_.model;
    OrderedJson json = {{"architectures", {m.architecture}},
                        {"model_type", model_type_of(m.architecture)},
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
                        {"hidden_act", m.gelu ? "gelu_pytorch_tanh" : "silu"},
                        {"tie_word_embeddings", m.tied_embeddings},
                        {"bos_token_id", kFirstSpecial},
                        {"eos_token_id", kFirstSpecial + 1}};
    add_window(json);
    if (is_gemma(m)) add_gemma(json);
    if (m.rope_scaling.kind == RopeScaling::Kind::kLinear) {
      json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", m.rope_scaling.factor}};
    }
    if (m.rotary_dim > 0) {
      json["partial_rotary_factor"] = rotary_share(m.rotary_dim, m.head_dim);
    }
    return json.dump(2);
  }

  void add_gemma(OrderedJson& json) const {
    const ModelConfig& m = options_.model;
    const auto or_null = [](float cap) { return cap > 0 ? OrderedJson(cap) : OrderedJson(); };
    const double scale = m.score_scale;
    json["hidden_activation"] = "gelu_pytorch_tanh";
    json["query_pre_attn_scalar"] = scale > 0 ? std::lround(1 / (scale * scale)) : m.head_dim;
    json["attn_logit_softcapping"] = or_null(m.score_cap);
    json["final_logit_softcapping"] = or_null(m.logit_cap);
    if (m.local_rope_theta) json["rope_local_base_freq"] = *m.local_rope_theta;
  }

  /// Not to say anything would be a window of 4096 for Mistral.
  void add_window(OrderedJson& json) const {
    const ModelConfig& m = options_.model;
    if (m.architecture == "LlamaForCausalLM") return;
    json["sliding_window"] = m.sliding_window ? OrderedJson(*m.sliding_window) : OrderedJson();
    const bool all = m.architecture == "MistralForCausalLM" || m.architecture == kPhi3Class;
    if (all || !m.sliding_window) return;
    if (!is_gemma(m)) json["use_sliding_window"] = true;
    for (const bool slides : m.sliding_layers) {
      json["layer_types"].push_back(slides ? "sliding_attention" : "full_attention");
    }
  }

  std::string tokenizer_json() const {
    OrderedJson vocab = OrderedJson::object();
    uint32_t id_of_token = 0;  // the special ones too: others would be numbered behind it
    for (const std::string& token : synthetic_tokens(options_.model.vocab)) {
      vocab[token] = id_of_token++;
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
      const OrderedJson shape = tensor.spec.vector
                                    ? OrderedJson{tensor.spec.cols}
                                    : OrderedJson{tensor.spec.rows, tensor.spec.cols};
      header[tensor.spec.name] = {{"dtype", format_name(tensor.format)},
                                  {"shape", shape},
                                  {"data_offsets", {offset, offset + tensor.bytes()}}};
      offset += tensor.bytes();
    }
    std::string text = header.dump();
    text.resize(align_up(text.size() + 8, 8) - 8, ' ');
    NewFile file(path_ / name, 8 + text.size() + offset);
    const uint64_t length = text.size();
    file.write({reinterpret_cast<const char*>(&length), 8});
    file.write(text);
    for (const SyntheticTensor& tensor : tensors) write_tensor(file, tensor);
    file.finish();
    file.publish();
  }

  // ---- GGUF

  void write_gguf(const fs::path& folder) {
    const auto parts = static_cast<uint32_t>(shards_.size());
    for (uint32_t part = 0; part < parts; ++part) {
      GgufMetadata metadata;
      if (part == 0) {
        describe_model(options_.model, path_.stem().string(), options_.type, metadata);
        describe_tokenizer(metadata);
      }
      describe_part(part, parts, tensors_, metadata);
      std::vector<GgufTensorSpec> specs;
      for (const SyntheticTensor& tensor : shards_[part]) {
        specs.push_back(gguf_tensor(options_.model, tensor.spec, tensor.format));
      }
      const GgufLayout layout = lay_out_gguf(metadata, specs);
      NewFile file(folder / shard_name(part), layout.file_bytes);
      file.write(layout.header);
      for (size_t t = 0; t < specs.size(); ++t) {
        file.write_zeros(layout.offsets[t] - file.position());
        write_tensor(file, shards_[part][t]);
      }
      file.write_zeros(layout.file_bytes - file.position());
      published_.publish(file);
    }
    if (!in_one_file()) published_.keep();  // the folder's care now
  }

  /// What tokenizer_json() says, in the words of GGUF.
  void describe_tokenizer(GgufMetadata& metadata) const {
    constexpr int32_t kNormal = 1;
    constexpr int32_t kControl = 3;
    std::vector<int32_t> types(options_.model.vocab, kNormal);
    types[kFirstSpecial] = types[kFirstSpecial + 1] = kControl;
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", "gpt-2");
    metadata.set("tokenizer.ggml.tokens", synthetic_tokens(options_.model.vocab));
    metadata.set("tokenizer.ggml.token_type", types);
    metadata.set("tokenizer.ggml.merges", std::vector<std::string>{});
    metadata.set("tokenizer.ggml.bos_token_id", kFirstSpecial);
    metadata.set("tokenizer.ggml.eos_token_id", kFirstSpecial + 1);
    metadata.set("tokenizer.ggml.add_bos_token", true);
  }

  // ---- weights

  const SyntheticValues& values_of(WeightFormat format) {
    auto& values = values_[static_cast<size_t>(format)];
    if (!values) values.emplace(format, options_.seed);
    return *values;
  }

  bool interleaved(const SyntheticTensor& tensor) const {
    return in_gguf() && !tensor.spec.vector && !has_blocks(tensor.format) &&
           has_rotated_rows(tensor.spec.name) &&
           gguf_interleaves_heads(gguf_architecture(options_.model.architecture));
  }

  void write_tensor(NewFile& file, const SyntheticTensor& tensor) {
    const SyntheticValues& values = values_of(tensor.format);
    const uint64_t unit = values.unit_values();
    uint64_t done = 0;
    while (done < tensor.elements()) {
      stop_.check();
      const auto room = file.room();
      const uint64_t left = tensor.elements() - done;
      uint64_t count = std::min(left, room.size() / values.unit_bytes() * unit);
      if (count == 0) {  // the next unit straddles the buffer's end
        std::byte one[kMaxUnitBytes];
        count = std::min(unit, left);
        fill(tensor, values, done, count, one);
        file.write(std::span<const std::byte>(one, row_bytes(tensor.format, count)));
      } else {
        fill_on_threads(tensor, values, done, count, room.data());
        file.commit(row_bytes(tensor.format, count));
      }
      done += count;
      done_bytes_ += row_bytes(tensor.format, count);
      progress_(done_bytes_, total_bytes_);
    }
  }

  void fill(const SyntheticTensor& tensor, const SyntheticValues& values, uint64_t first,
            uint64_t count, std::byte* out) const {
    if (tensor.spec.vector && !in_gguf() && options_.model.norm_added == 1) {
      std::memset(out, 0, row_bytes(tensor.format, count));  // 0.0, which is 1 in such a norm
      return;
    }
    if (!interleaved(tensor)) {
      return values.fill(tensor.number, tensor.spec.vector, first, count, out);
    }
    const uint64_t cols = tensor.spec.cols;
    while (count > 0) {
      const uint64_t col = first % cols;
      const uint64_t some = std::min(count, cols - col);
      const uint64_t row = hf_row(first / cols, options_.model.head_dim);
      values.fill(tensor.number, false, row * cols + col, some, out);
      first += some;
      count -= some;
      out += row_bytes(tensor.format, some);
    }
  }

  void fill_on_threads(const SyntheticTensor& tensor, const SyntheticValues& values, uint64_t first,
                       uint64_t count, std::byte* out) const {
    constexpr uint64_t kMinPerThread = 256 * 1024;
    const uint64_t threads = std::clamp<uint64_t>(
        count / kMinPerThread, 1, std::max(1u, std::thread::hardware_concurrency()));
    const uint64_t each = align_up(ceil_div(count, threads), values.unit_values());
    const auto fill_part = [&](uint64_t begin) {
      fill(tensor, values, first + begin, std::min(each, count - begin),
           out + row_bytes(tensor.format, begin));
    };
    std::vector<std::jthread> helpers;
    helpers.reserve(threads);
    for (uint64_t begin = each; begin < count; begin += each) {
      helpers.push_back(start_thread("that fills weights", [&, begin] { fill_part(begin); }));
    }
    fill_part(0);
  }

  fs::path path_;
  const SyntheticOptions& options_;
  const StopFlag& stop_;
  const SyntheticProgress& progress_;
  PublishedFiles published_;
  std::array<std::optional<SyntheticValues>, kFormats.size()> values_;
  std::vector<std::vector<SyntheticTensor>> shards_;
  size_t tensors_ = 0;
  uint64_t total_bytes_ = 0;
  uint64_t done_bytes_ = 0;
};

void add_gemma_weights(ModelConfig& config) {
  add_gemma_ways(config);
  config.norm_added = 1;
  if (config.architecture == kGemma2Class) {
    config.score_cap = 50;
    config.logit_cap = 30;
  } else {
    config.local_rope_theta = 1e4;
  }
}

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
    config.rms_epsilon = is_gemma(config) ? 1e-6 : 1e-5;
    config.fused = config.architecture == kPhi3Class;
    config.rotary_dim = preset.rotary_dim;
    if (preset.window > 0) config.sliding_window = preset.window;
    if (preset.rope_factor != 1) {
      config.rope_scaling.kind = RopeScaling::Kind::kLinear;
      config.rope_scaling.factor = preset.rope_factor;
      config.rope_scaling.original_max_positions = preset.context;
    }
    if (preset.query_scalar > 0) {
      config.score_scale =
          static_cast<float>(1 / std::sqrt(static_cast<double>(preset.query_scalar)));
    }
    config.qkv_bias = config.architecture == "Qwen2ForCausalLM";
    config.qk_norm = config.architecture == "Qwen3ForCausalLM";
    if (is_gemma(config)) add_gemma_weights(config);
    fit_to_shape(config);
  }
  return config;
}

void fit_to_shape(ModelConfig& config) {
  if (!config.sliding_window) return;
  const uint32_t period = config.architecture == kGemma2Class ? 2 : 6;
  config.sliding_layers = is_gemma(config) ? all_but_every(period, config.layers)
                                           : std::vector<bool>(config.layers, true);
}

double rotary_share(uint32_t rotary_dim, uint32_t head_dim) {
  double share = static_cast<double>(rotary_dim) / head_dim;
  while (share * head_dim < rotary_dim) share = std::nextafter(share, 1.0);
  return share;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

void write_synthetic(const fs::path& path, const SyntheticOptions& options, const StopFlag& stop,
                     const SyntheticProgress& progress) {
  SyntheticWriter(path, options, stop, progress).run();
}

}  // namespace spillway
