"""Every key of configs/README.md with wrong types, wrong units and extremes; YAML as malice; budgets,
slots, slabs, units, chunks and depths in combinations."""
import json
import random

BAD = (1,)
ANY = (0, 1)
GOOD = (0,)

SIZES = ("memory.ram", "memory.gpu", "io.chunk", "stream.unit")
NATURALS = ("io.depth", "stream.slots", "stream.staging_slabs", "compute.threads",
            "generate.max_new_tokens", "generate.prefill_chunk", "score.chunk", "score.context")
NATURALS_FROM_0 = ("generate.top_k", "generate.seed")
REALS = ("placement.ram_share", "generate.temperature", "generate.top_p")
WORDS = ("device", "placement.policy", "io.engine", "io.direct", "compute.prompt_math")
FLAGS = ("generate.ignore_eos", "score.logprobs", "io.register_buffers")
LISTS = ("generate.prompts", "generate.prompt_token_ids")
PATHS = ("model.path", "report", "trace")

NEVER = {"null": "~", "list": "[1, 2]", "map": "{a: 1}", "word": "lots", "empty": "''",
         "nested": "[[[[1]]]]", "nul": '"\\0"', "newline": '"1\\n2"', "long": "9" * 400}
NUMBERS = {"negative": "-1", "nan": ".nan", "infinity": ".inf", "1e999": "1e999", "hex": "0x10",
           "plus": "+5", "comma": "1,5", "2^64": "18446744073709551616", "spaces": "'  5'"}


def set_case(assignments, expect, model="tiny", command="run"):
    def body(box):
        config = box.config(box.world.models[model])
        words = [word for text in assignments for word in ("--set", text)]
        more = ["--quiet"] if command != "plan" else []
        if command == "score":
            more += ["--token-ids-file", box.write("ids.json", "[1, 2, 3, 4, 5, 6, 7, 8]")]
        box.spillway(command, config, *more, *words, expect=expect)
    return body


def wrong_values():
    """(key, name, value): nothing that could ever be right."""
    for key in (*SIZES, *NATURALS, *NATURALS_FROM_0, *REALS):
        for name, value in {**NEVER, **NUMBERS}.items():
            if key == "generate.temperature" and name == "infinity":
                pass
            yield key, name, value
    for key in (*WORDS, *FLAGS):
        for name, value in {**NEVER, "number": "5", "upper": "TRUE", "yes": "yes"}.items():
            yield key, name, value
    for key in LISTS:
        for name, value in {"map": "{a: 1}", "word": "lots", "number": "5", "null": "~",
                            "maps": "[{a: 1}]", "nested": "[[[1]]]", "mixed": "[1, [2]]",
                            "null-inside": "[~]", "huge-id": "[99999999999999999999]",
                            "negative-id": "[-1]", "fraction-id": "[1.5]"}.items():
            texts = key == "generate.prompts" and name in ("huge-id", "negative-id", "fraction-id",
                                                           "word", "number")
            if not texts:
                yield key, name, value
    for key in PATHS:
        for name, value in {"map": "{a: 1}", "list": "[a]", "empty": "''", "null": "~"}.items():
            yield key, name, value


EXTREMES = {
    "memory.ram": ("0", "1", "1MiB", "3MiB", "9MiB", "1PiB", "1125899906842624", "1EiB", "1 GiB",
                   "1.5GiB", "0x1GiB", "-1GiB", "1gib", "GiB", "1TB"),
    "memory.gpu": ("0", "1MiB", "2MiB", "1PiB"),
    "io.chunk": ("64KiB", "64MiB", "65MiB", "63KiB", "100000", "96KiB", "0"),
    "io.depth": ("0", "1", "256", "257", "4294967297"),
    "stream.unit": ("64KiB", "4GiB", "1", "65KiB", "5GiB"),
    "stream.slots": ("1", "2", "1024", "1025"),
    "stream.staging_slabs": ("0", "1", "1024"),
    "compute.threads": ("0", "1", "3", "1024", "1025"),
    "compute.prompt_math": ("bf16", "f32", "f64"),
    "generate.max_new_tokens": ("0", "1", "16777216", "16777217"),
    "generate.prefill_chunk": ("0", "1", "65536", "65537"),
    "generate.temperature": ("0", "1e-300", "100", "101", "-0"),
    "generate.top_k": ("1", "16777216", "16777217"),
    "generate.top_p": ("0", "1e-6", "1", "1.0000001"),
    "generate.seed": ("18446744073709551615",),
    "score.context": ("1", "2", "16777216"),
    "score.chunk": ("0", "1", "65536"),
    "device": ("cuda", "cuda:0", "cuda:99", "cuda:100", "cuda:-1", "cuda:", "cuda:a", "CUDA",
               "host-discrete", "host discrete", "gpu"),
    "io.engine": ("io_uring", "pread", "mmap", "uring"),
    "io.direct": ("on", "off", "true"),
    "placement.policy": ("ram", "nvme", "gpu", "disk"),
    "placement.ram_share": ("0", "1", "0.5", "1.01", "1e-300", "50%"),
    "placement.layers": ("{0: ram}", "{0-1: nvme}", "{0-2: ram}", "{5: ram}", "{1-0: ram}",
                         "{-1: ram}", "{4294967296: ram}", "{0-4294967295: ram}", "{0: gpu}",
                         "{embed: ram, head: nvme}", "{tail: ram}", "{0: disk}", "{0: [ram]}",
                         "[ram]", "ram", "~", "{}", "{0: ram, 0-1: nvme}", "{'0-': ram}",
                         "{'0-1-2': ram}", "{'': ram}", "{1.5: ram}", "{[0]: ram}", "{~: ram}",
                         "{0: ram, 0: nvme}"),
    "model.path": ("/", "/proc", "/dev/null", ".", "..", "/proc/self/fd", "'\0'", "~/model"),
}
# Extremes that the documents call impossible.
IMPOSSIBLE = {
    "memory.ram": ("0", "1", "1MiB", "3MiB", "1EiB", "0x1GiB", "-1GiB", "GiB"),
    "memory.gpu": ("0",),
    "io.chunk": ("65MiB", "63KiB", "100000", "96KiB", "0"),
    "io.depth": ("0", "257", "4294967297"),
    "stream.unit": ("1", "5GiB"),
    "stream.slots": ("1", "1025"),
    "stream.staging_slabs": ("0",),
    "compute.threads": ("0", "1025"),
    "compute.prompt_math": ("f64",),
    "generate.max_new_tokens": ("0", "16777217"),
    "generate.prefill_chunk": ("0", "65537"),
    "generate.temperature": ("101",),
    "generate.top_k": ("16777217",),
    "generate.top_p": ("0", "1.0000001"),
    "score.context": ("1",),
    "score.chunk": ("0",),
    "device": ("cuda:99", "cuda:100", "cuda:-1", "cuda:", "cuda:a", "CUDA", "host discrete", "gpu"),
    "io.engine": ("uring",),
    "io.direct": ("true",),
    "placement.policy": ("gpu", "disk"),
    "placement.ram_share": ("1.01", "50%"),
    "placement.layers": ("{0-2: ram}", "{5: ram}", "{1-0: ram}", "{-1: ram}", "{4294967296: ram}",
                         "{0-4294967295: ram}", "{tail: ram}", "{0: disk}", "{0: [ram]}", "[ram]",
                         "ram", "{'0-': ram}", "{'0-1-2': ram}", "{'': ram}", "{1.5: ram}",
                         "{[0]: ram}", "{0: ram, 0: nvme}"),
    "model.path": EXTREMES["model.path"],
}


def yaml_case(content, expect=BAD):
    """A whole file; %MODEL% stands for a model's folder."""
    def body(box):
        raw = content if isinstance(content, bytes) else content.encode()
        path = box.write("run.yaml", raw.replace(b"%MODEL%", str(box.world.models["tiny"]).encode()))
        box.spillway("plan", path, expect=expect)
    return body


HEAD = "model: {path: %MODEL%}\ndevice: host\nmemory: {ram: 256MiB}\n"
LAUGHS = "\n".join(["a: &a [x,x,x,x,x,x,x,x,x]"] + [
    f"{chr(98 + i)}: &{chr(98 + i)} [" + ",".join([f"*{chr(97 + i)}"] * 9) + "]"
    for i in range(12)])
YAML = {
    "empty": "", "spaces": "   \n", "comment": "# nothing\n", "null": "~", "list": "- a\n- b\n",
    "text": "hello", "number": "5", "zeros": b"\0" * 100, "binary": bytes(range(256)),
    "tab": "model:\n\tpath: x\n", "cut-flow": "model: {path: x", "cut-quote": 'model: {path: "x',
    "no-model": "device: host\n", "model-null": "model: ~\n", "model-text": "model: x\n",
    "unknown-key": HEAD + "modle: {}\n", "unknown-section-key": HEAD + "io: {speed: 9}\n",
    "key-twice": HEAD + "device: host\n", "section-twice": HEAD + "memory: {ram: 1GiB}\n",
    "key-null": HEAD + "~: 5\n", "key-list": HEAD + "[a, b]: 5\n", "key-map": HEAD + "{a: b}: 5\n",
    "key-long": HEAD + "x" * 1_000_000 + ": 5\n", "key-newline": HEAD + '"a\\nb": 5\n',
    "key-escape": HEAD + '"\\e[31m": 5\n', "key-dotted": HEAD + "memory.ram: 1GiB\n",
    "unknown-alias": HEAD + "io: *nowhere\n", "recursive": HEAD + "io: &a {chunk: *a}\n",
    "recursive-list": HEAD + "generate: {prompts: &a [*a]}\n",
    "laughs": HEAD + "generate:\n  prompts: [x]\n" + LAUGHS,
    "laughs-in-prompts": LAUGHS + "\n" + HEAD + "generate: {prompts: *j}\n",
    "laughs-in-ids": LAUGHS + "\n" + HEAD + "generate: {prompt_token_ids: *j}\n",
    "deep-flow": HEAD + "generate: {prompts: " + "[" * 100_000 + "]" * 100_000 + "}\n",
    "deep-flow-map": HEAD + "io: " + "{a: " * 100_000 + "}" * 100_000 + "\n",
    "deep-block": HEAD + "io:\n" + "\n".join(" " * i + "a:" for i in range(1, 2000)) + "\n",
    "deep-list": HEAD + "io: " + "- " * 100_000 + "\n", "deep-tags": HEAD + "io: " + "!a " * 10000,
    "bad-escape": HEAD + 'report: "\\q"\n', "directive": "%YAML 9.9\n---\n" + HEAD + "x: 1\n",
    "tag-python": HEAD + "io: !!python/object/apply:os.system [ls]\n",
    "crlf-and-unknown": HEAD.replace("\n", "\r\n") + "x: 1\r\n", "colons": ":::::", "dashes": "---\n" * 10,
    "percent": "%" * 1000, "ampersands": "&" * 1000, "question": "? " * 1000,
    "quoted-section": HEAD + '"io": "x"\n', "1MB-of-braces": "{" * 1_000_000,
    "1MB-of-brackets": "[" * 1_000_000, "100k-keys": HEAD + "\n".join(
        f"k{i}: 1" for i in range(100_000)), "html": "<!DOCTYPE html>\n<html>404</html>\n",
    "utf16-rubbish": "model: {".encode("utf-16"), "cut-utf8": b"model: {path: \xe2\x82",
    "not-utf8-key": b"\xff\xfe\xfa: 5", "second-document": HEAD + "---\nother: 1\n",
}
YAML_FINE = {
    "plain": HEAD, "crlf": HEAD.replace("\n", "\r\n"), "bom": b"\xef\xbb\xbf" + HEAD.encode(),
    "documents": HEAD + "---\n", "one-prompt": HEAD + "generate: {prompts: Hi}\n", "anchors": "device: &d host\n" + HEAD.replace(
        "device: host", "compute: {prompt_math: auto}"), "1MB-comment": "#" * 1_000_000 + "\n" + HEAD,
    "empty-sections": HEAD + "io:\nstream:\ngenerate:\n", "long-prompt": HEAD + "generate: {prompts: ['"
    + "x" * 500 + "']}\n", "end-mark": HEAD + "...\n", "tag-str": "device: !!str host\n" + HEAD.replace(
        "device: host\n", ""),
}
SET = {
    "empty": "", "equals": "=", "no-value": "memory.ram", "no-key": "=5", "dots": "...=5",
    "trailing-dot": "memory.=5", "leading-dot": ".ram=5", "two-dots": "memory..ram=5",
    "section": "memory=5", "section-list": "memory=[1]", "beyond": "memory.ram.x=5",
    "unknown": "memory.rom=5GiB", "spaces": "memory.ram = 1GiB", "bad-yaml": "memory.ram={",
    "bad-yaml-list": "generate.prompts=[", "alias": "memory.ram=*a", "tab": "memory.ram=\t",
    "newline": "memory\n.ram=5", "not-utf8": b"\xff\xfe=5", "escape": "\x1b[31m=5",
    "1MB-key": "x" * 100_000 + "=5", "deep": "generate.prompts=" + "[" * 50_000,
    "layers-key": "placement.layers.=ram", "layers-beyond": "placement.layers.9=ram",
    "layers-text": "placement.layers.x=ram", "layers-tier": "placement.layers.0=disk",
}


def combination(seed, number):
    """Budgets and shapes of streaming that may or may not fit: an answer, or one line why not."""
    rng = random.Random(f"{seed}/combination/{number}")
    pick = rng.choice

    def body(box):
        values = {
            "device": pick(["host", "host-discrete"]),
            "memory.ram": pick(["4MiB", "8MiB", "16MiB", "24MiB", "33MiB", "48MiB", "64MiB",
                                "256MiB", "auto", f"{rng.randrange(1 << 20, 1 << 26)}"]),
            "memory.gpu": pick(["1MiB", "4MiB", "8MiB", "16MiB", "64MiB"]),
            "placement.policy": pick(["auto", "ram", "nvme"]),
            "io.engine": pick(["auto", "pread", "io_uring", "mmap"]),
            "io.direct": pick(["auto", "on", "off"]),
            "io.chunk": pick(["64KiB", "128KiB", "1MiB", "64MiB"]),
            "io.depth": pick(["1", "2", "8", "256"]),
            "io.register_buffers": pick(["true", "false"]),
            "stream.unit": pick(["64KiB", "100000", "1MiB", "4MiB", "4GiB"]),
            "stream.slots": pick(["2", "3", "8", "1024"]),
            "stream.staging_slabs": pick(["1", "2", "12", "1024"]),
            "compute.threads": pick(["1", "2", "8"]),
            "generate.prefill_chunk": pick(["1", "7", "512", "65536"]),
            "score.chunk": pick(["1", "5", "512", "65536"]),
            "score.context": pick(["2", "100", "4096", "1000000"]),
        }
        kept = rng.sample(sorted(values), rng.randrange(2, len(values)))
        lengths = [rng.randrange(1, 400) for _ in range(rng.randrange(1, 6))]
        lists = [[rng.randrange(300) for _ in range(length)] for length in lengths]
        words = [word for key in kept for word in ("--set", f"{key}={values[key]}")]
        model = box.world.models[pick(["tiny", "single"])]
        if number % 2 == 0:
            config = box.config(model, generate={"prompts": [], "prompt_token_ids": lists,
                                                 "max_new_tokens": 3})
            box.spillway("run", config, "--quiet", *words, expect=ANY)
        else:
            ids = box.write("ids.json", json.dumps([list_ + [1] for list_ in lists]))
            box.spillway("score", box.config(model), "--quiet", "--token-ids-file", ids, *words,
                         expect=ANY)
    return body


def budget_walk(texts, chunk):
    """The budgets of a band, in small steps: each gives an answer or one line."""
    def body(box):
        ids = box.write("ids.json", json.dumps([[i % 300 for i in range(n)] for n in texts]))
        config = box.config(box.world.models["slow"], score={"chunk": chunk})
        for mib in range(8, 40, 4):
            box.spillway("score", config, "--quiet", "--token-ids-file", ids, "--set",
                         f"memory.ram={mib}MiB", expect=ANY)
    return body


def huge_prompt(box):
    """More tokens than the context; a batch of thousands of prompts."""
    model = box.world.models["tiny"]
    config = box.config(model, generate={"prompts": [], "prompt_token_ids": [1] * 5000})
    box.spillway("run", config, "--quiet", expect=1)
    config = box.config(model, generate={"prompts": [], "max_new_tokens": 1,
                                         "prompt_token_ids": [[1, 2]] * 2000})
    box.spillway("run", config, "--quiet", expect=0)


def cases(seed):
    for key, name, value in wrong_values():
        command = "score" if key.startswith("score.") else "run"
        yield f"wrong/{key}-{name}", set_case([f"{key}={value}"], BAD, command=command)
    for key, values in EXTREMES.items():
        for number, value in enumerate(values):
            expect = BAD if value in IMPOSSIBLE.get(key, ()) else ANY
            command = "score" if key.startswith("score.") else "run"
            if "\0" in value:
                value = '"\\0"'
            yield f"extreme/{key}-{number}", set_case([f"{key}={value}"], expect, command=command)
    for name, content in YAML.items():
        yield f"yaml/{name}", yaml_case(content)
    for name, content in YAML_FINE.items():
        yield f"yaml-fine/{name}", yaml_case(content, GOOD)
    for name, text in SET.items():
        yield f"set/{name}", set_case([text], BAD)
    yield "set/repeated", set_case(["memory.ram=1MiB", "memory.ram=256MiB"], GOOD)
    yield "set/1000-times", set_case(["memory.ram=256MiB"] * 1000, GOOD)
    for number in range(60):
        yield f"combination/{number:02}", combination(seed, number)
    for number, (texts, chunk) in enumerate((([384, 128, 128, 384], 512), ([1000, 2, 700], 1024),
                                             ([5] * 300, 256), ([2000], 4096))):
        yield f"budgets/{number}", budget_walk(texts, chunk)
    yield "prompt/huge", huge_prompt
    yield "conflict/policy-and-share", set_case(
        ["placement.policy=ram", "placement.ram_share=0.5"], BAD)
    yield "conflict/mmap-and-discrete", set_case(["io.engine=mmap", "device=host-discrete"], BAD)
    yield "conflict/ram-policy-tiny-budget", set_case(
        ["placement.policy=ram", "memory.ram=2MiB"], BAD)
