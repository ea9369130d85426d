#!/usr/bin/env python3
"""Compares two result files of the benchmark programs: the ratio of each figure, new over base.

  bench_compare.py BASE.json NEW.json [--metric NAME] [--threshold PERCENT]

Takes what Google Benchmark writes (--benchmark_out=FILE; repeated runs give a median and a spread)
and what spillway_ratio --json prints. Without --metric the figure is bytes/s, else FLOP/s, else runs
per second; larger is better for all of them. A change smaller than the spread of either side, or
than the threshold (default 5 %), is marked as noise. Exit code 1 when anything got slower by more.
"""
import argparse
import json
import statistics
import sys


def load(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f"bench_compare.py: {path}: {error}")


def figure_of(row, metric):
    if metric:
        return row.get(metric)
    for name in ("bytes/s", "bytes_per_second", "FLOP/s", "items_per_second"):
        if name in row:
            return row[name]
    return 1 / row["real_time"] if row.get("real_time") else None


def series(document, metric, path):
    """name -> list of figures, larger is better."""
    result = {}
    if isinstance(document, dict) and isinstance(document.get("benchmarks"), list):
        for row in document["benchmarks"]:
            if row.get("run_type") == "aggregate":
                continue
            value = figure_of(row, metric)
            if value:
                result.setdefault(row["name"], []).append(value)
    elif isinstance(document, list) and all(
            isinstance(row, dict) and row.get("values") for row in document):
        for row in document:
            values = row["values"]
            if row.get("unit") == "s":  # seconds: smaller is better
                values = [1 / value for value in values if value]
            result[row["name"]] = values
    else:
        sys.exit(f"bench_compare.py: {path}: not a result of Google Benchmark or spillway_ratio")
    if not result:
        sys.exit(f"bench_compare.py: {path}: no figures" + (f" named {metric}" if metric else ""))
    return result


def spread(values):
    """Half the range, as a share of the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / 2 / middle if middle else 0


def compare(base, new, threshold):
    """Rows (name, ratio, spread, verdict), and whether anything got slower."""
    rows = []
    slower = False
    for name in base:
        if name not in new:
            rows.append((name, None, None, "only in base"))
            continue
        ratio = statistics.median(new[name]) / statistics.median(base[name])
        noise = max(spread(base[name]), spread(new[name]), threshold)
        verdict = "" if abs(ratio - 1) <= noise else "faster" if ratio > 1 else "SLOWER"
        slower |= verdict == "SLOWER"
        rows.append((name, ratio, max(spread(base[name]), spread(new[name])), verdict or "noise"))
    rows += [(name, None, None, "only in new") for name in new if name not in base]
    return rows, slower


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base")
    parser.add_argument("new")
    parser.add_argument("--metric")
    parser.add_argument("--threshold", type=float, default=5)
    options = parser.parse_args()
    base = series(load(options.base), options.metric, options.base)
    new = series(load(options.new), options.metric, options.new)
    rows, slower = compare(base, new, options.threshold / 100)
    width = max(len(row[0]) for row in rows)
    print(f"{'benchmark':{width}}  new/base  spread")
    for name, ratio, noise, verdict in rows:
        figures = "       -       -" if ratio is None else f"{ratio:8.3f}  {100 * noise:4.1f} %"
        print(f"{name:{width}}  {figures}  {verdict}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
