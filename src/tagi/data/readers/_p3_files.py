"""P3's files in the hub's format, one per prompt template, and the templates themselves.

The files are JSON Lines of rendered prompts. The template's text is read from promptsource's file if it is available,
and otherwise inferred from a random sample of rows.
"""

import random
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from tagi.data.readers._checks import Filled, LinesAt, Row, Text
from tagi.data.readers._shared_text import FIELD, shared_text
from tagi.data.readers.promptsource import FILE, PromptTemplate, read_templates
from tagi.data.splits import p3_key
from tagi.errors import DataError

SCORE_EVAL = "_score_eval"
"""End of the names of files with a row for each choice, wrong ones too. The plain file beside them says the same."""
TEMPLATE_ROWS = 200
"""Rows that an instruction is inferred from, whatever the seed and however many instances are read: the same ones."""

ENDINGS = (".json", ".jsonl")

Origin = Literal["template", "rows", "name"]
"""Where an instruction comes from: promptsource's template, the text that rows share, or the template's mere name."""
HubRow = tuple[int, str, str, tuple[str, ...] | None]
"""Number of a row in its file, its input, target and choices."""


class _HubRow(Row):
    inputs_pretokenized: Text
    targets_pretokenized: Text
    answer_choices: list[Text] | None = None


class _FilledRow(_HubRow):
    inputs_pretokenized: Filled


def template_files(folder: Path) -> dict[str, Path]:
    """Return template name -> file, in alphabetical order. Files named `*_score_eval` are skipped."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with a file for each prompt template, got no folder")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in ENDINGS or path.name.startswith(".") or path.stem.endswith(SCORE_EVAL):
            continue
        if path.stem in files:
            raise DataError(f"{path}: expected one file for each template, got {files[path.stem].name} too")
        files[path.stem] = path
    if not files:
        got = f"only *{SCORE_EVAL}" if any(path.stem.endswith(SCORE_EVAL) for path in folder.iterdir()) else "none"
        raise DataError(f"{folder}: expected files {' or '.join('*' + end for end in ENDINGS)}, got {got}")
    return files


class HubFile:
    """Random access to the rows of one template.

    Args:
        path: The file.
        filled: Whether an empty input is an error.

    Raises `DataError` for a file without rows and, when it is read, for a malformed row.
    """

    def __init__(self, path: Path, *, filled: bool = True) -> None:
        self._lines = LinesAt(path)
        self._kind = _FilledRow if filled else _HubRow

    def __len__(self) -> int:
        return len(self._lines)

    def rows(self, numbers: Iterable[int] | None = None) -> Iterator[HubRow]:
        """Yield rows by index, by default all in order. Target and choices are stripped."""
        for number, where, fields in self._lines.read(range(len(self)) if numbers is None else numbers):
            row = self._kind.checked(fields, where)
            # In the hub's files, missing choices are null or an empty list.
            choices = tuple(choice.strip() for choice in row.answer_choices or ()) or None
            yield number, row.inputs_pretokenized, row.targets_pretokenized.strip(), choices

    def instruction(self, name: str, dataset: str, templates: "Templates | None" = None) -> tuple[str, Origin]:
        """Return the template's instruction and its origin.

        Args:
            name: The hub's name of the template.
            dataset: Its data set, with which the name begins.
            templates: promptsource's templates. Without a template of this name, the instruction is the text that a
                random sample of rows has in common. If that text has no words, the instruction is the template's name.
        """
        template = None if templates is None else templates.find(name)
        if template is not None:
            return (template.instruction, "template") if template.instruction else (_words(template.name), "name")
        numbers = sorted(islice(drawn(len(self), f"p3 {name}"), TEMPLATE_ROWS))
        shared = shared_text([text for _, text, *_ in self.rows(numbers) if text.strip()]).strip()
        own = name[len(dataset) :].strip("_") or name
        return (shared, "rows") if shared else (_words(own), "name")


class Templates:
    """promptsource's templates by their names on the hub, from files such as `super_glue/cb/templates.yaml`.

    A file is read when a template of its data set is requested. Raises `DataError` if the folder does not exist.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a folder of promptsource's files, got no folder")
        self.folder = folder
        self._files = {_hub_key("_".join(path.parent.relative_to(folder).parts)): path for path in folder.rglob(FILE)}
        self._read: dict[str, dict[str, PromptTemplate]] = {}

    def find(self, name: str) -> PromptTemplate | None:
        """Return the template by its name on the hub, or None.

        This name consists of the data set, the template's own name and, for ANLI, the round.
        """
        key = _hub_key(name)
        for dataset, path in self._files.items():
            if not key.startswith(f"{dataset}_"):
                continue
            if dataset not in self._read:
                self._read[dataset] = {p3_key(one.key): one for one in read_templates(path)}
            own = key.removeprefix(f"{dataset}_")
            found = self._read[dataset].get(own) or self._read[dataset].get(re.sub(r"_r\d$", "", own))
            if found is not None:
                return found
        return None


def drawn(count: int, seed: str) -> Iterator[int]:
    """Yield the numbers below `count` lazily in random order, each once."""
    rng = random.Random(seed)
    moved: dict[int, int] = {}
    for last in range(count - 1, -1, -1):
        at = rng.randint(0, last)
        yield moved.get(at, at)
        moved[at] = moved.pop(last, last)


def fields_of(prompt: str, instruction: str) -> str:
    """Return the fields of a rendered prompt, one after the other, without the template's text.

    Args:
        prompt: The rendered prompt.
        instruction: The template's text, with `[...]` for fields. Each piece of it that has words is removed from the
            prompt at its first occurrence after the previous piece. Pieces that do not occur are skipped, so a row of
            another branch of the template keeps its text.

    Returns the whole prompt if nothing else would be left.
    """
    parts, rest = [], prompt
    for piece in instruction.split(FIELD):
        words = piece.strip()
        if re.search(r"[^\W\d_]", words) and words in rest:
            before, _, rest = rest.partition(words)
            parts.append(before)
    return "\n".join(filter(None, (part.strip() for part in (*parts, rest)))) or prompt


def _words(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _hub_key(name: str) -> str:
    return p3_key(re.sub(r"[^\w.]+", "_", name))
