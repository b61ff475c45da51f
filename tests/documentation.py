"""The code blocks of README and docs: how each is marked, and what its commands name.

A comment before a block says what becomes of it:

    <!-- run -->                            run by tests/test_documentation.py
    <!-- run by tests/FILE.py::TEST -->     run by that test
    <!-- checked: REASON -->                not run; its commands, options, recipes and keys are checked
    <!-- not run here: REASON -->           not run
    <!-- file: NAME -->                     written to that file, for the blocks that follow

`<!-- every block: run -->` marks all blocks of a page. Blocks of `text` are output. `python -m tests.documentation`
prints how many blocks there are of each kind.
"""

import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("run", "run by", "checked", "not run here", "file")
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
_EVERY = re.compile(r"^<!-- every block: (.*?) -->$", re.MULTILINE)
_SEPARATORS = {"|", "&", "&&", ";", "||"}


@dataclass(frozen=True)
class Block:
    """A block of code: its page, the first line's number, language and code, the kind of its mark and what follows."""

    page: Path
    line: int
    language: str
    code: str
    kind: str
    detail: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every page that shows code."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page but those of output; the kind of one without a mark is empty."""
    text = page.read_text(encoding="utf-8")
    every = _EVERY.search(text)
    found = []
    for match in _BLOCK.finditer(text):
        if match["language"] == "text":
            continue
        mark = match["mark"] or (every[1] if every else "")
        kind = next((one for one in sorted(KINDS, key=len, reverse=True) if re.match(rf"{one}\b", mark)), "")
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(page, line, match["language"], match["code"], kind, mark.removeprefix(kind).lstrip(": ")))
    return found


def commands(code: str) -> Iterator[list[str]]:
    """Yield the simple commands of shell code, without redirections and values of variables."""
    for line in _lines(code):
        command: list[str] = []
        words = iter([*_words(line), ";"])
        for word in words:
            if word in _SEPARATORS:
                if command:
                    yield command
                command = []
            elif word in ("<", ">", ">>"):
                next(words)
            elif command or "=" not in word:
                command.append(word)


def _lines(code: str) -> Iterator[str]:
    """Yield the lines of shell code; one goes on after a backslash and within quotes."""
    line = ""
    for part in code.splitlines():
        line += part
        try:
            _words(line)
        except ValueError:
            line = line.removesuffix("\\") + " "
        else:
            yield line
            line = ""


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    return list(lexer)


def inline_commands(page: Path) -> list[list[str]]:
    """Return the commands of tagi that a page's text names between backticks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(code) for code in re.findall(r"`(tagi [a-z][^`]*)`", text)]


def fault_of(words: list[str]) -> str | None:
    """Return what is wrong with a command by its words alone: a name that does not exist. None if nothing is."""
    first, *rest = words
    if first == "tagi":
        return _fault_of_tagi(rest)
    if first in ("python", "sh") and rest and rest[0].endswith((".py", ".sh")):
        return None if (ROOT / rest[0]).is_file() else f"no file {rest[0]}"
    if first == "pip":
        project, make = ((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "Makefile"))
        extras = tomllib.loads(project)["project"]["optional-dependencies"]
        known = {"tagi-adapters", *(f"tagi-adapters[{extra}]" for extra in extras)}
        named = [one for one in rest[1:] if not one.startswith("-")]
        return next((f"no package {one}" for one in named if one not in known and f"?= {one}\n" not in make), None)
    if first == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return next((f"no target {one}" for one in rest if "=" not in one and one not in targets), None)
    return None if first == "export" else f"cannot check {first!r}"


def _fault_of_tagi(arguments: list[str]) -> str | None:
    from typer.exceptions import Exit, TyperException

    from tagi.errors import TagiError

    try:
        _check(arguments)
    except Exit:  # --help, --version
        return None
    except TyperException as fault:
        return fault.format_message()
    except TagiError as fault:
        return str(fault)
    return None


def _check(arguments: list[str]) -> None:
    """Parse a command's arguments, and look up what they name."""
    from tagi.config.methods import chosen_methods
    from tagi.config.sweeps import sweep_points
    from tagi.evaluation.conditions import in_order
    from tagi.stages.recipes import load_recipe
    from tagi.stages.registry import stage_of

    command, rest = command_of(arguments)
    given = command.make_context(arguments[0], rest, parent=None).params
    overrides = given.get("overrides") or []
    recipes = [one for one in (given.get("recipe"), *(given.get("recipes") or ())) if one]
    if given.get("methods"):
        recipe = given.get("a") or given["recipe"]
        recipes = [recipe]
        chosen_methods(given["methods"], load_recipe(recipe, overrides).backbone.family)
    for recipe in recipes:
        if not recipe.endswith((".toml", ".csv", ".jsonl")):
            load_recipe(recipe, overrides)
    if given.get("stage"):
        stage_of(given["stage"])
    if isinstance(given.get("condition"), list):
        in_order(given["condition"])
    if "grids" in given:
        points = {"grids": given["grids"] or [], "over": given["over"] or [], "cross": given["cross"]}
        sweep_points(given["recipe"], **points, overrides=overrides, load=load_recipe)


def command_of(arguments: list[str]) -> tuple[Any, list[str]]:
    """Return the command that arguments name, and the arguments that are left for it."""
    import typer

    command = _tagi()
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        if arguments[0] not in command.commands:
            raise typer.BadParameter(f"no command {arguments[0]!r}")
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command, arguments


@cache
def _tagi() -> Any:
    import typer

    from tagi.cli.app import app

    return typer.main.get_command(app)


if __name__ == "__main__":
    total: Counter[str] = Counter()
    for page in pages():
        counts = Counter(block.kind or "unmarked" for block in blocks(page))
        total += counts
        if counts:
            print(f"{page.relative_to(ROOT)}: {', '.join(f'{count} {kind}' for kind, count in sorted(counts.items()))}")
    print(f"in all: {', '.join(f'{count} {kind}' for kind, count in sorted(total.items()))}")
