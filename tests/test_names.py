#!/usr/bin/env python3
"""The names of tests say what is tested: no bytes of objects, no bare numbers of cases.
Usage: test_names.py CTEST BUILD_FOLDER"""
import json
import re
import subprocess
import sys


def main():
    ctest, folder = sys.argv[1:]
    shown = subprocess.run([ctest, "--test-dir", folder, "--show-only=json-v1"],
                           capture_output=True, text=True, check=True).stdout
    names = [test["name"] for test in json.loads(shown)["tests"]]
    assert names, "no tests are there"
    wrong = [name for name in names
             if re.search(r"byte object|GetParam|[ <>#]|/[0-9]+$", name)]
    for name in wrong:
        print(f"not a name for a person: {name}")
    print(f"{len(names)} tests, {len(wrong)} without a name")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
