#!/usr/bin/env python3
"""Hostile driver: hundreds of bad inputs, faults and interruptions against the built program.

    hostile.py SPILLWAY_BINARY [--filter REGEX] [--share S] [--list] [--seed N] [--jobs N] [--keep DIR]

Whatever happens, the program must not destroy a file, lose an answer that existed, hang for 60 s, die
by a signal of its own, print anything but one line per error, end with another exit code than
documented, or leave anything behind (box.py checks it). A failing case keeps its folder and prints how
to repeat it. Exit code 0 when all cases hold, 77 when this machine cannot run them."""
import argparse
import collections
import concurrent.futures
import ctypes
import multiprocessing
import os
import pathlib
import random
import re
import shlex
import shutil
import sys
import tempfile
import time
import traceback

import box as boxes
import command_line
import configuration
import environment
import files
import interruptions
import outputs

GROUPS = (files, configuration, command_line, environment, interruptions, outputs)
SKIPPED = 77
sys.setrecursionlimit(20000)  # some cases write deeply nested JSON


def all_cases(seed):
    """name → body(box), in a fixed order; what is random in it is drawn from the seed."""
    cases = {}
    for group in GROUPS:
        for name, body in group.cases(seed):
            name = f"{group.__name__}/{name}"
            assert name not in cases, f"two cases are called {name}"
            cases[name] = body
    return cases


def become_subreaper():
    """Orphans of a case become the worker's children, which then counts them."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


WORLD = None
CASES = None
OPTIONS = None


def run_case(name):
    """(name, outcome, message, seconds, slowest stop)"""
    began = time.monotonic()
    folder = pathlib.Path(OPTIONS.keep) / re.sub(r"[^\w.=-]+", "_", name)
    shutil.rmtree(folder, ignore_errors=True)
    box = boxes.Box(WORLD, name, OPTIONS.seed, folder)
    outcome, message = "passed", ""
    try:
        CASES[name](box)
    except boxes.Failure as failure:
        outcome, message = "FAILED", str(failure)
    except boxes.Skip as skip:
        outcome, message = "skipped", str(skip)
    except Exception:  # a fault of the driver is told like one of the program
        outcome, message = "FAILED", "the case itself: " + traceback.format_exc()
    finally:
        box.end_helpers()
        box.close()
    if outcome == "FAILED":
        shown = (" ".join(shlex.quote(os.fsdecode(word)) for word in command)
                 for command in box.commands)
        (folder / "commands.txt").write_bytes(
            "\n".join(shown).encode(errors="surrogateescape") + b"\n" + message.encode(
                errors="surrogateescape") + b"\n")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return name, outcome, message, time.monotonic() - began, box.slowest_stop


def print_failure(name, message):
    message = message if len(message) < 1500 else message[:1500] + "..."
    text = (f"\nFAILED {name}\n  {message}\n  repeat: {sys.executable} {sys.argv[0]} "
            f"{shlex.quote(OPTIONS.binary)} --seed {OPTIONS.seed} --filter "
            f"{shlex.quote('^' + re.escape(name) + '$')}\n")
    sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.flush()


def print_table(results, seconds):
    print(f"\n{'group':<16}{'cases':>7}{'passed':>8}{'failed':>8}{'skipped':>9}"
          f"{'slowest case':>14}{'slowest stop':>14}")
    groups = collections.defaultdict(list)
    for result in results:
        groups[result[0].split("/")[0]].append(result)
        groups["all"].append(result)
    for group in [*(module.__name__ for module in GROUPS), "all"]:
        rows = groups.get(group)
        if not rows:
            continue
        count = collections.Counter(outcome for _, outcome, *_ in rows)
        print(f"{group:<16}{len(rows):>7}{count['passed']:>8}{count['FAILED']:>8}"
              f"{count['skipped']:>9}{max(row[3] for row in rows):>12.1f} s"
              f"{max(row[4] for row in rows):>12.1f} s")
    print(f"seed {OPTIONS.seed}, {seconds:.0f} s")
    for reason, count in collections.Counter(
            message for _, outcome, message, *_ in results if outcome == "skipped").items():
        print(f"skipped {count}: {reason}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary")
    parser.add_argument("--filter", default="", help="regular expression on names of cases")
    parser.add_argument("--share", type=float, default=1, help="of the cases, drawn by the seed")
    parser.add_argument("--list", action="store_true", help="print the names of cases")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SPILLWAY_SEED", "0")) or
                        int(time.time()) % 1000000)
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--keep", help="folder for failing cases (default: a temporary one)")
    parser.add_argument("--hang", type=float, default=60, help="seconds after which it hangs")
    parser.add_argument("--data", default=str(pathlib.Path(__file__).parents[2].parent / "shared"),
                        help="folder with real models and tokenizers")
    return parser.parse_args()


def main():
    global WORLD, CASES, OPTIONS
    OPTIONS = parse_arguments()
    boxes.HANG_SECONDS = OPTIONS.hang
    OPTIONS.binary = str(pathlib.Path(OPTIONS.binary).absolute())
    CASES = all_cases(OPTIONS.seed)
    chosen = [name for name in CASES if re.search(OPTIONS.filter, name)]
    draw = random.Random(OPTIONS.seed)
    chosen = [name for name in chosen if draw.random() < OPTIONS.share]
    if OPTIONS.list:
        print("\n".join(chosen))
        return 0
    if os.getuid() != 0:
        print("skipped: control groups, device nodes and other users need root")
        return SKIPPED
    root = pathlib.Path(tempfile.mkdtemp(prefix="spillway-hostile-"))
    OPTIONS.keep = str(pathlib.Path(OPTIONS.keep or root / "cases").absolute())
    os.makedirs(OPTIONS.keep, exist_ok=True)
    WORLD = boxes.World(OPTIONS.binary, root, pathlib.Path(OPTIONS.data))
    began = time.monotonic()
    results = []
    with concurrent.futures.ProcessPoolExecutor(
            OPTIONS.jobs, multiprocessing.get_context("fork"), become_subreaper) as pool:
        for done in concurrent.futures.as_completed(pool.submit(run_case, name)
                                                    for name in chosen):
            result = done.result()
            results.append(result)
            if result[1] == "FAILED":
                print_failure(result[0], result[2])
    print_table(results, time.monotonic() - began)
    failed = [result[0] for result in results if result[1] == "FAILED"]
    if failed:
        print(f"{len(failed)} of {len(results)} cases failed; their folders are in {OPTIONS.keep}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
