"""Files of P3 in the hub's columns: one for each prompt template, JSON Lines."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tagi.data.readers._checks import Filled, Row, Text, json_lines
from tagi.data.readers._shared_text import shared_text
from tagi.errors import DataError

SCORE_EVAL = "_score_eval"
"""End of the names of files with a row for each choice, wrong ones too. The plain file beside them says the same."""
TEMPLATE_ROWS = 200
"""An instruction is made of so many first rows of a template, however many instances are read, so that it stays the
same."""

ENDINGS = (".json", ".jsonl")


class _HubRow(Row):
    inputs_pretokenized: Text
    targets_pretokenized: Text
    answer_choices: list[Text] | None = None


class _FilledRow(_HubRow):
    inputs_pretokenized: Filled


def template_files(folder: Path) -> dict[str, Path]:
    """Template name -> file, in alphabetical order; files named `*_score_eval` are passed over."""
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


def hub_rows(path: Path, *, filled: bool = True) -> Iterator[tuple[str, str, tuple[str, ...] | None]]:
    """Yield input, target and choices of every row; the latter two stripped.

    Raises `DataError` on malformed rows, with `filled` also on an empty input, and for a file without rows.
    """
    for where, fields in json_lines(path):
        row = (_FilledRow if filled else _HubRow).checked(fields, where)
        # The hub writes no choices as null or as an empty list.
        choices = tuple(choice.strip() for choice in row.answer_choices or ()) or None
        yield row.inputs_pretokenized, row.targets_pretokenized.strip(), choices


def instruction_of(inputs: Sequence[str], name: str, dataset: str) -> tuple[str, bool]:
    """Return a template's instruction, and whether it is the template's name: used if rendered inputs share no text."""
    shared = shared_text(inputs).strip()
    template = name[len(dataset) :].strip("_") or name
    return shared or " ".join(template.replace("_", " ").split()), not shared
