"""What the distances between toy adapters follow: the word map (the category), or the kinds of thing that are named.

    tagi evaluate toy toy --sensitivity --channels --out runs/toy-sensitivity
    python studies/toy_sensitivity.py runs/toy-sensitivity/record.json

Correlations of the distance of two tasks' updates with what the two have in common, each with the share of random
relabellings of the tasks under which it is at least as far below zero.
"""

import json
import sys
from pathlib import Path

import numpy as np

from tagi.data.toy.programs import program_of

RELABELLINGS = 10_000


def main(record: Path) -> None:
    adapters = json.loads(record.read_text(encoding="utf-8"))["adapters"]
    distances = np.array(adapters["distances"])
    programs = [program_of(name) for name in adapters["tasks"]]
    common = {
        "the same word map": [[float(p.mapping == q.mapping) for q in programs] for p in programs],
        "kinds in common, of all that either names": [
            [len({*p.kinds} & {*q.kinds}) / len({*p.kinds, *q.kinds}) for q in programs] for p in programs
        ],
        "the same number of kinds": [[float(len(p.kinds) == len(q.kinds)) for q in programs] for p in programs],
    }
    pairs = np.triu_indices(len(programs), 1)
    random = np.random.default_rng(0)
    for name, values in common.items():
        shared = np.array(values)
        found = np.corrcoef(shared[pairs], distances[pairs])[0, 1]
        draw_examples = [
            np.corrcoef(shared[np.ix_(order, order)][pairs], distances[pairs])[0, 1]
            for order in (random.permutation(len(programs)) for _ in range(RELABELLINGS))
        ]
        p = (1 + sum(value <= found for value in draw_examples)) / (1 + RELABELLINGS)
        print(f"{name:42} r = {found:+.2f}, p = {p:.4f}")
    both = np.stack([np.ones(len(pairs[0])), *(np.array(common[name])[pairs] for name in list(common)[:2])], axis=1)
    fitted = both @ np.linalg.lstsq(both, distances[pairs], rcond=None)[0]
    print(f"map and kinds together: {100 * np.corrcoef(fitted, distances[pairs])[0, 1] ** 2:.0f}% of the variance")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
