"""Models in GGUF: the program against transformers, which gets the numbers that the gguf package takes
the blocks apart into."""
import itertools
import json
import pathlib
import random
import shutil
import traceback

import gguf
import gguf_files
import models
import program
import reference
import torch
import transformers

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q4_K_M",
         "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4")
CHUNKS, THREADS = (1, 7, 33, 512), (1, 2, 5)
CONTEXT = 512
# Heads that share keys, wide heads, narrow ones of odd halves; rows of whole and of other blocks.
SHAPES = (
    {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8,
     "num_key_value_heads": 2, "vocab_size": 549, "tie_word_embeddings": False},
    {"hidden_size": 256, "intermediate_size": 352, "num_attention_heads": 4, "head_dim": 128,
     "num_key_value_heads": 4, "vocab_size": 700, "tie_word_embeddings": True},
    {"hidden_size": 512, "intermediate_size": 768, "num_attention_heads": 6, "head_dim": 40,
     "num_key_value_heads": 1, "vocab_size": 321, "tie_word_embeddings": False},
    {"hidden_size": 288, "intermediate_size": 100, "num_attention_heads": 9,
     "num_key_value_heads": 3, "vocab_size": 400, "tie_word_embeddings": True},
)
CHATS = ("What is the capital of France?", "Write a short story about a robot who learns to paint.",
         "List three uses of a paper clip, and explain in German why 2 + 2 = 4.")
PARAGRAPH = """The lighthouse at the end of the pier had been dark for eleven years when Marta came
back to the island. She remembered its beam as a slow hand that passed over the water; the fishermen
used to set their clocks by it. Now gulls nested under the gallery, and the iron door, painted green
in 1974 (or so the plaque said), hung from a single hinge. "It's cheaper to buy radios," the mayor
had told the paper -- 3,200 euros a year, to be exact. Still, people kept leaving small things on the
step: a jar of honey, a coil of rope, once a brass compass whose needle pointed nowhere in particular.
"""


def rope_of(kind, shape):
    """A kind of scaled rotation, or none."""
    if shape % 2 == 0:
        return None
    if kind == "llama":
        return {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128}
    if kind == "qwen2":
        return {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": CONTEXT // 4}
    return {"rope_type": "linear", "factor": 2.0}


def draw(kind, wanted, shape):
    config = {"architectures": [f"{kind.capitalize()}ForCausalLM"], "model_type": kind,
              "num_hidden_layers": 2, "max_position_embeddings": CONTEXT, "hidden_act": "silu",
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2,
              "rope_scaling": rope_of(kind, shape), **SHAPES[shape]}
    if kind == "qwen3":  # transformers has a default of its own
        config.setdefault("head_dim", gguf_files.head_dim_of(config))
    if kind in ("llama", "qwen3") and shape == 2:
        config["attention_bias"] = True
    if kind == "llama" and shape == 2:
        config["mlp_bias"] = True
    if config["rope_scaling"] is None:
        del config["rope_scaling"]
    return {"config": config, "type": wanted, "seed": 1000 * TYPES.index(wanted) + shape}


def random_model(drawn):
    model = transformers.AutoModelForCausalLM.from_config(reference.hf_config(drawn["config"]))
    reference.fill(model, drawn["seed"], 2.0)
    return model.eval()


def named(model):
    """Parameters by the name that a checkpoint has for them, the tied table once."""
    return {name: p.detach() for name, p in model.named_parameters()}


def fill_from(model, reader, config):
    parameters = named(model)
    for name, values in gguf_files.tensors_of(reader, config, parameters).items():
        parameters[name].copy_(torch.from_numpy(values))


class GgufCase:
    """One model in its folder, and what was found with it."""

    def __init__(self, binary, root, name):
        self.binary = binary
        self.folder = program.folder_for(root, name)
        shutil.rmtree(self.folder)
        (self.folder / "model").mkdir(parents=True)
        self.found = {"family": name, "name": name, "folder": str(self.folder), "runs": 0,
                      "tokens": 0, "worst": 0.0, "bits": 0, "greedy": 0, "bf16": None,
                      "rounding": None, "failures": []}
        self.by_passes = {}

    def fail(self, name, what):
        self.found["failures"].append(f"{name}: {what}")

    def attempt(self, name, step):
        try:
            step()
        except program.Failed as error:
            self.fail(name, str(error))

    def finish(self):
        if not self.found["failures"]:
            shutil.rmtree(self.folder)
        return self.found

    def expect(self, texts):
        self.texts = texts
        self.expected = reference.log_probabilities(self.model, texts)
        (self.folder / "ids.json").write_text(json.dumps(texts))
        (self.folder / "expected.json").write_text(json.dumps(self.expected))

    def scored(self, name, settings):
        report = program.score(self.binary, self.folder, name, settings)
        self.found["runs"] += 1
        self.found["tokens"] += report["tokens"]
        return report, *models.worst_difference(self.expected, report["logprobs"])

    def score(self, name, settings):
        report, difference, text, token = self.scored(name, settings)
        self.found["worst"] = max(self.found["worst"], difference)
        if not difference <= models.TOLERANCE:
            self.fail(name, f"differs by {difference:.3g} at text {text} token {token + 1}")
        key = tuple(p["tokens"] for p in report["passes"])
        first, logprobs = self.by_passes.setdefault(key, (name, report["logprobs"]))
        self.found["bits"] += 1
        if logprobs != report["logprobs"]:
            self.fail(name, f"other bits than {first}")

    def greedy(self, name, settings, prompts, count):
        got = program.generate(self.binary, self.folder, name, settings, prompts, count)
        self.compare_greedy(name, got, reference.greedy(self.model, prompts, count))

    def compare_greedy(self, name, got, answers):
        for p, (answer, (tokens, margins)) in enumerate(zip(got, answers)):
            clear = next((i for i, m in enumerate(margins) if m < self.margin), len(tokens))
            self.found["greedy"] += clear
            if len(answer) != len(tokens) or answer[:clear] != tokens[:clear]:
                self.fail(name, f"prompt {p}: {answer} instead of {tokens[:clear]}")

    margin = 0.01  # of logits: a token that leads by less may fall either way

    def score_in_bf16(self):
        """As models.py judges it: by what rounding the inputs costs the reference."""
        if not models.cpu_multiplies_bf16():
            return
        exact = self.expected
        hooks = reference.rounding_inputs(self.model)
        rounded = reference.log_probabilities(self.model, self.texts)
        for hook in hooks:
            hook.remove()
        cost = models.worst_difference(exact, rounded)[0]
        settings = {**plain(512, 2), "compute.prompt_math": "bf16"}
        difference = self.scored("bf16", settings)[1]
        self.found["bf16"], self.found["rounding"] = difference, cost
        if not difference <= 3 * cost + models.TOLERANCE:
            self.fail("bf16", f"differs by {difference:.3g} where rounding costs {cost:.3g}")


def plain(chunk, threads):
    return {"device": "host", "memory.ram": "2GiB", "compute.threads": threads,
            "compute.prompt_math": "f32", "score.chunk": chunk}


def placed(settings, rng):
    """The same elsewhere: on another device, from the drive, in small pieces."""
    place = rng.choice([{}, {"placement.policy": "nvme"},
                        {"placement.policy": "nvme", "stream.unit": "64KiB", "io.chunk": "64KiB"},
                        {"device": "host-discrete", "memory.gpu": "256MiB"},
                        {"device": "host-discrete", "memory.gpu": "256MiB",
                         "placement.policy": "nvme", "stream.slots": 3}])
    return {**settings, **place}


def compare_random(binary, root, kind, wanted, shape):
    """Everything about one random model; never throws."""
    case = GgufCase(binary, root, f"gguf-{kind}-{wanted}-{shape}")
    case.found["family"] = f"{kind} {wanted}"
    try:
        drawn = draw(kind, wanted, shape)
        config, rng = drawn["config"], random.Random(f"{kind} {wanted} {shape}")
        case.model = random_model(drawn)
        path = case.folder / "model/m.gguf"
        tensors = {name: p.numpy().copy() for name, p in named(case.model).items()}
        gguf_files.write(path, config, tensors, wanted, drawn["seed"])
        fill_from(case.model, gguf.GGUFReader(path), config)
        ids = range(config["vocab_size"])
        case.expect([rng.choices(ids, k=n) for n in (2, 3, 8, 9, 33, 100, 200)])
        for chunk, threads in itertools.product(CHUNKS, THREADS):
            name = f"score-{chunk}-{threads}"
            settings = placed(plain(chunk, threads), rng)
            case.attempt(name, lambda n=name, s=settings: case.score(n, s))
        prompts = [rng.choices(ids, k=n) for n in (1, 9, 70)]
        case.attempt("greedy", lambda: case.greedy("greedy", placed(plain(33, 2), rng), prompts, 12))
        case.attempt("bf16", case.score_in_bf16)
    except Exception:  # a driver that stops at its own fault would hide the rest
        case.fail("driver", traceback.format_exc())
    return case.finish()


def load_file(path):
    reader = gguf.GGUFReader(path)
    config = gguf_files.config_of(reader)
    model = transformers.AutoModelForCausalLM.from_config(reference.hf_config(config))
    fill_from(model, reader, config)
    return model.eval()


def chat(text):
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def compare_file(binary, root, path):
    """A real model: greedy answers to chats, and the scores of a paragraph."""
    path = pathlib.Path(path).resolve()
    case = GgufCase(binary, root, f"gguf-{path.stem}")
    case.found["family"] = path.name
    try:
        (case.folder / "model" / path.name).symlink_to(path)
        case.model = load_file(path)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)

        def ids_of(text):
            return tokenizer.encode(text, add_special_tokens=False)
        case.expect([ids_of(PARAGRAPH), ids_of(chat(CHATS[0]))])
        for chunk, threads in itertools.product(CHUNKS, THREADS[:2]):
            name = f"score-{chunk}-{threads}"
            case.attempt(name, lambda n=name, c=chunk, t=threads: case.score(n, plain(c, t)))
        case.attempt("bf16", case.score_in_bf16)
        case.attempt("text", lambda: score_text(case, PARAGRAPH))
        answers = reference.greedy(case.model, [ids_of(chat(text)) for text in CHATS], 64)
        for name, math in (("greedy", "f32"), ("greedy-auto", "auto")):
            case.attempt(name, lambda n=name, m=math: answer_chats(case, n, m, ids_of, answers))
    except Exception:
        case.fail("driver", traceback.format_exc())
    return case.finish()


def score_text(case, text):
    """A file of text: its tokens are those of transformers, too."""
    (case.folder / "text.txt").write_text(text)
    report = program.report_of(case.binary, case.folder, "text", plain(512, 2),
                               ["score", "--text-file", case.folder / "text.txt", "--quiet"])
    difference = models.worst_difference(case.expected[:1], report["logprobs"])[0]
    if not difference <= models.TOLERANCE:
        case.fail("text", f"differs by {difference:.3g}")


def answer_chats(case, name, math, ids_of, answers):
    settings = {**plain(512, 2), "compute.prompt_math": math,
                "generate.prompts": [chat(text) for text in CHATS],
                "generate.max_new_tokens": 64, "generate.ignore_eos": True}
    report = program.report_of(case.binary, case.folder, name, settings, ["run", "--quiet"])
    for text, output in zip(CHATS, report["outputs"]):
        if output["prompt_token_ids"] != ids_of(chat(text)):
            case.fail(name, f"tokens of {text!r}: {output['prompt_token_ids']}")
    case.compare_greedy(name, [o["output_token_ids"] for o in report["outputs"]], answers)
