"""A method that needs no model, and tasks for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tagi.data.task import Instance, Task
from tagi.data.text.encoder import TextEncoder
from tagi.methods.protocol import Method
from tests.models import text_settings, tokenizer


class Echo(Method):
    """A method whose answer is its instruction and the input."""

    name = "echo"

    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoder(tokenizer(), text_settings())
        self.batches: list[int] = []
        self.lengths: list[list[int]] = []
        self.prepared: list[str] = []

    def collate(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        raise AssertionError("evaluation does not train")

    def score_choices(self, *_: Any, **__: Any) -> list[list[float]]:
        raise AssertionError("nothing here has choices")

    def save(self, folder: Path, extra: Any = None) -> None:
        raise AssertionError("evaluation does not save")

    def cost(self, lengths: Any) -> Any:
        raise AssertionError("evaluation does not cost")

    @classmethod
    def load(cls, folder: Path) -> "Echo":
        return cls()

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> list[str]:
        self.prepared += [task.name for task in tasks]
        return [task.instruction for task in tasks]

    def without_instruction(self, states: list[str]) -> list[str]:
        return ["-"] * len(states)

    def predict(self, states: list[str], rows: Tensor, inputs: Sequence[str], **_: Any) -> list[str]:
        self.batches.append(len(inputs))
        self.lengths.append([len(text) for text in inputs])
        return [f"{states[row]} {text}" for row, text in zip(rows.tolist(), inputs, strict=True)]


def tasks() -> list[Task]:
    """Tasks a, b and c with 1, 4 and 2 instances; `Echo` is right when it is given `do NAME`."""
    return [
        Task(
            name,
            category,
            f"do {name}",
            tuple(
                Instance(f"{name}{i}", "x" * (9 - 2 * i), (f"do {name} " + "x" * (9 - 2 * i),)) for i in range(count)
            ),
            paraphrases=(f"please {name}",),
        )
        for name, category, count in (("a", "odd", 1), ("b", "even", 4), ("c", "odd", 2))
    ]
