"""Lengths and costs as values."""

import math

import pytest

from tagi.errors import InputError
from tagi.methods.flops.costs import Components, Cost, Lengths


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"instruction": -1.0}, "instruction: expected a finite length of at least 0, got -1.0"),
        ({"input": math.nan}, "input: expected a finite length of at least 0, got nan"),
        ({"output": 0.5}, "output: expected a finite length of at least 1, got 0.5"),
        ({"output": math.inf}, "output: expected a finite length of at least 1, got inf"),
        ({"instruction": 1e200}, "instruction: expected at most 1e\\+09, got 1e\\+200"),
        ({"examples": 0}, "examples: expected a finite length of at least 1, got 0"),
        ({"concatenated": -2.0}, "concatenated: expected a finite length of at least 0, got -2.0"),
    ],
)
def test_what_is_no_length(changed: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=f"^{words}$"):
        Lengths(**{"instruction": 7.0, "input": 5.0, "output": 3.0, **changed})  # type: ignore[arg-type]


def test_a_prompt_is_the_sum_unless_measured() -> None:
    assert Lengths(7.0, 5.5, 3.0).prompt == 12.5
    assert Lengths(7.0, 5.5, 3.0, concatenated=11.5).prompt == 11.5
    assert Lengths(7.0, 5.5, 3.0, concatenated=0.0).prompt == 0.0


def test_once_and_for_each() -> None:
    cost = Cost(Components(instruction=100.0, fusion=7.0), Components(fusion=2.0, head=3.0), examples=10)
    assert cost.components == Components(instruction=100.0, fusion=27.0, head=30.0)
    assert cost.total == 157.0
    assert cost.per_example == 15.7
