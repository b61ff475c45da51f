"""A folder of records as a page and a Markdown file."""

from pathlib import Path

from tagi.errors import InputError
from tagi.evaluation.reports.markdown import as_markdown
from tagi.evaluation.reports.page import as_page
from tagi.evaluation.reports.report import Report, make_report
from tagi.files import write_text
from tagi.formats.records import FORMAT

_MARKS = (b"<!doctype html>", b"# TAGI: report")
"""How reports begin: nothing else is overwritten."""


def report(folder: Path, *, page: Path, markdown: Path) -> Report:
    """Write what the records under `folder` say to two files, and return it. Raises `InputError` if there are none."""
    if page == markdown:
        raise InputError(f"--markdown: expected another file than the page's, got {markdown} for both")
    for option, path in (("--out", page), ("--markdown", markdown)):
        if path.is_dir():
            raise InputError(f"{option}: expected a file to write, got {path}, which is a folder")
        if path.is_file() and not path.read_bytes().startswith(_MARKS):
            raise InputError(f"{option}: expected a new file or an earlier report, got {path}, which is neither")
    made = make_report(folder, FORMAT)
    write_text(page, as_page(made))
    write_text(markdown, as_markdown(made))
    return made
