#!/usr/bin/env bash
# Installs what tests need, builds, and runs every test. Arguments go to ctest (-L unit, -R Name).
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh test
cmake --preset release -DSPILLWAY_TESTS=ON -DSPILLWAY_BENCH=ON
cmake --build --preset release
ctest --preset release -j"$(nproc)" "$@"
