"""`AdapterGenerator`: loading generators and generating task adapters."""

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
        """Generate task adapters from instructions, all in one forward pass.

        Args:
            instructions: One instruction or several.
            examples: Demonstrations for every instruction: `Example` objects or `(input, output)` tuples. Only
                generators that were trained with demonstrations use them.
            truncate: Truncate instructions that exceed the generator's length limit.

        Returns:
            A `TaskAdapter` for one instruction, a list for several.

        Raises:
            InputError: An instruction is empty, or exceeds the length limit and `truncate` is False.
        """
        texts, shown = [instructions] if isinstance(instructions, str) else instructions, as_examples(examples)
        adapters = self.adapt_tasks([Task("", "", text, (), shown) for text in texts], truncate=truncate)
        return adapters[0] if isinstance(instructions, str) else adapters

    def adapt_tasks(self, tasks: Sequence[Task], *, truncate: bool = False) -> list[TaskAdapter]:
        """Generate an adapter for each task from its instruction and demonstrations, all in one forward pass.

        Args:
            tasks: The tasks. Their instances are not used.
            truncate: As in `adapt`.

        Raises:
            InputError: As in `adapt`.
        """
        instructions, examples = [task.instruction for task in tasks], [task.examples for task in tasks]
        states = adapted_states(self, instructions, examples, truncate=truncate)
        return [TaskAdapter(self, *made) for made in zip(states, instructions, examples, strict=True)]

    def save_pretrained(self, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write `config.json`, `model.safetensors` (trained tensors only) and a model card.

        Args:
            folder: A new or empty folder.
            extra: Information about the training that is stored in the configuration and shown in the card.
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
        """Load a generator with its backbone.

        Args:
            name: A built-in name ("smollm2", "toy"), a hub repository, or the folder of a checkpoint, a run, a stage,
                or an adapter, which names its generator.
            revision: Branch, tag or commit on the hub.
            base: New location of the base model, if it was moved. It must be the same model.
            device: Device; by default a GPU if there is one.
            dtype: Data type of the backbone's weights; by default the one the checkpoint names.

        Raises:
            CheckpointError: The checkpoint is damaged, of another format, or made for another base model.
        """
        generator = load_generator(name, revision=revision, base=None if base is None else str(base), kind=cls)
        generator.backbone.to(dtype=dtype)
        return generator.to(best_device() if device is None else device)

    def push_to_hub(self, repository: str, *, private: bool = False, message: str = "Upload generator") -> str:
        """Upload the generator to the hub and return the URL of the commit.

        Adapters keep naming the place that the generator was loaded from, or else the repository.
        """
        source = self.source
        address = super().push_to_hub(repository, private=private, message=message)
        self.source = source or repository
        return address


Generator = AdapterGenerator
"""The former name of the class."""
