"""A report: the sections of the page and of the Markdown file, in order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from itertools import chain
from pathlib import Path

from tagi.errors import InputError
from tagi.evaluation.reports.ablations import FIGURES, ablation, curve_table, curves, hyperparameters
from tagi.evaluation.reports.charts import Chart, draw_curve, draw_losses, have_charts
from tagi.evaluation.reports.choosing import choose
from tagi.evaluation.reports.groups import grouped
from tagi.evaluation.reports.records import LeftOut, Record, read_records
from tagi.evaluation.reports.tables import Cell, Table, by_condition, by_size, by_task, p3_averages
from tagi.evaluation.reports.training import loss_curves, training_table
from tagi.evaluation.scoring.statistics import group_by

_SHAPES = {
    "the shape of Table 4": "settings that differ in TAGI's parts alone",
    "the shape of Table 7": "settings that differ in finetuning's learning rate, rank, steps or warm-up alone",
    "Figure 3": "settings that differ in data.task_split alone (and in losses.ins)",
    "the left of Figure 4": "settings that differ in the steps of finetuning alone",
    "the right of Figure 4": "settings that differ in losses.alignment_split alone",
}
"""Tables of a data set's section, and the records that each needs."""


@dataclass(frozen=True)
class Section:
    """A heading with text, tables and charts."""

    title: str
    words: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class Report:
    """A report, dated by its newest record."""

    title: str
    date: datetime
    summary: str
    sections: tuple[Section, ...]
    used: tuple[Record, ...]
    left_out: tuple[LeftOut, ...]


def make_report(folder: Path) -> Report:
    """Read every record under `folder` and build the report.

    Raises `InputError` if there is no record.
    """
    if not folder.is_dir():
        raise InputError(f"report: expected a folder with records, got {folder}, which is not a folder")
    read, unread = read_records(folder)
    if not read and not unread:
        raise InputError(f"report: expected records under {folder.resolve()} (record.json, at any depth), got none")
    used, others = choose(read)
    left_out = tuple(sorted((*unread, *others)))
    evaluated, trained = ([one for one in used if one.kind == kind] for kind in ("evaluation", "training"))
    measured = [one for one in used if one.kind not in ("evaluation", "training")]
    sections = [
        *(_data_set(name, own) for name, own in group_by(evaluated, lambda one: one.data_set).items()),
        *([_training(trained)] if trained else []),
        *([_measured(measured)] if measured else []),
        _environments(used),
        _left_out(left_out),
        _how_to_read(),
    ]
    written = [record.written for record in used] or [folder.stat().st_mtime]
    summary = (
        f"{len(evaluated)} evaluations, {len(trained)} training runs and {len(measured)} "
        f"other records of {folder.resolve().name}; "
        f"{len(left_out)} records left out."
    )
    date = datetime.fromtimestamp(max(written), tz=UTC)
    return Report("TAGI: report", date, summary, tuple(sections), tuple(used), left_out)


def _data_set(name: str, records: Sequence[Record]) -> Section:
    groups, source = grouped(records), str(records[0].content["recipe"]["data"]["source"])
    data = records[0].content["data"]
    drawn = {name: curves(groups, source, figure) for name, figure in FIGURES.items()}
    drawn_curves = list(chain(*drawn.values()))
    parts, varied = ablation(groups, source), hyperparameters(groups, source)
    by_backbone = p3_averages(groups) if source == "p3" else [by_size(groups, source)]
    tables = [by_condition(groups), *by_task(groups), *by_backbone, *parts, *varied, *map(curve_table, drawn_curves)]
    charts = [draw_curve(curve) for curve in drawn_curves] if have_charts() else []
    shown = {"the shape of Table 4": parts, "the shape of Table 7": varied, **drawn}
    missing = [f"{shape} takes {_SHAPES[shape]}" for shape, found in shown.items() if not found]
    words = [
        f"{data.get('tasks')} test tasks, {data['instances']:,} instances, {data['digest']}; "
        f"{len(records)} evaluations of {len(groups)} settings.",
        *([str(data["warning"])] if data.get("warning") else []),
        *([f"Missing, for want of records: {'; '.join(missing)}."] if missing else []),
    ]
    return Section(f"Scores: {name}", tuple(words), tuple(tables), tuple(charts))


def _training(records: Sequence[Record]) -> Section:
    charts = tuple(draw_losses(*chart) for chart in loss_curves(records).items()) if have_charts() else ()
    words = () if have_charts() else ("Charts are missing: they need matplotlib (pip install 'tagi-adapters[plots]').",)
    return Section("Training", words, (training_table(records),), charts)


def _measured(records: Sequence[Record]) -> Section:
    """List records of other kinds with a description. The commands that wrote them print their numbers."""
    rows = []
    for one in records:
        found = one.content["methods"]
        names = list(found) if isinstance(found, dict) else [str(row.get("title", row["method"])) for row in found]
        rows.append((one.path, (Cell(one.kind), Cell(str(one.content["recipe"]["name"])), Cell(", ".join(names)))))
    note = "Printed by tagi flops, tagi time and tagi compare --methods."
    table = Table("FLOPs, time and comparisons of methods", note, ("kind", "recipe", "of"), tuple(rows))
    return Section("Measurements", (), (table,))


def _environments(records: Sequence[Record]) -> Section:
    counts: Counter[tuple[str, ...]] = Counter()
    for one in (record.content["environment"] for record in records):
        packages = ", ".join(f"{name} {version}" for name, version in (one.get("packages") or {}).items())
        commit, device = one.get("commit") or "none", f"{one.get('device')}, threads: {one.get('threads')}"
        counts[(f"tagi {one['tagi']}", commit, str(one.get("python")), packages, device)] += 1
    columns = ("commit", "Python", "packages", "device", "records")
    rows = tuple((name, tuple(map(Cell, (*own, str(count))))) for (name, *own), count in counts.most_common())
    return Section("Environments", (), (Table("Where the records come from", "", columns, rows),))


def _left_out(left_out: Sequence[LeftOut]) -> Section:
    if not left_out:
        return Section("Left out", ("No record was left out.",))
    rows = tuple((one.path, (Cell(one.reason), Cell(one.detail))) for one in left_out)
    counts = Counter(one.reason for one in left_out)
    words = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    table = Table("Records that are not used", "", ("reason", "detail"), rows)
    return Section("Left out", (f"Not used above: {words}.",), (table,))


def _how_to_read() -> Section:
    text = resources.files(__package__).joinpath("how_to_read.txt").read_text(encoding="utf-8")
    return Section("How to read the tables", tuple(text.strip().split("\n\n")))
