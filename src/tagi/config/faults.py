"""Faults of a recipe in words: the dotted key, what was expected, what was got."""

from collections.abc import Iterator
from difflib import get_close_matches
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tagi.settings.recipe import Recipe, T5Fields

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a table",
    "string_too_short": "some text",
    "string_type": "text",
    "too_short": "a list of at least {min_length}",
}
_SHOWN = 60


def faults_of(error: ValidationError) -> list[str]:
    """Each fault as `key: expected ..., got ...`, in the order of the recipe's tables."""
    return [_sentence(fault) for fault in error.errors(include_url=False)]


def _sentence(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    context = fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden":
            near = nearest_key(key)
            return f"{key}: unknown key" + (f", did you mean {near}?" if near else "")
        case "missing":
            return f"{key}: expected a value, got nothing"
        case "value_error":
            return f"{key}: {context['error']}"
        case kind if kind in _EXPECTED:
            return f"{key}: expected {_EXPECTED[kind].format(**context)}, got {shown(fault['input'])}"
        case _:
            return f"{key}: {fault['msg']}, got {shown(fault['input'])}"


def shown(value: object) -> str:
    """A value of a recipe on one short line."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def known_keys() -> list[str]:
    """Every dotted key that a recipe may hold."""
    return [*_keys(Recipe, ""), *(f"backbone.config.{name}" for name in T5Fields.model_fields)]


def _keys(table: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in table.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and kind is not NoneType and issubclass(kind, BaseModel):
                yield from _keys(kind, f"{prefix}{name}.")


def nearest_key(unknown: str) -> str | None:
    """The known key that was most likely meant: a near name in the same table, else in any."""
    table, _, name = unknown.rpartition(".")
    keys = known_keys()
    siblings = [key for key in keys if key.rpartition(".")[0] == table]
    for candidates, cutoff in ((siblings, 0.6), (keys, 0.85)):
        names = {key.rpartition(".")[2]: key for key in reversed(candidates)}
        match = get_close_matches(name, names, n=1, cutoff=cutoff)
        if match:
            return names[match[0]]
    return None
