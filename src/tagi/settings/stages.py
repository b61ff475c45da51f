"""The training stages by name, in the order of a run.

To add a stage, write a module of its name in `tagi.stages` and add an entry here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True, slots=True)
class StageEntry:
    """Properties of a stage that the settings need.

    Args:
        name: Name in `run.stages` and `[training.NAME]`, and of the module in `tagi.stages`.
        trains: What it trains, in a few words.
        runs: Whether `run.stages` may contain it.
        validated: Whether it can be validated on held-out tasks during training.
        on_test_tasks: Whether it is trained on examples of the test tasks (which are not scored).
        demonstrates: Whether it may train a method that reads demonstrations with every input.
        start: The value of `run.start` that lets the generator start from its model; "" if there is none.
        stands: Priority when the folder of a run is used as a model: the trained stage with the lowest value is loaded.
            None if the stage does not produce a model for the tasks.
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
"""Stages that can be validated on held-out tasks during training."""
RUN = tuple(entry.name for entry in ENTRIES if entry.runs)
"""Stages that `run.stages` may contain."""
ON_TEST_TASKS = tuple(entry.name for entry in ENTRIES if entry.on_test_tasks)
"""Stages that are trained on examples of the test tasks (which are not scored)."""
DEMONSTRATE = tuple(entry.name for entry in ENTRIES if entry.demonstrates)
"""Stages that may train a method that reads demonstrations with every input."""
STARTS = {entry.start: entry.name for entry in ENTRIES if entry.start}
"""Values of `run.start` -> the stage whose model is meant."""
MODELS = tuple(name for _, name in sorted((entry.stands, entry.name) for entry in ENTRIES if entry.stands is not None))
"""Stages whose model is loaded when the folder of a run is given, by priority."""

if TYPE_CHECKING:
    Stage = str
else:
    Stage = Literal[STAGES]
