"""Task adapters generated from instructions: an instruction in, a LoRA adapter and predictions out.

What a user imports is listed here and loaded when first asked for, so that `import tagi` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagi.api.generator import AdapterGenerator
    from tagi.api.generator import AdapterGenerator as Generator
    from tagi.api.task_adapter import TaskAdapter
    from tagi.data.task import Example, Instance, Task
    from tagi.errors import TagiError

__version__ = "0.1.0"

__all__ = ["AdapterGenerator", "Example", "Generator", "Instance", "TagiError", "Task", "TaskAdapter", "__version__"]

_HOMES = {
    "AdapterGenerator": "tagi.api.generator",
    "Example": "tagi.data.task",
    "Generator": "tagi.api.generator",
    "Instance": "tagi.data.task",
    "TagiError": "tagi.errors",
    "Task": "tagi.data.task",
    "TaskAdapter": "tagi.api.task_adapter",
}

_RENAMED = {"Generator": "AdapterGenerator"}
"""Former names, kept as aliases."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tagi' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
