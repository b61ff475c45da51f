"""Conversion of demonstrations and labelled examples."""

from collections.abc import Sequence
from typing import Any

from tagi.data.task import Example
from tagi.errors import InputError

Demonstration = Example | tuple[str, str]
"""A demonstration: an `Example` or an `(input, output)` tuple."""


def as_examples(given: Sequence[Any]) -> tuple[Example, ...]:
    """Convert demonstrations to `Example` objects. Raises `InputError` for anything else than two texts."""
    examples = []
    for number, one in enumerate(given, start=1):
        parts = (one.input, one.output) if isinstance(one, Example) else one
        if not isinstance(parts, tuple) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise InputError(f"example {number}: expected Example(input, output) or a tuple of both, got {one!r}")
        examples.append(Example(*parts))
    return tuple(examples)
