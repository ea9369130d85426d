#!/usr/bin/env python3
"""Measures what users would run instead of Spillway, on the same weights, in the same run.

    scripts/peers/peers.py MODEL --ram 3GiB [--only llama.cpp,accelerate] [--repeats 3]

Each arm is a process of its own in a memory control group of --ram (and 96 MiB for code) and starts
with none of the model in the page cache; rounds interleave the arms. Peers come from PyPI into a
virtual environment (--venv). One that cannot be installed or run is skipped and said so. MODEL: a
.gguf file, which Accelerate does not read; or the folder of a LlamaForCausalLM, e.g. from `spillway
synth bench-model --like bench-7gb`, of which llama.cpp gets a GGUF copy, written to --work and
removed at the end.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGES = {"llama.cpp": ["llama-cpp-python", "gguf", "numpy"],
            "accelerate": ["accelerate", "transformers", "safetensors", "torch"]}
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9, "": 1}
CODE_BYTES = 96 * 2**20


def size(text):
    number = text.rstrip("KMGiB")
    try:
        return int(float(number) * UNITS[text[len(number):].strip()])
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"expected a size such as 3GiB, not {text}") from None


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, metavar="MODEL")
    parser.add_argument("--ram", type=size, default=3 * 2**30, help="memory of each arm (3GiB)")
    parser.add_argument("--only", default="llama.cpp,accelerate", help="peers, by comma")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4, help="decoded tokens that count, 0 = no such arms (4)")
    parser.add_argument("--prompt-tokens", type=int, default=512, help="0 = no prompt arms (512)")
    parser.add_argument("--score-documents", type=int, default=0,
                        help="documents of 512 tokens to score, 0 = no such arms (0)")
    parser.add_argument("--score-batches", default="1,8,32", help="of Accelerate, by comma")
    parser.add_argument("--spillway", default=ROOT / "build/release/spillway", type=pathlib.Path)
    parser.add_argument("--venv", default=ROOT / "build/peers-venv", type=pathlib.Path)
    parser.add_argument("--installed", action="store_true", help="take what --venv has as it is")
    parser.add_argument("--work", default=None, help="folder for the GGUF copy (default: temporary)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    unknown = set(filter(None, arguments.only.split(","))) - set(PACKAGES)
    if unknown:
        parser.error(f"--only: {', '.join(sorted(unknown))}: known are {', '.join(PACKAGES)}")
    if not is_gguf(arguments.model) and not (arguments.model / "config.json").exists():
        parser.error(f"{arguments.model}: no config.json; expected a checkpoint's folder or a .gguf "
                     "file")
    if not arguments.spillway.exists():
        parser.error(f"{arguments.spillway}: not built; cmake --build --preset release")
    return arguments


def is_gguf(model):
    return model.suffix == ".gguf" and model.is_file()


def weights_of(model):
    if not is_gguf(model):
        return list(model.glob("*.safetensors"))
    part = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", model.name)
    return list(model.parent.glob(f"{part[1]}-?????-of-{part[2]}.gguf")) if part else [model]


class MemoryGroup:
    """A memory control group, v1 or v2, below this process's own."""

    def __init__(self):
        groups = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
        v1 = [line.split(":", 2)[2] for line in groups if ":memory:" in line]
        self.v2 = not v1
        base = pathlib.Path("/sys/fs/cgroup" if self.v2 else "/sys/fs/cgroup/memory")
        own = v1[0] if v1 else groups[0].split(":", 2)[2]
        self.path = base / own.lstrip("/") / f"spillway-peers-{os.getpid()}"
        self.path.mkdir()
        if self.v2 and not (self.path / "memory.max").exists():
            self.path.rmdir()
            raise OSError("the memory controller is not delegated to this group")

    def limit(self, limit_bytes):
        if self.v2:
            (self.path / "memory.max").write_text(str(limit_bytes))
            (self.path / "memory.swap.max").write_text("0")
            return
        (self.path / "memory.force_empty").write_text("0")
        (self.path / "memory.limit_in_bytes").write_text(str(limit_bytes))

    def join(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        if not self.v2:
            (self.path / "memory.force_empty").write_text("0")
        self.path.rmdir()


def drop_cached(files):
    for file in files:
        with open(file, "rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command, group=None):
    """stdout of a command; raises RuntimeError with what it said last."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, errors="replace",
                          preexec_fn=group.join if group else None)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing said"]
        killed = " (killed: its memory limit is too small for it)" if done.returncode == -9 else ""
        raise RuntimeError(f"{said[-1].strip()[:300]}{killed}")
    return done.stdout


class Arm:
    """`command(report)` gives the command; `limited`: inside the memory group."""

    def __init__(self, peer, what, detail, command, files, limited=True):
        self.peer, self.what, self.detail = peer, what, detail
        self.command, self.files, self.limited = command, files, limited
        self.seconds, self.version, self.skipped = [], "", ""

    def measure(self, group, ram_bytes):
        drop_cached(self.files)
        if self.limited:
            group.limit(ram_bytes + CODE_BYTES)
        result = json.loads(run(self.command, group if self.limited else None).splitlines()[-1])
        self.seconds.append(statistics.median(result["seconds"]))
        self.version = result["version"]

    def name(self):
        return f"{self.peer}{', ' + self.detail if self.detail else ''}"


def spillway_arms(arguments, work):
    files = weights_of(arguments.model)
    arms = []
    for what, detail in [("decode", ""), ("decode", "io.engine: mmap"), ("prompt", "")]:
        count = arguments.tokens if what == "decode" else arguments.prompt_tokens
        if count == 0:
            continue
        command = [sys.executable, HERE / "spillway_arm.py", arguments.spillway, arguments.model,
                   arguments.ram, what, count, "mmap" if detail else "auto", work]
        arms.append(Arm("Spillway", what, detail, command, files))
    if arguments.score_documents:
        arms.append(Arm("Spillway", "score", "",
                        [sys.executable, HERE / "spillway_arm.py", arguments.spillway,
                         arguments.model, arguments.ram, "score", arguments.score_documents, "auto",
                         work], files))
    return arms


def whats(arguments):
    if arguments.tokens:
        yield "decode", arguments.tokens
    if arguments.prompt_tokens:
        yield "prompt", arguments.prompt_tokens


def llama_arms(arguments, python, work):
    gguf = arguments.model
    if not is_gguf(gguf):
        gguf = work / "model.gguf"
        say("writing the GGUF copy")
        run([python, HERE / "gguf_from_safetensors.py", arguments.model, gguf])
    threads = sorted({1, len(os.sched_getaffinity(0))})
    files = weights_of(gguf) if is_gguf(arguments.model) else [gguf]
    # A copy of the blocks in another order does not fit where the file does not.
    kinds = ["mapped", "repacked"] if gguf is arguments.model else ["mapped"]
    return [Arm("llama.cpp", what, f"{n} thread{'s' if n > 1 else ''}, {kind}",
                [python, HERE / "llama_cpp_arm.py", gguf, n, what, count, kind], files)
            for what, count in whats(arguments) for n in threads for kind in kinds]


def accelerate_arms(arguments, python, work):
    if is_gguf(arguments.model):
        raise RuntimeError("it keeps no blocks of GGUF files")
    files = weights_of(arguments.model)
    arms = []
    for place in ("disk", "cpu"):
        for what, count in whats(arguments):
            offload = work / f"offload-{place}"
            offload.mkdir(exist_ok=True)
            detail = "disk_offload" if place == "disk" else "cpu_offload, memory not limited"
            arms.append(Arm("Accelerate", what, detail,
                            [python, HERE / "accelerate_arm.py", arguments.model, place, what,
                             count, offload], files, limited=place == "disk"))
    (work / "offload-disk").mkdir(exist_ok=True)
    for batch in arguments.score_batches.split(",") if arguments.score_documents else []:
        arms.append(Arm("Accelerate", "score", f"disk_offload, batches of {batch}",
                        [python, HERE / "accelerate_arm.py", arguments.model, "disk", "score",
                         arguments.score_documents, work / "offload-disk", batch], files))
    return arms


def say(text):
    print(text, file=sys.stderr, flush=True)


def install(venv, peer, installed):
    python = venv / "bin/python"
    if installed:
        return python
    if not python.exists():
        run([sys.executable, "-m", "venv", venv])
    say(f"installing {peer} into {venv} (minutes the first time)")
    run([python, "-m", "pip", "install", "-q", *PACKAGES[peer]])
    return python


def make_arms(arguments, work):
    arms = spillway_arms(arguments, work)
    for peer, make in (("llama.cpp", llama_arms), ("accelerate", accelerate_arms)):
        if peer not in arguments.only.split(","):
            continue
        try:
            arms += make(arguments, install(arguments.venv, peer, arguments.installed), work)
        except (RuntimeError, OSError) as error:
            say(f"{peer} is skipped: {error}")
    return arms


def measure(arms, arguments, group):
    total = arguments.repeats * len(arms)
    for position in range(total):
        arm = arms[position % len(arms)]
        if arm.skipped:
            continue
        say(f"{position + 1}/{total}: {arm.name()}, {arm.what}")
        try:
            arm.measure(group, arguments.ram)
        except (RuntimeError, ValueError) as error:
            arm.skipped = str(error)


def rows_of(arms):
    own = {arm.what: statistics.median(arm.seconds) for arm in arms
           if arm.peer == "Spillway" and not arm.detail and arm.seconds}
    for arm in arms:
        row = {"engine": arm.name(), "what": arm.what, "version": arm.version,
               "skipped": arm.skipped}
        if arm.seconds:
            median = statistics.median(arm.seconds)
            row.update(min=min(arm.seconds), median=median, max=max(arm.seconds))
            if arm.what in own:
                row["times_spillway"] = median / own[arm.what]
        yield row


def table(arms, arguments):
    print("| engine | what | min / median / max s | times Spillway | version |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows_of(arms):
        what = {"decode": "one token", "prompt": f"prompt of {arguments.prompt_tokens}",
                "score": f"{arguments.score_documents} documents of 512"}[row["what"]]
        if "median" not in row:
            print(f"| {row['engine']} | {what} | skipped: {row['skipped']} | | |")
            continue
        ratio = f"{row['times_spillway']:.2f}" if "times_spillway" in row else ""
        print(f"| {row['engine']} | {what} | {row['min']:.3g} / {row['median']:.3g} / "
              f"{row['max']:.3g} | {ratio} | {row['version']} |")
    print(f"\n`{shlex.join(sys.argv)}`")


def main():
    arguments = parse_arguments()
    try:
        group = MemoryGroup()
    except OSError as error:
        sys.exit(f"peers.py: no memory control group can be made ({error}); run as root")
    with contextlib.ExitStack() as stack:
        stack.callback(group.close)
        work = pathlib.Path(tempfile.mkdtemp(prefix="spillway-peers-", dir=arguments.work))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        arms = make_arms(arguments, work)
        measure(arms, arguments, group)
        if arguments.json:
            print(json.dumps(list(rows_of(arms)), indent=1))
        else:
            table(arms, arguments)


if __name__ == "__main__":
    main()
