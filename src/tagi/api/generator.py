"""The generator as users have it: from a folder or the hub, adapting to instructions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch

from tagi.api.examples import Demonstration, as_examples
from tagi.api.hub import Uploadable
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.machine import best_device
from tagi.data.task import Task
from tagi.formats.finding import DEFAULT
from tagi.formats.generator import load_generator, save_generator
from tagi.hypernetwork.adapted_task import adapted_states
from tagi.hypernetwork.model import GeneratorModel


class AdapterGenerator(GeneratorModel, Uploadable):
    """A backbone with a hypernetwork that turns instructions into task adapters."""

    @overload
    def adapt(  # type: ignore[overload-overlap]  # a string is a sequence of strings too
        self, instructions: str, examples: Sequence[Demonstration] = (), *, truncate: bool = False
    ) -> TaskAdapter: ...

    @overload
    def adapt(
        self, instructions: Sequence[str], examples: Sequence[Demonstration] = (), *, truncate: bool = False
    ) -> list[TaskAdapter]: ...

    def adapt(
        self, instructions: str | Sequence[str], examples: Sequence[Demonstration] = (), *, truncate: bool = False
    ) -> TaskAdapter | list[TaskAdapter]:
        """Generate task adapters for instructions, all of them in one pass.

        Args:
            instructions: One instruction, which gives one adapter, or several, which give a list.
            examples: Demonstrations of the task, read with every instruction given: `Example(input, output)`, or tuples
                of input and output.
            truncate: Truncate an instruction over the generator's limit.

        Raises `InputError` for an empty instruction, and for one over the generator's limit unless `truncate`.
        """
        texts, shown = [instructions] if isinstance(instructions, str) else instructions, as_examples(examples)
        adapters = self.adapt_tasks([Task("", "", text, (), shown) for text in texts], truncate=truncate)
        return adapters[0] if isinstance(instructions, str) else adapters

    def adapt_tasks(self, tasks: Sequence[Task], *, truncate: bool = False) -> list[TaskAdapter]:
        """Generate an adapter for the instruction and the demonstrations of every task, all of them in one pass.

        Raises `InputError` as `adapt` does.
        """
        instructions, examples = [task.instruction for task in tasks], [task.examples for task in tasks]
        states = adapted_states(self, instructions, examples, truncate=truncate)
        return [TaskAdapter(self, *made) for made in zip(states, instructions, examples, strict=True)]

    def save_pretrained(self, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write `config.json`, `model.safetensors` (trained tensors alone) and a card.

        `extra` is kept as provenance.
        """
        save_generator(self, Path(folder), extra)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = DEFAULT,
        *,
        revision: str | None = None,
        base: str | Path | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "AdapterGenerator":
        """Read a generator.

        Args:
            name: A built-in name ("smollm2", "toy"), the folder of a checkpoint, of a run, of a stage or of an
                adapter (which names its generator), or a repository on the hub.
            revision: Branch, tag or commit on the hub.
            base: Where the base model is now, if not where the generator says. It must be the same model.
            device: Where to compute; by default the GPU if there is one.
            dtype: The type of the backbone's weights; by default the one in which the checkpoint loads it.

        Raises `CheckpointError` if it is damaged, foreign or made for another base model.
        """
        generator = load_generator(name, revision=revision, base=None if base is None else str(base), kind=cls)
        generator.backbone.to(dtype=dtype)
        return generator.to(best_device() if device is None else device)

    def push_to_hub(self, repository: str, *, private: bool = False, message: str = "Upload generator") -> str:
        """Upload the generator; its adapters go on to name where it was read from, else the repository."""
        source = self.source
        address = super().push_to_hub(repository, private=private, message=message)
        self.source = source or repository
        return address


Generator = AdapterGenerator
"""The former name of the class."""
