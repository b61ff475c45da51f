"""Scores against those of Tk-Instruct's own scorer."""

import json

import pytest

from tagi.evaluation.scoring.answers import Answer
from tagi.evaluation.scoring.free_form import FreeFormScoring
from tagi.evaluation.scoring.metrics import METRICS


@pytest.fixture(scope="module")
def oracle(data_dir):
    return json.loads((data_dir / "oracles" / "sni_metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scores(oracle):
    rows = [
        Answer(row["task"], row["category"], "", "", tuple(row["references"]), row["prediction"])
        for row in oracle["rows"]
    ]
    scoring = FreeFormScoring("rouge", 1, 1)
    return scoring.summarize(rows, scoring.scores(rows))


def test_overall(oracle, scores):
    assert len(oracle["rows"]) == 440
    assert set(oracle["overall"]) == set(METRICS)
    assert {metric: round(score, 4) for metric, score in scores["overall"].items()} == oracle["overall"]


@pytest.mark.parametrize("grouping", ["per_task", "per_category"])
def test_groups(oracle, scores, grouping):
    ours = {
        f"{metric}_for_{group}": round(score, 4)
        for group, metrics in scores[grouping].items()
        for metric, score in metrics.items()
    }
    assert ours == oracle[grouping]
