"""transformers as the reference: makes checkpoints of random weights, and computes with them in
float32 what the program computes."""
import copy
import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
sys.setdlopenflags(os.RTLD_LAZY)  # the stand-ins for CUDA have no symbols (environment.py)
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
TORCH_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16,
                "mixed": torch.bfloat16}


def hf_config(config):
    known = {k: v for k, v in config.items() if k != "architectures"}
    made = transformers.AutoConfig.for_model(**copy.deepcopy(known))  # it adds to what it is given
    made.architectures = config["architectures"]
    return made


def fill(model, seed, sharpness):
    """Weights that keep activations near 1 and give peaked answers; biases and norms that show."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.3 * noise
        elif tensor.dim() == 1:
            value = 1 + 0.2 * noise
        elif "embed_tokens" in name:
            tied = model.config.tie_word_embeddings
            value = noise * (sharpness / tensor.shape[1] ** 0.5 if tied else 1)
        else:
            value = noise * ((sharpness if "lm_head" in name else 1) / tensor.shape[1] ** 0.5)
        tensor.data.copy_(value)


def rewrite(folder, change):
    """Passes every shard's tensors through `change`, and the index with them."""
    total = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors = change(load_file(shard))
        save_file(tensors, shard, metadata={"format": "pt"})
        total.update({name: shard.name for name in tensors})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = json.loads(index.read_text())
        content["weight_map"] = total
        index.write_text(json.dumps(content))


def as_transformers_4(folder, config):
    """config.json with the keys of transformers 4."""
    written = {**config, "torch_dtype": "float32", "transformers_version": "4.44.0"}
    (folder / "config.json").write_text(json.dumps(written, indent=2))


def save(drawn, folder):
    """Writes the checkpoint of a drawn model."""
    folder = pathlib.Path(folder)
    torch.manual_seed(drawn["weights"])
    model = transformers.AutoModelForCausalLM.from_config(hf_config(drawn["config"]))
    fill(model, drawn["weights"], drawn["sharpness"])
    model = model.to(TORCH_DTYPES[drawn["dtype"]])
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    model.save_pretrained(folder, max_shard_size=size // drawn["shards"] + 1)
    if drawn["dtype"] == "mixed":
        rewrite(folder, lambda t: {n: v.float() if v.dim() == 1 or "down" in n else v
                                   for n, v in t.items()})
    if drawn["layout"] == "rotary buffers":
        rewrite(folder, lambda t: {**t, **{
            n.replace("q_proj.weight", "rotary_emb.inv_freq"): torch.ones(4)
            for n in t if n.endswith("q_proj.weight")}})
    if drawn["layout"] == "no prefix" and drawn["config"]["tie_word_embeddings"]:
        rewrite(folder, lambda t: {n.removeprefix("model."): v for n, v in t.items()})
    if drawn["layout"] == "more layers":
        last = drawn["config"]["num_hidden_layers"] - 1
        rewrite(folder, lambda t: {**t, **{n.replace(f"layers.{last}.", f"layers.{last + 1}."): v.clone()
                                           for n, v in t.items() if f"layers.{last}." in n}})
    if drawn["style"] == "transformers 4":
        as_transformers_4(folder, drawn["config"])


def load(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval()


def forget_lengths(model):
    """Dynamic scaling remembers the longest text it has seen."""
    rotary = model.model.rotary_emb
    if "dynamic" in rotary.rope_type:
        rotary.max_seq_len_cached = rotary.original_max_seq_len
        rotary.register_buffer("inv_freq", rotary.original_inv_freq, persistent=False)


def batches(texts, floats):
    """Indices of texts of equal length, a batch of `floats` per token at a time."""
    by_length = {}
    for i, text in enumerate(texts):
        by_length.setdefault(len(text), []).append(i)
    for length, members in by_length.items():
        most = max(1, int(3e7 / (length * max(floats, length * 8))))
        for first in range(0, len(members), most):
            yield members[first:first + most]


@torch.inference_mode()
def log_probabilities(model, texts):
    """Of every token but the first of each text."""
    result = [[] for _ in texts]
    for members in batches(texts, model.config.vocab_size):
        if len(texts[members[0]]) < 2:
            continue
        batch = torch.tensor([texts[i] for i in members])
        forget_lengths(model)
        logits = model(input_ids=batch, use_cache=False).logits
        scores = torch.log_softmax(logits[:, :-1].double(), -1)
        picked = scores.gather(2, batch[:, 1:, None])[:, :, 0]
        for i, row in zip(members, picked.tolist()):
            result[i] = row
    return result


@torch.inference_mode()
def greedy(model, prompts, count):
    """Per prompt the likeliest tokens and how far each leads the second."""
    outputs = [([], []) for _ in prompts]
    for members in batches(prompts, model.config.vocab_size):
        forget_lengths(model)
        # A cache that keeps all: the mask does the window (the sliding one keeps too much for 1).
        ids, past = torch.tensor([prompts[i] for i in members]), transformers.DynamicCache()
        for _ in range(count):
            done = model(input_ids=ids, past_key_values=past, use_cache=True)
            past = done.past_key_values
            top = done.logits[:, -1].double().topk(2)
            ids = top.indices[:, :1]
            for r, i in enumerate(members):
                outputs[i][0].append(ids[r, 0].item())
                outputs[i][1].append((top.values[r, 0] - top.values[r, 1]).item())
    return outputs


def rounding_inputs(model):
    """Makes every matrix product round its input to bf16, as bf16 prompt math does, until the hooks
    that this gives are removed."""
    def hook(module, inputs):
        return (inputs[0].bfloat16().float(),)
    return [module.register_forward_pre_hook(hook) for module in model.modules()
            if isinstance(module, torch.nn.Linear)]
