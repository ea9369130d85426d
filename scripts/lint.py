#!/usr/bin/env python3
"""clang-tidy over the sources of every layer. Usage: lint.py BUILD_FOLDER [LAYER ...]

BUILD_FOLDER holds compile_commands.json, as `cmake --preset lint` makes it. The sources of a layer
are checked as one: what they include is parsed and searched once, which is most of the time. They
are joined to one file, not included by one, because the analyzer follows paths in the main file alone; findings are shown where
they stand. Names in unnamed namespaces must therefore differ within a layer. Exits 1 on a finding.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = ("cli", "model", "sinks", "jobs", "io", "compare", "text", "data", "core", "kernels", "tiers", "probe", "packaging")  # longest first
OPTIONS = ["--quiet", "--extra-arg=-Wno-unknown-warning-option"]


def commands_of(build):
    """Flags by source, relative to the project."""
    flags = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = (pathlib.Path(entry["directory"]) / entry["file"]).resolve()
        if path.is_relative_to(ROOT) and path.suffix == ".cpp":
            words = shlex.split(entry["command"])[1:]
            cut = words.index("-o")
            flags.setdefault(str(path.relative_to(ROOT)),
                             [w for w in words[:cut] + words[cut + 2:]
                              if w not in ("-c", entry["file"], str(path))])
    return flags


def units_of(layer, flags):
    """Sources of the layer with equal flags, together."""
    units = {}
    for source in sorted(s for s in flags if s.startswith(layer + "/") and "/isa_" not in s):
        units.setdefault(tuple(flags[source]), []).append(source)
    return [(sources, list(words)) for words, sources in units.items()]


def join(sources, target):
    """Writes them into `target`; returns where each line of it comes from."""
    origin = []
    text = []
    for source in sources:
        lines = (ROOT / source).read_text().splitlines()
        origin += [(source, number) for number in range(1, len(lines) + 1)]
        text += lines
    target.write_text("\n".join(text) + "\n")
    return origin


def check(name, sources, words, folder):
    target = folder / f"{name}.cpp"
    origin = join(sources, target)
    done = subprocess.run(["clang-tidy-16", f"--config-file={ROOT / '.clang-tidy'}", *OPTIONS, target,
                           "--", *words], capture_output=True, text=True, cwd=ROOT)

    def place(match):
        source, line = origin[int(match[1]) - 1]
        return f"{source}:{line}"

    found = re.sub(re.escape(str(target)) + r":(\d+)", place, done.stdout)
    return done.returncode, f"{name}: {len(sources)} sources\n{found}{'' if found else done.stderr[-2000:]}" \
        if done.returncode else f"{name}: {len(sources)} sources, nothing found"


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    layers = sys.argv[2:] or LAYERS
    folder = build / "lint"
    folder.mkdir(exist_ok=True)
    flags = commands_of(build)
    failed = False
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = []
        for layer in layers:
            units = units_of(layer, flags)
            if not units:
                sys.exit(f"lint.py: {build} builds no single source of {layer}; "
                         "cmake --preset lint makes build/lint")
            for number, (sources, words) in enumerate(units):
                name = layer if len(units) == 1 else f"{layer}-{number}"
                tasks.append(pool.submit(check, name, sources, words, folder))
        for task in concurrent.futures.as_completed(tasks):
            code, text = task.result()
            failed |= code != 0
            print(text, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
