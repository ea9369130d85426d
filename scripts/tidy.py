#!/usr/bin/env python3
"""Layering and style as a test.

- Every include of a project header must stay in its folder or go to one that the folder's
  CMakeLists.txt names under DEPS; DEPS must be free of cycles and agree with docs/ARCHITECTURE.md.
- Nothing includes tests/, bench/ or packaging/ but themselves; CUDA headers appear in kernels/cuda only.
- No thread_local, no getenv below cli, no line over 100 columns, #pragma once and an opening
  comment in every header, no tabs, no trailing blanks.
Prints one line per finding; exits 1 when there is any.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = ["core", "io", "text", "kernels", "probe", "tiers", "model", "compare", "cli"]
SUFFIXES = {".h", ".cpp", ".cu", ".cuh", ".inl"}
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')
findings = []


def report(path, line, text):
    findings.append(f"{path.relative_to(ROOT)}:{line}: {text}")


def declared_deps():
    deps = {}
    for layer in LAYERS:
        text = (ROOT / layer / "CMakeLists.txt").read_text()
        call = re.search(r"spillway_layer\((\w+)(.*?)\n?\)", text, re.S)
        assert call and call.group(1) == layer, f"{layer}/CMakeLists.txt: no spillway_layer({layer}"
        part = re.search(r"\bDEPS\b([^A-Z]*)", call.group(2))
        deps[layer] = set(part.group(1).split()) if part else set()
    return deps


def check_deps(deps):
    for layer, targets in deps.items():
        for target in targets:
            if LAYERS.index(target) >= LAYERS.index(layer):
                report(ROOT / layer / "CMakeLists.txt", 1, f"{layer} may not depend on {target}")
    table = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    for layer, targets in deps.items():
        row = re.search(rf"^\| `{layer}/` \| ([^|]*) \|", table, re.M)
        named = set(re.findall(r"`(\w+)`", row.group(1))) if row else None
        if named != targets:
            report(ROOT / "docs" / "ARCHITECTURE.md", 1,
                   f"the table of folders gives {layer} the dependencies {named}, "
                   f"CMake gives {targets}")


def check_include(path, number, line, layer, deps):
    match = INCLUDE.match(line)
    if not match:
        return
    style, target = match.groups()
    folder = target.split("/")[0]
    if layer is None:
        return
    if style == '"' and folder in LAYERS and folder != layer and folder not in deps[layer]:
        report(path, number, f"{layer} may not include {folder}")
    if style == '"' and folder in ("tests", "bench", "packaging"):
        report(path, number, f"{layer} may not include {folder}")
    if "cuda" in target and "kernels" not in str(path):
        report(path, number, "CUDA is for kernels/cuda only")


def check_file(path, deps):
    relative = path.relative_to(ROOT)
    layer = relative.parts[0] if relative.parts[0] in LAYERS else None
    lines = path.read_text().split("\n")
    if path.suffix in {".h", ".cuh"}:
        if not lines[0].startswith("//"):
            report(path, 1, "a header opens with what it is for")
        if "#pragma once" not in lines:
            report(path, 1, "no #pragma once")
    for number, line in enumerate(lines, 1):
        check_include(path, number, line, layer, deps)
        if len(line) > 100:
            report(path, number, f"{len(line)} columns")
        if "\t" in line or line != line.rstrip():
            report(path, number, "tab or trailing blank")
        if layer and "thread_local" in line:
            report(path, number, "thread_local: resources are passed as arguments")
        if layer and layer != "cli" and re.search(r"\bgetenv\b", line):
            report(path, number, "environment variables are for cli only")


def main():
    deps = declared_deps()
    check_deps(deps)
    for folder in LAYERS + ["tests", "bench", "packaging"]:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                check_file(path, deps)
    print("\n".join(findings) if findings else "tidy: nothing found")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
