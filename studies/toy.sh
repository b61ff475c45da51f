#!/usr/bin/env sh
# How the shipped backbone and generator were made and scored, from nothing; some 25 minutes on two cores.
# One thread per process, as here: another number of threads gives other roundings.
#   sh studies/toy.sh FOLDER
set -eu
out=${1:?a folder for the runs}
export OMP_NUM_THREADS=1

tagi train backbone toy-backbone --out "$out/toy-backbone"
tagi train metatrain toy --set training.steps=1500 --out "$out/toy-concatenated"
tagi train finetune toy --from "$out/toy-concatenated" --out "$out/toy"
tagi train finetune toy-lora-only --from "$out/toy-concatenated" --out "$out/toy-lora-only"
# The rival with as many steps as the generator and what it starts from have together.
tagi train metatrain toy --set training.steps=2500 --out "$out/toy-concatenated-2500"

for run in toy toy-lora-only toy-concatenated toy-concatenated-2500; do
  tagi evaluate "$out/$run" toy --conditions --channels --out "$out/$run/scores"
done
