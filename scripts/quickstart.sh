#!/usr/bin/env bash
# From a fresh clone to a model that answers a question in less memory than its weights take: a small
# one that is fetched (scripts/fetch_model.sh), or without a network a larger one of random weights.
#   SPILLWAY_MODEL=<path>  run that .gguf file, or folder of a Hugging Face checkpoint, instead
#   SPILLWAY_RAM=<size>    another memory budget
set -euo pipefail
cd "$(dirname "$0")/.."

question='What is the capital of France?'

scripts/setup.sh build
cmake --preset release -DSPILLWAY_TESTS=OFF -DSPILLWAY_BENCH=OFF >/dev/null
echo "building ..."
cmake --build --preset release --target spillway -- --quiet
spillway=build/release/spillway

echo; echo "== the model"
random=
if [ -n "${SPILLWAY_MODEL:-}" ]; then
  model=$(realpath "$SPILLWAY_MODEL")
  arguments=(configs/quickstart.yaml --set "model.path=$model" --ram "${SPILLWAY_RAM:-auto}")
elif model=$(scripts/fetch_model.sh); then
  # The words that this model was taught to wait for around a question.
  prompt="<|im_start|>user\\n$question<|im_end|>\\n<|im_start|>assistant\\n"
  arguments=("$model" --ram "${SPILLWAY_RAM:-64MiB}" --set generate.max_new_tokens=64
    --set "generate.prompts=[\"$prompt\"]")
else
  echo "so it is a synthetic one: random weights, 1.3 GB"
  random=yes model=quickstart-model
  # Whole, or written (again): the folder alone says nothing, a run may have been killed.
  "$spillway" inspect $model >/dev/null 2>&1 || "$spillway" synth $model --like quickstart --shards 2
  arguments=(configs/quickstart.yaml --ram "${SPILLWAY_RAM:-320MiB}")
fi
echo "$model"

echo; echo "== the machine (half a minute; kept for later plans)"
"$spillway" probe --path "$model" --quiet | grep -E '^(drive|memory|kept)' ||
  echo "not measured: the plan is made by capacity alone"
echo; echo "== the plan"
"$spillway" plan "${arguments[@]}"
echo; echo "== the run"
[ -n "$random${SPILLWAY_MODEL:-}" ] || echo "$question"
"$spillway" run "${arguments[@]}"
[ -z "$random" ] || echo "
The weights were random, and so is the text. With a real model:
  SPILLWAY_MODEL=<.gguf file, or folder of a Hugging Face checkpoint> scripts/quickstart.sh"
