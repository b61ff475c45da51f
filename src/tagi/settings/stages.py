"""The training stages by name, in the order of a run, and what settings have to know of each.

What a stage does is in the module of its name in `tagi.stages`. That module and an entry here are all that it takes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True, slots=True)
class StageEntry:
    """A stage as settings know it.

    Args:
        name: Its name in `run.stages` and `[training.NAME]`, and of its module in `tagi.stages`.
        trains: What it trains, in a few words.
        runs: Whether a run may name it in `run.stages`.
        validated: Whether it can be scored on held-out tasks while it trains.
        on_test_tasks: Whether it is trained on examples of the test tasks, which are not tested.
        demonstrates: Whether it may train a method that reads demonstrations beside every input.
        start: The value of `run.start` with which a generator begins on what it trains; "" if there is none.
        stands: Place among the stages whose model stands for a whole run: the lowest that was trained counts. None for
            a stage whose result is no model of the tasks.
    """

    name: str
    trains: str
    runs: bool = True
    validated: bool = False
    on_test_tasks: bool = False
    demonstrates: bool = False
    start: str = ""
    stands: int | None = None


ENTRIES = (
    StageEntry("backbone", "the built-in backbone", runs=False),
    StageEntry(
        "metatrain", "one model for all tasks", validated=True, demonstrates=True, start="metatrained", stands=2
    ),
    StageEntry("teachers", "LoRA teachers"),
    StageEntry("pretrain", "the hypernetwork on unlabelled text", stands=3),
    StageEntry("finetune", "the generator on tasks", validated=True, stands=0),
    StageEntry("single", "one model per test task", on_test_tasks=True, stands=1),
)
STAGES = tuple(entry.name for entry in ENTRIES)
VALIDATED = tuple(entry.name for entry in ENTRIES if entry.validated)
"""Stages that can be scored on held-out tasks while they train."""
RUN = tuple(entry.name for entry in ENTRIES if entry.runs)
"""Stages that a run may name."""
ON_TEST_TASKS = tuple(entry.name for entry in ENTRIES if entry.on_test_tasks)
"""Stages that are trained on examples of the test tasks, which are not tested."""
DEMONSTRATE = tuple(entry.name for entry in ENTRIES if entry.demonstrates)
"""Stages that may train a method that reads demonstrations beside every input."""
STARTS = {entry.start: entry.name for entry in ENTRIES if entry.start}
"""Values of `run.start` -> the stage whose model they mean."""
MODELS = tuple(name for _, name in sorted((entry.stands, entry.name) for entry in ENTRIES if entry.stands is not None))
"""Stages whose model stands for a whole run. The first that was trained counts."""

if TYPE_CHECKING:
    Stage = str
else:
    Stage = Literal[STAGES]
