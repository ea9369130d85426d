#!/usr/bin/env python3
"""One process of Spillway: seconds per decoded token, of a prompt, or of scoring, as one line of JSON.

    spillway_arm.py SPILLWAY MODEL RAM_BYTES decode|prompt|score COUNT auto|mmap WORK_DIR

score: COUNT documents of 512 tokens.
"""
import json
import pathlib
import subprocess
import sys


def score(program, model, ram, documents, vocab, work):
    """Seconds of the passes of a job."""
    ids = pathlib.Path(work) / "ids.json"
    ids.write_text(json.dumps([[(d * 131 + i * 7919) % vocab for i in range(512)]
                               for d in range(documents)]))
    done = subprocess.run([program, "score", model, "--ram", ram, "--token-ids-file", ids, "--json",
                           "--set", "score.logprobs=false"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return sum(p["seconds"] for p in json.loads(done.stdout)["passes"])


def main():
    program, model, ram, what, count, engine, work = sys.argv[1:8]
    inspected = subprocess.run([program, "inspect", model, "--json"], capture_output=True, text=True)
    if inspected.returncode != 0:
        sys.exit(inspected.stderr)
    vocab = json.loads(inspected.stdout)["vocab"]
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
    if what == "score":
        seconds = score(program, model, ram, int(count), vocab, work)
        print(json.dumps({"seconds": [seconds], "version": version}))
        return
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
    print(json.dumps({"seconds": [sum(passes)] if what == "prompt" else passes[1:],
                      "version": version}))


if __name__ == "__main__":
    main()
