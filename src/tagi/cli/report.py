"""`tagi report`: all records under a folder as one page."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from tagi.cli.output import JsonFlag, print_json, print_table

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder with records, at any depth.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="HTML page to write. Default: DIR/report.html.")
]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Markdown file to write. Default: next to the page.")
]


def report(folder: Folder, out: Out = None, markdown: Markdown = None, as_json: JsonFlag = False) -> None:
    """Write a report on all records under DIR: scores by method and condition, laid out like the paper's tables.

    The page is one file and needs no network. Runs that differ only in their seed are averaged. Records that are
    broken, partial, interrupted or not comparable with the others are left out and listed with the reason.

    \b
    Examples:
      tagi report runs
      tagi report runs/toy-table4 --out toy.html --markdown toy.md
    """
    from tagi.evaluation.reports.charts import have_charts
    from tagi.evaluation.reports.write import report as run

    page = out or folder / "report.html"
    table = markdown or page.with_suffix(".md")
    made = run(folder, page=page, markdown=table)
    if as_json:
        print_json(
            {
                "page": str(page),
                "markdown": str(table),
                "used": [record.path for record in made.used],
                "left_out": [{"path": one.path, "reason": one.reason, "detail": one.detail} for one in made.left_out],
            }
        )
        return
    typer.echo(made.summary)
    if made.left_out:
        counts = Counter(one.reason for one in made.left_out)
        print_table([{"left out": reason, "records": count} for reason, count in sorted(counts.items())])
    if not have_charts():
        typer.echo("no charts: they need matplotlib (pip install 'tagi-adapters[plots]')", err=True)
    typer.echo(f"wrote {page} and {table}")
