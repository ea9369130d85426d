#!/usr/bin/env bash
# Installs what tests need, builds, and runs every test. Arguments go to ctest (-L unit, -R Name).
# With --differential first: compares the program with gguf, transformers, tokenizers and sentencepiece
# instead; the rest goes to tests/differential/driver.py (--quick, --seed, --configs, --texts).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = --differential ]; then
  shift
  scripts/setup.sh differential
  cmake --preset release -DSPILLWAY_TESTS=ON
  cmake --build --preset release --target spillway decode_values
  python=$(tests/differential/environment.py build/differential-venv)
  "$python" tests/differential/blocks.py build/release/tests/decode_values
  exec "$python" tests/differential/driver.py build/release/spillway "$@"
fi

scripts/setup.sh test
cmake --preset release -DSPILLWAY_TESTS=ON -DSPILLWAY_BENCH=ON
cmake --build --preset release
ctest --preset release -j"$(nproc)" "$@"
