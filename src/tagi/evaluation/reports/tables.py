"""Tables of any data set's scores: by condition, by the paper's columns. A cell that nothing fills says so."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from tagi.evaluation.reports.groups import HYPERT5, MAIN, MTEST11, RIGHT, Group, Score
from tagi.evaluation.reports.labels import variant_names
from tagi.evaluation.reports.quoted import SNI_TEST_INSTANCES, departures, paper
from tagi.evaluation.reports.settings import METATRAINED, TAGI, Setting

MISSING = "missing"
_QUOTED = "'paper' is quoted from its Table {}, beside runs at the settings of its Table 6."


@dataclass(frozen=True)
class Cell:
    """What a cell says, what stands smaller below it, and what the paper has there."""

    text: str
    details: tuple[str, ...] = ()
    quoted: str | None = None

    @property
    def missing(self) -> bool:
        """Whether no record fills it."""
        return self.text == MISSING


Row = tuple[str, tuple[Cell, ...]]
"""What heads a row, and its cells."""


@dataclass(frozen=True)
class Table:
    """A table with the words it needs; the first column heads the rows."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def score_cell(score: Score | None, quoted: float | None = None) -> Cell:
    """A score with its interval, n and seeds; or that there is none."""
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


def column_of(setting: Setting) -> str:
    """Demonstrations and backbone, as Table 2 has them."""
    return f"{setting.demonstrations}, {setting.size}"


def by_condition(groups: Sequence[Group]) -> Table:
    """Every setting's score under every condition."""
    conditions = list(dict.fromkeys(name for group in groups for name in group.conditions))
    names = variant_names([group.setting for group in groups for _ in group.runs])
    given = {
        name: str(run.content["results"][name].get("given", ""))
        for group in groups
        for run in group.runs
        for name in run.content["results"]
    }
    told = "; ".join(f"{name}: {words}" for name, words in given.items() if words)
    rows = [
        (
            f"{names[group.setting]} ({column_of(group.setting)})",
            tuple(score_cell(group.score(condition)) for condition in conditions),
        )
        for group in sorted(groups, key=lambda group: _order(group.setting, names))
    ]
    metrics = ", ".join(dict.fromkeys(group.metric(name) for group in groups for name in group.conditions))
    return Table("By method and condition", f"{metrics}, percent. {told}", tuple(conditions), tuple(rows))


def by_size(groups: Sequence[Group], source: str) -> Table:
    """Table 2's shape: methods by demonstrations and backbone; the paper's rows and figures where they apply."""
    quotes = paper()["table2"] if source == "sni" else {}
    layout = _Layout(source, MAIN, column_of, {"TAGI": TAGI, "Tk-Instruct": METATRAINED})
    columns, rows, quoting = layout.fill(groups, quotes)
    metrics = ", ".join(dict.fromkeys(group.metric() for group in groups if RIGHT in group.conditions))
    note = f"{metrics}, percent, with the task's own instruction."
    if quoting:
        note += f" {_QUOTED.format(2)} The paper scores {SNI_TEST_INSTANCES:,} instances."
    return Table("By method, demonstrations and backbone (the shape of Table 2)", note, columns, rows)


def p3_averages(groups: Sequence[Group]) -> list[Table]:
    """Table 3's shape: MTest11 and HyperT5 by method and backbone."""
    tables = []
    for average in (MTEST11, HYPERT5):
        layout = _Layout("p3", average, p3_column_of, {"TAGI": TAGI, "Metatrain": METATRAINED})
        columns, rows, quoting = layout.fill(groups, paper()["table3"][average])
        note = f"{average}, percent, by rank classification; missing where a data set of the average was not scored."
        if quoting:
            note += f" {_QUOTED.format(3)}"
        tables.append(Table(f"{average} by method and backbone (the shape of Table 3)", note, columns, rows))
    return tables


def p3_column_of(setting: Setting) -> str:
    """The backbone, as Table 3 has it."""
    return setting.size if setting.family is None else f"{setting.family}, {setting.size}"


def is_the_papers(setting: Setting, source: str) -> bool:
    """Whether it is a setting of Table 6, whole; of XXL the paper's whole is without L_ins (Table 2)."""
    without = ("L_ins",) if setting.size.startswith("XXL") else ()
    return not departures(setting, source) and setting.missing == without


@dataclass(frozen=True)
class _Layout:
    """How rows and columns are made of groups: what is scored, a setting's column, the paper's rows that are ours."""

    source: str
    average: str
    column: Callable[[Setting], str]
    ours: Mapping[str, str]

    def fill(
        self, groups: Sequence[Group], quotes: Mapping[str, Mapping[str, float | None]]
    ) -> tuple[tuple[str, ...], tuple[Row, ...], bool]:
        """Columns, rows, and whether the paper's are among them: they are if a backbone is one of the paper's."""
        whole = [group for group in groups if not group.setting.missing or is_the_papers(group.setting, self.source)]
        shown = whole if any(group.setting.method == TAGI for group in whole) else list(groups)
        own = list(dict.fromkeys(self.column(group.setting) for group in shown))
        of_paper = list(next(iter(quotes.values()), {}))
        quoting = bool(set(own) & set(of_paper))
        columns = tuple(dict.fromkeys([*of_paper, *own] if quoting else own))
        rows: list[Row] = []
        if quoting:
            of_rows = {name: self._of_row(shown, method) for name, method in self.ours.items()}
            for name, figures in quotes.items():
                found = of_rows.get(name, {})
                rows.append((name, tuple(self._cell(found.get(key), figures.get(key)) for key in columns)))
            placed = {id(group) for found in of_rows.values() for group in found.values()}
            shown = [group for group in shown if id(group) not in placed]
        return columns, (*rows, *self._variants(shown, columns, quoting)), quoting

    def _of_row(self, groups: Sequence[Group], method: str) -> dict[str, Group]:
        """Column -> the one group of a method at the paper's setting; several have rows of their own."""
        found: dict[str, list[Group]] = {}
        for group in groups:
            if group.setting.method == method and is_the_papers(group.setting, self.source):
                found.setdefault(self.column(group.setting), []).append(group)
        return {column: own[0] for column, own in found.items() if len(own) == 1}

    def _variants(self, groups: Sequence[Group], columns: Sequence[str], quoting: bool) -> Iterator[Row]:
        names = variant_names([group.setting for group in groups for _ in group.runs])
        rows: dict[str, dict[str, Group]] = {}
        for group in sorted(groups, key=lambda group: _order(group.setting, names)):
            name, column = names[group.setting], self.column(group.setting)
            if quoting and (apart := departures(group.setting, self.source)):
                name += f" (not the paper's: {', '.join(apart)})"
            same = next(number for number in count(1) if column not in rows.get(_numbered(name, number), {}))
            rows.setdefault(_numbered(name, same), {})[column] = group
        for name, found in rows.items():
            yield name, tuple(self._cell(found.get(column)) for column in columns)

    def _cell(self, group: Group | None, quoted: float | None = None) -> Cell:
        return score_cell(None if group is None else group.score(of=self.average), quoted)


def _numbered(name: str, number: int) -> str:
    """Settings of one name and column differ in their backbone's keys alone."""
    return name if number == 1 else f"{name} ({number})"


def _order(setting: Setting, names: Mapping[Setting, str]) -> tuple[bool, str, bool, str]:
    """TAGI first, plain settings before those that differ."""
    return setting.method != TAGI, setting.method, names[setting] != setting.method, names[setting]
