"""How good a generator was measured to be: a record beside its checkpoint, and the line that commands print of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tagi.data.task import HEADLINES
from tagi.formats.records import Record


class Quality(Record):
    """The score of a generator's adapters on tasks that it was not trained on.

    Args:
        data: What was evaluated, such as "24 everyday tasks".
        metric: The score's name, such as "right".
        score: The mean score in percent.
        interval: Its 95% interval.
        stock: The score of the stock model with the instruction in its prompt, if it was measured.
        command: The command that measures it.
    """

    FILE = "quality.json"
    WHAT = "the measured quality of a generator"
    data: str
    metric: str
    score: float
    interval: tuple[float, float]
    stock: float | None = None
    command: str

    @classmethod
    def find(cls, folder: Path) -> "Quality | None":
        """Return the record beside a checkpoint, None if there is none. Raises `CheckpointError` if it is not valid."""
        return cls.read(folder) if (folder / cls.FILE).is_file() else None

    @classmethod
    def of_evaluation(cls, record: Mapping[str, Any], data: str, command: str) -> "Quality":
        """Return what the record of an evaluation says of the task's own instruction, and of the stock model."""
        right, stock = record["results"]["right"], record["results"].get("stock")
        metric = right["metric"]
        low, high = right["interval"]
        return cls(
            data=data,
            metric=HEADLINES.get(metric, metric),
            score=right["overall"][metric],
            interval=(low, high),
            stock=None if stock is None else stock["overall"][metric],
            command=command,
        )

    @property
    def line(self) -> str:
        """What is to be expected of the generator's adapters, in one line."""
        low, high = self.interval
        stock = "" if self.stock is None else f"; the stock model: {self.stock:.1f}"
        score = f"{self.metric} {self.score:.1f}% ({low:.1f} to {high:.1f}) on {self.data}{stock}"
        return f"What to expect: {score}. Measured by: {self.command}"
