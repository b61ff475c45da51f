"""What the commands do: recipes in, checkpoints, records and tables out."""

from tagi.pipeline.building import Sources
from tagi.pipeline.costing import flops
from tagi.pipeline.describing import describe
from tagi.pipeline.estimating import estimate
from tagi.pipeline.evaluating import Asked, evaluate
from tagi.pipeline.finding import find_checkpoint
from tagi.pipeline.running import run
from tagi.pipeline.stages import train_stage
from tagi.pipeline.tasks import LoadedTasks, load_tasks

__all__ = [
    "Asked",
    "LoadedTasks",
    "Sources",
    "describe",
    "estimate",
    "evaluate",
    "find_checkpoint",
    "flops",
    "load_tasks",
    "run",
    "train_stage",
]
