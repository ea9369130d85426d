#!/usr/bin/env python3
"""Every command of the README does what it says, on a stand-in for the model that it names.
Usage: readme_test.py README SPILLWAY_BINARY"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# What would take minutes is given less to do; the words of the README stay as they are.
SHORTER = {"probe": "--seconds 0.01 --device host", "bench": "--repeats 1 --sweeps decode --batches 1"}


def executable(file, text):
    file.write_text("#!/usr/bin/env bash\nset -euo pipefail\n" + text)
    file.chmod(0o755)


def sandbox(root, readme, spillway):
    """A folder, a home and a PATH: hf puts a synthetic model where the real one would lie, as .gguf files
    are there already; scripts are only looked for."""
    commands, work, home = root / "bin", root / "work", root / "home"
    for folder in (commands, work / "scripts", home / ".cache"):
        folder.mkdir(parents=True)
    cases = "".join(f"{name}) set -- \"$@\" {more};;\n" for name, more in SHORTER.items())
    executable(commands / "spillway", f'case "${{1:-}}" in\n{cases}esac\nexec "{spillway}" "$@"\n')
    executable(commands / "hf", f"""
[ "$1" = download ]
folder="$HOME/.cache/huggingface/hub/models--${{2/\\//--}}"
mkdir -p "$folder/refs" "$folder/snapshots"
echo -n 0123abcd > "$folder/refs/main"
"{spillway}" synth "$folder/snapshots/0123abcd" --like tiny >/dev/null
""")
    for name, types in re.findall(r"~/(models/\S+-(Q\w+)\.gguf)", readme.read_text()):
        (home / name).parent.mkdir(exist_ok=True)
        subprocess.run([spillway, "synth", home / name, "--like", "tiny", "--format", "gguf", "--dtype", types],
                       check=True, stdout=subprocess.DEVNULL)
    for script in re.findall(r"\./(scripts/\S+)", readme.read_text()):
        assert os.access(readme.parent / script, os.X_OK), script
        executable(work / script, "true\n")
    (work / "corpus.jsonl").write_text("".join(f'{{"text": "Line {i} of a corpus."}}\n' for i in range(9)))
    environment = {k: v for k, v in os.environ.items()
                   if not k.startswith("HF_") and k != "XDG_CACHE_HOME"}
    environment.update(PATH=f"{commands}:{os.environ['PATH']}", HOME=str(home))
    return work, environment


def run_blocks(readme, spillway):
    blocks = re.findall(r"```sh\n(.*?)```", readme.read_text(), re.S)
    assert blocks, "no commands"
    root = pathlib.Path(tempfile.mkdtemp(prefix="spillway-readme-"))
    try:
        work, environment = sandbox(root, readme, spillway)
        for block in blocks:
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=work, env=environment,
                                  capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            print(f"{block.strip()}\n    works")
        for file in ("run.json", "Qwen2.5-7B.yaml", "scores/summary.json", "teacher/summary.json"):
            assert (work / file).exists(), file
    finally:
        shutil.rmtree(root)


def check_grammar(readme, spillway):
    """Each `spillway COMMAND --option …` of the text is one that the program knows."""
    seen = 0
    for text in re.findall(r"`spillway ([^`]+)`", readme.read_text()):
        command, *words = text.replace("\\|", " ").split()
        helped = subprocess.run([spillway, command, "--help"], capture_output=True, text=True)
        assert helped.returncode == 0, text
        for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(words)):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", helped.stdout), f"{option} of {text}"
            seen += 1
    assert seen > 20, seen


if __name__ == "__main__":
    README, BINARY = pathlib.Path(sys.argv[1]).resolve(), os.path.abspath(sys.argv[2])
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])
    check_grammar(README, BINARY)
    if memory < 7 << 20:
        print("commands not run: the README's budget is more than this machine has")
        sys.exit(77)
    else:
        run_blocks(README, BINARY)
