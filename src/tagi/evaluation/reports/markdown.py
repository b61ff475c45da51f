"""A report's words and tables as Markdown."""

import re

from tagi.evaluation.reports.report import Report, Section
from tagi.evaluation.reports.tables import Cell, Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def as_markdown(report: Report) -> str:
    """Sections in the page's order, without its charts; everything that comes from records is escaped."""
    date = report.date.strftime("%Y-%m-%d %H:%M")
    heading = f"# {_text(report.title)}\n\n{_text(report.summary)} Newest record: {date} UTC.\n"
    return "\n".join([heading, *map(_section, report.sections)])


def _section(section: Section) -> str:
    parts = [f"## {_text(section.title)}", *map(_text, section.words), *map(_table, section.tables)]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [
        _row(["", *map(_text, table.columns)]),
        _row(["---"] * (len(table.columns) + 1)),
        *(_row([_text(name), *map(_cell, cells)]) for name, cells in table.rows),
    ]
    note = [_text(table.note)] if table.note else []
    return "\n\n".join([f"### {_text(table.title)}", *note, "\n".join(lines)])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    details = f" ({_text('; '.join(cell.details))})" if cell.details else ""
    quoted = f" [{_text(cell.quoted)}]" if cell.quoted else ""
    return f"{_text(cell.text)}{details}{quoted}"


def _text(text: str) -> str:
    """One line in which nothing is Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
