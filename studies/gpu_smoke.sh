#!/usr/bin/env bash
# Every stage at T5-base's shape, a few steps each, on one GPU: throughput and memory as one record. At most 4 minutes.
#   bash studies/gpu_smoke.sh NATURAL_INSTRUCTIONS C4 T5_TOKENIZER OUT
# The machine needs torch, transformers, peft and what pyproject.toml lists beside them. PYTHON names another interpreter.
set -euo pipefail
data=$1 c4=$2 tokenizer=$3 out=$4
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
timeout 240 "${PYTHON:-python3}" studies/gpu_smoke.py --data "$data" --c4 "$c4" --tokenizer "$tokenizer" \
    --runs "$scratch" --out "$out/gpu-smoke.json" "${@:5}"
