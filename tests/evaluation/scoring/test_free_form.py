"""Generated answers are scored as Tk-Instruct scores them, and summarized as means over instances."""

import pytest

from tagi.errors import DataError
from tagi.evaluation.scoring.answers import Answer
from tagi.evaluation.scoring.free_form import FreeFormScoring, rouge_scores
from tagi.evaluation.scoring.metrics import METRICS

SCORING = FreeFormScoring("rouge", batch_size=3, max_new_tokens=5)


def answer(task: str, category: str, prediction: str, references: tuple[str, ...]) -> Answer:
    return Answer(task, category, "i", "x", references, prediction)


ROWS = [
    answer("t1", "c1", "the cat", ("The cat!", "a dog")),
    answer("t1", "c1", "cats the running", ("the cat runs",)),
    answer("t2", "c1", "wrong", ("right",)),
    answer("t3", "c2", "", ("",)),
]


def test_scores_are_means_over_instances():
    scores = SCORING.summarize(ROWS, SCORING.scores(ROWS))
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


def test_references_that_rouge_cannot_read_are_counted_and_the_first_is_named():
    rows = [ROWS[0], answer("t4", "c2", "\u732b", ("\u732b",)), answer("t5", "c2", "\u732b", ("\u732b", "cat"))]
    assert SCORING.summarize(rows, SCORING.scores(rows))["unread"] == {"instances": 1, "task": "t4", "id": "i"}
    assert "unread" not in SCORING.summarize(ROWS[:3], SCORING.scores(ROWS[:3]))


def test_scores_per_instance():
    scores = SCORING.scores(ROWS)
    assert tuple(scores) == METRICS
    assert scores["exact_match"].tolist() == [100, 0, 0, 100]
    assert scores["rougeL"].tolist() == pytest.approx([100, 200 / 3, 0, 0])


def test_nothing_to_score():
    with pytest.raises(DataError, match="expected answers to score, got none"):
        SCORING.scores([])
    with pytest.raises(DataError, match="expected a list of at least one reference"):
        SCORING.scores([ROWS[0], answer("t9", "c", "x", ())])


def test_scores_of_texts_alone():
    scores = rouge_scores([("a c b", ["a b x c"]), ("the cat", ("The cat!",))])
    assert scores["rouge1"].tolist() == pytest.approx([100 * 2 * (3 / 3) * (3 / 4) / (3 / 3 + 3 / 4), 100])
    assert scores["exact_match"].tolist() == [0, 100]
