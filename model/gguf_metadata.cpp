#include "model/gguf_metadata.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/float_number.h"
#include "model/gguf_config.h"
#include "model/gguf_names.h"

namespace spillway {
namespace {

constexpr uint32_t kQuantizationVersion = 2;

/// A flag per layer, as the format has them.
GgufMetadata::Value flags(const std::vector<bool>& values) {
  std::string bytes;
  for (const bool value : values) bytes += value ? '\1' : '\0';
  return {GgufType::kBool, true, std::move(bytes)};
}

[[noreturn]] void cannot_say(const char* what) {
  throw Error(fmt::format("a GGUF file has no key for {}; such a model stays as it is", what));
}

class ModelKeys {
 public:
  ModelKeys(const ModelConfig& config, GgufMetadata& metadata)
      : config_(config),
        metadata_(metadata),
        prefix_(std::string(gguf_architecture(config.architecture)) + ".") {}

  void set_all() const {
    set("block_count", config_.layers);
    set("context_length", config_.context);
    set("embedding_length", config_.hidden);
    set("feed_forward_length", config_.intermediate);
    set("vocab_size", config_.vocab);
    set("attention.head_count", config_.heads);
    set("attention.head_count_kv", config_.kv_heads);
    set("attention.layer_norm_rms_epsilon", static_cast<float>(config_.rms_epsilon));
    if (uint64_t{config_.head_dim} * config_.heads != config_.hidden || is_gemma(config_)) {
      set("attention.key_length", config_.head_dim);
      set("attention.value_length", config_.head_dim);
    }
    set("rope.dimension_count", 2 * config_.rotary_pairs());
    set("rope.freq_base", static_cast<float>(config_.rope_theta));
    if (config_.local_rope_theta) {
      set("rope.freq_base_swa", static_cast<float>(*config_.local_rope_theta));
    }
    set_scores();
    set_window();
    set_scaling();
  }

 private:
  void set(const char* key, GgufMetadata::Value value) const {
    metadata_.set(prefix_ + key, std::move(value));
  }

  void set_scores() const {
    if (config_.score_scale != usual_score_scale(config_)) {
      const float plain = 1 / std::sqrt(static_cast<float>(config_.head_dim));
      set("attention.scale", config_.score_scale != 0 ? config_.score_scale : plain);
    }
    // Nothing said would be Gemma 2's usual caps.
    const bool always = config_.architecture == "Gemma2ForCausalLM";
    if (always || config_.score_cap != 0) set("attn_logit_softcapping", config_.score_cap);
    if (always || config_.logit_cap != 0) set("final_logit_softcapping", config_.logit_cap);
  }

  void set_window() const {
    const auto& slides = config_.sliding_layers;
    if (!config_.sliding_window || std::find(slides.begin(), slides.end(), true) == slides.end()) {
      // Nothing said would be a usual window.
      if (is_gemma(config_) || is_phi(config_)) set("attention.sliding_window", uint32_t{0});
      return;
    }
    set("attention.sliding_window", *config_.sliding_window);
    if (slides == unlisted_windows(gguf_architecture(config_.architecture), config_.layers)) return;
    set("attention.sliding_window_pattern", flags(slides));
  }

  void set_scaling() const {
    using Kind = RopeScaling::Kind;
    const RopeScaling& scaling = config_.rope_scaling;
    switch (scaling.kind) {
      case Kind::kNone:
      case Kind::kLlama3:  // all of it is in the factors
      case Kind::kFactors:
        return;
      case Kind::kDynamic:
        cannot_say("dynamic rope scaling");
      case Kind::kLinear:
        set("rope.scaling.type", "linear");
        return set("rope.scaling.factor", static_cast<float>(scaling.factor));
      case Kind::kYarn:
        return set_yarn(scaling);
      case Kind::kLongRope:
        set("rope.scaling.type", "longrope");  // without a factor: others would divide by it, too
        set_original(scaling);
        return set("rope.scaling.attn_factor", static_cast<float>(scaling.attention_factor));
    }
  }

  void set_original(const RopeScaling& scaling) const {
    set("rope.scaling.original_context_length",
        static_cast<uint32_t>(std::lround(scaling.original_max_positions)));
  }

  /// Readers multiply by yarn's usual factor themselves: the key says what comes on top.
  void set_yarn(const RopeScaling& scaling) const {
    if (!scaling.truncate) cannot_say("yarn without truncation");
    set("rope.scaling.type", "yarn");
    set("rope.scaling.factor", static_cast<float>(scaling.factor));
    set_original(scaling);
    const double usual = yarn_attention_factor(scaling.factor, 0, 0);
    const double more = scaling.attention_factor / usual;
    if (!positive_float_fault(more).empty()) cannot_say("so small an attention factor");
    if (std::abs(more - 1) > 1e-6) set("rope.scaling.attn_factor", static_cast<float>(more));
    set("rope.scaling.yarn_beta_fast", static_cast<float>(scaling.beta_fast));
    set("rope.scaling.yarn_beta_slow", static_cast<float>(scaling.beta_slow));
  }

  const ModelConfig& config_;
  GgufMetadata& metadata_;
  std::string prefix_;
};

std::vector<float> as_floats(const std::vector<double>& values) {
  std::vector<float> floats;
  floats.reserve(values.size());
  for (const double value : values) floats.push_back(static_cast<float>(value));
  return floats;
}

}  // namespace

void describe_type(const MatrixType& type, GgufMetadata& metadata) {
  metadata.set("general.file_type", type.file_type);
  if (has_blocks(type.format)) metadata.set("general.quantization_version", kQuantizationVersion);
}

void describe_model(const ModelConfig& config, const std::string& name, const MatrixType& type,
                    GgufMetadata& metadata) {
  metadata.set("general.architecture", std::string(gguf_architecture(config.architecture)));
  metadata.set("general.type", "model");
  metadata.set("general.name", name);
  describe_type(type, metadata);
  ModelKeys(config, metadata).set_all();
}

std::vector<RopeFactors> rope_factors(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kLongRope) {
    return {{kGgufRopeLong, as_floats(scaling.long_factors)},
            {kGgufRopeShort, as_floats(scaling.short_factors)}};
  }
  if (scaling.kind == RopeScaling::Kind::kFactors) {
    return {{kGgufRopeFactors, as_floats(scaling.short_factors)}};
  }
  if (scaling.kind != RopeScaling::Kind::kLlama3) return {};
  return {{kGgufRopeFactors, llama3_factors(scaling, config.rope_theta, config.rotary_pairs())}};
}

void describe_part(uint32_t part, uint32_t parts, size_t all_tensors, GgufMetadata& metadata) {
  if (parts == 1) return;
  metadata.set("split.no", static_cast<uint16_t>(part));
  metadata.set("split.count", static_cast<uint16_t>(parts));
  metadata.set("split.tensors.count", static_cast<int32_t>(all_tensors));
}

GgufTensorSpec gguf_tensor(const ModelConfig& config, const WeightSpec& spec, WeightFormat format) {
  const auto name = gguf_tensor_name(spec.name, config.architecture);
  CHECK(name);
  if (spec.vector) return {*name, {spec.cols}, format};
  return {*name, {spec.cols, spec.rows}, format};
}

}  // namespace spillway
