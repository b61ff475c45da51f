"""Tables and curves of training records: losses by step, speed, memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from tagi.evaluation.reports.labels import variant_names
from tagi.evaluation.reports.records import Record
from tagi.evaluation.reports.settings import Setting, setting_of
from tagi.evaluation.reports.tables import MISSING, Cell, Table
from tagi.evaluation.scoring.statistics import group_by

_GIB = 2**30


@dataclass(frozen=True)
class LossLine:
    """One run's losses: the name of its setting, its seed, and pairs of step and loss."""

    name: str
    seed: int
    points: tuple[tuple[int, float], ...]


def training_table(records: Sequence[Record]) -> Table:
    """Return a row for each training run."""
    names = variant_names([_of_stage(record) for record in records])
    columns = ("stage", "seed", "steps", "loss, first to last", "tokens per second", "peak memory", "time", "device")
    rows = tuple(
        (record.path.removesuffix("/record.json"), tuple(map(Cell, (names[_of_stage(record)], *_texts(record)))))
        for record in records
    )
    note = (
        "The loss is the sum of the recipe's own terms: runs with other terms are not compared by it. Peak memory is"
        " that of the device, or of the whole process where there is none. Of teachers, losses are means over them."
    )
    return Table("Training runs", note, columns, rows)


def loss_curves(records: Sequence[Record]) -> dict[str, list[LossLine]]:
    """Return chart title -> lines, with a chart per data set and stage that has losses, and a line per run."""
    names = variant_names([_of_stage(record) for record in records])
    drawn = [record for record in records if _losses(record)]
    by_title = group_by(drawn, lambda one: f"{one.data_set}: loss of {one.content['stage']}")
    return {
        title: [LossLine(names[_of_stage(one)], one.content["seed"], tuple(_losses(one))) for one in own]
        for title, own in by_title.items()
    }


def _of_stage(record: Record) -> Setting:
    """Return the run's setting under the stage's name, so that runs of a stage are named by their differences."""
    return replace(setting_of(record), method=str(record.content["stage"]))


def _losses(record: Record) -> list[tuple[int, float]]:
    history = record.content["training"]["history"]
    return [(entry["step"], float(entry["loss"])) for entry in history if "loss" in entry]


def _texts(record: Record) -> list[str]:
    training: dict[str, Any] = record.content["training"]
    losses = [loss for _, loss in _losses(record)] or _of_teachers(record)
    seconds, memory, speed = (training.get(key) for key in ("seconds", "peak_memory", "tokens_per_second"))
    return [
        str(record.content["seed"]),
        f"{training['steps']:,}",
        f"{losses[0]:.3f} to {losses[-1]:.3f}" if losses else MISSING,
        MISSING if speed is None else f"{speed:,.0f}",
        MISSING if memory is None else f"{memory / _GIB:.2f} GiB",
        MISSING if seconds is None else _time(seconds),
        str(record.content["environment"].get("device", MISSING)),
    ]


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _of_teachers(record: Record) -> list[float]:
    """Return the means over teachers of the first and the final loss."""
    losses = [(one["first_loss"], one["final_loss"]) for one in record.content.get("teachers") or []]
    return [fmean(own) for own in zip(*losses, strict=True)]
