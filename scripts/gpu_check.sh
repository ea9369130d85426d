#!/usr/bin/env bash
# Checks and measures Spillway on a machine with an NVIDIA GPU, with no network: builds, runs the
# tests of the GPU, compute-sanitizer where it works, the benchmarks, RAM against NVMe with what was
# predicted, and writes one Markdown file.
#   scripts/gpu_check.sh [--stages build,test,sanitize,kernels,ratio,compare] [--bundle FOLDER]
#                        [--out FILE] [--model FOLDER]
# Missing libraries are taken from the folder that scripts/offline_bundle.sh made (default
# build/offline). --model: a checkpoint to measure with; default: a synthetic one of 7 GB, removed
# afterwards. A stage that fails is reported and the next one runs; the exit code says whether all
# did well.
set -uo pipefail
cd "$(dirname "$0")/.."

stages=build,test,sanitize,kernels,ratio,compare
bundle=build/offline
out=build/gpu_check.md
model=
while [ $# -gt 0 ]; do
  case "$1" in
    --stages) stages=$2 ;;
    --bundle) bundle=$2 ;;
    --out) out=$2 ;;
    --model) model=$2 ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "gpu_check.sh: unknown option $1 (--help)" >&2; exit 2 ;;
  esac
  [ $# -ge 2 ] || { echo "gpu_check.sh: $1 needs a value" >&2; exit 2; }
  shift 2
done

command -v nvidia-smi >/dev/null || { echo "gpu_check.sh: no nvidia-smi: no GPU driver here" >&2; exit 1; }
command -v nvcc >/dev/null || PATH=/usr/local/cuda/bin:$PATH
command -v nvcc >/dev/null || { echo "gpu_check.sh: no nvcc: install CUDA 12.4 or later" >&2; exit 1; }
build=$PWD/build/gpu
mkdir -p "$build" "$(dirname "$out")"
failed=0

say() { printf '%s\n' "$*" | tee -a "$out"; }

use_bundle() {  # unpacked beside the system, never into it
  local root=$PWD/build/offline-root libraries
  if [ ! -d "$root" ]; then
    mkdir -p "$root"
    for package in "$bundle"/*.deb; do dpkg -x "$package" "$root"; done
  fi
  libraries=$root/usr/lib/x86_64-linux-gnu
  export PATH=$PATH:$root/usr/bin
  export LD_LIBRARY_PATH=$libraries:$root/usr/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export PKG_CONFIG_PATH=$libraries/pkgconfig:$root/usr/share/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root
  export CMAKE_PREFIX_PATH=$root/usr CPATH=$root/usr/include
  export LIBRARY_PATH=$libraries
}

stage() {  # NAME COMMAND...: skipped unless asked for; its time and outcome go to the table
  local name=$1 begin=$SECONDS outcome=passed
  shift
  case ",$stages," in *",$name,"*) ;; *) return ;; esac
  [ "$built" = yes ] || { outcomes+="| $name | not run: nothing was built | |"$'\n'; return; }
  echo "=== $name"
  "$@" || { outcome="**failed**"; failed=1; }
  outcomes+="| $name | $outcome | $((SECONDS - begin)) s |"$'\n'
}

build_all() {
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPILLWAY_CUDA=ON \
    -DSPILLWAY_CUDA_ARCHITECTURES=native -DSPILLWAY_WERROR=OFF >"$build/configure.log" 2>&1 ||
    { tail -n 20 "$build/configure.log"; return 1; }
  cmake --build "$build" >"$build/build.log" 2>&1 ||
    { grep -E 'error|FAILED' "$build/build.log" | head -n 30; return 1; }
}

gpu_tests() {
  (cd "$build" && ctest -L gpu -V --timeout 300) >"$build/ctest.log" 2>&1
  local status=$?
  grep -vE '^ *Start|Passed' "$build/ctest.log" | tail -n 40
  grep -q 'tests passed' "$build/ctest.log" || status=1
  local skipped
  skipped=$(grep -cE '\(Skipped\)$' "$build/ctest.log")
  say "- tests: $(grep -E 'tests passed' "$build/ctest.log" || echo 'none ran'), $skipped of them skipped"
  grep -q "no CUDA device" "$build/ctest.log" && status=1
  return $status
}

sanitizers() {
  command -v compute-sanitizer >/dev/null || { say "- compute-sanitizer: not installed"; return 0; }
  local tool status=0
  for tool in memcheck racecheck synccheck; do
    timeout 170 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/kernels_test" \
      '--gtest_filter=*cuda*-*LongDecode*:*MatmulMatches*' >"$build/$tool.log" 2>&1
    case $? in
      0) say "- $tool: nothing found" ;;
      124) say "- $tool: stopped after 170 s" ;;
      9) say "- $tool: **errors**, see $build/$tool.log"; status=1; head -n 30 "$build/$tool.log" ;;
      *) say "- $tool: did not run here: $(grep -m1 -iE 'error|not supported' "$build/$tool.log")" ;;
    esac
  done
  return $status
}

kernels() {
  "$build/bench/bench_kernels" --device=cuda --benchmark_min_time=0.1 \
    --benchmark_out="$build/kernels.json" --benchmark_out_format=json >"$build/kernels.log" 2>&1 ||
    { tail -n 5 "$build/kernels.log"; return 1; }
  say; say "$(grep -m1 'bf16 matmul' "$build/kernels.log")"; say
  python3 - "$build/kernels.json" <<'PY' | tee -a "$out"
import json, sys
rows = json.load(open(sys.argv[1]))["benchmarks"]
print("| kernel | GB/s | of memory | TFLOP/s | of matmul |\n| --- | --- | --- | --- | --- |")
def share(row, name):
    return f"{100 * row[name]:.0f} %" if name in row else ""
for row in rows:
    name = row["name"].split("/real")[0]
    tera = f"{row['FLOP/s'] / 1e12:.1f}" if "FLOP/s" in row else ""
    print(f"| {name} | {row['bytes/s'] / 1e9:.0f} | {share(row, 'of memory')} | {tera} "
          f"| {share(row, 'of matmul')} |")
PY
}

synthetic=$PWD/gpu-check-model
model_folder() {  # sets $folder
  folder=$model
  [ -n "$folder" ] && return
  folder=$synthetic
  [ -d "$folder" ] || "$build/spillway" synth "$folder" --like bench-7gb
}
trap 'rm -rf "$synthetic"' EXIT

ratio() {
  local folder
  model_folder || return 1
  say
  "$build/bench/spillway_ratio" "$folder" --device cuda --runs 3 2>"$build/ratio.log" | tee -a "$out"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || tail -n 5 "$build/ratio.log"
  return "$status"
}

compare() {
  local folder
  model_folder || return 1
  printf 'model: {path: %s}\ndevice: cuda\n' "$folder" >"$build/compare.yaml"
  say; say '```'
  "$build/spillway" probe --path "$folder" --device cuda --quiet | tee -a "$out" &&
    "$build/spillway" bench "$build/compare.yaml" --sweeps decode,prompt --shares 100,50,0 \
      --batches 1,16 --repeats 2 --out "$build/compare" --quiet | tee -a "$out"
  local status=${PIPESTATUS[0]}
  say '```'
  return "$status"
}

outcomes=
built=yes
compgen -G "$bundle/*.deb" >/dev/null && use_bundle
: >"$out"
say "# $(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)"
say
say "driver $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)," \
  "CUDA $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')," \
  "$(nproc) cores, $(awk '/MemTotal/ {printf "%d GiB", $2 / 1048576}' /proc/meminfo)," \
  "kernel $(uname -r), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
say
stage build build_all
[ $failed -eq 0 ] || built=no
stage test gpu_tests
stage sanitize sanitizers
stage kernels kernels
stage ratio ratio
stage compare compare
say; say "| stage | outcome | time |"; say "| --- | --- | --- |"; say "${outcomes%$'\n'}"
exit $failed
