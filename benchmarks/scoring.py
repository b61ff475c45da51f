"""What scoring costs, against what `rouge-score` alone needs for the same predictions.

    python benchmarks/scoring.py natural-instructions OUT

Predictions are made of other instances' references, so that they overlap in part, as a model's do. Both ways score the
same pairs, in turns, with one scorer each; the ratio of medians is the result.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from tagi.data.readers.sni import read_sni
from tagi.evaluation.scoring.answers import Answer
from tagi.evaluation.scoring.free_form import FreeFormScoring
from tagi.files import write_text
from tagi.formats.records import environment


def answers(checkout: Path, count: int, seed: int) -> list[Answer]:
    """Answers to `count` test instances; each is another instance's reference of the same task, or its own."""
    tasks = read_sni(checkout, "test", instances_per_task=100).tasks
    rng = random.Random(seed)
    places = [(task, instance) for task in tasks for instance in task.instances]
    return [
        Answer(task.name, task.category, one.id, one.input, one.outputs, rng.choice(task.instances).outputs[0])
        for task, one in rng.sample(places, min(count, len(places)))
    ]


def by_rouge_alone(given: list[Answer]) -> float:
    """Seconds that ROUGE-L takes, maximum over references."""
    begun = time.perf_counter()
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for one in given:
        max(scorer.score(reference, one.prediction)["rougeL"].fmeasure for reference in one.references)
    return time.perf_counter() - begun


def by_us(given: list[Answer]) -> float:
    """Seconds that the whole summary takes: ROUGE-L, ROUGE-1, exact match, by task and category, interval."""
    begun = time.perf_counter()
    scoring = FreeFormScoring("rouge", 1, 1)
    scoring.summarize(given, scoring.scores(given))
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="a checkout of natural-instructions")
    parser.add_argument("out", type=Path, help="a folder for the record")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    made = answers(given.checkout, given.count, seed=0)
    for warm_up in (by_rouge_alone, by_us):
        warm_up(made[:50])
    alone, ours = [], []
    for _ in range(given.repeats):
        alone.append(by_rouge_alone(made))
        ours.append(by_us(made))
    result: dict[str, Any] = {
        "predictions": len(made),
        "references": sum(len(one.references) for one in made),
        "rouge_alone_seconds": alone,
        "summary_seconds": ours,
        "ratio_of_medians": statistics.median(ours) / statistics.median(alone),
        "environment": environment(),
    }
    write_text(given.out / "scoring.json", json.dumps(result, indent=2) + "\n")
    print(
        f"{len(made)} predictions: rouge-score alone {statistics.median(alone):.1f} s, our summary "
        f"{statistics.median(ours):.1f} s, ratio {result['ratio_of_medians']:.2f}"
    )


if __name__ == "__main__":
    main()
