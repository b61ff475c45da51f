"""Task adapters generated from instructions: an instruction in, a LoRA adapter and predictions out.

Public names are listed here and loaded when first used, so that `import tagi` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tagi.errors import CheckpointError, ConfigError, DataError, InputError, TagiError, TrainingError

if TYPE_CHECKING:
    from tagi.api.export import export, verify
    from tagi.api.generator import AdapterGenerator
    from tagi.api.generator import AdapterGenerator as Generator
    from tagi.api.recipes import evaluate, load_recipe, train
    from tagi.api.refine import refine
    from tagi.api.refinement import Refinement
    from tagi.api.task_adapter import TaskAdapter
    from tagi.data.readers.jsonl import read_jsonl as read_tasks
    from tagi.data.task import Example, Instance, Task
    from tagi.settings.recipe import Recipe

__version__ = "0.1.0"

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
    "train",
    "verify",
]

_HOMES = {
    "AdapterGenerator": "tagi.api.generator",
    "Example": "tagi.data.task",
    "Generator": "tagi.api.generator",
    "Instance": "tagi.data.task",
    "Recipe": "tagi.settings.recipe",
    "Refinement": "tagi.api.refinement",
    "Task": "tagi.data.task",
    "TaskAdapter": "tagi.api.task_adapter",
    "evaluate": "tagi.api.recipes",
    "export": "tagi.api.export",
    "load_recipe": "tagi.api.recipes",
    "read_tasks": "tagi.data.readers.jsonl",
    "refine": "tagi.api.refine",
    "train": "tagi.api.recipes",
    "verify": "tagi.api.export",
}

_RENAMED = {"Generator": "AdapterGenerator", "read_tasks": "read_jsonl"}
"""Public names that differ from those at home."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tagi' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
