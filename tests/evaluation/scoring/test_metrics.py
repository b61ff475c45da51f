import subprocess
import sys

import pytest

from tagi.data.task import TASK_METRICS
from tagi.errors import DataError
from tagi.evaluation.scoring.metrics import (
    TASK_SCORES,
    exact_accuracy,
    exact_match,
    instruct_scores,
    json_equal,
    number,
    rouge_l,
    rouge_l_unicode,
    rouge_reads,
    unicode_words,
)


def test_rouge_by_hand():
    # Longest common subsequence "a c" of three and four words; all three words are shared.
    assert rouge_l("a c b", ["a b x c"]) == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert instruct_scores("a c b", ["a b x c"])[1] == pytest.approx(2 * (3 / 3) * (3 / 4) / (3 / 3 + 3 / 4))


def test_rouge_stems_and_takes_the_best_reference():
    assert rouge_l("running", ["runs"]) == 1.0
    assert rouge_l("a b", ["c d", "a e", "f"]) == pytest.approx(0.5)


def test_rouge_sees_no_letters_but_english():
    assert rouge_l("яблоко", ["яблоко"]) == 0.0
    assert exact_match("яблоко", ["яблоко"]) == 1.0
    assert rouge_l("", [""]) == 0.0
    assert instruct_scores("", ["x"]) == (0.0, 0.0, 0.0)


def test_exact_match_ignores_case_punctuation_and_space():
    assert exact_match(" The\n CAT's, ", ["dog", "the cats"]) == 1.0
    assert exact_match("the cat", ["a cat"]) == 0.0
    assert exact_match("x - y", ["x y"]) == 1.0
    assert exact_match("«x»", ["x"]) == 0.0


def test_exact_accuracy_ignores_outer_space_alone():
    assert exact_accuracy(" a b\n", ["c", "a b "]) == 1.0
    assert exact_accuracy("a  b", ["a b"]) == exact_accuracy("A", ["a"]) == exact_accuracy("a.", ["a"]) == 0.0


@pytest.mark.parametrize("metric", [rouge_l, instruct_scores, exact_match, exact_accuracy])
@pytest.mark.parametrize("references", [[], (), "right"])
def test_references_are_a_list_of_at_least_one(metric, references):
    with pytest.raises(DataError, match="expected a list of at least one reference"):
        metric("right", references)


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


def test_unicode_words():
    assert unicode_words("Straße, don't!") == ["strasse", "don", "t"]
    assert unicode_words("\u6211\u7231Python 3") == ["\u6211", "\u7231", "python", "3"]
    assert unicode_words("\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902") == [
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u092e\u0947\u0902",
    ]  # vowel signs stay with their word
    assert unicode_words("+ -") == ["+", "-"]


def test_rouge_over_unicode_words_reads_every_script_and_keeps_endings():
    chinese = "\u732b\u5750\u5728\u57ab\u5b50\u4e0a"
    assert (rouge_l(chinese, [chinese]), rouge_l_unicode(chinese, [chinese])) == (0, 1)
    assert rouge_l_unicode("she walks home", ["she walked home"]) == pytest.approx(2 / 3)
    assert rouge_l("she walks home", ["she walked home"]) == 1
    assert rouge_l_unicode("", ["a"]) == 0


def test_what_rouge_reads():
    assert all(map(rouge_reads, ["Z\u00fcrich", "4", "\u6587 abc"]))
    assert not any(map(rouge_reads, ["\u4e00\u53ea\u732b", "3\u6708\u4e00\u65e5\u661f\u671f", "?!", ""]))
