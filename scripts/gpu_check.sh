#!/usr/bin/env bash
# Checks and measures Spillway on a machine with an NVIDIA GPU, with no network: builds, measures the
# kernels and what the engine reaches of the machine's limits, runs the tests of the GPU, compares
# RAM with NVMe and with what was predicted, and runs compute-sanitizer. Each outcome is said at once
# and kept in one Markdown file, whatever comes after.
#   scripts/gpu_check.sh [--quick] [--stages build,kernels,ratio,test,compare,sanitize]
#                        [--bundle FOLDER] [--build FOLDER] [--out FILE] [--model FOLDER]
#                        [--limit SECONDS]
# --quick: build, kernels, ratio and the tests of the operations, under 6 minutes in all.
# Missing libraries are taken from the folder that scripts/offline_bundle.sh made (default
# build/offline). --model: a checkpoint to measure with; default: a synthetic one (7 GB; 2 GB with
# --quick), removed afterwards. Every stage has a time limit (--limit sets it for all); one that
# fails, or whose program did not build, does not keep the next from running.
# Exit code: 0 all passed, 1 something failed, 3 nothing failed but something was skipped.
set -uo pipefail
cd "$(dirname "$0")/.."

all=build,kernels,ratio,test,compare,sanitize
stages=
quick=no
bundle=build/offline
build=$PWD/build/gpu
out=build/gpu_check.md
model=
limit=
only=
while [ $# -gt 0 ]; do
  case "$1" in
    --quick) quick=yes; shift; continue ;;
    -h | --help) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --stages | --bundle | --build | --out | --model | --limit | --only) ;;
    *) echo "gpu_check.sh: unknown option $1 (--help)" >&2; exit 2 ;;
  esac
  [ $# -ge 2 ] || { echo "gpu_check.sh: $1 needs a value" >&2; exit 2; }
  declare "${1#--}=$2"
  shift 2
done
if [ -z "$stages" ]; then
  stages=$all
  [ $quick = no ] || stages=build,kernels,ratio,test
fi
for name in ${stages//,/ }; do
  case ",$all," in *",$name,"*) ;; *) echo "gpu_check.sh: no stage $name; there are $all" >&2; exit 2 ;; esac
done

[ -z "$model" ] || model=$(realpath -m "$model")  # written into configurations that lie elsewhere
command -v nvidia-smi >/dev/null || { echo "gpu_check.sh: no nvidia-smi: no GPU driver here" >&2; exit 1; }
command -v nvcc >/dev/null || PATH=/usr/local/cuda/bin:$PATH
command -v nvcc >/dev/null || { echo "gpu_check.sh: no nvcc: install CUDA 12.4 or later" >&2; exit 1; }
mkdir -p "$build" "$(dirname "$out")"

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

# Stages end with 0 (passed), 77 (skipped, the last line says why) or another code (failed).
readonly skipped=77

needs() {  # PROGRAM...: a stage without what it runs is not one that failed by itself
  local program
  for program in "$@"; do
    [ -x "$program" ] || { echo "not built: ${program#"$build"/}"; return 1; }
  done
}

limit_of() {  # STAGE: seconds it may take
  [ -z "$limit" ] || { echo "$limit"; return; }
  case "$1-$quick" in
    build-yes) echo 150 ;; kernels-yes) echo 45 ;; ratio-yes) echo 90 ;; test-yes) echo 60 ;;
    build-*) echo 480 ;; kernels-*) echo 150 ;; ratio-*) echo 420 ;; test-*) echo 420 ;;
    *) echo 480 ;;
  esac
}

stage() {  # NAME: runs it, unless not asked for, and keeps its outcome
  local name=$1 begin=$SECONDS outcome code reason
  case ",$stages," in *",$name,"*) ;; *) return ;; esac
  echo "=== $name (at most $(limit_of "$name") s)"
  timeout -k 10 "$(limit_of "$name")" bash "$0" --only "$name" --build "$build" --out "$out" \
    --model "$model" $([ $quick = no ] || echo --quick) 2>&1 | tee "$build/stage-$name.log"
  code=${PIPESTATUS[0]}
  reason=$(grep -v '^$' "$build/stage-$name.log" | tail -n 1)
  case $code in
    0) outcome=passed ;;
    "$skipped") outcome="skipped: $reason"; any_skipped=yes ;;
    124 | 137) outcome="**stopped** at its limit of $(limit_of "$name") s"; any_failed=yes ;;
    *) outcome="**failed**: $reason"; any_failed=yes ;;
  esac
  say "- stage $name: $outcome ($((SECONDS - begin)) s)"
}

build_stage() {
  cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSPILLWAY_CUDA=ON \
    -DSPILLWAY_CUDA_ARCHITECTURES=native -DSPILLWAY_WERROR=OFF >"$build/configure.log" 2>&1 ||
    { tail -n 20 "$build/configure.log"; return 1; }
  # The programs of the first stages first; -k 0: what does not compile keeps nothing else back.
  local wanted=(spillway bench_kernels spillway_ratio kernels_test)
  cmake --build "$build" --target "${wanted[@]}" -- -k 0 >"$build/build.log" 2>&1
  local status=$?
  if [ $quick = no ]; then
    cmake --build "$build" -- -k 0 >>"$build/build.log" 2>&1 || status=1
  fi
  [ $status -eq 0 ] || grep -E 'error|FAILED' "$build/build.log" | head -n 30
  return $status
}

test_stage() {
  needs "$build/tests/kernels_test" || return $skipped
  local pick=(-L gpu)
  [ $quick = no ] || pick+=(-R 'OpsTest|AttentionTest|BlockOps')
  (cd "$build" && ctest "${pick[@]}" -V --timeout 300) >"$build/ctest.log" 2>&1
  local status=$?
  grep -vE '^ *Start|Passed' "$build/ctest.log" | tail -n 40
  grep -q 'tests passed' "$build/ctest.log" || status=1
  grep -q "no CUDA device" "$build/ctest.log" && status=1
  local count
  count=$(grep -cE '\(Skipped\)$' "$build/ctest.log")
  say "- tests: $(grep -E 'tests passed' "$build/ctest.log" || echo 'none ran'), $count of them skipped"
  return $status
}

sanitize_stage() {
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed"; return $skipped; }
  needs "$build/tests/kernels_test" || return $skipped
  local tool status=0
  for tool in memcheck racecheck synccheck; do
    timeout 150 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/tests/kernels_test" \
      '--gtest_filter=*cuda*-*LongDecode*:*MatmulMatches*' >"$build/$tool.log" 2>&1
    case $? in
      0) say "- $tool: nothing found" ;;
      9) say "- $tool: **errors**, see $build/$tool.log"; head -n 30 "$build/$tool.log"; status=1 ;;
      124) say "- $tool: stopped after 150 s, nothing found until then"; [ $status -eq 1 ] || status=$skipped ;;
      *) say "- $tool: did not run here: $(grep -m1 -iE 'error|not supported' "$build/$tool.log")"
        [ $status -eq 1 ] || status=$skipped ;;
    esac
  done
  return $status
}

kernels_stage() {
  needs "$build/bench/bench_kernels" || return $skipped
  local seconds=0.1
  [ $quick = no ] || seconds=0.02
  "$build/bench/bench_kernels" --device=cuda --benchmark_min_time=$seconds \
    --benchmark_out="$build/kernels.json" --benchmark_out_format=json >"$build/kernels.log" 2>&1 &
  local status=0 program=$!
  trap 'kill $program 2>/dev/null; wait $program; kernels_table; exit 1' TERM  # keep what there is
  wait $program || status=1
  kernels_table || status=1
  [ $status -eq 0 ] || grep -vE '^[a-z_]*/|^-|^Benchmark' "$build/kernels.log" | tail -n 5
  return $status
}

kernels_table() {
  say; say "$(grep -m1 'bf16 matmul' "$build/kernels.log")"; say
  python3 - "$build/kernels.json" <<'PY' | tee -a "$out"
import json, sys
text = open(sys.argv[1]).read()
try:
    document = json.loads(text)
except ValueError:  # stopped on the way: as far as it came
    document = json.loads(text[:text.rindex("}") + 1] + "]}")
def share(row, name):
    return f"{100 * row[name]:.0f} %" if name in row else ""
errors = 0
print("| kernel | GB/s | of memory | TFLOP/s | of matmul |\n| --- | --- | --- | --- | --- |")
for row in document.get("benchmarks", []):
    name = row["name"].split("/real")[0]
    if row.get("error_occurred"):
        errors += 1
        print(f"| {name} | failed: {row.get('error_message', '')} | | | |")
        continue
    tera = f"{row['FLOP/s'] / 1e12:.1f}" if "FLOP/s" in row else ""
    giga = f"{row['bytes/s'] / 1e9:.0f}" if "bytes/s" in row else ""
    print(f"| {name} | {giga} | {share(row, 'of memory')} | {tera} | {share(row, 'of matmul')} |")
sys.exit(1 if errors else 0)
PY
}

synthetic=$PWD/gpu-check-model
model_folder() {  # sets $folder
  folder=$model
  [ -n "$folder" ] && return
  folder=$synthetic
  [ -f "$folder/config.json" ] && return
  if [ $quick = yes ]; then
    "$build/spillway" synth "$folder" --layers 8 --hidden 4096 --intermediate 8192 --heads 32 \
      --vocab 32000
  else
    "$build/spillway" synth "$folder" --like bench-7gb
  fi
}

ratio_stage() {
  needs "$build/bench/spillway_ratio" "$build/spillway" || return $skipped
  local folder runs=3
  model_folder || return 1
  [ $quick = no ] || runs=1
  say
  "$build/bench/spillway_ratio" "$folder" --device cuda --runs $runs 2> >(tee "$build/ratio.log" >&2) |
    tee -a "$out"
  return "${PIPESTATUS[0]}"
}

compare_stage() {
  needs "$build/spillway" || return $skipped
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

compgen -G "$bundle/*.deb" >/dev/null && use_bundle
if [ -n "$only" ]; then
  "${only}_stage"
  exit $?
fi

trap 'rm -rf "$synthetic"' EXIT
any_failed=no
any_skipped=no
: >"$out"
say "# $(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)"
say
say "driver $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)," \
  "CUDA $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')," \
  "$(nproc) cores, $(awk '/MemTotal/ {printf "%d GiB", $2 / 1048576}' /proc/meminfo)," \
  "kernel $(uname -r), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
say
for name in ${all//,/ }; do stage "$name"; done
[ $any_failed = no ] || exit 1
[ $any_skipped = no ] || exit 3
