"""Tables and curves of settings that differ in one thing alone: Table 4, Table 7, Figures 3 and 4."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tagi.evaluation.reports.groups import HYPERT5, MAIN, MTEST11, Group, Score
from tagi.evaluation.reports.labels import shown, variant_names
from tagi.evaluation.reports.quoted import departures, figure
from tagi.evaluation.reports.settings import ALIGNED, INS, METATRAINED, PARTS, SPLIT, STEPS, TAGI, Setting
from tagi.evaluation.reports.tables import Cell, Row, Table, column_of, p3_column_of, score_cell

_ROWS = {
    (): ("TAGI", "TAGI"),
    ("pretraining",): ("without pretraining", "w/o pretraining"),
    ("attention in the encoder",): ("without attention in the encoder", "w/o Instr. Fus."),
    ("concatenation before the decoder",): ("without concatenation before the decoder", None),
    ("instruction fusion",): ("without instruction fusion", "w/o Instr. Fus."),
    ("L_pred",): ("without L_pred", "w/o L_pred"),
    ("L_kl",): ("without L_kl", "w/o L_kl"),
    ("L_ins",): ("without L_ins", "w/o L_ins"),
}
"""Parts left out -> our row, and the paper's; it does not say which reading of instruction fusion it left out."""
_AXES = {
    "learning rate": "learning_rate",
    "rank": "generator.rank",
    "steps": "steps",
    "warm-up": "warmup_ratio",
}
Lines = dict[str, dict[int, Group]]
"""Label of a line -> where it has which group."""
_PAPERS_OWN = {TAGI: "TAGI", METATRAINED: "Tk-Instruct"}


@dataclass(frozen=True)
class Curve:
    """Scores by a number, one line per label."""

    title: str
    axis: str
    metric: str
    lines: Mapping[str, tuple[tuple[float, Score], ...]]


def ablation(groups: Sequence[Group], source: str) -> Table | None:
    """Table 4's shape: what is left without each part. None unless settings differ in their parts alone."""
    keys = {key for key, _, _ in PARTS}
    families = _families(groups, lambda setting: setting.masked(*keys) if setting.method == TAGI else None)
    compared = [own for own in families if len({group.setting.missing for group in own}) > 1]
    if not compared:
        return None
    average = HYPERT5 if source == "p3" else MAIN
    names = variant_names([own[0].setting.masked(*keys) for own in compared])
    found = list(dict.fromkeys(group.setting.missing for own in compared for group in own))
    parts = list(dict.fromkeys([*_ROWS, *found]))
    columns, cells = [], []
    for own in compared:
        bare = own[0].setting.masked(*keys)
        column = p3_column_of(bare) if source == "p3" else column_of(bare)
        columns.append(column if len(compared) == 1 else f"{column}, {names[bare]}")
        cells.append([_part_cell(own, part, source, average) for part in parts])
    rows = tuple((_part_name(part), tuple(own[at] for own in cells)) for at, part in enumerate(parts))
    what = average if source == "p3" else own_metric(groups)
    note = f"{what}, percent. A column's settings differ in nothing but the parts. {_note(rows, 4)}"
    return Table("What is left without each part (the shape of Table 4)", note.strip(), tuple(columns), rows)


def _part_name(missing: tuple[str, ...]) -> str:
    return _ROWS[missing][0] if missing in _ROWS else f"without {' and '.join(missing)}"


def _part_cell(groups: Sequence[Group], missing: tuple[str, ...], source: str, average: str) -> Cell:
    """Settings that differ in how a part is weighed share a cell's row: each is named there, the first heads it."""
    own = [group for group in groups if group.setting.missing == missing]
    setting = groups[0].setting
    row = _ROWS.get(missing, ("", None))[1]
    column = "P3" if source == "p3" else setting.demonstrations
    xl = setting.size == "XL (3B)" and setting.family == "T5-LM"
    quoted = figure("table4", row, column) if row and xl and not departures(setting, source) else None
    if not own:
        return score_cell(None, quoted)
    if len(own) == 1:
        return score_cell(own[0].score(of=average), quoted)
    names = variant_names([group.setting for group in own for _ in group.runs])
    texts = []
    for group in own:
        cell = score_cell(group.score(of=average))
        texts.append(f"{names[group.setting]}: {cell.text} ({', '.join(cell.details)})")
    return Cell(f"{len(own)} settings", tuple(texts), None if quoted is None else f"paper {quoted:.1f}")


def hyperparameters(groups: Sequence[Group], source: str) -> list[Table]:
    """Table 7's shape: a table for each of learning rate, rank, steps and warm-up that alone is varied."""
    tables = []
    for axis in _AXES:
        families = _families(groups, partial(_without_axis, axis=axis))
        compared = [own for own in families if len({_value(group.setting, axis) for group in own}) > 1]
        if not compared:
            continue
        values = sorted({_value(group.setting, axis) for own in compared for group in own})
        bare = [_without_axis(own[0].setting, axis) for own in compared]
        names = variant_names([setting for setting in bare if setting is not None])
        rows = []
        for own, setting in zip(compared, bare, strict=True):
            if setting is None:
                continue
            column = p3_column_of(setting) if source == "p3" else column_of(setting)
            at = {_value(group.setting, axis): group for group in own}
            cells = tuple(_axis_cell(at.get(value), own[0].setting, source, axis, value) for value in values)
            rows.append((f"{names[setting]} ({column})", cells))
        what = MTEST11 if source == "p3" else own_metric(groups)
        note = f"{what}, percent. A row's settings differ in the {axis} alone. {_note(rows, 7)}"
        columns = tuple(shown(value) for value in values)
        tables.append(Table(f"By {axis} (the shape of Table 7)", note.strip(), columns, tuple(rows)))
    return tables


def _axis_key(setting: Setting, axis: str) -> str:
    key = _AXES[axis]
    stage = "finetune" if setting.method == TAGI else "metatrain"
    return key if "." in key else f"training.{stage}.{key}"


def _without_axis(setting: Setting, axis: str) -> Setting | None:
    key = _axis_key(setting, axis)
    return setting.masked(key) if key in setting.table else None


def _value(setting: Setting, axis: str) -> Any:
    return setting.table[_axis_key(setting, axis)]


def _axis_cell(group: Group | None, setting: Setting, source: str, axis: str, value: Any) -> Cell:
    average = MTEST11 if source == "p3" else MAIN
    row = "Metatrain" if source == "p3" and setting.method == METATRAINED else _PAPERS_OWN.get(setting.method)
    column = MTEST11 if source == "p3" else setting.demonstrations
    base = setting.size == "Base (250M)" and setting.family == "T5-LM" and not setting.missing
    at_default = Setting(setting.method, tuple((k, v) for k, v in setting.values if k != _axis_key(setting, axis)))
    quoted = None
    if row and base and not departures(at_default, source):
        quoted = figure("table7", column, row, axis, str(value))
    return score_cell(None if group is None else group.score(of=average), quoted)


def by_categories(groups: Sequence[Group], source: str) -> list[Curve]:
    """Figure 3: the score by the number of training categories, with and without L_ins."""
    title = "Score by categories trained on (Figure 3)"

    def lines(own: Sequence[Group]) -> Lines:
        found: Lines = {}
        for group in own:
            found.setdefault(_weight(group.setting), {})[group.setting.table[SPLIT]] = group
        return found

    having = [group for group in groups if group.setting.table.get(SPLIT) is not None]
    return _curves(having, source, (SPLIT, INS), title, "categories", lines)


def by_steps(groups: Sequence[Group], source: str) -> list[Curve]:
    """Figure 4, left: the score by finetuning steps."""
    title = "Score by finetuning steps (Figure 4, left)"
    return _curves(
        groups, source, (STEPS,), title, "steps", lambda own: {TAGI: {one.setting.table[STEPS]: one for one in own}}
    )


def by_alignment(groups: Sequence[Group], source: str) -> list[Curve]:
    """Figure 4, right: the score by the number of categories that are aligned, 0 being without L_ins."""
    title, axis = "Score by categories aligned (Figure 4, right)", "categories aligned; 0 is without L_ins"

    def lines(own: Sequence[Group]) -> Lines:
        without = next((one for one in own if not one.setting.table.get(INS)), None)
        found: Lines = {}
        for group in own:
            split = group.setting.table.get(ALIGNED)
            if group.setting.table.get(INS) and split is not None:
                found.setdefault(_weight(group.setting), {} if without is None else {0: without})[split] = group
        return found

    return _curves(groups, source, (ALIGNED, INS), title, axis, lines)


def _weight(setting: Setting) -> str:
    weight = setting.table.get(INS)
    return f"L_ins weighed {shown(weight)}" if weight else "without L_ins"


def _curves(
    groups: Sequence[Group],
    source: str,
    keys: tuple[str, ...],
    title: str,
    axis: str,
    lines_of: Callable[[Sequence[Group]], Lines],
) -> list[Curve]:
    """A curve for every family of TAGI's settings that differ in `keys` alone and lie at two places or more."""
    average = MTEST11 if source == "p3" else MAIN
    scored = [group for group in groups if group.setting.method == TAGI and group.score(of=average) is not None]
    ours = [group for group in scored if set(keys) <= group.setting.table.keys()]  # else training is not recorded
    found = [(own, lines_of(own)) for own in _families(ours, lambda setting: setting.masked(*keys))]
    found = [(own, lines) for own, lines in found if len({x for points in lines.values() for x in points}) > 1]
    names = variant_names([own[0].setting.masked(*keys) for own, _ in found])
    curves = []
    for own, lines in found:
        bare = own[0].setting.masked(*keys)
        column = p3_column_of(bare) if source == "p3" else column_of(bare)
        name = f"{title}: {column}" + (f", {names[bare]}" if len(found) > 1 else "")
        points = {label: _points(found, average) for label, found in lines.items()}
        curves.append(Curve(name, axis, average if source == "p3" else own_metric(own), points))
    return curves


def _points(points: Mapping[int, Group], average: str) -> tuple[tuple[float, Score], ...]:
    scores = ((float(x), group.score(of=average)) for x, group in sorted(points.items()))
    return tuple((x, score) for x, score in scores if score is not None)


def curve_table(curve: Curve) -> Table:
    """A curve's points in figures."""
    at = sorted({x for points in curve.lines.values() for x, _ in points})
    rows = tuple((name, tuple(score_cell(dict(points).get(x)) for x in at)) for name, points in curve.lines.items())
    return Table(curve.title, f"{curve.metric}, percent, by {curve.axis}.", tuple(f"{x:g}" for x in at), rows)


def _families(groups: Sequence[Group], of: Callable[[Setting], Setting | None]) -> list[list[Group]]:
    """Groups whose settings become equal, in order; those that become nothing are left."""
    families: dict[Setting, list[Group]] = {}
    for group in groups:
        family = of(group.setting)
        if family is not None:
            families.setdefault(family, []).append(group)
    return list(families.values())


def own_metric(groups: Sequence[Group]) -> str:
    """What the groups' main scores are called."""
    return ", ".join(dict.fromkeys(group.metric() for group in groups if group.score() is not None))


def _note(rows: Sequence[Row], table: int) -> str:
    quoting = any(cell.quoted for _, cells in rows for cell in cells)
    return f"'paper' is quoted from its Table {table}." if quoting else ""
