"""Runs the program on a case folder: model/, ids.json or prompts.json, settings.json."""
import json
import pathlib
import re
import subprocess

LIMIT_S = 600


class Failed(Exception):
    """The program did not do what it was asked; the text says how."""


def write_config(folder, name, settings):
    sections = {"model": {"path": str(folder / "model")}}
    for key, value in settings.items():
        section, _, leaf = key.partition(".")
        if leaf:
            sections.setdefault(section, {})[leaf] = value
        else:
            sections[section] = value
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(sections, indent=1))  # JSON is YAML
    return path


def call(binary, *arguments):
    try:
        return subprocess.run([str(a) for a in (binary, *arguments)], capture_output=True,
                              text=True, errors="replace", timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no end within {LIMIT_S} s: {error.cmd}") from None


def report_of(binary, folder, name, settings, command):
    """The report of one run. Budgets "tight" become what the program says it needs at least."""
    settings = dict(settings)
    report = folder / f"{name}.report.json"
    report.unlink(missing_ok=True)
    for key in ("memory.gpu", "memory.ram"):
        if settings.get(key) == "tight":
            settings[key] = smallest(binary, folder, name, settings, key, command)
    config = write_config(folder, name, settings)
    done = call(binary, command[0], config, *command[1:], "--report", report)
    if done.returncode != 0:
        raise Failed(f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(report.read_text())


def smallest(binary, folder, name, settings, key, command):
    """Asks for next to nothing and reads what is needed out of the refusal."""
    asked = {**settings, key: "1MiB"}
    done = call(binary, command[0], write_config(folder, name, asked), *command[1:])
    if done.returncode == 0:
        return "1MiB"
    needed = re.search(r"at least ([0-9.]+ ?[KMG]iB|\d+ ?B)", done.stderr)
    if done.returncode != 1 or not needed:
        raise Failed(f"{key} of 1MiB: exit {done.returncode}: {done.stderr.strip()}")
    return needed[1].replace(" ", "")


def score(binary, folder, name, settings, ids="ids.json"):
    return report_of(binary, folder, name, settings,
                     ["score", "--token-ids-file", folder / ids, "--quiet"])


def generate(binary, folder, name, settings, prompts, new_tokens):
    settings = {**settings, "generate.prompt_token_ids": prompts,
                "generate.max_new_tokens": new_tokens, "generate.ignore_eos": True,
                "generate.prefill_chunk": settings["score.chunk"]}
    report = report_of(binary, folder, name, settings, ["run", "--quiet"])
    return [output["output_token_ids"] for output in report["outputs"]]


def folder_for(root, name):
    folder = pathlib.Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
