"""Outputs that point where they must not, cannot or need not; answers that an output's failure must
not take along; and inputs that change while the program reads them."""
import json
import os
import shutil

import faults
from box import Failure, NOBODY

BAD = (1,)
ANY = (0, 1)
GOOD = (0,)
USAGE = (2,)

# How an output is asked for: option of run and score, or key of the YAML.
ROUTES = ("--report", "--trace", "report", "trace")
# What it may be pointed at, and how.
INPUTS = ("shard", "config", "tokenizer", "index", "generation", "yaml", "text", "bystander")
WAYS = ("name", "link", "hard-link", "dots")


def input_path(box, model, config, what):
    return {"shard": model / "model-00001-of-00002.safetensors", "config": model / "config.json",
            "tokenizer": model / "tokenizer.json", "yaml": config,
            "index": model / "model.safetensors.index.json",
            "generation": model / "generation_config.json", "text": box.folder / "text.txt",
            "bystander": box.folder / "bystander"}[what]


def another_name(box, path, way):
    if way == "link":
        other = box.folder / "another"
        other.symlink_to(path)
    elif way == "hard-link":
        other = box.folder / "another"
        os.link(path, other)
    elif way == "dots":
        other = path.parent / ".." / path.parent.name / "." / path.name
    else:
        other = path
    return other


def overwrite_case(command, route, what, way):
    def body(box):
        model = box.model()
        box.write("text.txt", "A text to score.")
        config = box.config(model)
        path = input_path(box, model, config, what)
        other = another_name(box, path, way)
        words = [command, config, "--quiet"]
        if command == "score":
            words += ["--text-file", box.folder / "text.txt"]
        words += [route, other] if route.startswith("--") else ["--set", f"{route}={other}"]
        box.spillway(*words, expect=BAD)
    return body


def each_other_case(way):
    def body(box):
        config = box.config(box.world.models["tiny"])
        first, second = box.folder / "a.json", box.folder / "a.json"
        if way == "link":
            second = box.folder / "b.json"
            second.symlink_to(first)
        elif way == "dots":
            second = box.folder / "home" / ".." / "a.json"
        box.spillway("run", config, "--quiet", "--report", first, "--trace", second, expect=BAD,
                     outputs=["a.json"])
        left = box.folder / "a.json"
        if left.exists() and left.stat().st_size:
            raise Failure("one of two outputs with one name was written")
    return body


def other_command_case(name):
    """The outputs of the other commands, pointed at things that are none of theirs."""
    def body(box):
        model = box.model()
        config = box.config(model)
        trace = box.folder / "trace.json"
        box.spillway("run", config, "--quiet", "--trace", trace, outputs=["trace.json"])
        probe = ["probe", "--path", box.world.drive, "--seconds", "0.01", "--quiet", "--device", "host",
                 "--out"]
        bench = ["bench", config, "--quiet", "--repeats", 1, "--shares", 50, "--batches", 1,
                 "--memory-points", 1, "--tokens", 1, "--prompt-tokens", 4, "--out"]
        shard = model / "model-00001-of-00002.safetensors"
        words = {
            "svg-is-trace": ["trace", trace, "--svg", trace],
            "svg-is-shard": ["trace", trace, "--svg", shard],
            "svg-is-bystander": ["trace", trace, "--svg", box.folder / "bystander"],
            "svg-is-folder": ["trace", trace, "--svg", box.folder],
            "svg-in-missing-folder": ["trace", trace, "--svg", box.folder / "no" / "x.svg"],
            "svg-is-full": ["trace", trace, "--svg", "/dev/full"],
            "probe-is-shard": [*probe, shard],
            "probe-is-config": [*probe, model / "config.json"],
            "probe-is-bystander": [*probe, box.folder / "bystander"],
            "probe-is-folder": [*probe, box.folder],
            "probe-is-full": [*probe, "/dev/full"],
            "bench-is-file": [*bench, box.folder / "bystander"],
            "bench-is-yaml": [*bench, config],
            "bench-below-file": [*bench, config / "x"],
            "synth-is-model": ["synth", model, "--like", "tiny"],
            "synth-is-file": ["synth", config, "--like", "tiny"],
            "synth-below-file": ["synth", config / "x", "--like", "tiny"],
            "synth-is-link-to-model": ["synth", another_name(box, model, "link"), "--like", "tiny"],
        }[name]
        box.spillway(*words, expect=BAD)
    return body


OTHERS = ("svg-is-trace", "svg-is-shard", "svg-is-bystander", "svg-is-folder",
          "svg-in-missing-folder", "svg-is-full", "probe-is-shard", "probe-is-config",
          "probe-is-bystander", "probe-is-folder", "probe-is-full", "bench-is-file",
          "bench-is-yaml", "bench-below-file", "synth-is-model", "synth-is-file",
          "synth-below-file", "synth-is-link-to-model")


def bench_in_model_folder(box):
    """Results beside the model's files are allowed; the model's files stay what they are."""
    model = box.model()
    box.spillway("bench", box.config(model), "--quiet", "--repeats", 1, "--shares", 100,
                 "--batches", 1, "--sweeps", "decode", "--tokens", 1, "--out", model, expect=ANY,
                 outputs=[f"model/{name}" for name in ("bench.json", "bench.csv", "bench.html",
                                                       "arms", "memory.svg")])


def bench_over_foreign_files(box):
    """A folder that holds files of these names which bench did not write."""
    out = box.folder / "out"
    out.mkdir()
    for name in ("bench.html", "bench.json", "bench.csv"):
        (out / name).write_text("the only copy of something else")
    box.spillway("bench", box.config(box.world.models["tiny"]), "--quiet", "--repeats", 1,
                 "--shares", 100, "--batches", 1, "--sweeps", "decode", "--tokens", 1, "--out", out,
                 expect=BAD)


def bench_twice(box):
    """A second comparison into the same folder works, and one that fails keeps the first's."""
    words = ["bench", box.config(box.world.models["tiny"]), "--quiet", "--repeats", 1, "--shares",
             100, "--batches", 1, "--tokens", 1, "--prompt-tokens", 4, "--out", box.folder / "out"]
    box.spillway(*words, "--sweeps", "decode", outputs=["out"])
    box.spillway(*words, "--sweeps", "prompt", outputs=["out"])
    kept = (box.folder / "out" / "bench.json").read_bytes()
    box.spillway(*words, "--sweeps", "memory", "--budgets", "1MiB", outputs=["out"], expect=ANY)
    if not (box.folder / "out" / "bench.json").read_bytes().strip():
        raise Failure("the results of the comparison before were emptied")
    json.loads(kept)


# Places where a report may go


def place_case(command, route, kind):
    def body(box):
        model = box.world.models["tiny"]
        config = box.config(model)
        outputs, expect, check = [], BAD, None
        path = box.folder / "report.json"
        if kind == "null":
            path, expect = faults.node(path, 1, 3), GOOD
        elif kind == "full":
            path = faults.node(path, 1, 7)
        elif kind == "folder":
            path.mkdir()
        elif kind == "missing-folder":
            path = box.folder / "no" / "report.json"
        elif kind == "below-file":
            path = box.folder / "bystander" / "report.json"
        elif kind == "link":
            path.symlink_to(box.folder / "target.json")
            outputs, expect, check = ["target.json"], GOOD, box.folder / "target.json"
        elif kind == "link-to-null":
            path.symlink_to("/dev/null")
            expect = GOOD
        elif kind == "link-loop":
            path.symlink_to("report.json")
        elif kind == "link-to-missing-folder":
            path.symlink_to(box.folder / "no" / "target.json")
        elif kind == "fifo-read":
            box.fifo("report.json", drain=True)
            expect = ANY
        elif kind == "fifo-unread":
            box.fifo("report.json")
        elif kind == "long-name":
            path = box.folder / ("x" * 256)
        elif kind == "255-name":
            path = box.folder / ("x" * 255)
            outputs, expect, check = [path.name], GOOD, path
        elif kind == "empty-file":
            path.write_text("")
            outputs, expect, check = ["report.json"], ANY, None
        elif kind == "own-before":
            box.spillway(command, config, *more(box, command), "--quiet", route, path,
                         outputs=["report.json"])
            outputs, expect, check = ["report.json"], GOOD, path
        elif kind == "fd":
            path = "/dev/fd/1"
            expect = ANY
        elif kind == "proc":
            path = "/proc/report.json"
        elif kind == "empty-name":
            path = ""
            expect = USAGE
        box.spillway(command, config, *more(box, command), "--quiet", route, path, outputs=outputs,
                     expect=expect)
        if check is not None:
            json.loads(check.read_bytes())
    return body


def more(box, command):
    if command != "score":
        return []
    return ["--token-ids-file", box.write("ids.json", "[1, 2, 3, 4]")]


PLACES = ("null", "full", "folder", "missing-folder", "below-file", "link", "link-to-null",
          "link-loop", "link-to-missing-folder", "fifo-read", "fifo-unread", "long-name",
          "255-name", "empty-file", "own-before", "fd", "proc", "empty-name")


def full_disk(command):
    """No room for the report: the text is printed all the same."""
    def body(box):
        mount = faults.small_file_system(box, "small", "size=8k")
        (mount / "filler").write_bytes(b"x" * 8192)
        result = box.spillway(command, box.config(box.world.models["tiny"]), *more(box, command),
                              "--quiet", "--report", mount / "report.json", expect=BAD,
                              outputs=["small/report.json"])
        if not result.out.strip() and "report.json" not in result.err:
            raise Failure("a full disk took the answer along")
    return body


def full_disk_synth(box):
    mount = faults.small_file_system(box, "small", "size=70m")
    (mount / "filler").write_bytes(b"x" * (1 << 22))
    box.spillway("synth", mount / "m", "--like", "tiny", "--dtype", "f32", expect=BAD)


def full_disk_bench(box):
    mount = faults.small_file_system(box, "small", "size=16k")
    box.spillway("bench", box.config(box.world.models["tiny"]), "--quiet", "--repeats", 1,
                 "--shares", 100, "--batches", 1, "--sweeps", "decode", "--tokens", 1, "--out",
                 mount / "out", expect=BAD, outputs=["small/out"])


def read_only_file(box):
    """A report of an earlier run that this user may not write."""
    path = box.folder / "report.json"
    config = box.config(box.world.models["tiny"])
    box.spillway("run", config, "--quiet", "--report", path, outputs=["report.json"], expect=GOOD)
    os.chmod(path, 0o444)
    box.spillway("run", config, "--quiet", "--report", path, user=NOBODY, expect=BAD,
                 says="ermission")


# Inputs that change while the program reads them


def streamed(box, name="slow", engine="auto", new_tokens=3000):
    """A long run that streams every pass, with a report, from a copy of its own."""
    model = box.model(name)
    config = box.config(model, placement={"policy": "nvme"}, io={"engine": engine},
                        generate={"prompts": [], "prompt_token_ids": [1, 2, 3],
                                  "max_new_tokens": new_tokens})
    running = box.start("run", config, "--quiet", "--report", box.folder / "report.json", "--trace",
                        box.folder / "trace.json", outputs=["report.json", "trace.json"])
    return model / "model.safetensors", running


def passes(shard, count):
    return count * shard.stat().st_size


def truncated_while_running(engine, size):
    def body(box):
        shard, running = streamed(box, engine=engine)
        if engine == "mmap":
            running.until(lambda: len(os.listdir(f"/proc/{running.process.pid}/task")) > 2, 10)
            running.until(lambda: cpu_seconds(running.process.pid) > 0.5, 20)
        else:
            running.after_reading(passes(shard, 6))
        running.edit(lambda: os.truncate(shard, size), shard)
        result = running.wait(expect=BAD)
        # A read of a mapping that lost its file is a signal in the middle of a kernel: the one case
        # in which nothing can be kept (configs/README.md).
        if "(SIGBUS)" not in result.err:
            box.report(text=engine != "mmap", error=True)
    return body


def cpu_seconds(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def removed_while_running(engine):
    """What was opened stays readable."""
    def body(box):
        shard, running = streamed(box, engine=engine, new_tokens=200)
        running.until(lambda: running.bytes_read() > shard.stat().st_size, 20)
        running.edit(lambda: shutil.rmtree(shard.parent), shard.parent, *shard.parent.iterdir())
        running.wait(expect=GOOD)
        box.report(text=True)
    return body


def replaced_while_running(box):
    shard, running = streamed(box, new_tokens=200)
    running.after_reading(passes(shard, 2))
    other = box.folder / "other"

    def replace():
        shutil.copy(box.world.models["tiny"] / "config.json", other)
        os.rename(other, shard)

    running.edit(replace, shard)
    running.wait(expect=GOOD)
    box.report(text=True)


def overwritten_while_running(box):
    """Weights that become NaN: told, and what was computed before is kept."""
    shard, running = streamed(box)
    running.after_reading(passes(shard, 6))

    def overwrite():
        size = shard.stat().st_size
        with open(shard, "r+b") as file:
            file.seek(size // 8)
            file.write(b"\xff" * (size - size // 8))

    running.edit(overwrite, shard)
    running.wait(expect=BAD)
    box.report(text=True, error=True)


def report_folder_removed(box):
    """The folder of the report goes while the answer is computed: the answer is printed."""
    model = box.model("slow")
    config = box.config(model, placement={"policy": "nvme"},
                        generate={"prompts": [], "prompt_token_ids": [1], "max_new_tokens": 200})
    folder = box.folder / "reports"
    folder.mkdir()
    running = box.start("run", config, "--quiet", "--report", folder / "r.json",
                        outputs=["reports"])
    shard = model / "model.safetensors"
    running.after_reading(passes(shard, 3))
    running.edit(lambda: shutil.rmtree(folder), folder, folder / "r.json")
    result = running.wait(expect=ANY)
    if not result.out.strip():
        raise Failure("the answer was not printed")


def score_truncated(box):
    model = box.model("slow")
    ids = box.write("ids.json", json.dumps([[i % 300 for i in range(64)]] * 400))
    config = box.config(model, placement={"policy": "nvme"}, score={"chunk": 64})
    running = box.start("score", config, "--quiet", "--token-ids-file", ids, "--report",
                        box.folder / "report.json", outputs=["report.json"])
    shard = model / "model.safetensors"
    running.after_reading(passes(shard, 5))
    running.edit(lambda: os.truncate(shard, 8192), shard)
    running.wait(expect=BAD)
    box.report(error=True)


def cases(_):
    for route in ROUTES:
        for what in INPUTS:
            for way in WAYS:
                command = "score" if what == "text" else "run"
                yield f"overwrite/{route.strip('-')}{'-option' * route.startswith('--')}-{what}-{way}", \
                    overwrite_case(command, route, what, way)
    for way in ("name", "link", "dots"):
        yield f"overwrite/each-other-{way}", each_other_case(way)
    for name in OTHERS:
        yield f"overwrite/{name}", other_command_case(name)
    yield "bench/in-model-folder", bench_in_model_folder
    yield "bench/foreign-files", bench_over_foreign_files
    yield "bench/twice", bench_twice
    for command, route in (("run", "--report"), ("run", "--trace"), ("score", "--report")):
        for kind in PLACES:
            yield f"place/{command}{route}-{kind}", place_case(command, route, kind)
    for command in ("run", "score"):
        yield f"full-disk/{command}", full_disk(command)
    yield "full-disk/synth", full_disk_synth
    yield "full-disk/bench", full_disk_bench
    yield "read-only-file", read_only_file
    for engine in ("auto", "pread", "mmap"):
        for size in (0, 5000, 1 << 20):
            yield f"running/truncated-{engine}-{size}", truncated_while_running(engine, size)
        yield f"running/removed-{engine}", removed_while_running(engine)
    yield "running/replaced", replaced_while_running
    yield "running/overwritten", overwritten_while_running
    yield "running/report-folder-removed", report_folder_removed
    yield "running/score-truncated", score_truncated
