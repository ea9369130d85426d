// What GGUF files call the parts of a model, and how they order its rows: one place for who writes
// such files and who reads them. Names on this side are those of safetensors checkpoints. Pure
// functions.
//
// Conventions: ggml-org/llama.cpp, gguf-py/gguf/constants.py, tensor_mapping.py and
// convert_hf_to_gguf.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace spillway {

/// "blk.3.attn_q.weight" for "model.layers.3.self_attn.q_proj.weight"; names may lack the "model."
/// of the bare model. Empty for tensors that such a model does not have. Some names mean other
/// parts in some architectures, which are classes, "Gemma2ForCausalLM".
std::optional<std::string> gguf_tensor_name(const std::string& hf_name,
                                            std::string_view architecture);

/// general.architecture of a model of this class, "llama" for "LlamaForCausalLM"; Mistral is one.
/// Empty where the class is none of ours.
std::string_view gguf_architecture(std::string_view architecture);
/// The way back: "LlamaForCausalLM" for "llama"; empty where it is none of ours.
std::string_view hf_architecture(std::string_view gguf_architecture);

/// "gemma2, llama" and so on.
std::string supported_gguf_architectures();

/// What such files hold added to the weights of norms: 1 where a safetensors checkpoint has them
/// less 1.
float gguf_norm_added(std::string_view gguf_architecture);

/// Whether files of this general.architecture hold the rows of each head of Q and K (weights and
/// biases) in another order: those that a rotation turns together lie side by side.
bool gguf_interleaves_heads(std::string_view gguf_architecture);
/// Whether a tensor, by its name in a safetensors checkpoint, is one of them.
bool has_rotated_rows(std::string_view hf_name);
/// The row of the safetensors tensor that lies in row `row` of such a GGUF tensor.
constexpr uint64_t hf_row(uint64_t row, uint64_t head_dim) {
  const uint64_t in_head = row % head_dim;
  return row - in_head + in_head % 2 * (head_dim / 2) + in_head / 2;
}

/// Whether a tensor is a matrix of those that a model is multiplied by or looks tokens up in, which
/// bear few bits: of any architecture, one or a stack of one per expert. Not what picks experts,
/// nor positions, convolutions, states, and whatever has a name that is not known.
bool is_gguf_matrix(std::string_view gguf_name);

/// Factors that the speeds of rotation are divided by, one per pair: llama3's scaling, and the two
/// lists of longrope.
inline constexpr const char* kGgufRopeFactors = "rope_freqs.weight";
inline constexpr const char* kGgufRopeLong = "rope_factors_long.weight";
inline constexpr const char* kGgufRopeShort = "rope_factors_short.weight";

}  // namespace spillway
