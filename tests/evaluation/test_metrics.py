import subprocess
import sys

import numpy as np
import pytest

from tagi.data.task import TASK_METRICS
from tagi.errors import DataError
from tagi.evaluation.scoring.metrics import (
    METRICS,
    TASK_SCORES,
    Prediction,
    bootstrap_interval,
    clustered_bootstrap_interval,
    exact_accuracy,
    exact_match,
    instance_scores,
    json_equal,
    number,
    rouge_1,
    rouge_l,
    score_predictions,
)

ROWS = [
    Prediction("t1", "c1", "the cat", ("The cat!", "a dog")),
    Prediction("t1", "c1", "cats the running", ("the cat runs",)),
    Prediction("t2", "c1", "wrong", ("right",)),
    Prediction("t3", "c2", "", ("",)),
]


def test_rouge_by_hand():
    # Longest common subsequence "a c" of three and four words; all three words are shared.
    assert rouge_l("a c b", ["a b x c"]) == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert rouge_1("a c b", ["a b x c"]) == pytest.approx(2 * (3 / 3) * (3 / 4) / (3 / 3 + 3 / 4))


def test_rouge_stems_and_takes_the_best_reference():
    assert rouge_l("running", ["runs"]) == 1.0
    assert rouge_l("a b", ["c d", "a e", "f"]) == pytest.approx(0.5)


def test_rouge_sees_no_letters_but_english():
    assert rouge_l("яблоко", ["яблоко"]) == 0.0
    assert exact_match("яблоко", ["яблоко"]) == 1.0
    assert rouge_l("", [""]) == 0.0


def test_exact_match_ignores_case_punctuation_and_space():
    assert exact_match(" The\n CAT's, ", ["dog", "the cats"]) == 1.0
    assert exact_match("the cat", ["a cat"]) == 0.0
    assert exact_match("x - y", ["x y"]) == 1.0
    assert exact_match("«x»", ["x"]) == 0.0


def test_exact_accuracy_ignores_outer_space_alone():
    assert exact_accuracy(" a b\n", ["c", "a b "]) == 1.0
    assert exact_accuracy("a  b", ["a b"]) == exact_accuracy("A", ["a"]) == exact_accuracy("a.", ["a"]) == 0.0


@pytest.mark.parametrize("metric", [rouge_l, rouge_1, exact_match, exact_accuracy])
@pytest.mark.parametrize("references", [[], (), "right"])
def test_references_are_a_list_of_at_least_one(metric, references):
    with pytest.raises(DataError, match="expected a list of at least one reference"):
        metric("right", references)


def test_scores_are_means_over_instances():
    scores = score_predictions(ROWS)
    # "cats the running" stems to "cat the run": two of three words in order, all three at hand.
    assert scores["overall"] == {
        "rougeL": pytest.approx((100 + 200 / 3 + 0 + 0) / 4),
        "rouge1": pytest.approx((100 + 100 + 0 + 0) / 4),
        "exact_match": 50.0,
    }
    assert scores["per_task"]["t1"]["exact_match"] == 50.0
    assert scores["per_category"]["c1"]["exact_match"] == pytest.approx(100 / 3)
    assert list(scores["per_task"]) == ["t1", "t2", "t3"]
    assert list(scores["per_category"]) == ["c1", "c2"]


def test_scores_per_instance():
    scores = instance_scores(ROWS)
    assert tuple(scores) == METRICS
    assert scores["exact_match"].tolist() == [100, 0, 0, 100]
    assert scores["rougeL"].tolist() == pytest.approx([100, 200 / 3, 0, 0])


def test_nothing_to_score():
    with pytest.raises(DataError, match="expected predictions to score, got none"):
        score_predictions([])
    with pytest.raises(DataError, match="prediction 1 of task 't9': expected at least one reference"):
        score_predictions([ROWS[0], Prediction("t9", "c", "x", ())])


def test_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(3).normal(40, 15, size=900)
    low, high = bootstrap_interval(values, seed=5, resamples=4000)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)
    narrower = bootstrap_interval(values, seed=5, resamples=4000, level=0.8)
    assert low < narrower[0] < values.mean() < narrower[1] < high


def test_intervals_are_a_function_of_the_seed():
    values = list(range(37))
    assert bootstrap_interval(values, 1) == bootstrap_interval(values, 1) != bootstrap_interval(values, 2)
    assert bootstrap_interval([4.5], 1) == (4.5, 4.5)


def test_large_samples_are_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(7).normal(size=50)
    whole = bootstrap_interval(values, seed=2, resamples=3000)
    monkeypatch.setattr("tagi.evaluation.scoring.metrics._DRAWN_AT_ONCE", 170)
    assert bootstrap_interval(values, seed=2, resamples=3000) == pytest.approx(whole, abs=0.05)


def test_clusters_are_drawn_whole():
    # Alike within tasks: only the tasks count, and drawing single instances would look four times too sure.
    means = np.random.default_rng(11).normal(size=30)
    values, tasks = np.repeat(means, 16), [f"t{index}" for index in range(30) for _ in range(16)]
    clustered = clustered_bootstrap_interval(values, tasks, seed=4, resamples=2000)
    assert clustered == pytest.approx(bootstrap_interval(means, seed=4, resamples=2000))
    single = bootstrap_interval(values, seed=4, resamples=2000)
    assert clustered[1] - clustered[0] == pytest.approx(4 * (single[1] - single[0]), rel=0.1)


def test_clusters_weigh_by_their_instances():
    # Of two clusters one is drawn twice (mean 1 or 0, a quarter of the time each) or both once (mean 3/4).
    values, tasks = [1, 0, 1, 1], ["a", "b", "a", "a"]
    assert clustered_bootstrap_interval(values, tasks, seed=0, level=0.2) == (0.75, 0.75)
    assert clustered_bootstrap_interval(values, tasks, seed=0, level=0.9) == (0.0, 1.0)


def test_weights_make_a_weighted_mean():
    # As above, but "b" weighs three times as much: both once is (1 + 1 + 1 + 3 * 0) / 6.
    values, tasks, weights = [1, 0, 1, 1], ["a", "b", "a", "a"], [1, 3, 1, 1]
    assert clustered_bootstrap_interval(values, tasks, seed=0, level=0.2, weights=weights) == (0.5, 0.5)
    drawn = np.random.default_rng(2).normal(size=40)
    clusters = [index % 13 for index in range(40)]
    plain = clustered_bootstrap_interval(drawn, clusters, seed=3)
    assert clustered_bootstrap_interval(drawn, clusters, seed=3, weights=[0.25] * 40) == pytest.approx(plain)
    for wrong in ([1.0] * 39, [1.0] * 39 + [0.0]):
        with pytest.raises(ValueError, match="expected a positive weight for each of 40 values"):
            clustered_bootstrap_interval(drawn, clusters, seed=3, weights=wrong)


def test_intervals_of_nothing():
    for values in ([], [1.0, float("nan")], [[1.0], [2.0]]):
        with pytest.raises(ValueError, match="expected a sequence of finite values"):
            bootstrap_interval(np.array(values, dtype=float), 0)
    with pytest.raises(ValueError, match="expected resamples >= 1 and 0 < level < 1"):
        bootstrap_interval([1.0], 0, level=95.0)
    with pytest.raises(ValueError, match="expected resamples >= 1"):
        bootstrap_interval([1.0], 0, resamples=0)
    with pytest.raises(ValueError, match="expected a cluster for each of 2 values, got 3"):
        clustered_bootstrap_interval([1.0, 2.0], "abc", 0)


def test_scoring_needs_no_model_library():
    code = (
        "import sys, tagi.evaluation.scoring.metrics as m; assert 'nltk' not in sys.modules; m.rouge_l('a', ['a']);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("metric", "answer", "references", "score"),
    [
        ("choice", "positive", ["positive"], 1),
        ("choice", ' \n"Positive." ', ["positive"], 1),
        ("choice", "“positive”!?", ["negative", "Positive"], 1),
        ("choice", "It is positive.", ["positive"], 0),
        ("choice", ".positive", ["positive"], 0),
        ("choice", "not spam", ["spam"], 0),
        ("choice", "C", ["C++"], 0),
        ("choice", "?", ["?"], 1),
        ("choice", "!", ["?"], 0),
        ("choice", "", ["yes"], 0),
        ("exact", " October 7.\n", ["october 7"], 1),
        ("exact", "The bridge was closed", ["The bridge was closed.", "It was."], 1),
        ("exact", "closed..", ["closed"], 0),
        ("exact", '"closed"', ["closed"], 0),
        ("exact", "STRASSE", ["straße"], 1),
        ("exact_case", " Lisbon\n", ["Porto", "Lisbon"], 1),
        ("exact_case", "lisbon", ["Lisbon"], 0),
        ("exact_case", "Lisbon.", ["Lisbon"], 0),
        ("json", '{"b": [1, 2], "a": null}', ['{"a":null,"b":[1.0,2e0]}'], 1),
        ("json", '```json\n{"a": 1}\n```', ['{"a": 1}'], 1),
        ("json", '```\n["x"]```\n', ['["y"]', '["x"]'], 1),
        ("json", 'Here: {"a": 1}', ['{"a": 1}'], 0),
        ("json", '{"a": 1} {"a": 1}', ['{"a": 1}'], 0),
        ("json", "[2, 1]", ["[1, 2]"], 0),
        ("json", "[1, 2, 3]", ["[1, 2]"], 0),
        ("json", '{"a": 1, "b": 2}', ['{"a": 1}'], 0),
        ("json", '{"a": true}', ['{"a": 1}'], 0),
        ("json", '{"a": "1"}', ['{"a": 1}'], 0),
        ("json", '{"a": 1, "a": 1}', ['{"a": 1}'], 0),
        ("json", "0.1", ["0.10"], 1),
        ("json", "0.1000000000000000001", ["0.1"], 0),
        ("json", "NaN", ["null"], 0),
        ("json", "1e" + "9" * 40, ["1"], 0),
        ("json", "9" * 5000, ["1"], 0),
        ("json", "[" * 100_000, ["[]"], 0),
        ("json", "", ["[]"], 0),
        ("number", "It costs $1,250.50.", ["1250.5"], 1),
        ("number", "12\u202f000\u00a0000 people", ["12000000", "12 million"], 1),
        ("number", "\u22123", ["-3.0 degrees"], 1),
        ("number", "3", ["-3"], 0),
        ("number", "A-3", ["3"], 1),
        ("number", ".5", ["0.50"], 1),
        ("number", "2e3", ["2,000"], 1),
        ("number", "12,5", ["12.5"], 0),
        ("number", "1,2345", ["12345"], 0),
        ("number", "5 or 6", ["5"], 0),
        ("number", "five", ["5"], 0),
        ("number", "v1.2.3", ["1.2"], 0),
        ("rouge_l", "a b", ["c d", "a e", "f"], 0.5),
        ("rouge_l", "running", ["runs"], 1),
    ],
)
def test_tasks_own_metrics_by_hand(metric, answer, references, score):
    assert TASK_SCORES[metric](answer, references) == pytest.approx(score)


def test_there_is_a_score_for_every_metric_that_a_task_may_name():
    assert tuple(TASK_SCORES) == TASK_METRICS
    for score in TASK_SCORES.values():
        with pytest.raises(DataError, match="expected a list of at least one reference"):
            score("1", [])


def test_references_that_nothing_can_equal_are_refused():
    with pytest.raises(DataError, match="expected a reference that is JSON, got 'a, b'"):
        json_equal("1", ["1", "a, b"])
    with pytest.raises(DataError, match="expected a reference that is JSON, got 'Infinity'"):
        json_equal("1", ["Infinity"])
    for wrong in ("none", "1 2"):
        with pytest.raises(DataError, match=f"expected a reference with one number, got '{wrong}'"):
            number("1", ["1", wrong])
