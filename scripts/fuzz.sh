#!/usr/bin/env bash
# Runs every fuzzer for SECONDS (default 60) each; stops at the first crash.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh ci
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz -- --quiet
for fuzzer in safetensors gguf yaml model_config tokenizer gguf_tokenizer json_document npy_header; do
  corpus="build/fuzz/corpus-$fuzzer"
  mkdir -p "$corpus"
  cp -n "tests/fuzz/seeds/$fuzzer"* "$corpus/" 2>/dev/null || true
  echo "== $fuzzer"
  if ! "build/fuzz/tests/fuzz/fuzz_$fuzzer" -max_total_time="${1:-60}" -max_len=65536 -timeout=10 \
    -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix=build/fuzz/ "$corpus" \
    >"build/fuzz/$fuzzer.log" 2>&1; then
    tail -n 40 "build/fuzz/$fuzzer.log" >&2
    exit 1
  fi
  grep number_of_executed "build/fuzz/$fuzzer.log"
done
