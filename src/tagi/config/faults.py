"""Error messages of recipes: dotted key, expected and given value."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from tagi.settings.backbone import T5Fields
from tagi.settings.faults import fault_sentence
from tagi.settings.recipe import Recipe
from tagi.settings.tables import fields_of


def faults_of(error: ValidationError) -> list[str]:
    """Return each fault as `key: expected ..., got ...`, in the order of the recipe's tables."""
    sentences = []
    for fault in error.errors(include_url=False):
        sentence = fault_sentence(fault)
        key, _, message = sentence.partition(": ")
        near = nearest_key(key) if message == "unknown key" else None
        sentences.append(f"{sentence}, did you mean {near}?" if near else sentence)
    return sentences


def did_you_mean(name: str, names: list[str]) -> str:
    """Return the end of a message about an unknown name: the name that was probably meant, if one is near."""
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def known_keys() -> list[str]:
    """Return every dotted key that a recipe may hold."""
    return [*_keys(Recipe, ""), *(f"backbone.config.{name}" for name in fields_of(T5Fields))]


def _keys(table: Any, prefix: str) -> Iterator[str]:
    for name, field in fields_of(table).items():
        if not field.exclude:
            yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if hasattr(kind, "__pydantic_fields__"):
                yield from _keys(kind, f"{prefix}{name}.")


def nearest_key(unknown: str) -> str | None:
    """Return the known key that was probably meant: a near name in the same table, otherwise in any."""
    table, _, name = unknown.rpartition(".")
    keys = known_keys()
    siblings = [key for key in keys if key.rpartition(".")[0] == table]
    for candidates, cutoff in ((siblings, 0.6), (keys, 0.85)):
        names = {key.rpartition(".")[2]: key for key in reversed(candidates)}
        match = get_close_matches(name, names, n=1, cutoff=cutoff)
        if match:
            return names[match[0]]
    return None
