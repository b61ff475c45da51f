"""Generate docs/reference/cli.md from the commands and docs/reference/settings.md from the settings.

python docs/make_reference.py    # `make docs-reference`; a test fails while the pages are out of date
"""

import inspect
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import typer

from tagi.cli.app import app
from tagi.settings.recipe import Recipe
from tagi.settings.tables import fields_of

FOLDER = Path(__file__).parent / "reference"
WIDTH = 100
COMMANDS = """# Command line

Every command with its options. This page is generated from the commands (`make docs-reference`); `tagi COMMAND --help`
prints the same.
"""
SETTINGS = """# Recipe settings

A recipe is a TOML file. `tagi recipes list` lists the built-in recipes, `tagi recipes copy NAME FILE` copies one,
`tagi recipes check FILE` checks it, and `--set TABLE.KEY=VALUE` changes a key on the command line. Every key of
`[training]` can also be set for one stage, as in `[training.finetune]`. This page is generated from the code
(`make docs-reference`).
"""


def commands(command: Any, parent: Any = None) -> Iterator[tuple[str, str]]:
    """Yield the path and the help text of a command and of all commands below it."""
    context = command.make_context(
        command.name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH
    )
    yield context.command_path, command.get_help(context)
    for name in getattr(command, "list_commands", lambda _: ())(context):
        yield from commands(command.get_command(context, name), context)


def command_page() -> str:
    """Return the page with the help text of every command."""
    sections = []
    for path, text in commands(typer.main.get_command(app)):
        lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
        sections.append(f"\n## {path}\n\n```text\n{lines}\n```\n")
    return COMMANDS + "".join(sections)


def settings_page() -> str:
    """Return the page with a table of keys for every table of a recipe."""
    keys = fields_of(Recipe)
    sections = [_section("Keys of the recipe itself", Recipe, [name for name in keys if _table(keys[name]) is None])]
    for name, field in keys.items():
        kind = _table(field)
        if kind is not None:
            of_stages = [key for key, own in fields_of(kind).items() if _table(own) is not None]
            sections.append(_section(f"[{name}]", kind, [key for key in fields_of(kind) if key not in of_stages]))
    return SETTINGS + "".join(sections)


def _section(title: str, kind: Any, keys: list[str]) -> str:
    fields, entries = fields_of(kind), documentation(kind)
    summary = "" if kind is Recipe else inspect.cleandoc(kind.__doc__).partition("\n\n")[0].replace("\n", " ") + "\n\n"
    rows = [f"| `{key}` | {_default(fields[key])} | {entries[key]} |\n" for key in keys]
    return f"\n## {title}\n\n{summary}| key | default | meaning |\n| --- | --- | --- |\n" + "".join(rows)


def documentation(kind: Any) -> dict[str, str]:
    """Return the entries of the lists of arguments of a class and its bases, each on one line."""
    entries: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, listed = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Args:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE):
            entries[name] = " ".join(text.split()).replace("|", r"\|")
    return entries


def _table(field: Any) -> Any:
    """Return the class of a field that is a table of its own, else None."""
    kind = field.annotation
    if isinstance(kind, UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not NoneType)
    return kind if hasattr(kind, "__pydantic_fields__") else None


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{json.dumps(value)}`"


PAGES = {FOLDER / "cli.md": command_page, FOLDER / "settings.md": settings_page}

if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")
