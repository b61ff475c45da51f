"""Write a report as a self-contained HTML page without scripts, and as a Markdown file without charts."""

import re
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from tagi.errors import InputError
from tagi.evaluation.reports.report import Report, make_report
from tagi.files import write_text

_BEGINNINGS = (b"<!doctype html>", b"# TAGI: report")
"""First bytes of reports. Other files are not overwritten."""
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def report(folder: Path, *, page: Path, markdown: Path) -> Report:
    """Write a report on the records under `folder` to two files, and return it. Raises `InputError` without records."""
    if page == markdown:
        raise InputError(f"--markdown: expected another file than the page's, got {markdown} for both")
    for option, path in (("--out", page), ("--markdown", markdown)):
        if path.is_dir():
            raise InputError(f"{option}: expected a file to write, got {path}, which is a folder")
        if path.is_file() and not path.read_bytes().startswith(_BEGINNINGS):
            raise InputError(f"{option}: expected a new file or an earlier report, got {path}, which is neither")
    made = make_report(folder)
    write_text(page, as_page(made))
    write_text(markdown, as_markdown(made))
    return made


def as_page(report: Report) -> str:
    """Return the HTML page. All text from records is escaped."""
    return _rendered("report.html.j2", report, escapes_html=True)


def as_markdown(report: Report) -> str:
    """Return the sections in the page's order as Markdown, without charts. All text from records is escaped."""
    return _rendered("report.md.j2", report, escapes_html=False)


def _rendered(name: str, report: Report, *, escapes_html: bool) -> str:
    template = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    environment = Environment(autoescape=escapes_html, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["plain"] = _plain
    return environment.from_string(template).render(report=report)


def _plain(text: str) -> str:
    """Return a text as one line, with Markdown and HTML escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
