#include "model/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/one_line.h"
#include "core/units.h"
#include "io/json_strict.h"
#include "model/float_number.h"

namespace spillway {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxConfigBytes = 16 * kMiB;
constexpr size_t kMaxShownColumns = 80;  // of a value in a message
constexpr uint32_t kMaxContext = 1u << 30;

struct NamedArchitecture {
  std::string_view name;  ///< the class
  std::string_view type;  ///< the model_type that goes with it
};
constexpr auto kArchitectures = std::to_array<NamedArchitecture>({
    {"LlamaForCausalLM", "llama"},
    {"MistralForCausalLM", "mistral"},
    {"Qwen2ForCausalLM", "qwen2"},
    {"Qwen3ForCausalLM", "qwen3"},
    {"Gemma2ForCausalLM", "gemma2"},
    {"Gemma3ForCausalLM", "gemma3_text"},
    {"Phi3ForCausalLM", "phi3"},
});
constexpr const char* kGemma2 = "Gemma2ForCausalLM";
constexpr const char* kGemma3 = "Gemma3ForCausalLM";
constexpr const char* kPhi3 = "Phi3ForCausalLM";
/// With a text model inside, whose configuration is a section.
constexpr const char* kGemma3Images = "Gemma3ForConditionalGeneration";
constexpr const char* kGemma3ImagesType = "gemma3";

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

/// "Gemma3TextModel" in lower case for "gemma3_text": the class of the bare model.
std::string bare_class(std::string_view type) {
  std::string name(type);
  std::erase(name, '_');
  return name + "model";
}

class ConfigReader {
 public:
  ConfigReader(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {
    if (!json.is_object()) {
      throw Error(fmt::format("{}: not a JSON object; expected a model's configuration", where_));
    }
  }

  [[noreturn]] void fail(const std::string& key, const std::string& expected) const {
    if (json_->contains(key)) fail(key, expected, (*json_)[key]);
    throw Error(fmt::format("{}: {}: expected {}, got nothing", where_, key, expected));
  }
  bool has(const std::string& key) const { return present(key) && !(*json_)[key].is_null(); }
  /// Also where the value is null, which for some keys is not their default.
  bool present(const std::string& key) const { return json_->contains(key); }

  uint32_t natural(const std::string& key, uint64_t low, uint64_t high,
                   std::optional<uint32_t> fallback = std::nullopt) const {
    if (fallback && !has(key)) return *fallback;
    const std::string expected = fmt::format("a whole number from {} to {}", low, high);
    if (!has(key) || !(*json_)[key].is_number_integer()) fail(key, expected);
    const Json& number = (*json_)[key];
    if (!number.is_number_unsigned() && number.get<int64_t>() < 0) fail(key, expected);
    const auto value = number.get<uint64_t>();
    if (value < low || value > high) fail(key, expected);
    return static_cast<uint32_t>(value);
  }
  /// As the float that it is computed with, and that GGUF keeps.
  double positive(const std::string& key, double fallback) const {
    if (!has(key)) return fallback;
    if (!(*json_)[key].is_number()) fail(key, "a number");
    return double{static_cast<float>(checked(key, (*json_)[key]))};
  }
  /// Of what more is computed before it becomes a float.
  double positive_or_zero(const std::string& key, double fallback) const {
    if (!has(key) || (*json_)[key] == 0) return has(key) ? 0 : fallback;
    if (!(*json_)[key].is_number()) fail(key, "a number");
    return checked(key, (*json_)[key]);
  }
  /// As floats, like those that stand alone.
  std::vector<double> positive_list(const std::string& key, size_t count) const {
    const std::string expected = fmt::format("{} numbers above 0", count);
    if (!has(key) || !(*json_)[key].is_array() || (*json_)[key].size() != count) {
      fail(key, expected);
    }
    std::vector<double> values;
    for (const Json& item : (*json_)[key]) {
      if (!item.is_number()) fail(key, expected);
      values.push_back(double{static_cast<float>(checked(key, item))});
    }
    return values;
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
  double checked(const std::string& key, const Json& number) const {
    const auto value = number.get<double>();
    if (const auto expected = positive_float_fault(value); !expected.empty()) {
      fail(key, std::string(expected), number);
    }
    return value;
  }
  [[noreturn]] void fail(const std::string& key, const std::string& expected,
                         const Json& got) const {
    throw Error(fmt::format("{}: {}: expected {}, got {}", where_, key, expected,
                            cut_middle(printable(got.dump()), kMaxShownColumns)));
  }

  const Json* json_;
  std::string where_;
};

/// The first of "architectures"; empty where it says nothing.
std::string listed_class(const ConfigReader& reader) {
  if (!reader.has("architectures")) return "";
  const Json& list = reader.json()["architectures"];
  if (!list.is_array() || (!list.empty() && !list[0].is_string())) {
    reader.fail("architectures", "a list with the model's class");
  }
  return list.empty() ? "" : list[0].get<std::string>();
}

/// model_type decides, as it does for transformers, where the class listed is the same one, another
/// spelling of it, the bare model, or none; else the class does.
std::string read_architecture(const ConfigReader& reader) {
  const std::string name = listed_class(reader);
  const std::string type = reader.text("model_type", "");
  const bool known = std::any_of(kArchitectures.begin(), kArchitectures.end(),
                                 [&](const auto& entry) { return entry.name == name; });
  for (const auto& [architecture, own] : kArchitectures) {
    const bool same = lower(name) == lower(architecture) || lower(name) == bare_class(own);
    if (type == own && (name.empty() || known || same)) return std::string(architecture);
  }
  if (known) return name;
  if (name.empty()) reader.fail("architectures", "a list with the model's class, or a model_type");
  throw Error(fmt::format("{}: architecture {} is not supported; supported are {}", reader.where(),
                          cut_middle(printable(name), kMaxShownColumns),
                          supported_architectures()));
}

std::string rope_type(const ConfigReader& section) {
  return section.text("rope_type", section.text("type", "default"));
}

/// Of a section that has one for each type of layer, that of `layer_type`, where this names one.
ConfigReader rope_section_of(const ConfigReader& section, const char* layer_type) {
  if (layer_type == nullptr) return section;
  if (section.has(layer_type)) return *section.section(layer_type);
  for (const Json& value : section.json()) {
    if (value.is_object()) section.fail(layer_type, "an object");
  }
  return section;
}

bool rope_sections_agree(const ConfigReader& scaling, const ConfigReader& parameters) {
  if (rope_type(scaling) != rope_type(parameters)) return false;
  for (const auto& [key, value] : scaling.json().items()) {
    if (key == "type" || key == "rope_type" || value.is_null()) continue;
    if (!parameters.has(key) || parameters.json()[key] != value) return false;
  }
  return true;
}

/// "rope_scaling" of transformers 4 or "rope_parameters" of 5, which knows more, whichever says
/// anything.
std::optional<ConfigReader> rope_section(const ConfigReader& reader, const char* layer_type) {
  const auto filled = [&](const char* key) -> std::optional<ConfigReader> {
    const auto section = reader.section(key);
    if (!section || section->json().empty()) return std::nullopt;
    return rope_section_of(*section, layer_type);
  };
  const auto scaling = filled("rope_scaling");
  const auto parameters = filled("rope_parameters");
  if (scaling && parameters && !rope_sections_agree(*scaling, *parameters)) {
    reader.fail("rope_scaling", "what rope_parameters says, or only one of the two");
  }
  return parameters ? parameters : scaling;
}

void read_yarn(const ConfigReader& section, RopeScaling& scaling) {
  scaling.attention_factor =
      section.positive("attention_factor",
                       yarn_attention_factor(scaling.factor, section.positive_or_zero("mscale", 0),
                                             section.positive_or_zero("mscale_all_dim", 0)));
  scaling.beta_fast = section.positive("beta_fast", 32);
  scaling.beta_slow = section.positive("beta_slow", 1);
  scaling.truncate = section.flag("truncate", true);
}

void read_longrope(const ConfigReader& section, const ModelConfig& config, RopeScaling& scaling) {
  const uint32_t pairs = config.rotary_pairs();
  scaling.short_factors = section.positive_list("short_factor", pairs);
  scaling.long_factors = section.positive_list("long_factor", pairs);
  scaling.attention_factor =
      section.positive("attention_factor",
                       longrope_attention_factor(scaling.factor, scaling.original_max_positions));
}

/// A part of the heads: what it is multiplied with decides about whole elements, and so it is not
/// taken as a float.
double partial_rotary_factor(const ConfigReader& reader) {
  const char* key = "partial_rotary_factor";
  if (!reader.has(key)) return 1;
  const Json& value = reader.json()[key];
  if (!value.is_number() || !(value > 0) || value > 1) {
    reader.fail(key, "a number above 0, at most 1");
  }
  return value.get<double>();
}

/// The kind is "rope_type" or "type". The positions of the original training stand beside the
/// section or in it, else they are all that the model has. Without a factor yarn and longrope take
/// the ratio of the two; the others need one.
RopeScaling read_rope_scaling(const ConfigReader& reader, const ConfigReader& section,
                              const ModelConfig& config) {
  using Kind = RopeScaling::Kind;
  static const std::map<std::string, Kind> kKinds = {
      {"default", Kind::kNone}, {"linear", Kind::kLinear},     {"dynamic", Kind::kDynamic},
      {"yarn", Kind::kYarn},    {"longrope", Kind::kLongRope}, {"llama3", Kind::kLlama3}};
  std::string name = rope_type(section);
  const bool phi = is_phi(config);
  if (phi && (name == "su" || name == "yarn")) name = "longrope";  // what Phi 3 called it at first
  const auto kind = kKinds.find(name);
  if (kind == kKinds.end()) {
    throw Error(
        fmt::format("{}: rope_type {} is not supported; supported are default, linear, dynamic, "
                    "yarn, longrope, llama3",
                    section.where(), name));
  }
  for (const auto& [key, value] : section.json().items()) {
    if (value.is_object()) section.fail(key, "one scaling for all layers");
  }
  RopeScaling scaling;
  scaling.kind = kind->second;
  if (scaling.kind == Kind::kNone) return scaling;
  const double positions = config.context;
  const char* original = "original_max_position_embeddings";
  const bool uses_original = scaling.kind != Kind::kLinear && scaling.kind != Kind::kDynamic;
  scaling.original_max_positions = positions;
  if (uses_original) {
    const ConfigReader& place = reader.has(original) ? reader : section;
    const uint64_t least = scaling.kind == Kind::kLongRope ? 2 : 1;
    scaling.original_max_positions = place.natural(original, least, kMaxContext, config.context);
  }
  const bool ratio =
      scaling.kind == Kind::kLongRope || (scaling.kind == Kind::kYarn && section.present("factor"));
  if (!ratio && !section.has("factor")) section.fail("factor", "a number above 0");
  scaling.factor = section.positive("factor", positions / scaling.original_max_positions);
  if (scaling.kind == Kind::kYarn) read_yarn(section, scaling);
  if (scaling.kind == Kind::kLongRope) read_longrope(section, config, scaling);
  if (scaling.kind == Kind::kDynamic && config.head_dim < 4) reader.fail("head_dim", "4 or more");
  if (scaling.kind == Kind::kLlama3) {
    for (const char* key : {"low_freq_factor", "high_freq_factor"}) {
      if (!section.has(key)) section.fail(key, "a number above 0");
    }
    scaling.low_freq_factor = section.positive("low_freq_factor", 1);
    scaling.high_freq_factor = section.positive("high_freq_factor", 4);
    if (scaling.high_freq_factor <= scaling.low_freq_factor) {
      section.fail("high_freq_factor", "more than low_freq_factor");
    }
  }
  return scaling;
}

/// Phi's heads may turn in part, no others.
void read_rotary_dim(const ConfigReader& reader, const std::optional<ConfigReader>& section,
                     ModelConfig& config) {
  const char* key = "partial_rotary_factor";
  const ConfigReader& place = section && section->has(key) ? *section : reader;
  const double factor = partial_rotary_factor(place);
  if (factor != 1 && !is_phi(config)) {
    place.fail(key, "1: only the heads of Phi 3 turn in part");
  }
  const auto turning = static_cast<uint32_t>(factor * config.head_dim);
  if (turning < 2 || turning % 2 != 0) {
    place.fail(key, "a part of the heads of an even number of elements");
  }
  if (turning != config.head_dim) config.rotary_dim = turning;
}

/// What "rope_parameters" says of layers that slide.
std::optional<ConfigReader> local_section(const ConfigReader& reader) {
  const auto parameters = reader.section("rope_parameters");
  return parameters ? parameters->section("sliding_attention") : std::nullopt;
}

/// Of the layers of Gemma 3 that slide: nothing scales theirs.
double read_local_theta(const ConfigReader& reader) {
  const double beside = reader.positive("rope_local_base_freq", 10000);
  const auto section = local_section(reader);
  if (!section) return beside;
  if (rope_type(*section) != "default") section->fail("rope_type", "default");
  if (partial_rotary_factor(*section) != 1) section->fail("partial_rotary_factor", "1");
  return section->positive("rope_theta", beside);
}

/// Refuses what heads cannot be turned by.
void check_rope(const ConfigReader& reader, const std::optional<ConfigReader>& section,
                const ModelConfig& config) {
  const auto fault = rope_fault(config);
  if (!fault) return;
  const auto fail = [&](const char* key) {
    (section && section->has(key) ? *section : reader).fail(key, fault->expected);
  };
  switch (fault->part) {
    case RopePart::kBase:
      fail("rope_theta");
      break;
    case RopePart::kLocalBase: {
      const auto local = local_section(reader);
      if (local && local->has("rope_theta")) local->fail("rope_theta", fault->expected);
      fail("rope_local_base_freq");
      break;
    }
    case RopePart::kScaling:
      fail(config.rope_scaling.kind == RopeScaling::Kind::kLongRope ? "short_factor" : "factor");
      break;
    case RopePart::kLongFactors:
      fail("long_factor");
      break;
    case RopePart::kAttention:
      fail(section && section->has("attention_factor") ? "attention_factor" : "mscale");
      break;
  }
}

/// Rotation, and how far it lets the context reach beyond max_position_embeddings.
void read_rope(const ConfigReader& reader, ModelConfig& config) {
  const bool local = config.architecture == kGemma3;
  config.rope_theta = reader.positive("rope_theta", local ? 1e6 : 10000);
  if (local) config.local_rope_theta = read_local_theta(reader);
  const auto section = rope_section(reader, local ? "full_attention" : nullptr);
  read_rotary_dim(reader, section, config);
  if (section) {
    config.rope_theta = section->positive("rope_theta", config.rope_theta);
    config.rope_scaling = read_rope_scaling(reader, *section, config);
    extend_context(config);
  }
  check_rope(reader, section, config);
}

void read_biases(const ConfigReader& reader, ModelConfig& config) {
  if (config.architecture == "Qwen2ForCausalLM") {
    config.qkv_bias = true;
  } else if (config.architecture != "MistralForCausalLM" && !is_phi(config)) {
    config.qkv_bias = config.output_bias = reader.flag("attention_bias", false);
  }
  if (config.architecture == "LlamaForCausalLM") config.mlp_bias = reader.flag("mlp_bias", false);
  config.qk_norm |= config.architecture == "Qwen3ForCausalLM";
}

/// What only Gemma's configurations say.
void read_gemma(const ConfigReader& reader, ModelConfig& config) {
  const std::string activation = reader.text("hidden_activation", "gelu_pytorch_tanh");
  if (activation != "gelu_pytorch_tanh") reader.fail("hidden_activation", "gelu_pytorch_tanh");
  if (reader.flag("use_bidirectional_attention", false)) {
    reader.fail("use_bidirectional_attention", "false: such a model reads texts, it writes none");
  }
  const double scalar = reader.positive("query_pre_attn_scalar", 256);
  if (scalar != config.head_dim) config.score_scale = static_cast<float>(1 / std::sqrt(scalar));
  const auto cap = [&](const char* key, double fallback) {
    if (reader.present(key) && !reader.has(key)) return 0.0f;  // null is none
    if (!reader.present(key)) return static_cast<float>(fallback);
    return static_cast<float>(reader.positive(key, 1));
  };
  const bool second = config.architecture == kGemma2;
  // Of Gemma 3 transformers reads it and never uses it.
  if (second) config.score_cap = cap("attn_logit_softcapping", 50);
  config.logit_cap = cap("final_logit_softcapping", second ? 30 : 0);
  config.norm_added = 1;
  add_gemma_ways(config);
}

void read_activation(const ConfigReader& reader) {
  const std::string activation = reader.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") reader.fail("hidden_act", "silu");
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

/// Every second layer of Gemma 2 slides, the first one first, and five of six of Gemma 3.
void read_gemma_window(const ConfigReader& reader, ModelConfig& config) {
  const uint32_t period = config.architecture == kGemma2
                              ? 2
                              : reader.natural("sliding_window_pattern", 1, UINT32_MAX, 6);
  config.sliding_layers = reader.has("layer_types") ? read_layer_types(reader, config.layers)
                                                    : all_but_every(period, config.layers);
  if (reader.present("sliding_window") && !reader.has("sliding_window")) {
    const auto& slides = config.sliding_layers;
    if (std::find(slides.begin(), slides.end(), true) == slides.end()) return;
    reader.fail("sliding_window", "a whole number, since layers slide");
  }
  config.sliding_window = reader.natural("sliding_window", 1, UINT32_MAX, 4096);
}

/// As transformers reads it: Llama knows no window; Mistral slides in every layer, or with
/// layer_types (which makes it a Ministral) in those; Qwen slides where use_sliding_window says so,
/// in the layers that layer_types names, else from max_window_layers on. A window that is not given
/// is 4096, and null is none.
void read_window(const ConfigReader& reader, ModelConfig& config) {
  constexpr uint32_t kDefaultWindow = 4096;
  constexpr uint32_t kDefaultMaxWindowLayers = 28;
  if (config.architecture == "LlamaForCausalLM") return;
  if (is_phi(config)) {  // all or none, and none is what nothing means
    if (!reader.has("sliding_window")) return;
    config.sliding_window = reader.natural("sliding_window", 1, UINT32_MAX);
    config.sliding_layers.assign(config.layers, true);
    return;
  }
  if (is_gemma(config)) return read_gemma_window(reader, config);
  const bool every_layer = config.architecture == "MistralForCausalLM";
  if (every_layer || reader.flag("use_sliding_window", false)) {
    if (!reader.present("sliding_window")) config.sliding_window = kDefaultWindow;
    if (reader.has("sliding_window")) {
      config.sliding_window = reader.natural("sliding_window", 1, UINT32_MAX);
    }
  }
  if (reader.has("layer_types")) {
    config.sliding_layers = read_layer_types(reader, config.layers);
    const auto& slides = config.sliding_layers;
    if (!config.sliding_window && std::find(slides.begin(), slides.end(), true) != slides.end()) {
      reader.fail("sliding_window", "a window and use_sliding_window, since layer_types wants one");
    }
  } else if (every_layer) {
    config.sliding_layers.assign(config.layers, true);
  } else {
    const uint32_t first = reader.has("max_window_layers")
                               ? reader.natural("max_window_layers", 0, UINT32_MAX)
                               : kDefaultMaxWindowLayers;
    for (uint32_t i = 0; i < config.layers; ++i) config.sliding_layers.push_back(i >= first);
  }
}

/// A token id or a list of them. Numbers that are no ids, -1 for one, are none of any token.
std::optional<std::vector<uint32_t>> token_list(const ConfigReader& reader,
                                                const std::string& key) {
  if (!reader.has(key)) return std::nullopt;
  std::vector<uint32_t> ids;
  const Json& value = reader.json()[key];
  for (const Json& item : value.is_array() ? value : Json::array({value})) {
    if (!item.is_number_integer()) reader.fail(key, "a token id or a list of them");
    if (item >= 0 && item < UINT32_MAX) ids.push_back(item.get<uint32_t>());
  }
  return ids;
}

}  // namespace

void extend_context(ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind != RopeScaling::Kind::kYarn && scaling.kind != RopeScaling::Kind::kDynamic) {
    return;
  }
  const double reach = std::floor(scaling.factor * scaling.original_max_positions);
  config.context =
      std::max(config.context, static_cast<uint32_t>(std::min(reach, double{kMaxContext})));
}

std::optional<RopeFault> rope_fault(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  const auto turns = [&](const RopeScaling& by, double theta, uint32_t length) {
    std::vector<float> speeds(config.rotary_pairs());
    rope_inverse_frequencies(by, theta, rope_regime(by, length), speeds);
    return std::all_of(speeds.begin(), speeds.end(), [&](float speed) {
      return std::isfinite(speed * static_cast<float>(config.context));
    });
  };
  constexpr const char* kFinite = "a number with which rotations stay finite";
  if (scaling.kind == RopeScaling::Kind::kYarn && config.rope_theta <= 1) {
    return RopeFault{RopePart::kBase, "more than 1"};
  }
  if (!turns({}, config.rope_theta, 1)) return RopeFault{RopePart::kBase, kFinite};
  if (config.local_rope_theta && !turns({}, *config.local_rope_theta, 1)) {
    return RopeFault{RopePart::kLocalBase, kFinite};
  }
  if (!turns(scaling, config.rope_theta, 1)) return RopeFault{RopePart::kScaling, kFinite};
  if (!turns(scaling, config.rope_theta, config.context)) {
    const bool lists = scaling.kind == RopeScaling::Kind::kLongRope;
    return RopeFault{lists ? RopePart::kLongFactors : RopePart::kScaling, kFinite};
  }
  if (!positive_float_fault(scaling.attention_factor).empty()) {
    return RopeFault{RopePart::kAttention, kFinite};
  }
  return std::nullopt;
}

bool is_phi(const ModelConfig& config) {
  return config.architecture == kPhi3;
}
bool is_gemma(const ModelConfig& config) {
  return config.architecture == kGemma2 || config.architecture == kGemma3;
}

void add_gemma_ways(ModelConfig& config) {
  config.gelu = config.post_norms = config.scaled_embeddings = true;
  config.qk_norm = config.architecture == kGemma3;
}

std::vector<bool> all_but_every(uint32_t period, uint32_t layers) {
  std::vector<bool> slides;
  for (uint32_t i = 0; i < layers; ++i) slides.push_back((i + 1) % period != 0);
  return slides;
}

std::string model_type_of(const std::string& architecture) {
  const auto found = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                  [&](const auto& entry) { return entry.name == architecture; });
  CHECK(found != kArchitectures.end());
  return std::string(found->type);
}

std::string supported_architectures() {
  std::string list;
  for (const NamedArchitecture& entry : kArchitectures) {
    list += fmt::format("{}{}", list.empty() ? "" : ", ", entry.name);
  }
  return list;
}

namespace {

/// A model of texts and images, of which the texts' part is computed.
bool has_text_part(const ConfigReader& reader) {
  const std::string name = listed_class(reader);
  return name == kGemma3Images ||
         (name.empty() && reader.text("model_type", "") == kGemma3ImagesType);
}

void refuse_quantized(const ConfigReader& reader) {
  if (!reader.has("quantization_config")) return;
  throw Error(
      fmt::format("{}: quantized checkpoints are not supported; use one with F32, F16 or "
                  "BF16 weights",
                  reader.where()));
}

ModelConfig parse_text_part(const ConfigReader& reader) {
  refuse_quantized(reader);
  const auto section = reader.section("text_config");
  if (!section) reader.fail("text_config", "an object");
  Json text = section->json();
  text["architectures"] = Json::array({kGemma3});
  text["model_type"] = "gemma3_text";
  ModelConfig config = parse_model_config(text, section->where());
  if (const auto ends = token_list(reader, "eos_token_id")) config.end_tokens = *ends;
  return config;
}

}  // namespace

ModelConfig parse_model_config(const Json& json, const std::string& where) {
  const ConfigReader reader(json, where);
  if (has_text_part(reader)) return parse_text_part(reader);
  ModelConfig config;
  config.architecture = read_architecture(reader);
  refuse_quantized(reader);
  constexpr uint64_t kMaxWidth = 1 << 20;
  config.layers = reader.natural("num_hidden_layers", 1, kMostLayers);
  config.hidden = reader.natural("hidden_size", 1, kMaxWidth);
  config.intermediate = reader.natural("intermediate_size", 1, kMaxWidth);
  // The configuration class of Gemma 3 has these, and its files may lack them.
  const bool gemma3 = config.architecture == kGemma3;
  const auto known = [&](uint32_t value) { return gemma3 ? std::optional(value) : std::nullopt; };
  config.heads = reader.natural("num_attention_heads", 1, kMostHeads, known(8));
  config.kv_heads =
      reader.natural("num_key_value_heads", 1, kMostHeads, is_gemma(config) ? 4 : config.heads);
  if (config.heads % config.kv_heads != 0) {
    reader.fail("num_key_value_heads", "a divisor of num_attention_heads");
  }
  if (reader.has("head_dim")) {
    config.head_dim = reader.natural("head_dim", 2, kMostHeadDim);
  } else if (config.architecture == "Qwen3ForCausalLM") {
    config.head_dim = 128;  // its configuration class says so
  } else if (is_gemma(config)) {
    config.head_dim = 256;
  } else {
    if (config.hidden % config.heads != 0) {
      reader.fail("hidden_size", "a multiple of num_attention_heads, or a head_dim");
    }
    config.head_dim = config.hidden / config.heads;
  }
  if (config.head_dim % 2 != 0 || config.head_dim > kMostHeadDim) {
    reader.fail("head_dim", fmt::format("an even number up to {}", kMostHeadDim));
  }
  if (uint64_t{config.heads} * config.head_dim > kMaxWidth) {
    reader.fail("num_attention_heads", fmt::format("heads * head_dim up to {}", kMaxWidth));
  }
  config.vocab = reader.natural("vocab_size", 1, 1 << 24, known(262208));
  config.context = reader.natural("max_position_embeddings", 1, kMaxContext, known(131072));
  config.rms_epsilon = reader.positive("rms_norm_eps", is_phi(config) ? 1e-5 : 1e-6);
  read_rope(reader, config);
  config.tied_embeddings = reader.flag("tie_word_embeddings", is_gemma(config));
  config.fused = is_phi(config);
  if (is_gemma(config)) {
    read_gemma(reader, config);
  } else {
    read_activation(reader);
  }
  read_biases(reader, config);
  read_window(reader, config);
  config.end_tokens = token_list(reader, "eos_token_id").value_or(std::vector<uint32_t>());
  return config;
}

ModelConfig load_model_config(const std::filesystem::path& directory) {
  const auto file = directory / "config.json";
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    throw Error(fmt::format("{}: {}; expected the folder of a Hugging Face checkpoint",
                            directory.string(),
                            error ? errno_text(error.value()) : "is no folder"));
  }
  const Json own = load_json_strict(file, kMaxConfigBytes, DuplicateKeys::kMayAgree);
  ModelConfig config = parse_model_config(own, file.string());
  const auto generation = directory / "generation_config.json";
  // Not exists(): what is there and cannot be read is no file that is absent.
  if (std::filesystem::symlink_status(generation, error).type() !=
      std::filesystem::file_type::not_found) {
    const Json json = load_json_strict(generation, kMaxConfigBytes, DuplicateKeys::kMayAgree);
    const auto ends = token_list(ConfigReader(json, generation.string()), "eos_token_id");
    if (ends) config.end_tokens = *ends;
  }
  return config;
}

}  // namespace spillway
