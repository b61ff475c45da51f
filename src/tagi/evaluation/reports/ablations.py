"""Tables and curves of settings that differ in one part or one hyperparameter: Tables 4 and 7, Figures 3 and 4."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from tagi.evaluation.reports.groups import HYPERT5, MAIN, MTEST11, Group, Score
from tagi.evaluation.reports.labels import shown, variant_names
from tagi.evaluation.reports.quoted import departures, figure, own_row
from tagi.evaluation.reports.settings import ALIGNED, INS, PARTS, SPLIT, STEPS, TAGI, Setting
from tagi.evaluation.reports.tables import Cell, Row, Table, column_of, metric_names, score_cell
from tagi.evaluation.scoring.statistics import group_by

_PAPERS_ROWS = {
    (): "TAGI",
    ("pretraining",): "w/o pretraining",
    ("attention in the encoder",): "w/o Instr. Fus.",
    ("concatenation before the decoder",): None,
    ("instruction fusion",): "w/o Instr. Fus.",
    ("L_pred",): "w/o L_pred",
    ("L_kl",): "w/o L_kl",
    ("L_ins",): "w/o L_ins",
}
"""Parts left out -> the paper's row, which does not say which reading of instruction fusion it left out."""
_AXES = {"learning rate": "learning_rate", "rank": "generator.rank", "steps": "steps", "warm-up": "warmup_ratio"}
"""What Table 7 varies -> the key: with a table's name, or of the training of a setting's own stage."""


@dataclass(frozen=True)
class Curve:
    """Scores as a function of a number, one line per label."""

    title: str
    axis: str
    metric: str
    lines: Mapping[str, tuple[tuple[float, Score], ...]]


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper: the quantity on its axis, and what distinguishes its lines.

    Args:
        title: Title of the curves.
        axis: What the axis counts.
        key: The key that varies along the axis.
        by_weight: Whether lines differ in the weight of L_ins.
        start: Whether settings without L_ins are placed at 0, where every line starts.
    """

    title: str
    axis: str
    key: str
    by_weight: bool = True
    start: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys in which the settings of a curve may differ."""
        return (self.key, INS) if self.by_weight else (self.key,)

    def place(self, setting: Setting) -> Any:
        """Return the position of a setting on the axis, or None."""
        if not set(self.keys) <= setting.table.keys():  # the training is not recorded
            return None
        return 0 if self.start and not setting.table[INS] else setting.table[self.key]

    def line(self, setting: Setting) -> str | None:
        """Return the label of a setting's line; None for a setting that is the start of every line."""
        if not self.by_weight:
            return TAGI
        if weight := setting.table[INS]:
            return f"L_ins weighed {shown(weight)}"
        return None if self.start else "without L_ins"


FIGURES = {
    "Figure 3": PaperFigure("Score by categories trained on (Figure 3)", "categories", SPLIT),
    "the left of Figure 4": PaperFigure("Score by finetuning steps (Figure 4, left)", "steps", STEPS, by_weight=False),
    "the right of Figure 4": PaperFigure(
        "Score by categories aligned (Figure 4, right)", "categories aligned; 0 is without L_ins", ALIGNED, start=True
    ),
}


@dataclass(frozen=True)
class _Family:
    """Groups whose settings differ only in given keys, named by what they share."""

    groups: list[Group]
    name: str
    column: str


def _families(
    groups: Sequence[Group], source: str, keys: Callable[[Setting], Sequence[str]], value: Callable[[Setting], Hashable]
) -> list[_Family]:
    """Return the families of groups that are equal except for these keys and have several values of them, in order."""
    by_rest = group_by(groups, lambda group: group.setting.masked(*keys(group.setting)))
    compared = {rest: own for rest, own in by_rest.items() if len({value(group.setting) for group in own}) > 1}
    names = variant_names(list(compared))
    return [_Family(own, names[rest], column_of(rest, source)) for rest, own in compared.items()]


def ablation(groups: Sequence[Group], source: str) -> list[Table]:
    """Return tables like Table 4, scores without each part; empty unless settings differ only in their parts."""
    ours = [group for group in groups if group.setting.method == TAGI]
    families = _families(ours, source, lambda _: [key for key, _, _ in PARTS], lambda setting: setting.missing)
    if not families:
        return []
    average, what = _scored(groups, source, HYPERT5)
    parts = dict.fromkeys([*_PAPERS_ROWS, *(group.setting.missing for family in families for group in family.groups)])
    columns = tuple(one.column if len(families) == 1 else f"{one.column}, {one.name}" for one in families)
    rows = tuple(
        (
            f"without {' and '.join(part)}" if part else TAGI,
            tuple(_part_cell(family.groups, part, source, average) for family in families),
        )
        for part in parts
    )
    note = f"{what}, percent. A column's settings differ in nothing but the parts. {_note(rows, 4)}"
    return [Table("What is left without each part (the shape of Table 4)", note.strip(), columns, rows)]


def _part_cell(groups: Sequence[Group], missing: tuple[str, ...], source: str, average: str) -> Cell:
    """Return the cell of settings that differ only in a part's weight: they share a row, and the cell names each."""
    own = [group for group in groups if group.setting.missing == missing]
    setting, quoted = groups[0].setting, None
    row, column = _PAPERS_ROWS.get(missing), "P3" if source == "p3" else setting.demonstrations
    if row and (setting.family, setting.size) == ("T5-LM", "XL (3B)") and not departures(setting, source):
        quoted = figure("table4", row, column)
    if len(own) < 2:
        return score_cell(own[0].score(of=average) if own else None, quoted)
    names = variant_names([group.setting for group in own for _ in group.runs])
    cells = {names[group.setting]: score_cell(group.score(of=average)) for group in own}
    texts = tuple(f"{name}: {cell.text} ({', '.join(cell.details)})" for name, cell in cells.items())
    return Cell(f"{len(own)} settings", texts, score_cell(None, quoted).quoted)


def hyperparameters(groups: Sequence[Group], source: str) -> list[Table]:
    """Return tables like Table 7: one for each of learning rate, rank, steps and warm-up that varies on its own."""
    return [table for axis in _AXES for table in _by_axis(groups, source, axis)]


def _by_axis(groups: Sequence[Group], source: str, axis: str) -> list[Table]:
    def key(setting: Setting) -> str:
        return _AXES[axis] if "." in _AXES[axis] else setting.training_key(_AXES[axis])

    def value(setting: Setting) -> Any:
        return setting.table[key(setting)]

    varied = [group for group in groups if key(group.setting) in group.setting.table]
    families = _families(varied, source, lambda setting: (key(setting),), value)
    if not families:
        return []
    average, what = _scored(groups, source, MTEST11)
    values = sorted({value(group.setting) for family in families for group in family.groups})
    rows = []
    for family in families:
        setting, scores = family.groups[0].setting, {value(one.setting): one.score(of=average) for one in family.groups}
        row, column = own_row(setting.method, source), MTEST11 if source == "p3" else setting.demonstrations
        base = (setting.family, setting.size, setting.missing) == ("T5-LM", "Base (250M)", ())
        quotes = row and base and not departures(setting.masked(key(setting)), source)
        quoted = {one: figure("table7", column, row, axis, str(one)) if row and quotes else None for one in values}
        cells = tuple(score_cell(scores.get(one), quoted[one]) for one in values)
        rows.append((f"{family.name} ({family.column})", cells))
    note = f"{what}, percent. A row's settings differ in the {axis} alone. {_note(rows, 7)}"
    return [Table(f"By {axis} (the shape of Table 7)", note.strip(), tuple(map(shown, values)), tuple(rows))]


def curves(groups: Sequence[Group], source: str, of: PaperFigure) -> list[Curve]:
    """Return a curve for every family of TAGI's settings that has two or more positions on a figure's axis."""
    average, _ = _scored(groups, source, MTEST11)
    scores = {group.setting: group.score(of=average) for group in groups if group.setting.method == TAGI}
    ours = [group for group in groups if scores.get(group.setting) and of.place(group.setting) is not None]
    families = _families(ours, source, lambda _: of.keys, of.place)
    made = []
    for family in families:
        by_line = group_by((group.setting for group in family.groups), of.line)
        start = by_line.pop(None, [])[:1]
        lines = {}
        for label, settings in by_line.items():
            points = [(float(of.place(one)), score) for one in (*start, *settings) if (score := scores[one])]
            lines[str(label)] = tuple(sorted(points, key=itemgetter(0)))
        name = f"{of.title}: {family.column}" + (f", {family.name}" if len(families) > 1 else "")
        made.append(Curve(name, of.axis, _scored(family.groups, source, MTEST11)[1], lines))
    return made


def curve_table(curve: Curve) -> Table:
    """Return a curve's points as a table."""
    at = sorted({x for points in curve.lines.values() for x, _ in points})
    rows = tuple((name, tuple(score_cell(dict(points).get(x)) for x in at)) for name, points in curve.lines.items())
    return Table(curve.title, f"{curve.metric}, percent, by {curve.axis}.", tuple(f"{x:g}" for x in at), rows)


def _scored(groups: Sequence[Group], source: str, average: str) -> tuple[str, str]:
    """Return the score that is compared and its name: one of P3's averages, or the groups' main score."""
    return (average, average) if source == "p3" else (MAIN, metric_names(groups))


def _note(rows: Sequence[Row], table: int) -> str:
    quoting = any(cell.quoted for _, cells in rows for cell in cells)
    return f"'paper' is quoted from its Table {table}." if quoting else ""
