#!/usr/bin/env python3
"""Every message that can be provoked cheaply, in one table, to be read as a whole; each is checked
for what no message may be: of several lines, without a place to look at, in a library's words.
Usage: messages_test.py SPILLWAY_BINARY [--list]"""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

SPILLWAY = ""
MOST_CHARACTERS = 400
FORBIDDEN = ("[json.exception", "std::", "what():", "yaml-cpp", "yaml_", "basic_string", "terminate",
             "nlohmann", "sentencepiece", "LOG(", ".cc(", "CLI::", "INTERNAL", "pthread_", "filesystem error",
             "internal error", "unordered_map", "vector::", "bad_alloc", "map::at", "libprotobuf",
             "Could not convert", "is required", "not in range", "argument was not expected",
             "Value ", "0000 to ", "UINT", "FLOAT", "(?)", "Option Group")


# Those that a text of ours may not even be looked for with.
LIBRARIES = ("[json.exception", "std::", "what():", "basic_string", "nlohmann", "CLI::", "pthread_",
             "filesystem error", "libprotobuf", "bad_alloc")


def safetensors(tensors, payload=b"", length=None):
    header = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + payload


class Messages:
    def __init__(self, root):
        self.root = root
        self.cases = []
        self.model = root / "model"
        subprocess.run([SPILLWAY, "synth", self.model, "--like", "tiny"], check=True,
                       capture_output=True)
        self.home = root / "home"
        self.home.mkdir()

    def case(self, name, *arguments, code=1, stdin=b"", **environment):
        """`arguments` end with `code` and one line."""
        self.cases.append((name, arguments, code, stdin, environment))

    def file(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def config(self, name, text=None, **values):
        if text is None:
            whole = {"model": {"path": str(self.model)}, "device": "host",
                     "memory": {"ram": "256MiB"},
                     "generate": {"prompts": ["Hello"], "max_new_tokens": 2}}
            for key, value in values.items():
                if isinstance(value, dict):
                    whole.setdefault(key, {}).update(value)
                else:
                    whole[key] = value
            text = json.dumps(whole)
        return self.file(f"configs/{name}.yaml", text)

    def changed_model(self, name, change):
        """A copy of the model (weights linked) that `change` alters."""
        folder = self.root / "models" / name
        folder.mkdir(parents=True)
        for file in self.model.iterdir():
            if file.suffix == ".safetensors":
                os.link(file, folder / file.name)
            else:
                shutil.copy(file, folder)
        change(folder)
        return folder

    # The cases

    def add_command_lines(self):
        for name, words in {
                "nothing": [], "typo": ["rnu"], "unknown": ["fly"], "empty": [""], "chat": ["chat"],
                "download": ["pull"], "a file": ["configs/quickstart.yaml"], "upper": ["RUN"],
                "option first": ["--quiet", "run"], "option typo": ["--verison"],
                "escapes": ["a\x1b[31m\nb"], "bytes": [b"\xff\xfe"], "direction": ["a\u202eb"],
                "long": ["x" * 5000], "help of unknown": ["help", "fly"]}.items():
            self.case(f"command: {name}", *words, code=2)
        base = {"run": ["c.yaml"], "score": ["c.yaml"], "plan": ["c.yaml"], "bench": ["c.yaml"],
                "inspect": ["m"], "tokenize": ["m"], "trace": ["t"], "synth": ["d"], "probe": [],
                "quantize": ["m", "q.gguf"]}
        for command, words in base.items():
            if words:
                self.case(f"{command}: nothing", command, code=2)
            self.case(f"{command}: unknown option", command, *words, "--fly", code=2)
            self.case(f"{command}: surplus", command, *words, "one", "two\n", code=2)
        for command, option, *value in (
                ("run", "--promt", "x"), ("run", "--report"), ("run", "--set"), ("run", "--quiet=x"),
                ("score", "--text-fiel", "x"), ("score", "--trace"), ("plan", "--profile"),
                ("probe", "--seconds", "nan"), ("probe", "--seconds", "0"),
                ("probe", "--seconds", "x"), ("probe", "--device", "gpu"), ("bench", "--repeats", "0"),
                ("bench", "--shares", "150"), ("bench", "--sweeps", "speed"),
                ("bench", "--budgets", "lots"), ("bench", "--tokens", "-1"), ("trace", "--pass", "x"),
                ("synth", "--seed", "-1"), ("synth", "--seed", "1.5"), ("synth", "--layers", "nan"),
                ("synth", "--layers", "99999999999999999999"), ("synth", "--shards", "0"),
                ("synth", "--format", "bin"), ("quantize", "--ram", "lots")):
            self.case(f"{command}: {' '.join([option, *value])}", command, *base[command], option,
                      *value, code=2)
        self.case("run: option twice", "run", "c", "--report", "a", "--report", "b", code=2)
        self.case("score: no input", "score", self.model)
        self.case("score: two inputs", "score", "c", "--text-file", "a", "--token-ids-file", "b",
                  code=2)
        self.case("tokenize: two inputs", "tokenize", "m", "--text", "a", "--text-file", "b", code=2)
        self.case("tokenize: lines of no file", "tokenize", "m", "--text", "a", "--lines", code=2)

    def add_configurations(self):
        head = f"model: {{path: {self.model}}}\n"
        texts = {
            "empty": "", "list": "[1]", "text": "hello", "no model": "device: host\n",
            "tab": head + "memory:\n\tram: 1GiB\n", "open list": head + "a: [",
            "open map": head + "a: {b: 1\n", "open quote": head + 'device: "host\n',
            "two colons": head + "report: a: b\n", "bad escape": head + 'report: "a\\q"\n',
            "at sign": head + "report: @a\n", "percent": head + "report: %a\n", "alias": head + "report: *a\n",
            "bad indentation": "memory:\n   ram: 1GiB\n  gpu: 1GiB\n" + head,
            "list item": head + "device: - a\n  - b\n", "closing": head + "a: ]\n",
            "second document": head + "---\n" + head, "key twice": head + head,
            "control characters": head + 'device: "\\e[2J\\n\\u202e"\n',
            "long value": head + "device: " + "x" * 5000 + "\n",
            "long key": head + "x" * 5000 + ": 1\n", "bytes": head.encode() + b"device: \xff\xfe\n",
            "list as key": head + "? [a]\n: b\n", "dotted": head + "memory.ram: 1GiB\n",
            "section is text": head + "memory: 3GiB\n", "model is text": "model: /some/path\n",
            "null path": "model: {path: ~}\n", "other home": "model: {path: ~me/x}\n",
            "variable": "model: {path: $MODELS/x}\n"}
        for name, text in texts.items():
            self.case(f"yaml: {name}", "plan", self.config(f"yaml-{len(self.cases)}", text))
        config = self.config("good")
        for assignment in (
                "memory.ram", "=1", "memory.vram=1GiB", "n_gpu_layers=3", "ctx_size=4096", "threads=2",
                "max_tokens=3", "generate.temp=1", "dtype=bf16", "generate.min_p=1", "io.dpeth=3",
                "some.thing=1", "memory.ram=lots", "memory.ram=3", "memory.ram=3,5GiB", "memory.ram=[1]",
                "memory.ram={a: 1}", "memory.ram=~", "io.depth=0", "io.depth=many", "io.chunk=100KiB",
                "io.engine=libaio", "io.direct=maybe", "device=gpu", "device=cuda:99", "device=cuda",
                "placement.policy=disk", "placement.ram_share=75", "placement.layers={x: ram}",
                "placement.layers={5-2: ram}", "placement.layers={90: ram}", "placement.layers={0: gpu}",
                "placement.layers={0: disk}", "placement.layers=ram", "generate.prompts={a: b}",
                "generate.prompts=[[a]]", "generate.prompt_token_ids=5",
                "generate.prompt_token_ids=[-1]", "generate.ignore_eos=maybe", "generate.top_p=0",
                "generate.temperature=-1", "compute.prompt_math=f64", "memory.ram=1MiB",
                "memory.ram=1024TiB", "model.path=''", "report=''", "report=a: b"):
            self.case(f"--set {assignment}", "run", config, "--set", assignment)
        self.case("config: missing", "run", "nothing.yaml")
        self.case("config: a folder", "run", self.root)
        self.case("config: no permission", "run", "/proc/1/mem" if os.getuid() else "/proc/self/mem")
        self.case("config: name of bytes", "run", b"caf\xe9\n.yaml")
        self.case("config: long name", "run", "x" * 300)
        self.case("config: home not set", "plan", self.config("home", "model: {path: ~/m}\n"), HOME="")

    def add_gguf_files(self):
        def text(value):
            return struct.pack("<Q", len(value)) + value

        def key(name, value):
            if isinstance(value, bytes):
                return text(name) + struct.pack("<I", 8) + text(value)
            return text(name) + struct.pack("<II", 4, value)

        def gguf(name, keys=(), tensors=(), version=3, more=b""):
            header = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(keys))
            entries = [text(name) + struct.pack("<IQIQ", 1, size, kind, offset)
                       for name, size, kind, offset in tensors]
            path = self.root / name
            path.write_bytes(header + b"".join([key(*pair) for pair in keys] + entries) + more)
            self.case(f"gguf: {name}", "inspect", path)

        pad = bytes(4096)
        model = (b"general.architecture", b"llama")
        gguf("old.gguf", version=1)
        gguf("new.gguf", version=9)
        gguf("big-endian.gguf", version=3 << 24)
        gguf("cut.gguf", [model], [(b"a", 1 << 20, 0, 0)])
        gguf("twice.gguf", [model, model], more=pad)
        gguf("alignment.gguf", [(b"general.alignment", 48)], more=pad)
        gguf("alignment-text.gguf", [(b"general.alignment", b"32")], more=pad)
        gguf("rows.gguf", [model], [(b"a", 48, 2, 0)], more=pad)
        gguf("offset.gguf", [model], [(b"a", 32, 0, 8)], more=pad)
        gguf("overlap.gguf", [model], [(b"a", 32, 0, 0), (b"b", 32, 0, 32)], more=pad)
        gguf("removed.gguf", [model], [(b"a", 32, 4, 0)], more=pad)
        gguf("unknown.gguf", [model], [(b"a", 32, 99, 0)], more=pad)
        gguf("name.gguf", [model], [(b"a\x1b[2J\n", 48, 2, 0)], more=pad)
        gguf("mmproj.gguf", [(b"general.architecture", b"clip")], [(b"a", 32, 0, 0)], more=pad)
        gguf("lora.gguf", [model, (b"general.type", b"adapter")], [(b"a", 32, 0, 0)], more=pad)
        gguf("vocabulary.gguf", [model])
        split = [(b"split.count", 3), (b"split.tensors.count", 3), (b"split.no", 0)]
        gguf("m-00002-of-00003.gguf", [*split[:2], (b"split.no", 1)], more=pad)
        gguf("m-00001-of-00003.gguf", [model, *split], more=pad)
        gguf("m.gguf", [model, *split], more=pad)
        gguf("x-00001-of-00003.gguf", [model, split[0], (b"split.no", 3)], more=pad)

    def add_gguf_models(self):
        """What commands say of models in GGUF that are not there, not whole, or lack something."""
        whole = self.root / "whole.gguf"
        parts = self.root / "split" / "parts.gguf"
        parts.parent.mkdir()
        for path, more in ((whole, ()), (parts, ("--shards", "3"))):
            subprocess.run([SPILLWAY, "synth", path, "--like", "tiny", "--dtype", "Q4_K", *more],
                           check=True, capture_output=True)
        content = whole.read_bytes()

        def changed(name, old, new):
            assert len(old) == len(new) and old in content, old
            return self.file(f"changed/{name}.gguf", content.replace(old, new))

        mute = changed("mute", b"tokenizer.ggml.", b"xokenizer.ggml.")
        text = self.file("gguf-text", "Some text")
        two = self.root / "several"
        for name in ("a", "b"):
            self.file(f"several/{name}.gguf", content)
        gap = self.root / "gap"
        for number in (1, 3):
            name = f"parts-0000{number}-of-00003.gguf"
            self.file(f"gap/{name}", (parts.parent / name).read_bytes())
        for name, model in {
                "missing": self.root / "none.gguf", "missing below": "models/none.gguf",
                "missing deeper": "a/b/none.gguf", "no name": "", "several": two, "a part": parts.parent /
                "parts-00002-of-00003.gguf", "a gap": gap, "empty": self.file("void.gguf", ""),
                "cut header": self.file("short.gguf", content[:3000]),
                "cut": self.file("half.gguf", content[:len(content) // 2]),
                "page": self.file("page.gguf", "<html>not found</html>"),
                "pointer": self.file("lfs.gguf", "version https://git-lfs.github.com/spec/v1\n"),
                "weights": self.model / "model.safetensors"}.items():
            for command, more in {"run": ["-p", "Hi"], "plan": [], "inspect": [], "init": ["-o", "-"],
                                  "tokenize": ["--text", "Hi"], "bench": ["--out", self.root / "none"],
                                  "score": ["--text-file", text]}.items():
                self.case(f"gguf {command}: {name}", command, model, *more)
        self.case("gguf run: no tokenizer", "run", mute, "-p", "Hi")
        self.case("gguf score: no tokenizer", "score", mute, "--text-file", text)
        self.case("gguf tokenize: no tokenizer", "tokenize", mute, "--text", "Hi")
        for name, old, new in (("no layers", b"llama.block_count", b"llama.xlock_count"),
                               ("no tensor", b"blk.1.ffn_up", b"blk.1.ffn_xp"),
                               ("architecture", b"llama", b"xlama")):
            model = changed(name, old, new)
            for command, more in {"run": ["-p", "Hi"], "plan": [], "init": ["-o", "-"]}.items():
                self.case(f"gguf {command}: {name}", command, model, *more)
        for name, path in {"missing": "none.gguf", "missing below": "models/none.gguf",
                           "no home": "~/none.gguf", "nothing": None}.items():
            self.case(f"gguf yaml: {name}", "run", self.config(f"gguf-{name}", model={"path": path}))
        self.case("gguf report: over the model", "run", whole, "-p", "Hi", "--report", whole)
        self.case("gguf report: a new .gguf", "run", whole, "-p", "Hi", "--report", self.root / "new.gguf")
        self.case("gguf init: over the model", "init", whole, "-o", whole)
        self.case("gguf prompt", "run", whole, "--prompt-file", whole)
        self.case("gguf trace", "trace", whole)
        self.case("gguf probe: small", "probe", "--path", whole, "--quiet", "--seconds", "0.01",
                  "--device", "host")
        self.case("gguf probe: missing", "probe", "--path", "none.gguf", "--quiet")
        self.case("gguf synth: there already", "synth", whole, "--like", "tiny")
        self.case("gguf alone", whole, code=2)
        self.case("gguf alone, missing", "none.gguf", code=2)
        self.case("gguf hub: not there", "run", "acme/tiny-GGUF", "-p", "Hi")
        snapshot = self.root / "hub/models--acme--dangling-GGUF/snapshots/0123"
        snapshot.mkdir(parents=True)
        (snapshot / "tiny-Q4_K.gguf").symlink_to("../../blobs/gone")
        (snapshot / "parts-00001-of-00003.gguf").symlink_to(parts.parent / "parts-00001-of-00003.gguf")
        self.case("gguf hub: dangling", "run", snapshot / "tiny-Q4_K.gguf", "-p", "Hi")
        self.case("gguf hub: a gap", "run", snapshot / "parts-00001-of-00003.gguf", "-p", "Hi")
        self.case("gguf hub: several", "run", "acme/dangling-GGUF", "-p", "Hi",
                  HF_HUB_CACHE=str(self.root / "hub"))

    def add_folders(self):
        def damaged(name, file, content):
            def change(folder):
                path = folder / file
                if path.is_symlink() or path.exists():
                    path.unlink()
                if content is not None:
                    path.write_bytes(content if isinstance(content, bytes) else content.encode())
            return self.changed_model(name, change)

        self.case("model: missing", "inspect", self.root / "none")
        self.case("model: a file", "inspect", self.file("plain", "x"))
        self.case("model: empty folder", "inspect", self.home)
        self.case("model: missing, in a run", "run", self.config("none", model={"path": "none"}))
        gguf = self.root / "gguf"
        gguf.mkdir()
        (gguf / "model-q4.gguf").write_bytes(b"GGUF")
        self.case("model: gguf", "inspect", gguf)
        two = self.root / "two"
        two.mkdir()
        for name in ("model-q4.gguf", "model-q8.gguf"):
            (two / name).write_bytes(b"GGUF")
        self.case("model: two gguf", "inspect", two)
        self.add_gguf_files()
        cache = self.root / "hub" / "models--Qwen--Qwen2.5-7B"
        snapshot = cache / "snapshots" / "0123abcd"
        snapshot.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (snapshot / name).symlink_to(f"../../blobs/{name}-hash")
        self.case("hub: dangling weights", "inspect", snapshot)
        self.case("hub: dangling weights, in a run", "run",
                  self.config("hub", model={"path": str(snapshot)}))
        self.case("hub: dangling tokenizer", "tokenize", snapshot, "--text", "a")
        self.case("hub: not the snapshot", "inspect", cache)
        for name, snapshots, main in (("gone", ["one"], "two"), ("odd", ["one"], "../one"),
                                      ("many", ["one", "two"], None)):
            hub = self.root / "hub" / f"models--acme--{name}"
            for revision in snapshots:
                (hub / "snapshots" / revision).mkdir(parents=True)
            (hub / "refs").mkdir()
            if main is not None:
                (hub / "refs/main").write_text(main)
            self.case(f"hub: {name}", "inspect", f"acme/{name}", HF_HUB_CACHE=str(self.root / "hub"))
        self.case("hub: ~ of nobody", "inspect", "acme/gone", HOME="", HF_HUB_CACHE="~/hub")
        self.case("bench: mmap with itself", "bench", self.config("mapped", io={"engine": "mmap"}))
        self.case("run: report to -", "run", self.config("dash"), "--report", "-")
        partial = cache / "snapshots" / "partial"
        partial.mkdir()
        (partial / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
        self.case("hub: a shard is missing", "inspect", partial)
        gone = self.root / "gone"
        gone.symlink_to("nowhere")
        self.case("model: a dangling link", "inspect", gone)
        weights = "model.safetensors"
        tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        for name, content in {
                "empty": b"", "short": b"1234", "text": b"hello, this is a text and no model",
                "not json": safetensors(b"{"), "list": safetensors(b"[]"),
                "cut": safetensors({"a": tensor}), "dtype": safetensors({"a": {**tensor, "dtype": "Q4"}},
                                                                       b"1234"),
                "no shape": safetensors({"a": {"dtype": "F32"}}),
                "backwards": safetensors({"a": {**tensor, "data_offsets": [4, 0]}}, b"1234"),
                "size": safetensors({"a": {**tensor, "shape": [2]}}, b"1234"),
                "overlap": safetensors({"a": tensor, "b\n\u202e": tensor}, b"1234"),
                "twice": safetensors(b'{"a": 1, "a": 2}'), "deep": safetensors(b"[" * 100),
                "bytes": safetensors(b'{"\xff": 1}'), "control": safetensors(b'{"a\nb": 1}'),
                "long name": safetensors({"n" * 5000: 1})}.items():
            self.case(f"weights: {name}", "inspect", damaged(f"weights {name}", weights, content))
        for name, content in {
                "empty": "", "list": "[]", "no map": "{}", "empty map": '{"weight_map": {}}',
                "number": '{"weight_map": {"a": 1}}', "outside": '{"weight_map": {"a": "../x"}}',
                "absent": '{"weight_map": {"a": "x.safetensors"}}'}.items():
            folder = damaged(f"index {name}", weights, None)
            (folder / "model.safetensors.index.json").write_text(content)
            self.case(f"index: {name}", "inspect", folder)
        original = json.loads((self.model / "config.json").read_text())
        for name, change in {
                "none": None, "empty": "", "cut": '{"a": ', "comma": '{"a": 1,}', "list": "[]",
                "architecture": {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"},
                "hostile architecture": {"architectures": ["\x1b[31m\n\u202e" + "x" * 500],
                                         "model_type": "x"},
                "layers": {"num_hidden_layers": "many"}, "no layers": {"num_hidden_layers": None},
                "heads": {"num_attention_heads": 0}, "kv heads": {"num_key_value_heads": 3},
                "odd head": {"head_dim": 3}, "hidden": {"hidden_size": 7}, "rope": {"rope_theta": -1},
                "rope type": {"rope_scaling": {"rope_type": "spiral", "factor": 2}},
                "activation": {"hidden_act": "gelu"}, "quantized": {"quantization_config": {"bits": 4}},
                "other weights": {"intermediate_size": 4}, "more layers": {"num_hidden_layers": 99},
                "long value": {"num_hidden_layers": ["x" * 5000]},
                "epsilon as 0": {"rms_norm_eps": 1e-300}, "rope as infinite": {"rope_theta": 1e300},
                "rope overflow": {"rope_theta": 1.2e-38, "head_dim": 1024},
                "linear overflow": {"rope_scaling": {"type": "linear", "factor": 1.2e-38}},
                "part of heads": {"partial_rotary_factor": 1.5},
                "rope twice": {"rope_scaling": {"type": "linear", "factor": 2},
                               "rope_parameters": {"rope_type": "default"}},
                "original": {"original_max_position_embeddings": 0,
                             "rope_scaling": {"type": "yarn", "factor": 2}}}.items():
            content = json.dumps({**original, **change}) if isinstance(change, dict) else change
            folder = damaged(f"config {name}", "config.json", content)
            self.case(f"config.json: {name}", "plan",
                      self.config(f"model-{name}", model={"path": str(folder)}))
        tokenizer = json.loads((self.model / "tokenizer.json").read_text())
        for name, change in {
                "empty": "", "cut": '{"model"', "list": "[]", "no model": "{}", "bytes": b'{"a": "\xff"}',
                "model type": {"model": {"type": "WordPiece"}},
                "normalizer": {"normalizer": {"type": "Bert"}},
                "pre_tokenizer": {"pre_tokenizer": {"type": "Bert\x1b[31m"}},
                "decoder": {"decoder": {"type": "CTC"}}, "decoder kind": {"decoder": [1]},
                "pattern": {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"},
                                              "behavior": "Isolated"}},
                "pattern of PCRE2": {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?<=a+)b"},
                                                       "behavior": "Isolated"}},
                "merge": {"model": {**tokenizer["model"], "merges": ["a b c"]}},
                "vocab": {"model": {**tokenizer["model"], "vocab": {"a": -1}}},
                "added": {"added_tokens": [{"content": "x"}]}}.items():
            content = json.dumps({**tokenizer, **change}) if isinstance(change, dict) else change
            self.case(f"tokenizer.json: {name}", "tokenize",
                      damaged(f"tokenizer {name}", "tokenizer.json", content), "--text", "a")
        for name, content in {"empty": b"", "text": b"hello", "random": bytes(range(256)) * 4}.items():
            folder = damaged(f"pieces {name}", "tokenizer.json", None)
            (folder / "tokenizer.model").write_bytes(content)
            self.case(f"tokenizer.model: {name}", "tokenize", folder, "--text", "a")
        bare = damaged("bare", "tokenizer.json", None)
        self.case("no tokenizer", "tokenize", bare, "--text", "a")
        config = self.config("bare", model={"path": str(bare)})
        self.case("no tokenizer, in a run", "run", config)
        self.case("no tokenizer, in score", "score", config, "--text-file", self.file("t", "text"))

    def add_inputs(self):
        config = self.config("inputs")
        for name, content in {"cut": "[1, 2", "empty": "", "object": "{}", "empty list": "[]",
                              "text": '["a"]', "negative": "[-1]", "outside": "[1, 99999]",
                              "one": "[1]", "mixed": "[[1, 2], 3]", "deep": "[" * 100,
                              "fraction": "[1.5]", "huge": "[1e999]"}.items():
            self.case(f"score ids: {name}", "score", config, "--token-ids-file",
                      self.file(f"ids/{name}", content))
        self.case("score: folder", "score", config, "--text-file", self.root)
        self.case("score: ids folder", "score", config, "--token-ids-file", self.root)
        self.case("score: missing", "score", config, "--text-file", self.root / "none")
        self.case("score: not UTF-8", "score", config, "--text-file", self.file("latin", b"caf\xe9"))
        self.case("score: empty", "score", config, "--text-file", self.file("void", ""))
        self.case("tokenize: folder", "tokenize", self.model, "--text-file", self.root)
        self.case("tokenize: missing", "tokenize", self.model, "--text-file", self.root / "none")
        self.case("tokenize: device", "tokenize", self.model, "--text-file", "/dev/zero")
        self.case("tokenize: not UTF-8", "tokenize", self.model, "--text", b"caf\xe9")
        self.case("tokenize: id outside", "tokenize", self.model, "--decode", "--text", "[99999]")
        self.case("tokenize: a line", "tokenize", self.model, "--lines", "--text-file",
                  self.file("lines", '"a"\n[1]\n'))
        self.case("tokenize: a line of ids", "tokenize", self.model, "--lines", "--decode",
                  "--text-file", self.file("idlines", '[1]\n"a"\n'))
        self.case("tokenize: no folder", "tokenize", self.root / "none", "--text", "a")
        self.case("tokenize: a file", "tokenize", self.file("x", "x"), "--text", "a")
        self.case("run: empty prompt", "run", config, "--prompt", "")
        self.case("run: bytes", "run", config, "--prompt", b"\xff\xfe")
        self.case("run: too long", "run", config, "--prompt", "x" * 5000)
        self.case("run: nothing to do", "run", self.config("idle", generate={"prompts": []}))
        self.case("run: empty ids", "run", config, "--set", "generate.prompt_token_ids=[[]]")
        self.case("run: id outside", "run", config, "--set", "generate.prompt_token_ids=[99999]")
        self.case("run: mmap elsewhere", "run", config, "--set", "io.engine=mmap", "--set",
                  "device=host-discrete")
        self.case("run: policy and share", "run", config, "--set", "placement.policy=ram", "--set",
                  "placement.ram_share=0.5")

    def add_outputs(self):
        config = self.config("outputs")
        for name, target in {"config": config, "model": self.model / "config.json",
                             "folder": self.root, "no folder": self.root / "no" / "r.json",
                             "foreign": self.file("notes.txt", "my notes")}.items():
            self.case(f"report: {name}", "run", config, "--report", target)
        self.case("report and trace", "run", config, "--report", self.root / "same", "--trace",
                  self.root / "same")
        for name, content in {"empty": "", "object": "{}", "not json": "hello", "no events":
                              '{"traceEvents": []}', "number": '{"traceEvents": 5}',
                              "event": '{"traceEvents": [1]}'}.items():
            self.case(f"trace: {name}", "trace", self.file(f"traces/{name}", content))
        self.case("trace: missing", "trace", self.root / "none")
        for name, content in {"missing": None, "empty": "", "object": "{}",
                              "version": '{"version": 99}'}.items():
            file = self.root / "none" if content is None else self.file(f"profiles/{name}", content)
            self.case(f"profile: {name}", "plan", config, "--profile", file)
        for name, path in {"missing": "none", "proc": "/proc", "memory": "/dev/shm",
                           "device": "/dev/null"}.items():
            self.case(f"probe: {name}", "probe", "--quiet", "--seconds", "0.01", "--path", path)
        new = self.root / "new"
        for name, words in {"no shape": [], "some": ["--layers", 2], "preset": ["--like", "gpt-5"],
                            "dtype": ["--like", "tiny", "--dtype", "f8"],
                            "vocab": ["--like", "tiny", "--vocab", 258 - 1],
                            "heads": ["--like", "tiny", "--heads", 7],
                            "wide heads": ["--like", "tiny", "--hidden", 8192, "--heads", 2],
                            "kv heads": ["--like", "tiny", "--kv-heads", 3],
                            "too large": ["--like", "llama-3-70b", "--layers", 10000]}.items():
            self.case(f"synth: {name}", "synth", new, *words)
        for name, words in {"type": [new, "--type", "f8"], "no blocks": [new, "--type", "mxfp4"],
                            "ending": [new, "--type", "q8_0"],
                            "no model": [new.with_suffix(".gguf"), "--type", "q8_0"]}.items():
            self.case(f"quantize: {name}", "quantize", self.root / "none", *words)
        self.case("synth: blocks", "synth", new, "--like", "tiny", "--dtype", "q4_k", "--format",
                  "safetensors")
        self.case("synth: not empty", "synth", self.root, "--like", "tiny")
        self.case("synth: no name", "synth", "", "--like", "tiny")
        self.case("synth: below a file", "synth", self.file("y", "y") / "z", "--like", "tiny")
        self.case("bench: out is a file", "bench", config, "--out", self.file("z", "z"))
        self.case("bench: budgets", "bench", config, "--out", self.root / "bench", "--sweeps", "memory",
                  "--budgets", "1MiB", "--quiet")

    def add_notices(self):
        """What is said beside an answer."""
        self.case("note: no profile", "plan", self.config("plain"), code=0)
        self.case("note: more than there is", "plan", self.config("huge", memory={"ram": "900TiB"}),
                  code=0)
        self.case("note: device auto", "plan", self.config("auto", device="auto"), code=0)

    def run(self, case):
        name, arguments, code, stdin, environment = case
        words = [a if isinstance(a, bytes) else str(a) for a in arguments]
        clean = {"PATH": os.environ["PATH"], "HOME": str(self.home),
                 "XDG_CACHE_HOME": str(self.home / "cache"), **environment}
        done = subprocess.run([SPILLWAY, *words], input=stdin, capture_output=True, env=clean,
                              cwd=self.root, timeout=120)
        return done.returncode, done.stderr


def faults_of(line, code):
    """What is wrong with one line that a person reads."""
    if not line.startswith(("spillway: ", "note: ")):
        yield "begins with neither spillway: nor note:"
    if code != 0 and line.startswith("spillway: ") and len(line) < 20:
        yield "says nothing"
    if len(line) > MOST_CHARACTERS:
        yield f"has {len(line)} characters"
    for fragment in FORBIDDEN:
        if fragment in line:
            yield f"has \"{fragment}\", which is no word for a person"
    if re.search(r":\s*$|:\s*:|;\s*$|;\s*;|\s$|\(\)", line):
        yield "has a mark with nothing behind it"
    if re.search(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufffd]", line):
        yield "has characters that are not for a terminal"


def check(case, result):
    """Lines of a case, and what is wrong."""
    name, _, expected, _, _ = case
    code, raw = result
    faults = []
    if code != expected:
        faults.append(f"exit code {code} instead of {expected}")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(errors="backslashreplace")
        faults.append("is not UTF-8")
    lines = text.splitlines() if "\r" not in text else text.split("\n")
    errors = [line for line in lines if not line.startswith("note: ")]
    if len(errors) != (0 if expected == 0 else 1):
        faults.append(f"{len(errors)} lines instead of {0 if expected == 0 else 1}")
    if expected == 0 and not lines:
        faults.append("says nothing")
    for line in lines:
        faults.extend(faults_of(line, expected))
    return [(name, line) for line in lines], [f"{name}: {fault}: {text!r}" for fault in faults]


def sources():
    """The list of every text in the sources."""
    script = pathlib.Path(__file__).resolve().parent.parent / "scripts" / "messages.py"
    return subprocess.run([sys.executable, script], capture_output=True, text=True,
                          check=True).stdout


def main():
    global SPILLWAY
    SPILLWAY = str(pathlib.Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(prefix="spillway-messages-") as folder:
        messages = Messages(pathlib.Path(folder))
        for group in (messages.add_command_lines, messages.add_configurations, messages.add_folders,
                      messages.add_gguf_models, messages.add_inputs, messages.add_outputs,
                      messages.add_notices):
            group()
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(pool.map(messages.run, messages.cases))
        rows, faults = [], []
        for case, result in zip(messages.cases, results):
            lines, wrong = check(case, result)
            rows += [(name, line.replace(folder, "/tmp/m")) for name, line in lines]
            faults += wrong
    width = max(len(name.encode("ascii", "backslashreplace")) for name, _ in rows)
    for name, line in rows:
        print(f"{name.encode('ascii', 'backslashreplace').decode():<{width}}  {line}")
    print("\nTexts of the sources:\n")
    for line in sources().splitlines():
        print(line)
        faults += [f"a source has {word!r}: {line}" for word in LIBRARIES if word in line]
    print(f"{len(messages.cases)} cases, {len(rows)} messages, {len(faults)} faults")
    for fault in faults:
        print("FAULT", fault)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
