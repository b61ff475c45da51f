# Table 4 on the built-in tasks, three seeds, and L_ins at weights at which it does something.
# Teachers, meta-training and pretraining are shared within a seed. About 50 minutes a seed on one CPU core.
#   sh studies/table4.sh OUT
set -eu
OUT=${1:?usage: sh studies/table4.sh OUT}
for seed in 0 1 2; do
    tagi sweep toy --grid table4 --set seed=$seed --out "$OUT/seed-$seed"
    tagi sweep toy --over losses.ins=30.0,300.0 --set seed=$seed --out "$OUT/seed-$seed"
done
tagi report "$OUT"
python "$(dirname "$0")/table4_learning.py" "$OUT" "$OUT/learning"
