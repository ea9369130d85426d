#!/usr/bin/env python3
"""Every architecture and variant against a forward pass written plainly in Python, in double
precision, on small random checkpoints. Usage: reference_test.py SPILLWAY_BINARY DEVICE"""
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unittest

SPILLWAY = ""
DEVICE = "host"
SEED = int(os.environ.get("SPILLWAY_SEED", random.randrange(1 << 30)))


def config_of(architecture, **extra):
    config = {"architectures": [architecture], "hidden_size": 48, "intermediate_size": 80,
              "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
              "head_dim": 16, "vocab_size": 150, "max_position_embeddings": 64,
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False}
    config.update(extra)
    return config


def tensors_of(config, rng):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q_width = config["num_attention_heads"] * config["head_dim"]
    kv_width = config["num_key_value_heads"] * config["head_dim"]
    architecture = config["architectures"][0]
    qkv_bias = architecture.startswith("Qwen2") or config.get("attention_bias", False)
    tensors = {}

    def matrix(name, rows, columns, bias=False):
        tensors[name + ".weight"] = [[rng.gauss(0, 0.15) for _ in range(columns)]
                                     for _ in range(rows)]
        if bias:
            tensors[name + ".bias"] = [rng.gauss(0, 0.3) for _ in range(rows)]

    gemma = architecture.startswith("Gemma")

    def norm(name, size):
        middle = 0 if gemma else 1
        tensors[name + ".weight"] = [middle + rng.gauss(0, 0.2) for _ in range(size)]

    matrix("model.embed_tokens", config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        norm(prefix + "input_layernorm", hidden)
        norm(prefix + "post_attention_layernorm", hidden)
        if gemma:
            norm(prefix + "pre_feedforward_layernorm", hidden)
            norm(prefix + "post_feedforward_layernorm", hidden)
        matrix(prefix + "self_attn.q_proj", q_width, hidden, qkv_bias)
        matrix(prefix + "self_attn.k_proj", kv_width, hidden, qkv_bias)
        matrix(prefix + "self_attn.v_proj", kv_width, hidden, qkv_bias)
        matrix(prefix + "self_attn.o_proj", hidden, q_width, config.get("attention_bias", False))
        if architecture.startswith(("Qwen3", "Gemma3")):
            norm(prefix + "self_attn.q_norm", config["head_dim"])
            norm(prefix + "self_attn.k_norm", config["head_dim"])
        for name, rows, columns in (("gate", inner, hidden), ("up", inner, hidden),
                                    ("down", hidden, inner)):
            matrix(prefix + f"mlp.{name}_proj", rows, columns, config.get("mlp_bias", False))
    norm("model.norm", hidden)
    if not config["tie_word_embeddings"]:
        matrix("lm_head", config["vocab_size"], hidden)
    return tensors


def write_checkpoint(folder, config, tensors):
    (folder / "config.json").write_text(json.dumps(config))
    header, payload = {}, bytearray()
    for name, value in tensors.items():
        rows = value if isinstance(value[0], list) else [value]
        begin = len(payload)
        for row in rows:
            payload += struct.pack(f"<{len(row)}f", *row)
        shape = [len(rows), len(rows[0])] if isinstance(value[0], list) else [len(value)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(payload)]}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + payload)


def rms_norm(x, weight, epsilon):
    scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + epsilon)
    return [v * scale * w for v, w in zip(x, weight)]


def fused(config, tensors):
    """As Phi 3 stores them: rows of Q, K and V in one tensor, of gate and up in another."""
    result = dict(tensors)
    for layer in range(config["num_hidden_layers"]):
        for prefix, parts, name in (("self_attn.", ("q_proj", "k_proj", "v_proj"), "qkv_proj"),
                                    ("mlp.", ("gate_proj", "up_proj"), "gate_up_proj")):
            prefix = f"model.layers.{layer}.{prefix}"
            result[f"{prefix}{name}.weight"] = [
                row for part in parts for row in result.pop(f"{prefix}{part}.weight")]
    return result


def capped(x, cap):
    return x if cap is None else cap * math.tanh(x / cap)


class Reference:
    def __init__(self, config, tensors):
        self.config = config
        self.gemma = config["architectures"][0].startswith("Gemma")
        added = 1 if self.gemma else 0
        self.tensors = {name: [w + added for w in values] if name.endswith("norm.weight") else values
                        for name, values in tensors.items()}

    def activation(self, x):
        if not self.gemma:
            return x / (1 + math.exp(-x))
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))

    def score_scale(self):
        return 1 / math.sqrt(self.config.get("query_pre_attn_scalar", self.config["head_dim"]))

    def linear(self, name, x):
        y = [sum(w * v for w, v in zip(row, x)) for row in self.tensors[name + ".weight"]]
        bias = self.tensors.get(name + ".bias")
        return y if bias is None else [a + b for a, b in zip(y, bias)]

    def scaling(self):
        return self.config.get("rope_scaling") or self.config.get("rope_parameters") or {}

    def rotation(self, length, layer):
        if self.config["architectures"][0].startswith("Gemma3") and self.window(layer) is not None:
            size, theta = self.config["head_dim"], self.config["rope_local_base_freq"]
            return [theta ** (-2 * i / size) for i in range(size // 2)], 1
        return self.scaled_rotation(length)

    def scaled_rotation(self, length):
        """Radians per position of every pair in a text of this length, and what multiplies cosines
        and sines."""
        size, scaling = self.config["head_dim"], self.scaling()
        size = int(size * self.config.get("partial_rotary_factor", 1))
        theta = scaling.get("rope_theta", self.config.get("rope_theta"))
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        most = self.config["max_position_embeddings"]
        if kind == "dynamic" and length > most:
            factor = scaling["factor"]
            theta *= (factor * length / most - (factor - 1)) ** (size / (size - 2))
        result = [theta ** (-2 * i / size) for i in range(size // 2)]
        if kind == "linear":
            return [f / scaling["factor"] for f in result], 1
        if kind == "llama3":
            return self.llama3(result, scaling), 1
        if kind == "yarn":
            return self.yarn(result, theta, scaling)
        if kind == "longrope":
            original = scaling["original_max_position_embeddings"]
            factors = scaling["long_factor" if length > original else "short_factor"]
            mscale = math.sqrt(1 + math.log(most / original) / math.log(original))
            return [f / x for f, x in zip(result, factors)], mscale
        return result, 1

    def yarn(self, plain, theta, scaling):
        size, factor = self.config["head_dim"], scaling["factor"]
        original = scaling["original_max_position_embeddings"]

        def pair_that_turns(times):
            return size * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

        low = max(math.floor(pair_that_turns(scaling.get("beta_fast", 32))), 0)
        high = min(math.ceil(pair_that_turns(scaling.get("beta_slow", 1))), size - 1)
        result = []
        for i, f in enumerate(plain):
            keep = 1 - min(max((i - low) / (high - low), 0), 1)
            result.append(f * keep + f / factor * (1 - keep))
        mscale = scaling.get("attention_factor", 0.1 * math.log(factor) + 1)
        return result, mscale

    def llama3(self, result, scaling):
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        original, factor = scaling["original_max_position_embeddings"], scaling["factor"]

        def scaled(f):
            wavelength = 2 * math.pi / f
            if wavelength < original / high:
                return f
            if wavelength > original / low:
                return f / factor
            smooth = (original / wavelength - low) / (high - low)
            return (1 - smooth) * f / factor + smooth * f

        return [scaled(f) for f in result]

    def heads(self, name, norm_name, x, count, position, rotation):
        flat = self.linear(name, x)
        size = self.config["head_dim"]
        result = []
        for h in range(count):
            head = flat[h * size:(h + 1) * size]
            weight = self.tensors.get(norm_name + ".weight")
            if weight:
                head = rms_norm(head, weight, self.config["rms_norm_eps"])
            if position is not None:
                turned = list(head)
                frequencies, scale = rotation
                half = len(frequencies)
                for i, f in enumerate(frequencies):
                    c, s = scale * math.cos(position * f), scale * math.sin(position * f)
                    turned[i] = head[i] * c - head[i + half] * s
                    turned[i + half] = head[i + half] * c + head[i] * s
                head = turned
            result.append(head)
        return result

    def window(self, layer):
        """Positions that a row sees in this layer, its own among them; None: all."""
        config = self.config
        architecture = config["architectures"][0]
        if architecture.startswith("Llama") or config.get("sliding_window") is None:
            return None
        if architecture.startswith(("Mistral", "Phi3")):
            return config["sliding_window"]
        if architecture.startswith("Gemma"):
            period = 2 if architecture.startswith("Gemma2") else config["sliding_window_pattern"]
            return config["sliding_window"] if (layer + 1) % period else None
        if not config.get("use_sliding_window", False):
            return None
        types = config.get("layer_types") or [
            "sliding_attention" if i >= config["max_window_layers"] else "full_attention"
            for i in range(config["num_hidden_layers"])]
        return config["sliding_window"] if types[layer] == "sliding_attention" else None

    def attention(self, prefix, xs, layer):
        window, cap = self.window(layer), self.config.get("attn_logit_softcapping")
        heads, kv = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        keys, values, outputs = [], [], []
        turns = self.rotation(len(xs), layer)
        for position, x in enumerate(xs):
            q = self.heads(prefix + "q_proj", prefix + "q_norm", x, heads, position, turns)
            keys.append(self.heads(prefix + "k_proj", prefix + "k_norm", x, kv, position, turns))
            values.append(self.heads(prefix + "v_proj", "", x, kv, None, None))
            first = 0 if window is None else max(0, position - window + 1)
            seen_keys, seen_values = keys[first:], values[first:]
            mixed = []
            for h in range(heads):
                group = h // (heads // kv)
                scores = [capped(sum(a * b for a, b in zip(q[h], k[group])) * self.score_scale(), cap)
                          for k in seen_keys]
                top = max(scores)
                weights = [math.exp(s - top) for s in scores]
                total = sum(weights)
                mixed += [sum(w * v[group][d] for w, v in zip(weights, seen_values)) / total
                          for d in range(self.config["head_dim"])]
            outputs.append(self.linear(prefix + "o_proj", mixed))
        return outputs

    def logprobs(self, ids):
        epsilon = self.config["rms_norm_eps"]
        scale = math.sqrt(self.config["hidden_size"]) if self.gemma else 1
        xs = [[scale * v for v in self.tensors["model.embed_tokens.weight"][i]] for i in ids]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            normed = [rms_norm(x, self.tensors[prefix + "input_layernorm.weight"], epsilon)
                      for x in xs]
            attended = self.attention(prefix + "self_attn.", normed, layer)
            before = prefix + ("pre_feedforward_layernorm" if self.gemma else "post_attention_layernorm")
            for x, y in zip(xs, attended):
                if self.gemma:
                    y = rms_norm(y, self.tensors[prefix + "post_attention_layernorm.weight"], epsilon)
                x[:] = [a + b for a, b in zip(x, y)]
            for x in xs:
                normed = rms_norm(x, self.tensors[before + ".weight"], epsilon)
                gate = self.linear(prefix + "mlp.gate_proj", normed)
                up = self.linear(prefix + "mlp.up_proj", normed)
                inner = [self.activation(g) * u for g, u in zip(gate, up)]
                y = self.linear(prefix + "mlp.down_proj", inner)
                if self.gemma:
                    y = rms_norm(y, self.tensors[prefix + "post_feedforward_layernorm.weight"], epsilon)
                x[:] = [a + b for a, b in zip(x, y)]
        head = "model.embed_tokens" if self.config["tie_word_embeddings"] else "lm_head"
        result = []
        for x, target in zip(xs, ids[1:]):
            logits = self.linear(head, rms_norm(x, self.tensors["model.norm.weight"], epsilon))
            logits = [capped(v, self.config.get("final_logit_softcapping")) for v in logits]
            top = max(logits)
            result.append(logits[target] - top - math.log(sum(math.exp(l - top) for l in logits)))
        return result


LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {"type": "longrope", "short_factor": [1 + 0.1 * i for i in range(8)],
            "long_factor": [1 + 2.0 * i for i in range(8)]}
CASES = {
    "llama": config_of("LlamaForCausalLM"),
    "llama_mha_no_head_dim": config_of("LlamaForCausalLM", num_key_value_heads=6, head_dim=8),
    "llama_mqa_tied": config_of("LlamaForCausalLM", num_key_value_heads=1,
                                tie_word_embeddings=True),
    "llama_biases": config_of("LlamaForCausalLM", attention_bias=True, mlp_bias=True),
    "llama3_rope": config_of("LlamaForCausalLM", rope_theta=500000.0, rope_scaling=LLAMA3_ROPE),
    "linear_rope": config_of("LlamaForCausalLM",
                             rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "yarn_rope": config_of("Qwen3ForCausalLM", rope_theta=1000000.0, max_position_embeddings=128,
                           rope_scaling={"rope_type": "yarn", "factor": 4.0,
                                         "original_max_position_embeddings": 32}),
    "yarn_rope_all_keys": config_of(
        "Qwen2ForCausalLM", max_position_embeddings=20, rope_scaling={
            "type": "yarn", "factor": 2.5, "original_max_position_embeddings": 20,
            "attention_factor": 0.8, "beta_fast": 4, "beta_slow": 0.5}),
    "dynamic_rope_short": config_of("LlamaForCausalLM",
                                    rope_scaling={"type": "dynamic", "factor": 2.0}),
    "dynamic_rope_long": config_of("LlamaForCausalLM", max_position_embeddings=15,
                                   rope_scaling={"type": "dynamic", "factor": 3.0}),
    "longrope_short": config_of("LlamaForCausalLM", max_position_embeddings=128,
                                rope_scaling=dict(LONGROPE, original_max_position_embeddings=40)),
    "longrope_long": config_of("MistralForCausalLM", sliding_window=None,
                               max_position_embeddings=128,
                               rope_scaling=dict(LONGROPE, original_max_position_embeddings=39)),
    "rope_parameters": config_of("LlamaForCausalLM", rope_theta=None, rope_parameters={
        "rope_type": "linear", "factor": 2.0, "rope_theta": 50000.0}),
    "llama_knows_no_window": config_of("LlamaForCausalLM", sliding_window=6),
    "mistral": config_of("MistralForCausalLM", sliding_window=None),
    "mistral_window": config_of("MistralForCausalLM", sliding_window=6),
    "mistral_window_of_one": config_of("MistralForCausalLM", sliding_window=1),
    "mistral_window_of_a_block": config_of("MistralForCausalLM", sliding_window=16),
    "qwen2": config_of("Qwen2ForCausalLM", tie_word_embeddings=True),
    "qwen2_window_not_used": config_of("Qwen2ForCausalLM", sliding_window=6, max_window_layers=1),
    "qwen2_window": config_of("Qwen2ForCausalLM", use_sliding_window=True, sliding_window=9,
                              max_window_layers=1),
    "qwen3": config_of("Qwen3ForCausalLM", rope_theta=1000000.0),
    "qwen3_window": config_of("Qwen3ForCausalLM", use_sliding_window=True, sliding_window=5,
                              max_window_layers=0),
    "gemma2": config_of("Gemma2ForCausalLM", sliding_window=9, query_pre_attn_scalar=24,
                        attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
                        tie_word_embeddings=True),
    "gemma2_no_caps": config_of("Gemma2ForCausalLM", sliding_window=40, query_pre_attn_scalar=16,
                                attn_logit_softcapping=None, final_logit_softcapping=None,
                                tie_word_embeddings=True),
    "gemma3": config_of("Gemma3ForCausalLM", sliding_window=7, sliding_window_pattern=2,
                        query_pre_attn_scalar=24, rope_theta=1000000.0,
                        rope_local_base_freq=5000.0, tie_word_embeddings=True,
                        rope_scaling={"rope_type": "linear", "factor": 8.0}),
    "phi3": config_of("Phi3ForCausalLM", sliding_window=11),
    "phi3_longrope": config_of(
        "Phi3ForCausalLM", sliding_window=None, max_position_embeddings=128,
        rope_scaling=dict(LONGROPE, original_max_position_embeddings=39)),
    "phi3_turns_in_part": config_of(
        "Phi3ForCausalLM", sliding_window=None, tie_word_embeddings=True,
        partial_rotary_factor=0.75),
    "qwen3_layer_types": config_of(
        "Qwen3ForCausalLM", use_sliding_window=True, sliding_window=7, max_window_layers=2,
        layer_types=["sliding_attention", "full_attention"]),
}


class ReferenceTest(unittest.TestCase):
    def check(self, config):
        rng = random.Random(SEED)
        tensors = tensors_of(config, rng)
        ids = [rng.randrange(config["vocab_size"]) for _ in range(40)]
        expected = Reference(config, tensors).logprobs(ids)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            phi = config["architectures"][0].startswith("Phi3")
            write_checkpoint(folder, config, fused(config, tensors) if phi else tensors)
            (folder / "ids.json").write_text(json.dumps(ids))
            run = {"model": {"path": "."}, "device": DEVICE, "memory": {"ram": "64MiB"},
                   "score": {"chunk": 7}, "placement": {"policy": "nvme"}}
            (folder / "run.yaml").write_text(json.dumps(run))
            # Decode kernels, then prompt kernels; shorter and longer than a window.
            for chunk in (1, 4, 40) if config.get("sliding_window") else (1, 40):
                done = subprocess.run(
                    [SPILLWAY, "score", folder / "run.yaml", "--token-ids-file",
                     folder / "ids.json", "--report", folder / "report.json", "--set",
                     f"score.chunk={chunk}", "--set", "compute.prompt_math=f32"],
                    capture_output=True, text=True, timeout=200)
                self.assertEqual(done.returncode, 0, done.stderr)
                got = json.loads((folder / "report.json").read_text())["logprobs"][0]
                worst = max(abs(a - b) for a, b in zip(got, expected))
                self.assertEqual(len(got), len(expected))
                self.assertLess(worst, 2e-4, f"chunk {chunk}, SPILLWAY_SEED={SEED}")


for case_name, case in CASES.items():
    setattr(ReferenceTest, f"test_{case_name}", lambda self, c=case: self.check(c))

if __name__ == "__main__":
    SPILLWAY, DEVICE = sys.argv[1:3]
    del sys.argv[1:3]
    unittest.main()
