#include "model/gguf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/one_line.h"
#include "model/float_number.h"
#include "model/gguf_names.h"
#include "text/gguf_tokenizer.h"

namespace spillway {
namespace {

constexpr uint64_t kWidest = 1 << 20;
constexpr size_t kMostShownColumns = 80;

/// Values below "llama." or whatever the architecture is called.
class KeyReader {
 public:
  KeyReader(const GgufMetadata& metadata, std::string architecture)
      : metadata_(metadata), prefix_(std::move(architecture) + ".") {}

  [[noreturn]] void fail(const std::string& key, const std::string& expected,
                         const std::string& got) const {
    throw Error(
        fmt::format("{}: {}: expected {}, got {}", metadata_.path(), prefix_ + key, expected, got));
  }
  std::optional<uint64_t> whole(const std::string& key) const {
    return metadata_.whole(prefix_ + key);
  }
  uint32_t natural(const std::string& key, std::optional<uint64_t> value, uint64_t low,
                   uint64_t high) const {
    const std::string expected = fmt::format("a whole number from {} to {}", low, high);
    if (!value) fail(key, expected, "nothing");
    if (*value < low || *value > high) fail(key, expected, std::to_string(*value));
    return static_cast<uint32_t>(*value);
  }
  uint32_t natural(const std::string& key, uint64_t low, uint64_t high) const {
    return natural(key, whole(key), low, high);
  }
  /// A number, or a list that has one for each layer: which all have to be the same.
  std::optional<uint64_t> same_in_layers(const std::string& key) const {
    if (!metadata_.is_array(prefix_ + key)) return whole(key);
    std::vector<int64_t> list;
    if (metadata_.length(prefix_ + key) <= kMostLayers) {
      list = metadata_.wholes(prefix_ + key).value();
    }
    const bool same =
        std::all_of(list.begin(), list.end(), [&](int64_t value) { return value == list.front(); });
    if (list.empty() || !same || list.front() < 0) {
      fail(key, "the same number in all layers (others are not supported)", "a list of others");
    }
    return static_cast<uint64_t>(list.front());
  }
  /// As the float that it is computed with.
  double positive(const std::string& key, double fallback) const {
    const auto value = metadata_.number(prefix_ + key);
    if (!value) return fallback;
    if (const auto expected = positive_float_fault(*value); !expected.empty()) {
      fail(key, std::string(expected), fmt::to_string(*value));
    }
    return double{static_cast<float>(*value)};
  }
  /// A list of `count` flags, or of as many 0 and 1, which some writers have for them; empty where
  /// there is no list.
  std::optional<std::vector<bool>> flags(const std::string& key, uint32_t count) const {
    const std::string name = prefix_ + key;
    if (!metadata_.is_array(name)) return std::nullopt;
    if (metadata_.length(name) != count) {
      fail(key, fmt::format("{} flags", count), std::to_string(metadata_.length(name)));
    }
    const GgufMetadata::Value& value = metadata_.values().find(name)->second;
    std::vector<bool> list;
    if (value.type == GgufType::kBool) {
      for (const char byte : value.bytes) list.push_back(byte != 0);
      return list;
    }
    const auto numbers = metadata_.wholes(name).value();
    for (const int64_t number : numbers) {
      if (number != 0 && number != 1) fail(key, "flags, or 0 and 1", std::to_string(number));
      list.push_back(number == 1);
    }
    return list;
  }
  std::optional<double> number(const std::string& key) const {
    return has(key) ? std::optional(positive(key, 1)) : std::nullopt;
  }
  double positive_or_zero(const std::string& key, double fallback) const {
    return metadata_.number(prefix_ + key) == 0 ? 0 : positive(key, fallback);
  }
  bool has(const std::string& key) const { return metadata_.has(prefix_ + key); }
  std::string text(const std::string& key, const std::string& fallback) const {
    return metadata_.text(prefix_ + key).value_or(fallback);
  }

 private:
  const GgufMetadata& metadata_;
  std::string prefix_;
};

uint32_t head_dim_of(const KeyReader& reader, const ModelConfig& config) {
  const auto key = reader.whole("attention.key_length");
  if (!key && config.hidden % config.heads != 0) {
    reader.fail("attention.head_count", "a divisor of embedding_length, or a key_length",
                std::to_string(config.heads));
  }
  const uint32_t head_dim =
      key ? reader.natural("attention.key_length", 2, kMostHeadDim) : config.hidden / config.heads;
  if (head_dim % 2 != 0 || head_dim > kMostHeadDim) {
    reader.fail("attention.key_length", fmt::format("an even number up to {}", kMostHeadDim),
                std::to_string(head_dim));
  }
  const auto must_be_head_dim = [&](const char* name) {
    const uint64_t other = reader.whole(name).value_or(head_dim);
    if (other != head_dim) {
      reader.fail(name, fmt::format("{}, the width of a head (others are not supported)", head_dim),
                  std::to_string(other));
    }
  };
  must_be_head_dim("attention.value_length");
  if (!is_phi(config)) must_be_head_dim("rope.dimension_count");
  return head_dim;
}

/// Phi's heads may turn in part.
uint32_t rotary_dim_of(const KeyReader& reader, const ModelConfig& config) {
  const char* key = "rope.dimension_count";
  const auto turning = reader.whole(key);
  if (!turning || *turning == config.head_dim) return 0;
  const uint32_t value = reader.natural(key, turning, 2, config.head_dim);
  if (value % 2 != 0) reader.fail(key, "an even number", std::to_string(value));
  return value;
}

/// Numbers of a small tensor, each above 0.
std::vector<double> numbers_of(const Checkpoint& checkpoint, const TensorEntry& entry,
                               uint64_t count) {
  const std::string& path = checkpoint.files()[entry.file].info().path;
  if (entry.format != WeightFormat::kF32 || entry.shape != std::vector<uint64_t>{count}) {
    throw Error(fmt::format("{}: tensor {}: expected {} numbers of F32", path, entry.name, count));
  }
  const std::string bytes = checkpoint.files()[entry.file].read_text(entry.offset, entry.bytes);
  std::vector<float> floats(count);
  decode_values(WeightFormat::kF32, reinterpret_cast<const std::byte*>(bytes.data()), count,
                floats.data());
  for (const float value : floats) {
    if (const auto expected = positive_float_fault(value); !expected.empty()) {
      throw Error(
          fmt::format("{}: tensor {}: expected {}, got {}", path, entry.name, expected, value));
    }
  }
  return {floats.begin(), floats.end()};
}

/// A tensor of factors, one per pair of a head.
std::vector<double> factors_of(const Checkpoint& checkpoint, const char* name,
                               const ModelConfig& config) {
  const TensorEntry* entry = checkpoint.find(name);
  if (entry == nullptr) {
    throw Error(
        fmt::format("{}: tensor {} is missing: rotations are scaled by two lists of factors",
                    checkpoint.path().string(), name));
  }
  return numbers_of(checkpoint, *entry, config.rotary_pairs());
}

/// Other programs would divide by both.
void refuse_factor_beside(const KeyReader& reader, const char* tensor, double factor) {
  if (factor == 1) return;
  reader.fail("rope.scaling.factor", fmt::format("none beside tensor {}", tensor),
              fmt::to_string(factor));
}

RopeScaling longrope_of(const KeyReader& reader, const Checkpoint& checkpoint,
                        const ModelConfig& config) {
  RopeScaling scaling;
  scaling.kind = RopeScaling::Kind::kLongRope;
  refuse_factor_beside(reader, kGgufRopeLong, reader.positive("rope.scaling.factor", 1));
  scaling.short_factors = factors_of(checkpoint, kGgufRopeShort, config);
  scaling.long_factors = factors_of(checkpoint, kGgufRopeLong, config);
  const char* original = "rope.scaling.original_context_length";
  scaling.original_max_positions = reader.natural(original, 2, 1u << 30);
  scaling.factor = config.context / scaling.original_max_positions;
  scaling.attention_factor =
      reader.positive("rope.scaling.attn_factor",
                      longrope_attention_factor(scaling.factor, scaling.original_max_positions));
  return scaling;
}

RopeScaling rope_scaling_of(const KeyReader& reader, const Checkpoint& checkpoint,
                            const ModelConfig& config) {
  using Kind = RopeScaling::Kind;
  const bool has_factors = checkpoint.has(kGgufRopeFactors);
  if (!has_factors && (checkpoint.has(kGgufRopeLong) || checkpoint.has(kGgufRopeShort))) {
    return longrope_of(reader, checkpoint, config);
  }
  RopeScaling scaling;
  const double linear = reader.positive("rope.scale_linear", 1);  // older files
  const std::string name = reader.text("rope.scaling.type", "linear");
  if (name != "none" && name != "linear" && name != "yarn") {
    reader.fail("rope.scaling.type", "none, linear or yarn",
                cut_middle(printable(name), kMostShownColumns));
  }
  scaling.factor = reader.positive("rope.scaling.factor", linear);
  const bool scales = name != "none" && scaling.factor != 1;
  if (has_factors) {
    if (scales) refuse_factor_beside(reader, kGgufRopeFactors, scaling.factor);
    scaling.kind = Kind::kFactors;
    scaling.short_factors = factors_of(checkpoint, kGgufRopeFactors, config);
  } else if (!scales) {
    return scaling;
  } else if (name == "linear") {
    scaling.kind = Kind::kLinear;
  } else {
    scaling.kind = Kind::kYarn;
    const char* original = "rope.scaling.original_context_length";
    scaling.original_max_positions =
        reader.has(original) ? reader.natural(original, 1, 1u << 30) : config.context;
    scaling.attention_factor = reader.positive("rope.scaling.attn_factor", 1) *
                               yarn_attention_factor(scaling.factor, 0, 0);
    scaling.beta_fast = reader.positive("rope.scaling.yarn_beta_fast", 32);
    scaling.beta_slow = reader.positive("rope.scaling.yarn_beta_slow", 1);
  }
  return scaling;
}

/// Refuses what heads cannot be turned by.
void check_rope(const KeyReader& reader, const Checkpoint& checkpoint, const ModelConfig& config) {
  const auto fault = rope_fault(config);
  if (!fault) return;
  const auto fail = [&](const char* key, double got) {
    reader.fail(key, fault->expected, fmt::to_string(got));
  };
  const auto fail_tensor = [&](const char* name) {
    throw Error(fmt::format("{}: tensor {}: expected factors with which rotations stay finite",
                            checkpoint.path().string(), name));
  };
  using Kind = RopeScaling::Kind;
  const RopeScaling& scaling = config.rope_scaling;
  switch (fault->part) {
    case RopePart::kBase:
      return fail("rope.freq_base", config.rope_theta);
    case RopePart::kLocalBase:
      return fail("rope.freq_base_swa", *config.local_rope_theta);
    case RopePart::kScaling:
      if (scaling.kind == Kind::kFactors) return fail_tensor(kGgufRopeFactors);
      if (scaling.kind == Kind::kLongRope) return fail_tensor(kGgufRopeShort);
      return fail(reader.has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear",
                  scaling.factor);
    case RopePart::kLongFactors:
      return fail_tensor(kGgufRopeLong);
    case RopePart::kAttention:
      return fail("rope.scaling.attn_factor", scaling.attention_factor);
  }
}

std::string read_gguf_architecture(const GgufMetadata& metadata) {
  const auto name = metadata.text("general.architecture");
  if (!name) {
    throw Error(
        fmt::format("{}: general.architecture: expected a name, got nothing; the file holds "
                    "no model, or is another part of a split",
                    metadata.path()));
  }
  if (hf_architecture(*name).empty()) {
    throw Error(fmt::format("{}: architecture {} is not supported; supported are {}",
                            metadata.path(), cut_middle(printable(*name), kMostShownColumns),
                            supported_gguf_architectures()));
  }
  return *name;
}

bool has_bias(const Checkpoint& checkpoint, const char* part) {
  return checkpoint.has(fmt::format("blk.0.{}.bias", part));
}

/// A list of flags, or the number of layers of which the last does not slide. Such a number counts
/// for Gemma alone: of other models no program reads it.
std::optional<std::vector<bool>> listed_windows(const KeyReader& reader,
                                                const ModelConfig& config) {
  const char* key = "attention.sliding_window_pattern";
  if (const auto list = reader.flags(key, config.layers)) {
    return list;
  }
  const auto period = reader.whole(key);
  if (!period || !is_gemma(config)) return std::nullopt;
  return all_but_every(reader.natural(key, period, 1, UINT32_MAX), config.layers);
}

/// Of the first files of an architecture, which do not say it. Phi 3's are known by their size.
uint32_t unsaid_window(const std::string& architecture, const ModelConfig& config) {
  if (architecture == "gemma2") return 4096;
  const bool first_phi =
      is_phi(config) && config.context == 4096 && (config.layers == 32 || config.layers == 40);
  return first_phi ? 2047 : 0;
}

void read_windows(const KeyReader& reader, const std::string& architecture, ModelConfig& config) {
  const char* key = "attention.sliding_window";
  const auto listed = listed_windows(reader, config);
  const uint64_t window = reader.whole(key).value_or(unsaid_window(architecture, config));
  if (window == 0) return;
  const auto slides = listed.value_or(unlisted_windows(architecture, config.layers));
  if (slides.empty()) return;
  if (is_phi(config) && std::find(slides.begin(), slides.end(), false) != slides.end()) {
    reader.fail("attention.sliding_window_pattern",
                "nothing, or 1 for all layers, since all of such a model slide", "a list with 0");
  }
  config.sliding_window = reader.natural(key, window, 1, UINT32_MAX);
  config.sliding_layers = slides;
}

void read_scores(const KeyReader& reader, ModelConfig& config) {
  if (const auto scale = reader.number("attention.scale")) {
    config.score_scale = static_cast<float>(*scale);
  } else {
    config.score_scale = usual_score_scale(config);
  }
  if (config.score_scale == 1 / std::sqrt(static_cast<float>(config.head_dim))) {
    config.score_scale = 0;
  }
  // The first files of Gemma 2 do not say what its caps are.
  const bool second = config.architecture == "Gemma2ForCausalLM";
  const auto cap = [&](const char* key, double usual) {
    return static_cast<float>(reader.positive_or_zero(key, second ? usual : 0));
  };
  if (second) config.score_cap = cap("attn_logit_softcapping", 50);
  config.logit_cap = cap("final_logit_softcapping", 30);
}

void read_shapes(const KeyReader& reader, const Checkpoint& checkpoint, ModelConfig& config) {
  config.layers = reader.natural("block_count", 1, kMostLayers);
  config.hidden = reader.natural("embedding_length", 1, kWidest);
  config.intermediate = reader.natural("feed_forward_length",
                                       reader.same_in_layers("feed_forward_length"), 1, kWidest);
  const auto heads = reader.same_in_layers("attention.head_count");
  config.heads = reader.natural("attention.head_count", heads, 1, kMostHeads);
  const auto kv_heads = reader.same_in_layers("attention.head_count_kv");
  config.kv_heads =
      reader.natural("attention.head_count_kv", kv_heads ? kv_heads : heads, 1, kMostHeads);
  if (config.heads % config.kv_heads != 0) {
    reader.fail("attention.head_count_kv", "a divisor of attention.head_count",
                std::to_string(config.kv_heads));
  }
  config.head_dim = head_dim_of(reader, config);
  if (uint64_t{config.heads} * config.head_dim > kWidest) {
    reader.fail("attention.head_count", fmt::format("heads * key_length up to {}", kWidest),
                std::to_string(config.heads));
  }
  const TensorEntry* table = checkpoint.find("token_embd.weight");
  if (table == nullptr || table->shape.size() != 2) {
    throw Error(
        fmt::format("{}: tensor token_embd.weight is missing or no matrix; the file holds no "
                    "whole model",
                    checkpoint.path().string()));
  }
  config.vocab = reader.natural("vocab_size", table->shape[0], 1, 1 << 24);
  config.context = reader.natural("context_length", 1, 1u << 30);
}

}  // namespace

ModelConfig gguf_model_config(const Checkpoint& checkpoint) {
  const GgufMetadata& metadata = *checkpoint.metadata();
  const std::string architecture = read_gguf_architecture(metadata);
  const KeyReader reader(metadata, architecture);
  ModelConfig config;
  config.architecture = hf_architecture(architecture);
  if (reader.whole("expert_count").value_or(0) > 0) {
    throw Error(fmt::format("{}: {}.expert_count: mixtures of experts are not supported",
                            metadata.path(), architecture));
  }
  read_shapes(reader, checkpoint, config);
  config.rms_epsilon = reader.positive("attention.layer_norm_rms_epsilon", 1e-6);
  const bool gemma3 = architecture == "gemma3";
  if (is_gemma(config)) add_gemma_ways(config);
  if (is_gemma(config)) read_scores(reader, config);
  config.fused = is_phi(config);
  if (config.fused) config.rotary_dim = rotary_dim_of(reader, config);
  config.rope_theta = reader.positive("rope.freq_base", gemma3 ? 1e6 : 10000);
  if (gemma3) config.local_rope_theta = reader.positive("rope.freq_base_swa", 10000);
  config.rope_scaling = rope_scaling_of(reader, checkpoint, config);
  extend_context(config);
  check_rope(reader, checkpoint, config);
  config.tied_embeddings = !checkpoint.has("output.weight");
  config.qkv_bias = has_bias(checkpoint, "attn_q");
  config.output_bias = has_bias(checkpoint, "attn_output");
  config.mlp_bias = has_bias(checkpoint, "ffn_gate");
  config.qk_norm |= architecture == "qwen3";
  config.interleaved_heads = gguf_interleaves_heads(architecture);
  read_windows(reader, architecture, config);
  config.end_tokens = gguf_end_tokens(metadata);
  return config;
}

/// Llama's files are of Mistral's models, too, which slide in every layer, as Phi 3 does; Qwen's
/// name a window that none of their layers has.
std::vector<bool> unlisted_windows(std::string_view gguf_architecture, uint32_t layers) {
  if (gguf_architecture == "gemma2") return all_but_every(2, layers);
  if (gguf_architecture == "gemma3") return all_but_every(6, layers);
  const bool every = gguf_architecture == "llama" || gguf_architecture == "phi3";
  return every ? std::vector<bool>(layers, true) : std::vector<bool>();
}

/// The largest Gemma of either kind, known by its layers, shares the width among its heads.
float usual_score_scale(const ModelConfig& config) {
  const bool largest = (config.architecture == "Gemma2ForCausalLM" && config.layers == 46) ||
                       (config.architecture == "Gemma3ForCausalLM" && config.layers == 62);
  if (!largest || config.hidden == config.heads * config.head_dim) return 0;
  const double share = static_cast<double>(config.hidden) / config.heads;
  return static_cast<float>(1 / std::sqrt(share));
}

}  // namespace spillway
