#include "model/gguf_names.h"

#include <gtest/gtest.h>

#include <set>

#include "model/synthetic.h"
#include "model/weight_map.h"

namespace spillway {
namespace {

constexpr std::string_view kLlama = "LlamaForCausalLM";

TEST(GgufNames, Translates) {
  const std::pair<const char*, const char*> pairs[] = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"},
      {"model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"},
      {"model.layers.12.self_attn.q_proj.bias", "blk.12.attn_q.bias"},
      {"model.layers.12.self_attn.o_proj.weight", "blk.12.attn_output.weight"},
      {"model.layers.3.post_attention_layernorm.weight", "blk.3.ffn_norm.weight"},
      {"model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"},
  };
  for (const auto& [hf, gguf] : pairs) {
    EXPECT_EQ(gguf_tensor_name(hf, kLlama), gguf);
  }
  EXPECT_EQ(gguf_tensor_name("layers.3.mlp.up_proj.weight", kLlama), "blk.3.ffn_up.weight");
}

TEST(GgufNames, EveryWeightOfEveryPresetHasOne) {
  for (const std::string& preset : preset_names()) {
    ModelConfig config = preset_config(preset);
    config.output_bias = config.mlp_bias = config.qk_norm = config.qkv_bias = true;
    config.tied_embeddings = false;  // else the head is the table, named twice
    std::vector<WeightSpec> all = decoder_weights(config, 7);
    for (const WeightSpec& spec : head_weights(config)) all.push_back(spec);
    all.push_back(embedding_weight(config));
    std::set<std::string> names;
    for (const WeightSpec& spec : all) {
      if (spec.first_row > 0) continue;  // of the tensor before
      const auto name = gguf_tensor_name(spec.name, config.architecture);
      ASSERT_TRUE(name) << spec.name;
      EXPECT_TRUE(names.insert(*name).second) << *name;
    }
    EXPECT_FALSE(gguf_architecture(config.architecture).empty());
  }
}

TEST(GgufNames, OthersHaveNone) {
  for (const char* name :
       {"", "model", "weight", ".weight", "model.lm_head.weight", "model.layers.weight",
        "model.layers..mlp.up_proj.weight", "model.layers.x.mlp.up_proj.weight",
        "model.layers.1.self_attn.rotary_emb.inv_freq", "model.layers.1.mlp.experts.0.up.weight",
        "model.layers.1.embed_tokens.weight", "model.mlp.up_proj.weight"}) {
    EXPECT_FALSE(gguf_tensor_name(name, kLlama)) << name;
  }
}

TEST(GgufNames, FewBitsAreForWhatIsMultiplied) {
  for (const char* name :
       {"token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.12.attn_qkv.weight",
        "blk.3.ffn_down.weight", "blk.3.ffn_gate_exps.weight", "blk.3.ffn_up_shexp.weight",
        "blk.1.attn_kv_a_mqa.weight", "blk.1.ssm_in.weight", "enc.blk.0.attn_k.weight",
        "dec.blk.0.cross_attn_q.weight"}) {
    EXPECT_TRUE(is_gguf_matrix(name)) << name;
  }
  for (const char* name :
       {"", "output_norm.weight", "output.bias", "blk.0.attn_q.bias", "blk.0.attn_q_norm.weight",
        "blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_inp_shexp.weight", "position_embd.weight",
        "token_types.weight", "blk.0.ssm_conv1d.weight", "blk.0.ssm_a", "blk.0.ssm_dt.weight",
        "blk.0.shortconv.conv.weight", "blk.0.time_mix_w1.weight", "enc.blk.0.attn_rel_b.weight",
        "blk.0.attn_q_exps.weight", "rope_freqs.weight", "v.patch_embd.weight", "attn_q.weight"}) {
    EXPECT_FALSE(is_gguf_matrix(name)) << name;
  }
}

TEST(GgufNames, Architectures) {
  EXPECT_EQ(gguf_architecture("MistralForCausalLM"), "llama");
  EXPECT_EQ(hf_architecture("llama"), "LlamaForCausalLM");
  EXPECT_EQ(hf_architecture(gguf_architecture("Qwen3ForCausalLM")), "Qwen3ForCausalLM");
  EXPECT_EQ(gguf_architecture("GemmaForCausalLM"), "");
  EXPECT_TRUE(gguf_interleaves_heads("llama"));
  EXPECT_FALSE(gguf_interleaves_heads("qwen2"));
}

TEST(GgufNames, RotatedRowsLieSideBySide) {
  EXPECT_TRUE(has_rotated_rows("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_TRUE(has_rotated_rows("model.layers.0.self_attn.k_proj.bias"));
  EXPECT_FALSE(has_rotated_rows("model.layers.0.self_attn.v_proj.weight"));
  EXPECT_FALSE(has_rotated_rows("model.layers.0.self_attn.q_norm.weight"));
  // Two heads of 6: pairs are (0, 3), (1, 4), (2, 5).
  const uint64_t expected[] = {0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11};
  for (uint64_t row = 0; row < 12; ++row) EXPECT_EQ(hf_row(row, 6), expected[row]);
}

}  // namespace
}  // namespace spillway
