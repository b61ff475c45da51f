"""promptsource's prompt templates: one file `templates.yaml` per data set, rendered as in promptsource.

Files are read as plain data, and templates run in a sandbox, so that they can only create text.
"""

import json
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import yaml

from tagi.data.readers._checks import Filled, Row, Text, read_text
from tagi.data.readers._placeholders import with_placeholders
from tagi.data.readers._sandbox import Draw, PromptEnvironment
from tagi.errors import DataError

FILE = "templates.yaml"

_SEPARATOR = "|||"
# As long as the separator, so that lengths that a template computes stay the same.
_PROTECTED = "\ue001\ue002\ue001"
_FAULTS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors of a template that is invalid or does not fit a row."""
_ENVIRONMENT = PromptEnvironment()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered row: the parts between separators (input and target), and the choices, if any."""

    parts: tuple[str, ...]
    choices: tuple[str, ...] | None


@dataclass(frozen=True)
class PromptTemplate:
    """One prompt: `jinja` renders input and target, `answer_choices` the choices, each split at `|||`.

    `original_task` means that the prompt is for the data set's original task. `where` is its location, for messages.
    """

    name: str
    jinja: str
    answer_choices: str | None
    original_task: bool
    where: str

    @property
    def key(self) -> str:
        """The name as the hub's P3 spells it: other characters than letters, digits, `.` and `_` become one `_`."""
        return re.sub(r"[^\w.]+", "_", self.name)

    def check(self) -> None:
        """Raise `DataError`, with file and template, if it is invalid or contains something that is not allowed."""
        _ = self._prompt, self._choices

    def render(self, row: Mapping[str, Any], where: str, *, draw: Draw | None = None) -> Rendered:
        """Return input, target and choices of a row, stripped, as promptsource renders them.

        `where` is the row's location. Random choices in the template are a function of its name and the row, or come
        from `draw`. Raises `DataError` if the row lacks a column that the template uses, has one named
        `answer_choices`, or cannot be rendered.
        """
        self.check()
        lacking = sorted(self._columns - row.keys())
        if lacking or "answer_choices" in row:
            wanted = f"a column {lacking[0]!r}" if lacking else "no column 'answer_choices'"
            raise DataError(f"{where}: template {self.name!r}: expected {wanted}, got {', '.join(row)}")
        variables = _protected(dict(row)) if _SEPARATOR in str(row) else row
        draw = draw or _draw(self.name, row)
        with _reported(f"{where}: template {self.name!r} cannot be rendered:"):
            choices = None if self._choices is None else _split(_ENVIRONMENT.text(self._choices, variables, draw))
            given = None if choices is None else [_protected(choice) for choice in choices]
            prompt = _ENVIRONMENT.text(self._prompt, {**variables, "answer_choices": given}, draw)
        return Rendered(tuple(_split(prompt)), None if choices is None else tuple(choices))

    @cached_property
    def instruction(self) -> str:
        """Return the template's text before the target, with a placeholder for each field; "" if it has no words."""
        self.check()
        constant = None
        with _reported(f"{self.where} cannot be rendered:"):
            if self._choices is not None and not self._names(self.answer_choices):
                constant = _split(_ENVIRONMENT.text(self._choices, {}, lambda options: options[0]))
            words = with_placeholders(_ENVIRONMENT, self._tree(self.jinja), constant)
        text = words.split(_SEPARATOR)[0].strip()
        return text if re.search(r"[^\W\d_]", text) else ""

    @cached_property
    def _prompt(self) -> jinja2.Template:
        return self._compiled(self.jinja)

    @cached_property
    def _choices(self) -> jinja2.Template | None:
        return None if self.answer_choices is None else self._compiled(self.answer_choices)

    @cached_property
    def _columns(self) -> frozenset[str]:
        names = self._names(self.jinja) | self._names(self.answer_choices)
        return frozenset(names - {"answer_choices", *_ENVIRONMENT.globals})

    def _names(self, source: str | None) -> set[str]:
        return set() if source is None else jinja2.meta.find_undeclared_variables(self._tree(source))

    def _tree(self, source: str) -> jinja2.nodes.Template:
        with _reported(f"{self.where}: expected a Jinja template, got"):
            return _ENVIRONMENT.parse(source)

    def _compiled(self, source: str) -> jinja2.Template:
        tree = self._tree(source)
        with _reported(f"{self.where}:"):
            return _ENVIRONMENT.compiled(tree)


@contextmanager
def _reported(before: str) -> Iterator[None]:
    """Convert errors of a template to `DataError`, with the message after `before`."""
    try:
        yield
    except _FAULTS as fault:
        raise DataError(f"{before} {_said(fault)}") from fault


def _draw(name: str, row: Mapping[str, Any]) -> Draw:
    """Return a random choice that is a function of a template's name and a row."""
    generator = cache(lambda: random.Random(f"{name} {json.dumps(row, sort_keys=True)}"))  # most templates draw nothing
    return lambda options: generator().choice(list(options))


class _Metadata(Row):
    original_task: bool | None = None


class _TemplateRow(Row):
    name: Filled
    jinja: Filled
    answer_choices: Text | None = None
    metadata: _Metadata


class _File(Row):
    templates: dict[str, _TemplateRow]


def read_templates(path: Path) -> list[PromptTemplate]:
    """Return the templates of a file, in order. Each must be checked before it is used (`check`).

    Raises `DataError`, with file, template and field, if the file is malformed or two templates have the same name.
    """
    templates: dict[str, PromptTemplate] = {}
    for row in _File.checked(_parsed(path), str(path)).templates.values():
        where = f"{path}: template {row.name!r}"
        # An empty text means no choices, as in promptsource.
        choices, original = row.answer_choices or None, bool(row.metadata.original_task)
        template = PromptTemplate(row.name, row.jinja, choices, original, where)
        if templates.setdefault(template.key, template) is not template:
            raise DataError(f"{where}: expected a name that no other template has, got {row.name!r}")
    return list(templates.values())


class _Loader(yaml.SafeLoader):
    """A YAML loader for plain data, in which mappings may have promptsource's two tags."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Do not merge mappings: repeated merging could grow without bound."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """Construct a mapping with string keys."""
        return {str(key): value for key, value in super().construct_mapping(node, deep=deep).items()}


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, lambda loader, node: loader.construct_mapping(node, deep=True))


def _parsed(path: Path) -> Any:
    text = read_text(path)
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as fault:
        raise DataError(f"{path}: expected YAML as promptsource writes it, got {_said(fault)}") from fault


def _split(text: str) -> list[str]:
    return [part.replace(_PROTECTED, _SEPARATOR).strip() for part in text.split(_SEPARATOR)]


def _protected(value: Any) -> Any:
    """Return the value with the separator replaced in all of its texts."""
    match value:
        case str():
            return value.replace(_SEPARATOR, _PROTECTED)
        case list():
            return [_protected(item) for item in value]
        case dict():
            return {key: _protected(item) for key, item in value.items()}
        case _:
            return value


def _said(fault: Exception) -> str:
    """Return the message of an exception on one line."""
    return " ".join(str(fault).split()) or type(fault).__name__
