#include "model/gguf_names.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>

namespace spillway {
namespace {

struct NamePair {
  std::string_view hf;
  std::string_view gguf;
};

/// Of the model, without "model." and ".weight".
constexpr auto kModelParts = std::to_array<NamePair>({
    {"embed_tokens", "token_embd"},
    {"norm", "output_norm"},
    {"lm_head", "output"},
});
/// Of a layer, without its number and ".weight" or ".bias".
constexpr auto kLayerParts = std::to_array<NamePair>({
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"self_attn.o_proj", "attn_output"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
});
/// Of layers with norms after blocks, where they come first.
constexpr auto kPostNormParts = std::to_array<NamePair>({
    {"post_attention_layernorm", "post_attention_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
});
/// Of layers whose matrices are fused.
constexpr auto kFusedParts = std::to_array<NamePair>({
    {"self_attn.qkv_proj", "attn_qkv"},
    {"mlp.gate_up_proj", "ffn_up"},
});
constexpr std::string_view kHfLayers = "layers.";
constexpr std::string_view kGgufLayers = "blk.";
constexpr std::string_view kHead = "lm_head";

/// Of layers, of all architectures, without what follows "blk.3." and before ".weight".
constexpr auto kMatrices = std::to_array<std::string_view>({
    "attn_q",        "attn_k",       "attn_v",       "attn_qkv",
    "attn_output",   "attn_gate",    "attn_q_a",     "attn_q_b",
    "attn_kv_a_mqa", "attn_kv_b",    "attn_k_b",     "attn_v_b",
    "cross_attn_q",  "cross_attn_k", "cross_attn_v", "cross_attn_output",
    "ffn_gate",      "ffn_up",       "ffn_down",     "ssm_in",
    "ssm_out",
});
/// Behind those of a network of experts: all of them, or those that always take part.
constexpr auto kExperts = std::to_array<std::string_view>({"_exps", "_shexp", "_chexps"});
/// In front of "blk." where a model has two stacks of layers.
constexpr auto kStacks = std::to_array<std::string_view>({"enc.", "dec."});

constexpr auto kArchitectureNames = std::to_array<NamePair>({
    {"LlamaForCausalLM", "llama"},
    {"MistralForCausalLM", "llama"},
    {"Qwen2ForCausalLM", "qwen2"},
    {"Qwen3ForCausalLM", "qwen3"},
    {"Gemma2ForCausalLM", "gemma2"},
    {"Gemma3ForCausalLM", "gemma3"},
    {"Phi3ForCausalLM", "phi3"},
});

template <size_t N>
std::string_view find_name(const std::array<NamePair, N>& pairs, std::string_view name,
                           std::string_view NamePair::*from, std::string_view NamePair::*to) {
  const auto found = std::find_if(pairs.begin(), pairs.end(),
                                  [&](const NamePair& pair) { return pair.*from == name; });
  return found == pairs.end() ? std::string_view() : (*found).*to;
}

std::string_view find_layer_part(std::string_view architecture, std::string_view hf) {
  const auto gguf_of = [&](const auto& pairs) {
    return find_name(pairs, hf, &NamePair::hf, &NamePair::gguf);
  };
  std::string_view own;
  if (architecture.starts_with("Gemma")) own = gguf_of(kPostNormParts);
  if (architecture.starts_with("Phi3")) own = gguf_of(kFusedParts);
  return own.empty() ? gguf_of(kLayerParts) : own;
}

/// A name, with the part before ".weight" or ".bias" and with the layer's number and what comes
/// after it.
struct Parts {
  std::string_view layer;  ///< digits; empty outside of layers
  std::string_view stem;
  std::string_view kind;  ///< ".weight" or ".bias"
};

std::optional<Parts> split_name(std::string_view name, std::string_view layers) {
  Parts parts;
  const size_t last = name.rfind('.');
  if (last == std::string_view::npos) return std::nullopt;
  parts.kind = name.substr(last);
  if (parts.kind != ".weight" && parts.kind != ".bias") return std::nullopt;
  name = name.substr(0, last);
  if (name.starts_with(layers)) {
    name = name.substr(layers.size());
    const size_t end = name.find('.');
    if (end == std::string_view::npos || end == 0) return std::nullopt;
    parts.layer = name.substr(0, end);
    if (parts.layer.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
    name = name.substr(end + 1);
  }
  parts.stem = name;
  return parts;
}

}  // namespace

std::optional<std::string> gguf_tensor_name(const std::string& hf_name,
                                            std::string_view architecture) {
  constexpr std::string_view kPrefix = "model.";
  std::string_view name = hf_name;
  if (name.starts_with(kPrefix)) {
    name = name.substr(kPrefix.size());
    if (name.starts_with(kHead)) return std::nullopt;
  }
  const auto parts = split_name(name, kHfLayers);
  if (!parts) return std::nullopt;
  const bool in_layer = !parts->layer.empty();
  const std::string_view stem =
      in_layer ? find_layer_part(architecture, parts->stem)
               : find_name(kModelParts, parts->stem, &NamePair::hf, &NamePair::gguf);
  if (stem.empty()) return std::nullopt;
  std::string result;
  if (in_layer) result.append(kGgufLayers).append(parts->layer).append(".");
  return result.append(stem).append(parts->kind);
}

std::string_view gguf_architecture(std::string_view architecture) {
  return find_name(kArchitectureNames, architecture, &NamePair::hf, &NamePair::gguf);
}

std::string_view hf_architecture(std::string_view gguf_architecture) {
  return find_name(kArchitectureNames, gguf_architecture, &NamePair::gguf, &NamePair::hf);
}

std::string supported_gguf_architectures() {
  std::set<std::string_view> names;
  for (const NamePair& pair : kArchitectureNames) names.insert(pair.gguf);
  return fmt::format("{}", fmt::join(names, ", "));
}

float gguf_norm_added(std::string_view gguf_architecture) {
  return gguf_architecture.starts_with("gemma") ? 1 : 0;
}

bool gguf_interleaves_heads(std::string_view gguf_architecture) {
  return gguf_architecture == "llama";
}

bool is_gguf_matrix(std::string_view gguf_name) {
  for (const std::string_view stack : kStacks) {
    if (gguf_name.starts_with(stack)) gguf_name.remove_prefix(stack.size());
  }
  const auto parts = split_name(gguf_name, kGgufLayers);
  if (!parts || parts->kind != ".weight") return false;
  std::string_view stem = parts->stem;
  if (parts->layer.empty()) return stem == "token_embd" || stem == "output";
  for (const std::string_view experts : kExperts) {
    if (stem.starts_with("ffn_") && stem.ends_with(experts)) stem.remove_suffix(experts.size());
  }
  return std::find(kMatrices.begin(), kMatrices.end(), stem) != kMatrices.end();
}

bool has_rotated_rows(std::string_view hf_name) {
  const size_t last = hf_name.rfind('.');
  const std::string_view stem = hf_name.substr(0, last);
  return stem.ends_with(".self_attn.q_proj") || stem.ends_with(".self_attn.k_proj");
}

}  // namespace spillway
