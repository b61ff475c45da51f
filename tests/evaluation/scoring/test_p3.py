"""MTest11 and HyperT5 as the paper's Table 9 has them."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tagi.data.readers.p3_eval import EVALUATION_SETS
from tagi.evaluation.scoring.answers import RankedAnswer
from tagi.evaluation.scoring.p3 import ANLI, MTEST11, P3Average, P3RankScoring, hypert5, mtest11

# Rows of Table 9, R1 to SCloze, and its two averages.
ROWS = {
    "T5-LM-TAGI base": ([31.5, 31.7, 33.1, 25.0, 44.5, 54.7, 53.7, 52.3, 60.5, 50.8, 64.0], 45.6, 46.7),
    "T5-LM-FiD XL": ([39.8, 37.6, 40.4, 31.4, 67.0, 92.3, 78.8, 50.4, 64.5, 61.2, 96.5], 60.0, 60.6),
    "T0 Full FT XL": ([37.5, 38.8, 39.2, 38.7, 81.9, 88.0, 80.1, 55.9, 59.5, 61.4, 95.0], 61.4, 63.0),
}
ROUNDED = 0.05 + 0.05
"""What rounding the scores and rounding their mean may make up together."""


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_table_9(name: str) -> None:
    row, eleven, eight = ROWS[name]
    scores = dict(zip(MTEST11, row, strict=True))
    assert mtest11(scores).value == pytest.approx(eleven, abs=ROUNDED)
    assert hypert5(scores).value == pytest.approx(eight, abs=ROUNDED)
    assert mtest11(scores).missing == hypert5(scores).missing == ()


def test_every_row_of_table_9(data_dir: Path) -> None:
    """All but one: T0-TAGI large has 54.6 for HyperT5 and 32.7 for ANLI, its own rounds give 54.4 and 33.7."""
    rows = [line.split("\t") for line in (data_dir / "paper" / "table9.tsv").read_text(encoding="utf-8").split("\n")]
    table = [row for row in rows if len(row) == 15 and row[1] not in ("", "ANLI ◊")]
    assert len(table) == 35
    far = []
    for name, anli, *columns, eleven, eight in table:
        scores = {key: float(text) for key, text in zip(MTEST11, columns, strict=True) if text != "-"}
        if "anli_r1" not in scores:  # HyperTuning's rows, which have ANLI's mean and no StoryCloze
            assert eleven == "-"
            assert mtest11(scores) == P3Average(None, (*ANLI, "story_cloze_2016"))
            scores |= dict.fromkeys(ANLI, float(anli))
        else:
            assert mtest11(scores).value == pytest.approx(float(eleven), abs=ROUNDED), name
        value = hypert5(scores).value
        if value != pytest.approx(float(eight), abs=ROUNDED):
            far.append((name, eight, value))
    assert far == [("T0-TAGI", "54.6", pytest.approx(54.383, abs=1e-3))]


def test_an_average_is_of_all_its_sets_or_not_given() -> None:
    scores = {name: 10.0 * at for at, name in enumerate(MTEST11)}
    assert mtest11(scores).value == pytest.approx(50)
    assert hypert5(scores).value == pytest.approx((10 + 30 + 40 + 50 + 60 + 70 + 80 + 90) / 8)
    assert mtest11({**scores, "imdb": 0.0}) == mtest11(scores)
    for name in MTEST11:
        fewer = {key: value for key, value in scores.items() if key != name}
        assert mtest11(fewer) == P3Average(None, (name,))
        assert hypert5(fewer) == (hypert5(scores) if name == "story_cloze_2016" else P3Average(None, (name,)))
    assert mtest11({}) == P3Average(None, MTEST11)
    assert hypert5({}).missing == MTEST11[:-1]


def test_the_sets_are_those_that_are_read() -> None:
    assert len(MTEST11) == 11
    assert [one.name for one in EVALUATION_SETS] == list(MTEST11)
    assert MTEST11[:3] == ANLI


def answered(name: str, hits: Sequence[int], prompt: str = "p") -> list[RankedAnswer]:
    return [
        RankedAnswer(f"{name}-{prompt}", name, f"{name}-{at}", "x", ("y", "n"), (-1.0, -2.0), (1 - hit,), 0, False, "y")
        for at, hit in enumerate(hits)
    ]


def test_averages_of_a_summary_with_intervals() -> None:
    rng = random.Random(1)
    hits = {name: [rng.randrange(2) for _ in range(20 + at)] for at, name in enumerate(MTEST11[:-1])}
    answers = [answer for name, own in hits.items() for answer in answered(name, own)]
    way = P3RankScoring(batch_size=3)
    averages = way.summarize(answers, way.scores(answers))["averages"]
    assert averages["mtest11"] == {"value": None, "missing": ["story_cloze_2016"], "interval": None}
    own = averages["hypert5"]
    means = {name: 100 * sum(values) / len(values) for name, values in hits.items()}
    anli = sum(means[name] for name in ANLI) / 3
    assert own["value"] == pytest.approx((anli + sum(means[name] for name in MTEST11[3:-1])) / 8)
    # By the formula of a mean of independent means: a proportion's variance over its examples.
    variances = {name: mean * (100 - mean) / len(hits[name]) for name, mean in means.items()}
    shares = {name: (1 / 24 if name in ANLI else 1 / 8) for name in hits}
    spread = math.sqrt(sum(shares[name] ** 2 * variances[name] for name in hits))
    low, high = own["interval"]
    assert low < own["value"] < high
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_prompts_of_the_same_examples_do_not_narrow_an_interval() -> None:
    rng = random.Random(2)
    hits = {name: [rng.randrange(2) for _ in range(25)] for name in MTEST11}
    once = [answer for name, own in hits.items() for answer in answered(name, own)]
    twice = [*once, *(answer for name, own in hits.items() for answer in answered(name, own, "q"))]
    way = P3RankScoring(batch_size=3)
    one, two = (way.summarize(given, way.scores(given))["averages"]["mtest11"] for given in (once, twice))
    assert two["value"] == pytest.approx(one["value"])
    assert two["interval"] == pytest.approx(one["interval"])
