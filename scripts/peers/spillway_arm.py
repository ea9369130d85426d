#!/usr/bin/env python3
"""One process of Spillway: seconds per decoded token, or of a prompt, as one line of JSON.

    spillway_arm.py SPILLWAY MODEL RAM_BYTES decode|prompt COUNT auto|mmap WORK_DIR
"""
import json
import pathlib
import subprocess
import sys


def main():
    program, model, ram, what, count, engine, work = sys.argv[1:8]
    inspected = subprocess.run([program, "inspect", model, "--json"], capture_output=True, text=True)
    if inspected.returncode != 0:
        sys.exit(inspected.stderr)
    vocab = json.loads(inspected.stdout)["vocab"]
    length = int(count) if what == "prompt" else 2
    config = {"model": {"path": str(pathlib.Path(model).resolve())}, "memory": {"ram": ram},
              "io": {"engine": engine},
              "generate": {"prompt_token_ids": [[i * 7919 % vocab for i in range(length)]],
                           "max_new_tokens": 1 if what == "prompt" else int(count) + 2,
                           "ignore_eos": True}}
    file, report = pathlib.Path(work) / "arm.yaml", pathlib.Path(work) / "arm.json"
    file.write_text(json.dumps(config))  # JSON is YAML
    done = subprocess.run([program, "run", file, "--quiet", "--report", report],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    kind = "prefill" if what == "prompt" else "decode"
    passes = [p["seconds"] for p in json.loads(report.read_text())["passes"] if p["kind"] == kind]
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
    print(json.dumps({"seconds": [sum(passes)] if what == "prompt" else passes[1:],
                      "version": version}))


if __name__ == "__main__":
    main()
