#!/usr/bin/env python3
"""Layering and style as a test.

- Every include of a project header must stay in its folder or go to one that the folder's
  CMakeLists.txt names under DEPS; DEPS must be free of cycles and agree with docs/ARCHITECTURE.md.
- Nothing includes tests/, bench/ or packaging/ but themselves; CUDA headers appear in kernels/cuda only.
- A .h or .cpp finds what it names without its neighbours, with which a joined build compiles it: types of the
  project and common names of the standard library are declared by what it includes, at any depth.
- No thread_local, no getenv below cli, no line over 100 columns, #pragma once and an opening
  comment in every header, no tabs, no trailing blanks.
Prints one line per finding; exits 1 when there is any.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = ["core", "io", "text", "data", "kernels", "probe", "tiers", "sinks", "model", "jobs", "compare", "cli"]
SUFFIXES = {".h", ".cpp", ".cu", ".cuh", ".inl"}
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')
# Standard header by the names it declares: those that are used often.
STANDARD = {
    "algorithm": "sort stable_sort find_if any_of all_of none_of count_if max_element min_element clamp transform "
                 "lower_bound upper_bound adjacent_find copy_n fill_n nth_element",
    "array": "array", "atomic": "atomic", "bit": "bit_cast has_single_bit endian", "chrono": "chrono",
    "condition_variable": "condition_variable", "deque": "deque", "exception": "exception_ptr",
    "filesystem": "filesystem", "fstream": "ifstream ofstream", "functional": "function",
    "limits": "numeric_limits", "map": "map multimap", "memory": "unique_ptr shared_ptr make_unique make_shared weak_ptr",
    "mutex": "mutex lock_guard unique_lock scoped_lock once_flag", "numeric": "accumulate iota",
    "optional": "optional nullopt", "random": "mt19937_64 mt19937", "set": "set", "span": "span",
    "sstream": "istringstream ostringstream stringstream", "string": "string to_string stoi stoull",
    "string_view": "string_view", "thread": "jthread this_thread", "tuple": "tuple tie",
    "unordered_map": "unordered_map", "unordered_set": "unordered_set", "utility": "exchange",
    "variant": "variant get_if", "vector": "vector", "cmath": "isfinite isnan lround log2 sqrt",
    "cstring": "memcpy memset strlen memcmp",
}
HEADER_OF = {name: header for header, names in STANDARD.items() for name in names.split()}
# What these headers bring along in libstdc++.
BRINGS = {"filesystem": {"string", "string_view", "chrono"}, "fstream": {"string"}, "sstream": {"string"},
          "string": {"string_view"}, "thread": {"chrono"}, "condition_variable": {"chrono", "mutex"},
          "map": {"utility"}, "set": {"utility"}, "memory": {"utility"}, "vector": {"utility"},
          "algorithm": {"utility"}, "tuple": {"utility"}, "optional": {"utility"}, "mutex": {"chrono"}, "unordered_map": {"utility"}}
COMMENT_OR_TEXT = re.compile(r'//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'')
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


class Includes:
    """What every file includes, at any depth."""

    def __init__(self, paths):
        self.texts = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
        self.direct = {name: [m.groups() for m in map(INCLUDE.match, text.split("\n")) if m]
                       for name, text in self.texts.items()}
        self.closures = {}
        self.home = {}  # of a type that one header alone defines
        for name, text in self.texts.items():
            if not name.endswith((".h", ".cuh")):
                continue
            for kind in re.finditer(r"^(?:class|struct|enum class)\s+(\w+)[^;{]*\{", text, re.M):
                self.home.setdefault(kind[1], set()).add(name)

    def closure(self, name):
        if name not in self.closures:
            found = self.closures[name] = {name}
            for style, target in self.direct.get(name, []):
                inside = str(pathlib.PurePath(name).parent / target)
                if style == '"' and target not in self.texts and inside in self.texts:
                    target = inside  # beside the file
                if target in self.texts:
                    found |= self.closure(target)
                else:
                    found |= {target} | BRINGS.get(target, set())
        return self.closures[name]

    def check(self, path):
        name = str(path.relative_to(ROOT))
        there = set(self.closure(name))
        code = COMMENT_OR_TEXT.sub("", self.texts[name])
        for number, line in enumerate(code.split("\n"), 1):
            for used in re.findall(r"\bstd::(\w+)", line):
                header = HEADER_OF.get(used)
                if header and header not in there:
                    report(path, number, f"std::{used} without <{header}>")
                    there.add(header)
            for used in re.findall(r"(?<![\w:.>])([A-Z]\w+)\b", line):
                homes = self.home.get(used, set())
                if len(homes) == 1 and not homes & there and not self.declares(there, used):
                    report(path, number, f"{used} without {next(iter(homes))}")
                    there.add(next(iter(homes)))

    def declares(self, names, kind):
        """Within a class, or forward."""
        pattern = re.compile(rf"\b(class|struct|using|enum class|typename)\s+{kind}\b|\bTEST\w*\({kind},")
        return any(pattern.search(self.texts.get(name, "")) for name in names)


def main():
    deps = declared_deps()
    check_deps(deps)
    paths = [path for folder in LAYERS + ["tests", "bench", "packaging"]
             for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES]
    includes = Includes(paths)
    for path in paths:
        check_file(path, deps)
        if path.suffix in {".h", ".cpp"}:
            includes.check(path)
    print("\n".join(findings) if findings else "tidy: nothing found")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
