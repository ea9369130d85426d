"""Every command with missing, surplus, empty, repeated and absurd arguments."""
import json

USAGE = (2,)
BAD = (1,)
ANY = (0, 1, 2)

COMMANDS = ("run", "score", "plan", "probe", "bench", "inspect", "tokenize", "trace", "synth")
OPTIONS_WITH_VALUES = {
    "run": ("--prompt", "--set", "--report", "--trace"),
    "score": ("--text-file", "--token-ids-file", "--set", "--report", "--trace"),
    "plan": ("--set", "--profile"),
    "probe": ("--path", "--out", "--device", "--seconds"),
    "bench": ("--set", "--out", "--sweeps", "--repeats", "--shares", "--batches",
              "--memory-points", "--budgets", "--tokens", "--prompt-tokens"),
    "tokenize": ("--text", "--text-file"),
    "trace": ("--svg", "--pass"),
    "synth": ("--like", "--layers", "--hidden", "--intermediate", "--heads", "--kv-heads",
              "--vocab", "--dtype", "--shards", "--seed"),
}
NUMBERS = {
    ("probe", "--seconds"): ("nan", "inf", "-1", "0", "1e999", "", "x", "601", "0x"),
    ("bench", "--repeats"): ("0", "-1", "101", "1.5", "nan", "", "99999999999999999999"),
    ("bench", "--shares"): ("-1", "101", "nan", "", "1,x", "a,b", "50;60"),
    ("bench", "--batches"): ("0", "-1", "4097", "nan", ","),
    ("bench", "--memory-points"): ("0", "-1", "101", "nan"),
    ("bench", "--budgets"): ("0x", "-1GiB", "nan", "1ZiB", ","),
    ("bench", "--tokens"): ("0", "-1", "10001", "nan"),
    ("bench", "--prompt-tokens"): ("0", "-1", "1048577", "nan"),
    ("bench", "--sweeps"): ("speed", "", "decode,speed", "DECODE"),
    ("trace", "--pass"): ("0", "-1", "nan", "1e9", "99999999999999999999"),
    ("synth", "--layers"): ("0", "-1", "nan", "1.5", "65537", "x", "", "99999999999999999999"),
    ("synth", "--hidden"): ("0", "-1", "1e3", "4294967296"),
    ("synth", "--heads"): ("0", "-8", "nan"),
    ("synth", "--vocab"): ("0", "-1", "nan"),
    ("synth", "--shards"): ("0", "-1", "10001", "nan"),
    ("synth", "--seed"): ("-1", "nan", "1.5", "x"),
}


def base_arguments(box, command):
    """Arguments with which the command works, but for those that follow."""
    model = box.world.models["tiny"]
    if command in ("run", "plan"):
        return [command, box.config(model)]
    if command == "score":
        return [command, box.config(model)]
    if command == "bench":
        return [command, box.config(model), "--out", box.folder / "out"]
    if command in ("inspect", "tokenize"):
        return [command, model]
    if command == "trace":
        return [command, box.write("trace.json", "{}")]
    if command == "synth":
        return [command, box.folder / "new", "--vocab", 300]
    return [command, "--path", box.world.drive]


def usage_case(command, *arguments, base=True, expect=USAGE):
    def body(box):
        box.spillway(*(base_arguments(box, command) if base else [command]), *arguments,
                     expect=expect)
    return body


def plain_case(arguments, expect):
    return lambda box: box.spillway(*arguments, expect=expect)


SYNTH_WRONG = {
    "no-shape": (), "only-layers": ("--layers", 2), "preset-unknown": ("--like", "gpt-5"),
    "preset-empty": ("--like", ""), "preset-newline": ("--like", "a\nb"),
    "dtype-unknown": ("--like", "tiny", "--dtype", "f8"),
    "dtype-empty": ("--like", "tiny", "--dtype", ""),
    "vocab-small": ("--like", "tiny", "--vocab", 257),
    "heads-do-not-divide": ("--like", "tiny", "--heads", 7),
    "kv-heads-do-not-divide": ("--like", "tiny", "--kv-heads", 3),
    "kv-heads-more": ("--like", "tiny", "--kv-heads", 16),
    "hidden-odd": ("--like", "tiny", "--hidden", 257),
    "too-large": ("--like", "llama-3-70b", "--layers", 10000, "--intermediate", 1 << 20),
    "huge": ("--layers", 10000, "--hidden", 1 << 20, "--intermediate", 1 << 20, "--heads",
                 1 << 14, "--vocab", 1 << 24),
    "huge-small-head": ("--layers", 10000, "--hidden", 1 << 20, "--intermediate", 1,
                            "--heads", 1 << 14, "--vocab", 258),
}
SYNTH_FINE = {
    "more-shards-than-tensors": ("--layers", 1, "--hidden", 4, "--intermediate", 1, "--heads", 1,
                                 "--vocab", 258, "--shards", 10000),
    "smallest": ("--layers", 1, "--hidden", 2, "--intermediate", 1, "--heads", 1, "--vocab", 258),
    "1000-layers": ("--layers", 1000, "--hidden", 2, "--intermediate", 1, "--heads", 1, "--vocab",
                    258),
}


def synth_wrong(arguments):
    return lambda box: box.spillway("synth", box.folder / "new", *arguments, expect=BAD)


def synth_fine(arguments):
    def body(box):
        box.spillway("synth", box.folder / "new", *arguments, outputs=["new"])
        config = box.config(box.folder / "new", generate={"prompts": [], "max_new_tokens": 2,
                                                          "prompt_token_ids": [1, 2]})
        box.spillway("run", config, "--quiet")
        box.spillway("inspect", box.folder / "new", "--verify")
    return body


def prompts_case(prompts, expect):
    def body(box):
        words = [word for prompt in prompts for word in ("--prompt", prompt)]
        box.spillway("run", box.config(box.world.models["tiny"]), "--quiet", *words, expect=expect)
    return body


def decode_case(text, expect):
    return lambda box: box.spillway("tokenize", box.world.models["tiny"], "--decode", "--text",
                                    text, expect=expect)


def trace_case(content, expect=BAD):
    return lambda box: box.spillway("trace", box.write("trace.json", content), "--svg",
                                    box.folder / "out.svg", outputs=["out.svg"], expect=expect)


def profile_case(content, expect=BAD):
    return lambda box: box.spillway("plan", box.config(box.world.models["tiny"]), "--profile",
                                    box.write("profile.json", content), expect=expect)


def span(**values):
    return {"ph": "X", "name": "pass 1", "pid": 1, "tid": 5, "ts": 0, "dur": 10, **values}


def events(*items):
    return json.dumps({"traceEvents": list(items)})


TRACES = {
    "empty": "", "list": "[]", "null": "null", "no-events": "{}", "events-null":
    '{"traceEvents": null}', "events-number": '{"traceEvents": 5}', "events-empty": events(),
    "event-null": events(None), "event-text": events("x"), "event-list": events([1]),
    "ts-text": events(span(ts="0")), "ts-1e308": events(span(ts=1e308), span(ts=-1e308)),
    "dur-negative": events(span(dur=-5)), "dur-text": events(span(dur="x")),
    "name-number": events(span(name=5)), "args-text": events(span(args="x")),
    "tid-negative": events(span(tid=-1)), "cut": '{"traceEvents": [{"ph": "X"',
    "deep": '{"traceEvents": ' + "[" * 100000, "not-utf8": b'{"traceEvents": "\xff"}',
}


def cases(_):
    yield "no-command", plain_case([], USAGE)
    for name, word in {"unknown": "fly", "empty": "", "newline": "a\nb", "not-utf8": b"\xff\xfe",
                       "dash": "-", "dashes": "--", "long": "x" * 100_000, "option": "--fly",
                       "space": " run", "upper": "RUN"}.items():
        yield f"command-{name}", plain_case([word], USAGE)
    yield "two-commands", plain_case(["run", "plan"], (1, 2))
    for words in (["--help"], ["--version"], ["-V"], ["version"], ["help"], ["help", "run"]):
        yield f"main/{'-'.join(words)}", plain_case(words, (0,))
    yield "help/unknown", plain_case(["help", "fly"], USAGE)
    for command in COMMANDS:
        yield f"{command}/help", plain_case([command, "--help"], (0,))
        if command != "probe":
            yield f"{command}/nothing", plain_case([command], USAGE)
        yield f"{command}/unknown-option", usage_case(command, "--no-such-option")
        yield f"{command}/unknown-letter", usage_case(command, "-z")
        yield f"{command}/surplus", usage_case(command, "surplus", "more")
        yield f"{command}/not-utf8-option", usage_case(command, b"--\xff\xfe")
        yield f"{command}/newline-option", usage_case(command, "--a\nb")
        if command != "probe":
            yield f"{command}/empty-argument", plain_case([command, ""], (1, 2))
        for option in OPTIONS_WITH_VALUES.get(command, ()):
            yield f"{command}/no-value{option}", usage_case(command, option)
        for option in {"run": ("--report", "--trace"), "plan": ("--profile",), "probe": (
                "--device", "--seconds"), "bench": ("--repeats", "--tokens"), "trace": ("--pass",),
                       "synth": ("--like", "--layers", "--seed")}.get(command, ()):
            yield f"{command}/twice{option}", usage_case(command, option, "1", option, "1",
                                                         expect=(1, 2))
    for (command, option), values in NUMBERS.items():
        for number, value in enumerate(values):
            yield f"{command}/number{option}-{number}", usage_case(command, option, value)
    yield "score/no-input", usage_case("score")
    yield "tokenize/no-input", usage_case("tokenize")
    yield "score/two-inputs", usage_case("score", "--text-file", "a", "--token-ids-file", "b")
    yield "tokenize/two-inputs", usage_case("tokenize", "--text", "a", "--text-file", "b")
    for command in ("run", "plan"):
        yield f"{command}/no-such-file", plain_case([command, "none.yaml"], BAD)
    for name, word in {"empty": "", "gpu": "gpu", "cuda": "cuda:", "cuda-x": "cuda:x"}.items():
        yield f"probe/device-{name}", usage_case("probe", "--device", word)
    for name, path in {"missing": "none", "empty": "", "proc": "/proc", "sys": "/sys", "shm":
                       "/dev/shm", "device": "/dev/null", "tty": "/dev/zero"}.items():
        yield f"probe/path-{name}", plain_case(["probe", "--seconds", "0.01", "--quiet", "--path",
                                               path], (1, 2))
    for name, arguments in SYNTH_WRONG.items():
        yield f"synth/{name}", synth_wrong(arguments)
    for name, arguments in SYNTH_FINE.items():
        yield f"synth-fine/{name}", synth_fine(arguments)
    for name, (prompts, expect) in {
            "empty": ([""], BAD), "second-empty": (["a", ""], BAD), "not-utf8": ([b"\xff"], BAD),
            "newlines": (["\n\n\n"], (0,)), "spaces": (["   "], (0,)), "escape": (["\x1b[2J"], (0,)),
            "special": (["<|end|>"], (0,)), "too-long": (["x" * 5000], BAD), "dash": (["-x"], (0, 2)),
            "200": (["x"] * 200, (0,)), "emoji": (["\U0001f30a" * 50], (0,)),
            "surrogate": ([b"\xed\xa0\x80"], BAD), "100kB": (["x" * 100_000], BAD)}.items():
        yield f"prompt/{name}", prompts_case(prompts, expect)
    for name, (text, expect) in {
            "empty": ("", (0,)), "text": ("Hello", (0,)), "empty-list": ("[]", (0,)),
            "outside": ("[300]", BAD), "negative": ("[-1]", (0, 1)), "huge": ("[4294967295]", BAD),
            "2^64": ("[18446744073709551616]", (0, 1)), "broken-utf8": ("[195, 195, 40]", (0,)),
            "nested": ("[[1]]", (0, 1)), "cut": ("[1, 2", (0, 1)), "deep": ("[" * 50000, (0, 1)),
            "all": (json.dumps(list(range(300))), (0,))}.items():
        yield f"decode/{name}", decode_case(text, expect)
    for name, content in TRACES.items():
        yield f"trace/file-{name}", trace_case(content)
    for name, content in {"empty": "", "list": "[]", "null": "null", "object": "{}", "cut": '{"a',
                          "version": '{"version": 99}', "deep": "[" * 100000,
                          "not-utf8": b'{"\xff": 1}', "text": "hello"}.items():
        yield f"plan/profile-{name}", profile_case(content)
