"""Files of P3 in the hub's columns: one for each prompt template, JSON Lines."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tagi.data.readers._checks import as_text, as_texts, json_lines, required
from tagi.data.readers._shared_text import shared_text
from tagi.errors import DataError

SCORE_EVAL = "_score_eval"
"""Ends the names of files that hold a row for each choice, wrong ones too: the plain file beside has all they say."""
TEMPLATE_ROWS = 200
"""An instruction is made of a template's first rows, however many instances are asked for: so it stays the same."""

ENDINGS = (".json", ".jsonl")


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
    """Input, target and choices of every row; the latter two stripped.

    Raises `DataError` on malformed rows, of which an empty input is one if `filled`.
    """
    for _, where, fields in json_lines(path):
        text = required(fields, "inputs_pretokenized", where)
        target = required(fields, "targets_pretokenized", where)
        choices = fields.get("answer_choices")
        yield (
            as_text(text, "inputs_pretokenized", where, filled=filled),
            as_text(target, "targets_pretokenized", where).strip(),
            # The hub writes no choices as null or as an empty list.
            tuple(c.strip() for c in as_texts(choices, "answer_choices", where)) if choices else None,
        )


def instruction_of(inputs: Sequence[str], name: str, dataset: str) -> tuple[str, bool]:
    """Return a template's instruction, and whether it is the template's name: used if rendered inputs share no text."""
    shared = shared_text(inputs).strip()
    own = name[len(dataset) :].strip("_") or name
    return shared or " ".join(own.replace("_", " ").split()), not shared
