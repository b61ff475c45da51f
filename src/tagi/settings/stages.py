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
        stands: Place among the stages whose model stands for a whole run: the lowest that was trained counts. None for
            a stage whose result is no model of the tasks.
    """

    name: str
    trains: str
    runs: bool = True
    validated: bool = False
    stands: int | None = None


ENTRIES = (
    StageEntry("backbone", "the built-in backbone", runs=False),
    StageEntry("metatrain", "one model for all tasks", validated=True, stands=2),
    StageEntry("teachers", "LoRA teachers"),
    StageEntry("pretrain", "the hypernetwork on unlabelled text", stands=3),
    StageEntry("finetune", "the generator on tasks", validated=True, stands=0),
    StageEntry("single", "one model per test task", stands=1),
)
STAGES = tuple(entry.name for entry in ENTRIES)
VALIDATED = tuple(entry.name for entry in ENTRIES if entry.validated)
"""Stages that can be scored on held-out tasks while they train."""
RUN = tuple(entry.name for entry in ENTRIES if entry.runs)
"""Stages that a run may name."""
MODELS = tuple(name for _, name in sorted((entry.stands, entry.name) for entry in ENTRIES if entry.stands is not None))
"""Stages whose model stands for a whole run. The first that was trained counts."""

if TYPE_CHECKING:
    Stage = str
else:
    Stage = Literal[STAGES]
