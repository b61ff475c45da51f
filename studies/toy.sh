#!/usr/bin/env sh
# How the shipped backbone and generator were made and scored, from nothing; some 25 minutes on two cores.
# One thread per process, as here: another number of threads gives other roundings.
#   sh studies/toy.sh FOLDER
set -eu
out=${1:?a folder for the runs}
export OMP_NUM_THREADS=1

tagi train backbone toy-backbone --out "$out/toy-backbone"
tagi train metatrain toy --set training.metatrain.steps=1500 --out "$out/toy-concatenated"
alone="--set losses.kl=0 --set losses.ins=0"  # cross-entropy alone
# shellcheck disable=SC2086
tagi train finetune toy $alone --from "$out/toy-concatenated" --out "$out/toy"
tagi train finetune toy-lora-only --from "$out/toy-concatenated" --out "$out/toy-lora-only"
for run in toy toy-lora-only toy-concatenated; do
  tagi evaluate "$out/$run" toy --conditions --channels --out "$out/$run/scores"
done
