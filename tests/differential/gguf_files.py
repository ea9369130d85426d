"""GGUF files through the gguf package: written from random models, and read back as the numbers that
a safetensors checkpoint of the same model would hold."""
import math

import gguf
import numpy

TYPES = gguf.GGMLQuantizationType
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2,
                 "qwen3": gguf.MODEL_ARCH.QWEN3}
# A format of smaller blocks for rows that are no whole number of the wanted ones.
SMALLER = {TYPES.Q2_K: TYPES.IQ4_NL, TYPES.Q3_K: TYPES.IQ4_NL, TYPES.IQ4_XS: TYPES.IQ4_NL,
           TYPES.Q4_K: TYPES.Q5_0, TYPES.Q5_K: TYPES.Q5_1, TYPES.Q6_K: TYPES.Q8_0}
# Where random blocks have their f16 scales, and what part of the first the second is, so that the
# mean is 0.
SCALES = {TYPES.Q2_K: ((80, 1), (82, 1.5)), TYPES.Q3_K: ((108, 1),), TYPES.Q4_K: ((0, 1), (2, 7.5)),
          TYPES.Q5_K: ((0, 1), (2, 15.5)), TYPES.Q6_K: ((208, 1),), TYPES.IQ4_NL: ((0, 1),),
          TYPES.IQ4_XS: ((0, 1),)}


def interleaved(kind):
    return kind == "llama"


def turns(name):
    return ".q_proj." in name or ".k_proj." in name


def side_by_side(rows, head_dim):
    """Rows of Q or K as the usual converter writes them for llama."""
    split = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return numpy.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def half_apart(rows, head_dim):
    split = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return numpy.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)


def head_dim_of(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def names_of(kind, layers):
    """Maps names of a safetensors checkpoint."""
    known = gguf.get_tensor_name_map(ARCHITECTURES[kind], layers)
    return lambda name: known.get_name(name, try_suffixes=(".weight", ".bias"))


# ---- writing

def random_blocks(rng, shape, kind, deviation):
    """Random in every bit but those of the scales, which give values of this deviation."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = shape[0] * shape[1] // block
    data = rng.integers(0, 256, (count, size), dtype=numpy.uint8)
    if kind == TYPES.MXFP4:  # its scale is a power of two alone
        data[:, 0] = 127 + math.floor(math.log2(deviation / 2.5)) + rng.integers(0, 2, count)
        return data.reshape(shape[0], -1)

    def set_scales(scales):
        for at, part in SCALES[kind]:
            data[:, at:at + 2] = (scales * part).astype(numpy.float16)[:, None].view(numpy.uint8)
    set_scales(numpy.full(count, 2.0 ** -8))
    unit = float(gguf.dequantize(data, kind).std()) * 2.0 ** 8
    set_scales(rng.uniform(0.5, 1.3, count) * rng.choice([-1, 1], count) * deviation / unit)
    return data.reshape(shape[0], -1)


def format_of(wanted, name, columns, config):
    """The type of a tensor in a file of type `wanted`, which may be the mix "Q4_K_M"."""
    kind = TYPES.Q4_K if wanted == "Q4_K_M" else TYPES[wanted]
    head = "embed_tokens" in name if config["tie_word_embeddings"] else "lm_head" in name
    if wanted == "Q4_K_M" and (head or "layers.0.self_attn.v_proj" in name
                               or "layers.1.mlp.down_proj" in name):
        kind = TYPES.Q6_K
    if columns % gguf.GGML_QUANT_SIZES[kind][0] != 0:
        kind = SMALLER.get(kind, TYPES.F16)
    return kind if columns % gguf.GGML_QUANT_SIZES[kind][0] == 0 else TYPES.F16


def encoded(rng, values, kind):
    """`values` in blocks where the package can make them, else random ones as large."""
    try:
        return gguf.quantize(values, kind)
    except NotImplementedError:
        return random_blocks(rng, values.shape, kind, float(values.std()))


def llama3_factors(config):
    """What speeds of rotation are divided by, as converters write it for llama3's scaling."""
    scaling, dim = config["rope_scaling"], head_dim_of(config)
    speeds = 1.0 / config["rope_theta"] ** (numpy.arange(0, dim, 2, dtype=numpy.float64) / dim)
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for length in 2 * math.pi / speeds:
        smooth = (original / length - low) / (high - low)
        smooth = min(1.0, max(0.0, smooth))
        factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return numpy.array(factors, dtype=numpy.float32)


def add_scaling(writer, config):
    scaling = config.get("rope_scaling")
    if not scaling:
        return
    if scaling["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
    writer.add_rope_scaling_factor(scaling["factor"])
    if scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def byte_tokens():
    """The 256 characters that stand for bytes in byte-level vocabularies."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]


def add_tokenizer(writer, vocab):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(byte_tokens() + ["ab"] + [f"w{i}" for i in range(257, vocab)])
    writer.add_token_types([gguf.TokenType.NORMAL] * vocab)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def write(path, config, tensors, wanted, seed):
    """A file of the named tensors (float32, as in a safetensors checkpoint) in format `wanted`."""
    rng = numpy.random.default_rng(seed)
    kind, dim = config["model_type"], head_dim_of(config)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if "head_dim" in config:
        writer.add_key_length(dim)
        writer.add_value_length(dim)
    if seed % 2 == 0:
        writer.add_rope_dimension_count(dim)
    add_tokenizer(writer, config["vocab_size"])
    add_scaling(writer, config)
    name_of = names_of(kind, config["num_hidden_layers"])
    order = sorted(tensors)
    rng.shuffle(order)
    for name in order:
        values = tensors[name]
        if interleaved(kind) and turns(name):
            values = side_by_side(values, dim)
        if values.ndim == 1:
            writer.add_tensor(name_of(name), values)
            continue
        stored = format_of(wanted, name, values.shape[1], config)
        writer.add_tensor(name_of(name), encoded(rng, values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- reading

def config_of(reader):
    """What config.json would say of a file's model, without scaled rotations."""
    def value(key, fallback=None):
        field = reader.fields.get(key)
        return fallback if field is None else field.contents()
    kind = value("general.architecture")
    heads = value(f"{kind}.attention.head_count")
    names = {t.name for t in reader.tensors}
    assert value(f"{kind}.rope.scaling.type", "none") == "none" and "rope_freqs.weight" not in names
    config = {
        "architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind,
        "hidden_size": value(f"{kind}.embedding_length"),
        "intermediate_size": value(f"{kind}.feed_forward_length"),
        "num_hidden_layers": value(f"{kind}.block_count"), "num_attention_heads": heads,
        "num_key_value_heads": value(f"{kind}.attention.head_count_kv", heads),
        "max_position_embeddings": value(f"{kind}.context_length"), "hidden_act": "silu",
        "rms_norm_eps": value(f"{kind}.attention.layer_norm_rms_epsilon"),
        "rope_theta": value(f"{kind}.rope.freq_base", 10000.0),
        "vocab_size": next(int(t.shape[1]) for t in reader.tensors if t.name == "token_embd.weight"),
        "tie_word_embeddings": "output.weight" not in names}
    if dim := value(f"{kind}.attention.key_length"):
        config["head_dim"] = dim
    return config


def tensors_of(reader, config, wanted):
    """{name: float32 values} for the names `wanted` of a safetensors checkpoint."""
    kind = config["model_type"]
    stored = {t.name: t for t in reader.tensors}
    name_of = names_of(kind, config["num_hidden_layers"])
    result = {}
    for name in wanted:
        tensor = stored.pop(name_of(name))
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        if interleaved(kind) and turns(name):
            values = half_apart(values, head_dim_of(config))
        result[name] = values
    left = set(stored) - {"rope_freqs.weight"}
    assert not left, f"tensors that the model has no place for: {left}"
    return result


def types_of(reader):
    """Types of the matrices, by how many there are."""
    counts = {}
    for tensor in reader.tensors:
        if len(tensor.shape) == 2:
            name = tensor.tensor_type.name
            counts[name] = counts.get(name, 0) + 1
    return counts
