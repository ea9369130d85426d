#!/usr/bin/env python3
"""Writes a Llama checkpoint as a GGUF file of the same weights, for llama.cpp.

    gguf_from_safetensors.py MODEL_DIR OUT.gguf

No vocabulary: the measurements feed token ids. Needs numpy and gguf.
"""
import json
import pathlib
import sys

import gguf
import numpy as np

DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
TYPES = {"BF16": gguf.GGMLQuantizationType.BF16, "F16": gguf.GGMLQuantizationType.F16,
         "F32": gguf.GGMLQuantizationType.F32}
LAYER_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down"}
OTHER_NAMES = {"model.embed_tokens.weight": "token_embd.weight",
               "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def tensors_of(file):
    """Name, dtype and mapped values of every tensor of a safetensors file."""
    with open(file, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    for name, item in header.items():
        if name == "__metadata__":
            continue
        begin, end = item["data_offsets"]
        dtype = np.dtype(DTYPES[item["dtype"]])
        values = np.memmap(file, dtype=dtype, mode="r", offset=8 + size + begin,
                           shape=((end - begin) // dtype.itemsize,))
        yield name, item["dtype"], values.reshape(item["shape"])


def gguf_name(name):
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    _, _, layer, rest = name.split(".", 3)  # model.layers.N.rest.weight
    return f"blk.{layer}.{LAYER_NAMES[rest.rsplit('.', 1)[0]]}.weight"


def interleaved(values, heads):
    """llama.cpp rotates neighbouring rows of a head where Hugging Face rotates halves."""
    rows, cols = values.shape
    return values.reshape(heads, 2, rows // heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def as_f32(values, dtype):
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def add_header(writer, config):
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_theta") or config.get("rope_parameters", {}).get("rope_theta", 10000.0)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def main():
    folder, out = pathlib.Path(sys.argv[1]), sys.argv[2]
    config = json.loads((folder / "config.json").read_text())
    if config["architectures"] != ["LlamaForCausalLM"]:
        sys.exit(f"{folder}: only LlamaForCausalLM is converted, not {config['architectures']}")
    writer = gguf.GGUFWriter(out, "llama", use_temp_file=False)
    add_header(writer, config)
    heads = {"q_proj": config["num_attention_heads"],
             "k_proj": config.get("num_key_value_heads", config["num_attention_heads"])}
    for file in sorted(folder.glob("*.safetensors")):
        for name, dtype, values in tensors_of(file):
            if values.ndim == 1:
                writer.add_tensor(gguf_name(name), as_f32(values, dtype))
                continue
            kind = next((h for h in heads if h in name), None)
            if kind:
                values = interleaved(values, heads[kind])
            raw = values.view(np.uint8).reshape(values.shape[0], -1)
            writer.add_tensor(gguf_name(name), raw, raw_dtype=TYPES[dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=False)
    writer.close()


if __name__ == "__main__":
    main()
