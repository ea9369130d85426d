#!/usr/bin/env bash
# From a fresh clone to a model that does not fit its memory budget answering a prompt.
#   SPILLWAY_MODEL=<folder>  run that checkpoint instead of a synthetic one
#   SPILLWAY_RAM=<size>      another memory budget than configs/quickstart.yaml has
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh build
cmake --preset release -DSPILLWAY_TESTS=OFF -DSPILLWAY_BENCH=OFF >/dev/null
echo "building ..."
cmake --build --preset release --target spillway -- --quiet
spillway=build/release/spillway

overrides=()
if [ -n "${SPILLWAY_MODEL:-}" ]; then
  overrides+=(--set "model.path=$(realpath "$SPILLWAY_MODEL")" --set "memory.ram=${SPILLWAY_RAM:-auto}")
else
  # Whole, or written (again): the folder alone says nothing, a run may have been killed.
  "$spillway" inspect quickstart-model >/dev/null 2>&1 || "$spillway" synth quickstart-model --like quickstart --shards 2
  [ -n "${SPILLWAY_RAM:-}" ] && overrides+=(--set "memory.ram=$SPILLWAY_RAM")
fi

echo; echo "== the machine (half a minute; kept for later plans)"
"$spillway" probe --path "${SPILLWAY_MODEL:-quickstart-model}" --quiet | grep -E 'drive|memory|kept' ||
  echo "not measured: the plan is made by capacity alone"
echo; echo "== the plan"
"$spillway" plan configs/quickstart.yaml "${overrides[@]}"
echo; echo "== the run"
"$spillway" run configs/quickstart.yaml "${overrides[@]}"
[ -n "${SPILLWAY_MODEL:-}" ] || echo "
The weights were random, and so is the text. With a real model:
  SPILLWAY_MODEL=<folder of a Hugging Face checkpoint> scripts/quickstart.sh"
