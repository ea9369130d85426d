#include "model/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>

#include "core/error.h"
#include "core/units.h"
#include "io/json_strict.h"

namespace spillway {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxConfigBytes = 16 * kMiB;
constexpr std::array kArchitectures = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
                                       "Qwen3ForCausalLM"};

class ConfigReader {
 public:
  ConfigReader(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {
    if (!json.is_object()) throw Error(fmt::format("{}: not a JSON object", where_));
  }

  [[noreturn]] void fail(const std::string& key, const std::string& expected) const {
    throw Error(fmt::format("{}: {}: expected {}, got {}", where_, key, expected,
                            json_->contains(key) ? (*json_)[key].dump() : "nothing"));
  }
  bool has(const std::string& key) const { return present(key) && !(*json_)[key].is_null(); }
  /// Also where the value is null, which for some keys is not their default.
  bool present(const std::string& key) const { return json_->contains(key); }

  uint32_t natural(const std::string& key, uint64_t low, uint64_t high) const {
    const std::string expected = fmt::format("a whole number from {} to {}", low, high);
    if (!has(key) || !(*json_)[key].is_number_integer()) fail(key, expected);
    const Json& number = (*json_)[key];
    if (!number.is_number_unsigned() && number.get<int64_t>() < 0) fail(key, expected);
    const auto value = number.get<uint64_t>();
    if (value < low || value > high) fail(key, expected);
    return static_cast<uint32_t>(value);
  }
  double positive(const std::string& key, double fallback) const {
    if (!has(key)) return fallback;
    if (!(*json_)[key].is_number()) fail(key, "a number");
    const auto value = (*json_)[key].get<double>();
    if (!std::isfinite(value) || value <= 0) fail(key, "a number above 0");
    return value;
  }
  bool flag(const std::string& key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!(*json_)[key].is_boolean()) fail(key, "true or false");
    return (*json_)[key].get<bool>();
  }
  std::string text(const std::string& key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    if (!(*json_)[key].is_string()) fail(key, "a text");
    return (*json_)[key].get<std::string>();
  }
  std::optional<ConfigReader> section(const std::string& key) const {
    if (!has(key)) return std::nullopt;
    if (!(*json_)[key].is_object()) fail(key, "an object");
    return ConfigReader((*json_)[key], where_ + ": " + key);
  }
  const Json& json() const { return *json_; }
  const std::string& where() const { return where_; }

 private:
  const Json* json_;
  std::string where_;
};

std::string read_architecture(const ConfigReader& reader) {
  if (!reader.has("architectures") || !reader.json()["architectures"].is_array() ||
      reader.json()["architectures"].empty() || !reader.json()["architectures"][0].is_string()) {
    reader.fail("architectures", "a list with the model's class");
  }
  const auto name = reader.json()["architectures"][0].get<std::string>();
  for (const char* known : kArchitectures) {
    if (name == known) return name;
  }
  throw Error(fmt::format("{}: architecture {} is not supported; supported are {}", reader.where(),
                          name, supported_architectures()));
}

/// "rope_scaling" of transformers 4, "rope_parameters" of 5; the kind is "rope_type" or "type".
RopeScaling read_rope_scaling(const ConfigReader& reader) {
  RopeScaling scaling;
  auto section = reader.section("rope_scaling");
  if (!section) section = reader.section("rope_parameters");
  if (!section) return scaling;
  const std::string kind = section->text("rope_type", section->text("type", "default"));
  if (kind == "default") return scaling;
  scaling.factor = section->positive("factor", 1);
  if (kind == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
  } else if (kind == "llama3") {
    scaling.kind = RopeScaling::Kind::kLlama3;
    scaling.low_freq_factor = section->positive("low_freq_factor", 1);
    scaling.high_freq_factor = section->positive("high_freq_factor", 4);
    scaling.original_max_positions = section->positive("original_max_position_embeddings", 8192);
    if (scaling.high_freq_factor <= scaling.low_freq_factor) {
      section->fail("high_freq_factor", "more than low_freq_factor");
    }
  } else {
    throw Error(
        fmt::format("{}: rope_type {} is not supported; supported are default, linear, "
                    "llama3",
                    section->where(), kind));
  }
  return scaling;
}

void read_biases(const ConfigReader& reader, ModelConfig& config) {
  if (config.architecture == "Qwen2ForCausalLM") {
    config.qkv_bias = true;
  } else if (config.architecture != "MistralForCausalLM") {
    config.qkv_bias = config.output_bias = reader.flag("attention_bias", false);
  }
  if (config.architecture == "LlamaForCausalLM") config.mlp_bias = reader.flag("mlp_bias", false);
  config.qk_norm = config.architecture == "Qwen3ForCausalLM";
}

/// "layer_types": which layers slide.
std::vector<bool> read_layer_types(const ConfigReader& reader, uint32_t layers) {
  const Json& types = reader.json()["layer_types"];
  if (!types.is_array() || types.size() != layers) {
    reader.fail("layer_types", fmt::format("a list of {} layer types", layers));
  }
  std::vector<bool> slides;
  for (const Json& type : types) {
    const bool sliding = type == "sliding_attention";
    if (!sliding && type != "full_attention" && type != "attention") {
      reader.fail("layer_types", "full_attention or sliding_attention for every layer");
    }
    slides.push_back(sliding);
  }
  return slides;
}

/// As transformers reads it: Llama knows no window; every layer of Mistral slides; Qwen slides
/// where use_sliding_window says so, in the layers that layer_types names, else from
/// max_window_layers on. A window that is not given is 4096, and null is none.
void read_window(const ConfigReader& reader, ModelConfig& config) {
  constexpr uint32_t kDefaultWindow = 4096;
  constexpr uint32_t kDefaultMaxWindowLayers = 28;
  if (config.architecture == "LlamaForCausalLM") return;
  const bool every_layer = config.architecture == "MistralForCausalLM";
  if (every_layer || reader.flag("use_sliding_window", false)) {
    if (!reader.present("sliding_window")) config.sliding_window = kDefaultWindow;
    if (reader.has("sliding_window")) {
      config.sliding_window = reader.natural("sliding_window", 1, UINT32_MAX);
    }
  }
  if (every_layer) {
    config.sliding_layers.assign(config.layers, true);
  } else if (reader.has("layer_types")) {
    config.sliding_layers = read_layer_types(reader, config.layers);
    const auto& slides = config.sliding_layers;
    if (!config.sliding_window && std::find(slides.begin(), slides.end(), true) != slides.end()) {
      reader.fail("sliding_window", "a window and use_sliding_window, since layer_types wants one");
    }
  } else {
    const uint32_t first = reader.has("max_window_layers")
                               ? reader.natural("max_window_layers", 0, UINT32_MAX)
                               : kDefaultMaxWindowLayers;
    for (uint32_t i = 0; i < config.layers; ++i) config.sliding_layers.push_back(i >= first);
  }
}

std::vector<uint32_t> token_list(const ConfigReader& reader, const std::string& key) {
  std::vector<uint32_t> ids;
  if (!reader.has(key)) return ids;
  const Json& value = reader.json()[key];
  for (const Json& item : value.is_array() ? value : Json::array({value})) {
    if (!item.is_number_unsigned()) reader.fail(key, "a token id or a list of them");
    ids.push_back(item.get<uint32_t>());
  }
  return ids;
}

}  // namespace

std::string supported_architectures() {
  return fmt::format("{}", fmt::join(kArchitectures, ", "));
}

ModelConfig parse_model_config(const Json& json, const std::string& where) {
  const ConfigReader reader(json, where);
  ModelConfig config;
  config.architecture = read_architecture(reader);
  if (reader.has("quantization_config")) {
    throw Error(
        fmt::format("{}: quantized checkpoints are not supported; use one with F32, F16 or "
                    "BF16 weights",
                    where));
  }
  constexpr uint64_t kMaxWidth = 1 << 20;
  config.layers = reader.natural("num_hidden_layers", 1, 10000);
  config.hidden = reader.natural("hidden_size", 1, kMaxWidth);
  config.intermediate = reader.natural("intermediate_size", 1, kMaxWidth);
  config.heads = reader.natural("num_attention_heads", 1, 65536);
  config.kv_heads = reader.has("num_key_value_heads")
                        ? reader.natural("num_key_value_heads", 1, 65536)
                        : config.heads;
  if (config.heads % config.kv_heads != 0) {
    reader.fail("num_key_value_heads", "a divisor of num_attention_heads");
  }
  if (reader.has("head_dim")) {
    config.head_dim = reader.natural("head_dim", 2, 1024);
  } else {
    if (config.hidden % config.heads != 0) {
      reader.fail("hidden_size", "a multiple of num_attention_heads, or a head_dim");
    }
    config.head_dim = config.hidden / config.heads;
  }
  if (config.head_dim % 2 != 0 || config.head_dim > 1024)
    reader.fail("head_dim", "an even number up to 1024");
  if (uint64_t{config.heads} * config.head_dim > kMaxWidth) {
    reader.fail("num_attention_heads", fmt::format("heads * head_dim up to {}", kMaxWidth));
  }
  config.vocab = reader.natural("vocab_size", 1, 1 << 24);
  config.context = reader.natural("max_position_embeddings", 1, 1u << 30);
  config.rms_epsilon = reader.positive("rms_norm_eps", 1e-6);
  config.rope_theta = reader.positive("rope_theta", 10000);
  if (const auto rope = reader.section("rope_parameters")) {
    config.rope_theta = rope->positive("rope_theta", config.rope_theta);
  }
  config.rope_scaling = read_rope_scaling(reader);
  config.tied_embeddings = reader.flag("tie_word_embeddings", false);
  const std::string activation = reader.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") reader.fail("hidden_act", "silu");
  read_biases(reader, config);
  read_window(reader, config);
  config.end_tokens = token_list(reader, "eos_token_id");
  return config;
}

ModelConfig load_model_config(const std::filesystem::path& directory) {
  const auto file = directory / "config.json";
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    throw Error(fmt::format("{}: {}; expected the folder of a Hugging Face checkpoint",
                            directory.string(),
                            error ? errno_text(error.value()) : "not a folder"));
  }
  ModelConfig config = parse_model_config(load_json_strict(file, kMaxConfigBytes), file.string());
  const auto generation = directory / "generation_config.json";
  if (std::filesystem::exists(generation, error)) {
    const Json json = load_json_strict(generation, kMaxConfigBytes);
    const auto ends = token_list(ConfigReader(json, generation.string()), "eos_token_id");
    if (!ends.empty()) config.end_tokens = ends;
  }
  return config;
}

std::vector<float> ModelConfig::rope_inverse_frequencies() const {
  std::vector<float> result;
  for (uint32_t i = 0; i < head_dim; i += 2) {
    double frequency = 1.0 / std::pow(rope_theta, static_cast<double>(i) / head_dim);
    if (rope_scaling.kind == RopeScaling::Kind::kLinear) frequency /= rope_scaling.factor;
    if (rope_scaling.kind == RopeScaling::Kind::kLlama3) {
      const double wavelength = 2 * std::numbers::pi / frequency;
      const double original = rope_scaling.original_max_positions;
      const double low = rope_scaling.low_freq_factor;
      const double high = rope_scaling.high_freq_factor;
      if (wavelength > original / low) {
        frequency /= rope_scaling.factor;
      } else if (wavelength > original / high) {
        const double smooth = (original / wavelength - low) / (high - low);
        frequency = (1 - smooth) * frequency / rope_scaling.factor + smooth * frequency;
      }
    }
    result.push_back(static_cast<float>(frequency));
  }
  return result;
}

}  // namespace spillway
