"""Tables of a data set's scores, by condition and by the paper's columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from statistics import fmean
from typing import Any

from tagi.evaluation.reports.groups import HYPERT5, MAIN, MTEST11, RIGHT, Group, Score
from tagi.evaluation.reports.labels import variant_names
from tagi.evaluation.reports.quoted import SNI_TEST_INSTANCES, departures, own_row, paper
from tagi.evaluation.reports.settings import TAGI, Setting
from tagi.evaluation.scoring.statistics import group_by

MISSING = "missing"
_TASKS, _ANSWER = 60, 60
"""Maximum number of rows in a table of tasks, and of characters in an answer."""
_QUOTED = "'paper' is quoted from its Table {}, beside runs at the settings of its Table 6."


@dataclass(frozen=True)
class Cell:
    """A cell: its text, the details below it, and the paper's figure."""

    text: str
    details: tuple[str, ...] = ()
    quoted: str | None = None

    @property
    def missing(self) -> bool:
        """Whether there is no record for the cell."""
        return self.text == MISSING


Row = tuple[str, tuple[Cell, ...]]
"""The header of a row, and its cells."""


@dataclass(frozen=True)
class Table:
    """A table with title and note. The first column has the row headers."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def score_cell(score: Score | None, quoted: float | None = None) -> Cell:
    """Return a cell with a score, its interval, n and seeds, or an empty cell."""
    quote = None if quoted is None else f"paper {quoted:.1f}"
    if score is None:
        return Cell(MISSING, quoted=quote)
    interval = "no interval" if score.interval is None else f"{score.interval[0]:.1f} to {score.interval[1]:.1f}"
    below = [f"{interval}, n\N{NO-BREAK SPACE}{score.n:,}"]
    if score.spread is not None:
        seeds = ", ".join(f"{seed}: {value:.1f}" for seed, value in score.seeds.items())
        below.append(f"seeds {seeds}; s.d. {score.spread:.1f}")
    elif None not in score.seeds:
        below.append(f"seed {next(iter(score.seeds))}")
    return Cell(f"{score.value:.1f}", tuple(below), quote)


def column_of(setting: Setting, source: str) -> str:
    """Return the column of a setting: its backbone for P3, as in Table 3; else with demonstrations, as in Table 2."""
    if source == "p3":
        return setting.size if setting.family is None else f"{setting.family}, {setting.size}"
    return f"{setting.demonstrations}, {setting.size}"


def metric_names(groups: Sequence[Group], conditions: Sequence[str] = (RIGHT,)) -> str:
    """Return the names of the groups' main scores under these conditions."""
    names = (group.metric(name) for group in groups for name in group.conditions if name in conditions)
    return ", ".join(dict.fromkeys(names))


def by_condition(groups: Sequence[Group]) -> Table:
    """Return every setting's score under every condition."""
    conditions = tuple(dict.fromkeys(name for group in groups for name in group.conditions))
    names = _names(groups)
    results = [run.content["results"] for group in groups for run in group.runs]
    given = {name: str(result.get("given", "")) for found in results for name, result in found.items()}
    told = "; ".join(f"{name}: {words}" for name, words in given.items() if words)
    rows = tuple(
        (
            f"{names[group.setting]} ({column_of(group.setting, 'any')})",
            tuple(score_cell(group.score(condition)) for condition in conditions),
        )
        for group in _sorted(groups, names)
    )
    note = f"{metric_names(groups, conditions)}, percent. {told}"
    return Table("By method and condition", note, conditions, rows)


def by_task(groups: Sequence[Group]) -> list[Table]:
    """Return every task's score, n and one sample answer by setting, and those of the stock model if it was scored.

    Returns no table for more than 60 tasks, or for records without rows per task.
    """
    names, columns = _names(groups), dict[str, dict[str, Cell]]()
    for group in _sorted(groups, names):
        name = f"{names[group.setting]} ({column_of(group.setting, 'any')})"
        for condition, column in ((RIGHT, name), ("stock", f"{name}: stock model")):
            runs = [run.content["results"].get(condition, {}).get("tasks", ()) for run in group.runs]
            rows = group_by((row for own in runs for row in own), lambda row: str(row["task"]))
            if rows:
                columns[column] = {task: _task_cell(own) for task, own in rows.items()}
    tasks = dict.fromkeys(task for cells in columns.values() for task in cells)
    if not 0 < len(tasks) <= _TASKS:
        return []
    shown = tuple((task, tuple(cells.get(task, Cell(MISSING)) for cells in columns.values())) for task in tasks)
    note = "Percent, with the task's own instruction; below it the metric, n, and the answer to the first input."
    return [Table("By task", note, tuple(columns), shown)]


def _task_cell(rows: Sequence[Mapping[str, Any]]) -> Cell:
    """Return the mean over seeds, with the first seed's answer."""
    score, answer = fmean(row["score"] for row in rows), " ".join(str(rows[0]["sample"]["answer"]).split())
    short = answer if len(answer) <= _ANSWER else f"{answer[: _ANSWER - 3]}..."
    return Cell(f"{score:.1f}", (f"{rows[0]['metric']}, n\N{NO-BREAK SPACE}{rows[0]['n']}", short or "no answer"))


def by_size(groups: Sequence[Group], source: str) -> Table:
    """Return a table like Table 2: methods by demonstrations and backbone, with the paper's figures if they apply."""
    title = "By method, demonstrations and backbone (the shape of Table 2)"
    note = f"{metric_names(groups)}, percent, with the task's own instruction."
    quoted = f" {_QUOTED.format(2)} The paper scores {SNI_TEST_INSTANCES:,} instances."
    return _by_column(groups, source, MAIN, paper()["table2"] if source == "sni" else {}, (title, note, quoted))


def p3_averages(groups: Sequence[Group]) -> list[Table]:
    """Return tables like Table 3: MTest11 and HyperT5 by method and backbone."""
    tables = []
    for average in (MTEST11, HYPERT5):
        title = f"{average} by method and backbone (the shape of Table 3)"
        note = f"{average}, percent, by rank classification; missing where a data set of the average was not scored."
        words = (title, note, f" {_QUOTED.format(3)}")
        tables.append(_by_column(groups, "p3", average, paper()["table3"][average], words))
    return tables


def _by_column(
    groups: Sequence[Group],
    source: str,
    average: str,
    quotes: Mapping[str, Mapping[str, float | None]],
    words: tuple[str, str, str],
) -> Table:
    """Return methods by column, with the paper's rows and columns if the groups include one of its backbones.

    Args:
        groups: The groups.
        source: The data source.
        average: The score: `MAIN`, or one of P3's averages.
        quotes: The paper's figures by row and column.
        words: The title, the note, and an addition to the note if the paper is quoted.
    """
    whole = [group for group in groups if not group.setting.missing or _is_the_papers(group.setting, source)]
    shown = whole if any(group.setting.method == TAGI for group in whole) else list(groups)
    own = list(dict.fromkeys(column_of(group.setting, source) for group in shown))
    of_paper = list(next(iter(quotes.values()), {}))
    quoting = bool(set(own) & set(of_paper))
    columns = tuple(dict.fromkeys([*of_paper, *own] if quoting else own))
    papers = {name: _of_row(shown, source, name) for name in quotes} if quoting else {}
    placed = {group.setting for found in papers.values() for group in found.values()}
    shown = [group for group in shown if group.setting not in placed]
    names = _names(shown)
    variants: dict[str, dict[str, Group]] = {}
    for group in _sorted(shown, names):
        name, column = names[group.setting], column_of(group.setting, source)
        if quoting and (apart := departures(group.setting, source)):
            name += f" (not the paper's: {', '.join(apart)})"
        # Settings with the same name and column differ only in backbone keys.
        numbered = (name if number == 1 else f"{name} ({number})" for number in count(1))
        variants.setdefault(next(one for one in numbered if column not in variants.get(one, {})), {})[column] = group
    rows: list[Row] = []
    quoted_rows = [(name, found, quotes[name]) for name, found in papers.items()]
    for name, found, figures in [*quoted_rows, *((name, found, {}) for name, found in variants.items())]:
        scores = {column: group.score(of=average) for column, group in found.items()}
        rows.append((name, tuple(score_cell(scores.get(column), figures.get(column)) for column in columns)))
    title, note, quoted = words
    return Table(title, note + quoted if quoting else note, columns, tuple(rows))


def _is_the_papers(setting: Setting, source: str) -> bool:
    """Return whether a setting is Table 6's, with all parts; for XXL the paper's has no L_ins (Table 2)."""
    without = ("L_ins",) if setting.size.startswith("XXL") else ()
    return not departures(setting, source) and setting.missing == without


def _of_row(groups: Sequence[Group], source: str, row: str) -> dict[str, Group]:
    """Return column -> the only group of a row's method at the paper's setting; several get their own rows."""
    own = (group for group in groups if own_row(group.setting.method, source) == row)
    at_papers = (group for group in own if _is_the_papers(group.setting, source))
    found = group_by(at_papers, lambda group: column_of(group.setting, source))
    return {column: own[0] for column, own in found.items() if len(own) == 1}


def _names(groups: Sequence[Group]) -> dict[Setting, str]:
    """Return the names of the groups' settings, each counted once per run."""
    return variant_names([group.setting for group in groups for _ in group.runs])


def _sorted(groups: Sequence[Group], names: Mapping[Setting, str]) -> list[Group]:
    """Sort TAGI first, and default settings before others."""

    named = [(group.setting.method, names[group.setting], group) for group in groups]
    ordered = sorted(named, key=lambda one: (one[0] != TAGI, one[0], one[1] != one[0], one[1]))
    return [group for _, _, group in ordered]
