#!/usr/bin/env python3
"""Compares the program with independent implementations: random models with transformers, in GGUF
with gguf as well, texts with tokenizers and sentencepiece. Prints one table; exits 1 where anything differs.
Run it with scripts/test.sh --differential (docs/TESTING.md, "Other implementations")."""
import argparse
import multiprocessing
import os
import pathlib
import random
import sys
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=pathlib.Path, help="the program")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--configs", type=int, default=100, help="random models")
    parser.add_argument("--first", type=int, default=0, help="number of the first model, or random tokenizer")
    parser.add_argument("--texts", type=int, default=10000, help="texts per tokenizer")
    parser.add_argument("--tokenizers", type=int, default=20, help="random tokenizer.json files")
    parser.add_argument("--data", type=pathlib.Path, help="folder with tokenizers/ and models/",
                        default=os.environ.get("SPILLWAY_TEST_DATA", "../shared"))
    parser.add_argument("--quick", action="store_true", help="10 models, 1000 texts")
    parser.add_argument("--only", choices=["models", "gguf", "tokenizers"])
    parser.add_argument("--gguf-file", type=pathlib.Path, action="append", default=[],
                        help="a real model in GGUF that chats in ChatML")
    parser.add_argument("--gguf-types", help="types of random models in GGUF: Q8_0,Q4_K_M")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    parser.add_argument("--keep", type=pathlib.Path, default=pathlib.Path("build/differential"),
                        help="folder of the cases that fail")
    options = parser.parse_args()
    if options.quick:
        options.configs, options.texts = min(options.configs, 10), min(options.texts, 1000)
        options.tokenizers = min(options.tokenizers, 5)
    options.binary = options.binary.resolve()
    if not os.access(options.binary, os.X_OK):
        parser.error(f"{options.binary}: no program")
    options.keep = options.keep.resolve()
    options.keep.mkdir(parents=True, exist_ok=True)
    return options


def compare_model(work):
    import models
    import torch
    torch.set_num_threads(1)
    return models.compare(*work)


def compare_tokenizer(work):
    import tokenizing
    kind, *rest = work
    return (tokenizing.compare_family if kind == "family" else tokenizing.compare_random)(*rest)


def compare_gguf(work):
    import gguf_models
    import torch
    torch.set_num_threads(1)
    kind, *rest = work
    return (gguf_models.compare_file if kind == "file" else gguf_models.compare_random)(*rest)


def table(rows):
    widths = [max(len(str(row[c])) for row in rows) for c in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def show_failures(found, replay):
    for failure in found["failures"]:
        print(f"  FAILED {failure}")
    if found["failures"]:
        print(f"  kept: {found['folder']}\n  again: {replay}", flush=True)


def compare_models(options):
    work = [(options.binary, options.keep, options.seed, index)
            for index in range(options.first, options.first + options.configs)]
    results = []
    with multiprocessing.Pool(options.jobs, maxtasksperchild=20) as pool:
        for (_, _, _, index), found in zip(work, pool.imap(compare_model, work)):
            results.append(found)
            print(f"model {index}: {found['family']}, {found['runs']} runs, "
                  f"{found['tokens']} tokens, worst {found['worst']:.1e}", flush=True)
            show_failures(found, f"{sys.argv[0]} {options.binary} --seed {options.seed} "
                                 f"--first {index} --configs 1 --only models")
    return results


def model_rows(results):
    rows = [("models, by family", "models", "runs", "tokens", "worst", "same bits",
             "greedy tokens", "failed")]
    for family in sorted({r["family"] for r in results}) + ["all"]:
        members = [r for r in results if family in ("all", r["family"])]
        total = {key: sum(r[key] for r in members) for key in ("runs", "tokens", "bits", "greedy")}
        rows.append((family, len(members), total["runs"], total["tokens"],
                     f"{max(r['worst'] for r in members):.1e}", total["bits"], total["greedy"],
                     sum(bool(r["failures"]) for r in members)))
    return rows


def gguf_work(options):
    import gguf_models
    types = options.gguf_types.split(",") if options.gguf_types else gguf_models.TYPES
    shapes = range(1 if options.quick else len(gguf_models.SHAPES))
    return [("file", options.binary, options.keep, path) for path in options.gguf_file] + [
        ("random", options.binary, options.keep, kind, wanted, shape)
        for kind in ("llama", "qwen2", "qwen3") for wanted in types for shape in shapes]


def compare_gguf_models(options):
    results = []
    with multiprocessing.Pool(options.jobs, maxtasksperchild=20) as pool:
        for found in pool.imap(compare_gguf, gguf_work(options)):
            results.append(found)
            print(f"{found['name']}: {found['runs']} runs, {found['tokens']} tokens, worst "
                  f"{found['worst']:.1e}", flush=True)
            show_failures(found, f"{sys.argv[0]} {options.binary} --only gguf")
    return results


def gguf_rows(results):
    rows = [("models in GGUF", "models", "runs", "tokens", "worst", "same bits", "greedy tokens",
             "bf16", "rounding", "failed")]

    def worst(members, key):
        found = [r[key] for r in members if r[key] is not None]
        return f"{max(found):.1e}" if found else "-"
    for family in list(dict.fromkeys(r["family"] for r in results)) + ["all"]:
        members = [r for r in results if family in ("all", r["family"])]
        total = {key: sum(r[key] for r in members) for key in ("runs", "tokens", "bits", "greedy")}
        rows.append((family, len(members), total["runs"], total["tokens"], worst(members, "worst"),
                     total["bits"], total["greedy"], worst(members, "bf16"),
                     worst(members, "rounding"), sum(bool(r["failures"]) for r in members)))
    return rows


def tokenizer_work(options):
    work = []
    for file in sorted(options.data.glob("*/*/tokenizer.*")):
        if file.name in ("tokenizer.json", "tokenizer.model"):
            work.append(("family", options.binary, options.keep, file.parent.resolve(), file.name,
                         options.seed, options.texts))
    if not work:
        print(f"no tokenizers in {options.data}: random ones only")
    return work + [("random", options.binary, options.keep, options.seed, index, options.texts)
                   for index in range(options.first, options.first + options.tokenizers)]


def compare_tokenizers(options):
    results = []
    with multiprocessing.Pool(options.jobs) as pool:
        for found in pool.imap(compare_tokenizer, tokenizer_work(options)):
            results.append(found)
            state = f"refused: {found['refused']}" if found["refused"] else (
                f"{found['texts']} texts, {found['ids']} ids, {found['different']} different")
            print(f"{found['name']}: {state}", flush=True)
            which = found["name"].removeprefix("random ")
            only = f" --first {which} --tokenizers 1" if which.isdigit() else ""
            show_failures(found, f"{sys.argv[0]} {options.binary} --seed {options.seed} "
                                 f"--texts {options.texts} --only tokenizers{only}")
    return results


def tokenizer_rows(results):
    rows = [("tokenizers", "texts", "ids", "lists decoded", "different", "refused")]

    def row(name, members):
        total = [sum(r[key] for r in members) for key in ("texts", "ids", "lists", "different")]
        rows.append((name, *total, sum(bool(r["refused"]) for r in members)))

    for found in results:
        if not found["name"].startswith("random"):
            row(found["name"], [found])
    made = [r for r in results if r["name"].startswith("random")]
    if made:
        row(f"{len(made)} random tokenizer.json", made)
    return rows


def main():
    options = arguments()
    print(f"seed {options.seed}", flush=True)
    begin = time.monotonic()
    failed = 0
    for name, compare, rows in (("models", compare_models, model_rows),
                                ("gguf", compare_gguf_models, gguf_rows),
                                ("tokenizers", compare_tokenizers, tokenizer_rows)):
        if options.only in (None, name):
            results = compare(options)
            failed += sum(bool(r["failures"]) for r in results)
            print()
            table(rows(results))
    print(f"\nseed {options.seed}, {time.monotonic() - begin:.0f} s: "
          f"{f'{failed} FAILED' if failed else 'no difference'}")
    return 1 if failed else 0


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(main())
