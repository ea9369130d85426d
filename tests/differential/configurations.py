"""Random models, texts and ways to run the program, as plain data. The same seed gives the same."""
import random

# Kinds of RoPE, each as "rope_scaling" writes it. Lengths are small so that texts go beyond them.
ROPES = ("default", "default", "linear", "llama3", "yarn", "dynamic", "longrope")
ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
                 "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
DTYPES = ("f32", "bf16", "f16", "mixed")
CHUNKS = (1, 64, 512, 1024, 4096)
MIB = 1 << 20


def rope_of(rng, kind, head_dim, context):
    if kind == "default":
        return None
    scaling = {"rope_type": kind, "factor": rng.choice([1.5, 2.0, 4.0, 8.0])}
    original = max(16, int(context / scaling["factor"]))
    if kind == "llama3":
        scaling.update(low_freq_factor=rng.choice([1.0, 2.0]), high_freq_factor=4.0,
                       original_max_position_embeddings=rng.choice([32, 64, original]))
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = original
        if rng.random() < 0.3:
            scaling.update(beta_fast=rng.choice([16, 32.0]), beta_slow=rng.choice([1, 2.0]))
        if rng.random() < 0.3:
            scaling["attention_factor"] = rng.choice([1.0, 0.9, 1.2])
        elif rng.random() < 0.3:
            scaling.update(mscale=0.8, mscale_all_dim=rng.choice([1.0, 0.5]))
        if rng.random() < 0.2:
            scaling["truncate"] = False
    if kind == "longrope":
        del scaling["factor"]
        scaling["original_max_position_embeddings"] = original
        scaling["short_factor"] = [1 + 0.02 * i for i in range(head_dim // 2)]
        scaling["long_factor"] = [1 + rng.random() * i for i in range(head_dim // 2)]
        if rng.random() < 0.3:
            scaling["factor"] = context / original
    if rng.random() < 0.3:
        scaling["type"] = scaling.pop("rope_type")
    return scaling


def heads_of(rng):
    kv_heads = rng.choice([1, 1, 2, 2, 3, 4])
    group = rng.choice([1, 1, 2, 3, 4, 5, 8])
    return kv_heads * group, kv_heads


def model_config(rng):
    kind = rng.choice(list(ARCHITECTURES))
    heads, kv_heads = heads_of(rng)
    head_dim = rng.choice([8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 96, 128])
    while heads * head_dim > 640:
        head_dim = rng.choice([8, 16, 24, 32, 40])
    explicit = kind == "qwen3" or rng.random() < 0.4
    hidden = heads * rng.choice([8, 10, 12, 20, 25]) if explicit else heads * head_dim
    context = rng.choice([128, 512, 1024, 2048, 4096])
    config = {"architectures": [ARCHITECTURES[kind]], "model_type": kind, "hidden_size": hidden,
              "intermediate_size": rng.choice([rng.randrange(17, 500), 64 * rng.randrange(1, 9)]),
              "num_hidden_layers": rng.randrange(1, 6), "num_attention_heads": heads,
              "num_key_value_heads": kv_heads, "vocab_size": rng.randrange(40, 1500),
              "max_position_embeddings": context, "hidden_act": "silu",
              "rms_norm_eps": rng.choice([1e-6, 1e-5]),
              "rope_theta": rng.choice([10000.0, 500000.0, 1000000.0]),
              "tie_word_embeddings": rng.random() < 0.4, "bos_token_id": 1, "eos_token_id": 2}
    if explicit:
        config["head_dim"] = head_dim
    if kind in ("llama", "qwen3"):
        config["attention_bias"] = rng.random() < 0.4
    if kind == "llama":
        config["mlp_bias"] = rng.random() < 0.4
    config["rope_scaling"] = rope_of(rng, rng.choice(ROPES), head_dim, context)
    if config["rope_scaling"] is None and rng.random() < 0.5:
        del config["rope_scaling"]
    if "dynamic" in (config.get("rope_scaling") or {}).values():  # what it extends is the context
        config["max_position_embeddings"] = int(context / config["rope_scaling"]["factor"])
    add_window(rng, kind, config)
    return config


def context_of(config):
    """Positions that the model has: dynamic scaling adds to those of the configuration."""
    scaling = config.get("rope_scaling") or {}
    factor = scaling["factor"] if "dynamic" in scaling.values() else 1
    return int(config["max_position_embeddings"] * factor)


def add_window(rng, kind, config):
    window = rng.choice([1, 2, 15, 16, 17, 64, 100, 256])
    if kind == "mistral":
        # A missing key means 4096, as large as the longest context here.
        choice = rng.choice(["window", "window", "null", "absent"])
        if choice != "absent":
            config["sliding_window"] = window if choice == "window" else None
    if kind in ("qwen2", "qwen3"):
        config["sliding_window"] = rng.choice([window, None])
        config["use_sliding_window"] = config["sliding_window"] is not None and rng.random() < 0.7
        config["max_window_layers"] = rng.randrange(0, config["num_hidden_layers"] + 1)
        if config["use_sliding_window"] and rng.random() < 0.4:
            config["layer_types"] = [rng.choice(["full_attention", "sliding_attention"])
                                     for _ in range(config["num_hidden_layers"])]


def parameters(config):
    width = config["num_attention_heads"] * config.get(
        "head_dim", config["hidden_size"] // config["num_attention_heads"])
    layer = config["hidden_size"] * (3 * width + 3 * config["intermediate_size"])
    return config["num_hidden_layers"] * layer + config["vocab_size"] * config["hidden_size"]


def text_lengths(rng, config, tokens):
    """Lengths of texts, about `tokens` in all: full windows, many short ones, or any."""
    context = context_of(config)
    kind = rng.choice(["short", "short", "long", "mixed", "mixed"])
    if kind == "short":
        length = min(context, rng.choice([128, 256, 256]))
        return [length] * max(1, tokens // length)
    if kind == "long":
        return [min(context, tokens)] * max(1, tokens // max(context, 1500))
    lengths = [1, 2, min(384, context), min(128, context), min(384, context)]
    while sum(lengths) < tokens:
        lengths.append(min(rng.choice([2, 3, 15, 16, 17, 31, 33, 63, 65, 127, 200, 511, 513, 900]),
                           context))
    rng.shuffle(lengths)
    return lengths


def texts_of(rng, config):
    tokens = int(min(rng.choice([600, 1200, 2400, 2400, 5000]), max(1200, 3e9 / parameters(config))))
    ids = range(config["vocab_size"])
    return [rng.choices(ids, k=length) for length in text_lengths(rng, config, tokens)]


def prompts_of(rng, config):
    longest = min(context_of(config) - 20, 300)
    return [rng.choices(range(config["vocab_size"]), k=rng.randrange(1, longest))
            for _ in range(rng.choice([1, 2, 5, 33]))]


def draw_model(seed, index):
    """Model number `index` of a run: what it is, how it is stored, what is asked of it."""
    rng = random.Random(f"{seed} model {index}")
    config = model_config(rng)
    return {"config": config, "dtype": rng.choice(DTYPES), "shards": rng.randrange(1, 5),
            "style": rng.choice(["as saved", "as saved", "transformers 4"]),
            "layout": rng.choice(LAYOUTS), "weights": rng.randrange(1 << 30),
            "sharpness": rng.choice([1.0, 2.0, 4.0]), "texts": texts_of(rng, config),
            "prompts": prompts_of(rng, config), "new_tokens": rng.choice([8, 20])}


def draw_runs(drawn, seed, index):
    """Runs of one model: (name, texts, settings), a lone plain run of each chunk first."""
    rng = random.Random(f"{seed} runs {index}")
    runs = []
    for chunk in [512] + rng.sample([64, 1024, 1024, 4096], 2):
        runs.append((f"score-{len(runs)}", "ids", {**PLAIN, "score.chunk": chunk}))
        for _ in range(2):
            runs.append((f"score-{len(runs)}", "ids", draw_settings(rng, chunk)))
    runs.append((f"score-{len(runs)}", "few", {**PLAIN, "score.chunk": 1}))
    runs.append((f"score-{len(runs)}", "few", draw_settings(rng, 1)))
    if rng.random() < 0.3:
        window = rng.randrange(2, context_of(drawn["config"]) + 1)
        runs.append((f"score-{len(runs)}", "windows",
                     {**draw_settings(rng, rng.choice(CHUNKS[1:])), "score.context": window}))
    return runs


# How a checkpoint's tensors may be stored that transformers reads as the same model.
LAYOUTS = ("plain", "plain", "plain", "rotary buffers", "no prefix", "more layers")


PLAIN = {"device": "host", "memory.ram": "1GiB", "compute.threads": 1,
         "compute.prompt_math": "f32", "placement.policy": "ram"}


def draw_settings(rng, chunk):
    """Overrides of one run. A budget of "tight" is replaced by one just above the smallest."""
    settings = {"device": rng.choice(["host", "host-discrete"]), "score.chunk": chunk,
                "compute.threads": rng.randrange(1, 9), "compute.prompt_math": "f32",
                "placement.policy": rng.choice(["ram", "nvme", "auto", "auto"]),
                "memory.ram": "1GiB"}
    if settings["device"] == "host-discrete":
        settings["memory.gpu"] = rng.choice(["tight", "256MiB"])
    elif settings["placement.policy"] == "auto":
        settings["memory.ram"] = "tight"
    for key, values in (("stream.unit", ["64KiB", "256KiB"]), ("stream.slots", [2, 3]),
                        ("io.engine", ["pread", "io_uring"]), ("io.direct", ["off"]),
                        ("io.chunk", ["64KiB", "128KiB"]), ("io.depth", [1, 2, 32])):
        if rng.random() < 0.35:
            settings[key] = rng.choice(values)
    return settings
