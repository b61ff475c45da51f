"""A method that uses saved task adapters instead of generating them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tagi.backbones.machine import best_device
from tagi.data.task import Task
from tagi.errors import InputError
from tagi.formats.finding import generator_of
from tagi.formats.generator import load_generator
from tagi.formats.task_adapter import read_adapter
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.states import TaskStates
from tagi.methods.tagi import TAGI


class SavedAdapters(TAGI):
    """A generator with saved adapters, which may be refined.

    Args:
        generator: Generator of the adapters.
        saved: States of the adapters by instruction.
    """

    name = "task adapters"

    def __init__(self, generator: GeneratorModel, saved: Mapping[str, TaskStates]) -> None:
        super().__init__(generator)
        self.saved = dict(saved)

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> TaskStates:
        """Return the states of the adapter with the instruction of one task.

        Raises `InputError` for several tasks, and for an instruction without adapter.
        """
        if len(tasks) != 1:
            raise InputError(f"expected one task at a time for saved adapters, got {len(tasks)}")
        instruction = tasks[0].instruction.strip()
        if instruction not in self.saved:
            raise InputError(f"task {tasks[0].name!r}: expected an adapter of its instruction, got none")
        return self.saved[instruction]

    @classmethod
    def of_folders(cls, folders: Mapping[str, Path]) -> "SavedAdapters":
        """Load adapters from their folders. The generator is loaded once.

        Raises `CheckpointError` if a folder is damaged or belongs to another generator.
        """
        generator = load_generator(generator_of(next(iter(folders.values())))).to(best_device())
        saved = {}
        for folder in folders.values():
            states, instruction, _, _ = read_adapter(folder, generator)
            saved[instruction.strip()] = states
        return cls(generator, saved).eval()
