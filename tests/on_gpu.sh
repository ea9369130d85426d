#!/bin/sh
# Runs a test where there is a GPU; elsewhere exits 77, which ctest counts as skipped.
nvidia-smi -L >/dev/null 2>&1 || { echo "no CUDA device: nvidia-smi finds no GPU"; exit 77; }
exec "$@"
