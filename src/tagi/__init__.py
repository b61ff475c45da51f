"""Generate LoRA adapters from task instructions, and train, evaluate and serve the generators.

The public names are listed here and imported on first use, so that `import tagi` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tagi.errors import CheckpointError, ConfigError, DataError, InputError, TagiError, TrainingError

if TYPE_CHECKING:
    from tagi.api.export import export, verify
    from tagi.api.generator import AdapterGenerator, Generator
    from tagi.api.lora_training import Refinement
    from tagi.api.recipes import evaluate, load_recipe, read_tasks, train
    from tagi.api.refine import refine, refine_all
    from tagi.api.task_adapter import TaskAdapter
    from tagi.data.task import Example, Instance, Task
    from tagi.settings.recipe import Recipe

__version__ = "0.2.0"

__all__ = [
    "AdapterGenerator",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Example",
    "Generator",
    "InputError",
    "Instance",
    "Recipe",
    "Refinement",
    "TagiError",
    "Task",
    "TaskAdapter",
    "TrainingError",
    "__version__",
    "evaluate",
    "export",
    "load_recipe",
    "read_tasks",
    "refine",
    "refine_all",
    "train",
    "verify",
]

_HOMES = {
    "tagi.api.export": ("export", "verify"),
    "tagi.api.generator": ("AdapterGenerator", "Generator"),
    "tagi.api.recipes": ("evaluate", "load_recipe", "read_tasks", "train"),
    "tagi.api.refine": ("refine", "refine_all"),
    "tagi.api.lora_training": ("Refinement",),
    "tagi.api.task_adapter": ("TaskAdapter",),
    "tagi.data.task": ("Example", "Instance", "Task"),
    "tagi.settings.recipe": ("Recipe",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'tagi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
