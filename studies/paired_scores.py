"""Scores of several evaluations on the same instances, and their paired differences from the first.

    python studies/paired_scores.py OUT.json NAME=FOLDER[:CONDITION] NAME=FOLDER[:CONDITION] ...

FOLDER is that of `tagi evaluate --out`, CONDITION one of its conditions (by default "right"). Prints ROUGE-L with 95%
intervals over tasks; OUT.json keeps it, with every task's mean.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from tagi.evaluation.predictions_log import predictions_file
from tagi.evaluation.scoring.answers import read_line
from tagi.evaluation.scoring.free_form import rouge_scores
from tagi.evaluation.scoring.statistics import FloatArray, paired_difference, task_interval


def scores(folder: Path, condition: str) -> dict[tuple[str, str], float]:
    """ROUGE-L of every answer, by task and instance."""
    lines = (folder / predictions_file(condition)).read_text(encoding="utf-8").splitlines()
    answers = [read_line(json.loads(line)) for line in lines]
    rouge = rouge_scores((one.prediction, one.references) for one in answers)["rougeL"]
    return {(one.task, one.id): float(score) for one, score in zip(answers, rouge, strict=True)}


def by_task(found: dict[tuple[str, str], float]) -> dict[str, FloatArray]:
    """The same, each task's together and in order."""
    parted: dict[str, list[float]] = defaultdict(list)
    for (task, _), score in sorted(found.items()):
        parted[task].append(score)
    return {task: np.array(own) for task, own in parted.items()}


def main() -> None:
    """Print the table and write the record."""
    rows: list[dict[str, Any]] = []
    reference: dict[tuple[str, str], float] | None = None
    for given in sys.argv[2:]:
        name, _, place = given.partition("=")
        folder, _, condition = place.partition(":")
        found = scores(Path(folder), condition or "right")
        reference = found if reference is None else reference
        if found.keys() != reference.keys():
            raise SystemExit(
                f"{name}: expected the instances of the first ({len(reference)}), got others ({len(found)})"
            )
        own = by_task(found)
        found_mean = task_interval(own)
        mean, (low, high), n = found_mean["mean"], found_mean["interval"], found_mean["n"]
        difference = paired_difference(own, by_task(reference))
        rows.append(
            {
                "name": name,
                "condition": condition or "right",
                "rougeL": mean,
                "interval": [low, high],
                "minus_first": {key: difference[key] for key in ("mean", "interval")},
                "n": n,
                "per_task": {task: float(one.mean()) for task, one in own.items()},
            }
        )
        paired = f"{difference['mean']:+.1f} ({difference['interval'][0]:.1f} to {difference['interval'][1]:.1f})"
        print(f"{name:45} {mean:5.1f} ({low:.1f} to {high:.1f})  minus the first {paired}  n = {n}")
    Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
