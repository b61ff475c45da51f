"""What the commands do: recipes in, checkpoints, records and tables out."""

from tagi.pipeline.describing import describe
from tagi.pipeline.evaluating import evaluate
from tagi.pipeline.finding import find_checkpoint
from tagi.pipeline.stages import train_stage
from tagi.pipeline.tasks import LoadedTasks, load_tasks

__all__ = ["LoadedTasks", "describe", "evaluate", "find_checkpoint", "load_tasks", "train_stage"]
