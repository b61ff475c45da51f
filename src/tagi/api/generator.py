"""The generator as users have it: from a folder or the hub, adapting to instructions."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from tagi.api.task_adapter import TaskAdapter
from tagi.data.task import Example
from tagi.formats.generator import load_generator, save_generator
from tagi.formats.hub import push_folder
from tagi.hypernetwork.adapted_task import adapted_states
from tagi.hypernetwork.model import GeneratorModel


class AdapterGenerator(GeneratorModel):
    """A backbone with a hypernetwork that turns instructions into task adapters."""

    @overload
    def adapt(  # type: ignore[overload-overlap]  # a string is a sequence of strings too
        self, instructions: str, examples: Sequence[tuple[str, str]] = (), *, truncate: bool = False
    ) -> TaskAdapter: ...

    @overload
    def adapt(
        self, instructions: Sequence[str], examples: Sequence[tuple[str, str]] = (), *, truncate: bool = False
    ) -> list[TaskAdapter]: ...

    def adapt(
        self, instructions: str | Sequence[str], examples: Sequence[tuple[str, str]] = (), *, truncate: bool = False
    ) -> TaskAdapter | list[TaskAdapter]:
        """Generate task adapters for instructions, all of them in one pass.

        One instruction gives one adapter, a sequence a list. `examples` (input, output) are demonstrations of
        the task, shown to the hypernetwork with every instruction given. Raises `InputError` for an empty
        instruction, and for one over the generator's limit unless `truncate`.
        """
        texts = [instructions] if isinstance(instructions, str) else list(instructions)
        shown = [Example(source, target) for source, target in examples]
        states = adapted_states(self, texts, shown, truncate=truncate)
        adapters = [TaskAdapter(self, one, text, shown) for one, text in zip(states, texts, strict=True)]
        return adapters[0] if isinstance(instructions, str) else adapters

    def save_pretrained(self, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write `config.json`, `model.safetensors` (trained tensors alone) and a card.

        `extra` is kept as provenance.
        """
        save_generator(self, Path(folder), extra)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> "AdapterGenerator":
        """Read a generator from a folder, by a built-in name, or from the hub.

        Raises `CheckpointError` if it is damaged, foreign or made for another base model.
        """
        return load_generator(name, revision=revision, kind=cls)

    def push_to_hub(self, repository: str, *, private: bool = False, message: str = "Upload generator") -> str:
        """Save and upload to a hub repository, which is made if it does not exist; return the commit's address."""
        source = self.source
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "generator"
            self.save_pretrained(target)
            address = push_folder(target, repository, private=private, message=message)
        self.source = source or repository
        return address
