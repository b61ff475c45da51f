"""Lengths of tasks in tokens, by hand: a word is a token, and every text ends with one more."""

from dataclasses import replace
from typing import Any

import pytest

from tagi.data.task import Example, Instance, Task
from tagi.data.text.encoder import TextEncoder
from tagi.errors import DataError
from tagi.evaluation.lengths import task_lengths
from tagi.methods.flops import Lengths
from tests.models import text_settings, tokenizer, words

TASK = Task(
    "t",
    "c",
    words(1, 7),
    (
        Instance("a", words(2, 3), (words(3, 2), words(4, 5))),
        Instance("b", words(5, 8), (words(6, 1),)),
    ),
    examples=(Example(words(7, 2), words(8, 1)), Example(words(9, 30), words(8, 1))),
)


def lengths(**changed: int) -> Lengths:
    return task_lengths(TextEncoder(tokenizer(), text_settings(**changed)), TASK, examples=13)


def test_means_over_instances_each_weighing_the_same() -> None:
    assert lengths() == Lengths(8, (4 + 9) / 2, ((3 + 6) / 2 + 2) / 2, 13, concatenated=(7 + 3 + 1 + 7 + 8 + 1) / 2)


def test_demonstrations_are_part_of_the_instruction_where_they_fit() -> None:
    """An arrow stands between an example's input and output; the second example is over the limit."""
    shown = lengths(positives=2)
    assert shown.instruction == 8 + 2 + 1 + 1
    assert shown.concatenated == (7 + 4 + 3 + 1 + 7 + 4 + 8 + 1) / 2
    assert (shown.input, shown.output) == (lengths().input, lengths().output)


def test_shots_are_measured_as_they_are_shown() -> None:
    """Marks of three words stand before a shot's input and its output; its parts are cut at their own limits."""
    shown = replace(TASK, shots=(Example(words(7, 2), words(8, 1)), Example(words(9, 30), words(8, 4))))

    def measured(**changed: Any) -> Lengths:
        return task_lengths(TextEncoder(tokenizer(), text_settings(max_input_tokens=21, **changed)), shown, examples=13)

    assert measured() == replace(lengths(), shots=2, demonstration=(6 + 3 + 6 + 21 + 4) / 2)
    assert measured(reads="demonstrations").instruction == 6 + 3 + 1
    assert measured(reads="demonstrations").concatenated == lengths().concatenated


def test_texts_over_their_limits_are_cut() -> None:
    cut = lengths(max_instruction_tokens=6, max_input_tokens=5, max_target_tokens=4)
    assert cut == Lengths(6, (4 + 5) / 2, ((3 + 4) / 2 + 2) / 2, 13, concatenated=5.0)


def test_a_task_without_instances() -> None:
    with pytest.raises(DataError, match=r"^t: expected instances to measure, got none$"):
        task_lengths(TextEncoder(tokenizer(), text_settings()), Task("t", "c", "w1", ()))
