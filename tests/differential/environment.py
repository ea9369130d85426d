#!/usr/bin/env python3
"""Makes the virtual environment of the differential driver, once, and prints its Python.
Usage: environment.py FOLDER

Packages come from PyPI, pinned in requirements.txt. PyTorch there is a CUDA build, whose CUDA
libraries are 2.5 GB more that a CPU never calls: empty stand-ins take their place, so that the
loader is content. Symbols must then be bound lazily (reference.py)."""
import hashlib
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
STAND_INS = re.compile(r"lib(cu(?!da\.|dart)|nv|nccl)")


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True)


def needed_by(library):
    """Names of the libraries that `library` needs, each with the symbol versions asked of it."""
    text = run("objdump", "-p", library).stdout
    needs = {name: set() for name in re.findall(r"^\s+NEEDED\s+(\S+)", text, re.M)}
    owner = None
    for line in text.partition("Version References:")[2].splitlines():
        if match := re.match(r"\s+required from (\S+):", line):
            owner = match[1]
        elif owner in needs and (match := re.match(r"\s+0x\S+ 0x\S+ \S+ (\S+)", line)):
            needs[owner].add(match[1])
    return needs


def make_stand_ins(folder):
    wanted = {}
    for library in folder.glob("*.so*"):
        for name, versions in needed_by(library).items():
            if STAND_INS.match(name):
                wanted.setdefault(name, set()).update(versions)
    script = folder / "stand_in.map"
    for name, versions in wanted.items():
        script.write_text("".join(f"{version} {{}};\n" for version in sorted(versions)))
        command = ["cc", "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{name}", "-o", folder / name]
        if versions:
            command.append(f"-Wl,--version-script={script}")
        done = run(*command)
        if done.returncode != 0:
            sys.exit(f"environment.py: cannot make a stand-in for {name}: {done.stderr.strip()}")


def make(folder):
    shutil.rmtree(folder, ignore_errors=True)
    if run("/usr/bin/python3", "-m", "venv", folder).returncode != 0:
        sys.exit("environment.py: /usr/bin/python3 -m venv failed; install python3-venv")
    print("installing PyTorch, transformers and their like from PyPI (about 600 MB) ...",
          file=sys.stderr)
    done = run(folder / "bin/pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps",
               "--only-binary=:all:", "-r", REQUIREMENTS)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        sys.exit(f"environment.py: PyPI did not give what {REQUIREMENTS.name} names: {reason}\n"
                 "The differential driver needs PyPI once, Python 3.11 and x86-64; nothing else "
                 "in this project does.")
    make_stand_ins(next(folder.glob("lib/python*/site-packages/torch/lib")))


def main():
    folder = pathlib.Path(sys.argv[1]).resolve()
    stamp = folder / "made-from"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + pathlib.Path(__file__).read_bytes())
    if not stamp.exists() or stamp.read_text() != digest.hexdigest():
        make(folder)
        stamp.write_text(digest.hexdigest())
    print(folder / "bin/python")


if __name__ == "__main__":
    main()
