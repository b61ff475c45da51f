"""Generation, refinement and export of adapters. All functions block."""

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tagi.adapters.bank import LoraBank, delta_products
from tagi.api.generator import AdapterGenerator
from tagi.api.lora_training import Refinement, check_lora, labelled, split_examples
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.machine import best_device
from tagi.data.task import Example, Task
from tagi.errors import InputError
from tagi.formats.export import exportable_of
from tagi.formats.task_adapter import generator_digest
from tagi.training.progress import Report


@dataclass(frozen=True, slots=True)
class Made:
    """A generated adapter that is not stored yet.

    Args:
        write: Writes it to a new folder.
        facts: Its sizes, ready for JSON.
        instruction: The instruction it was made from.
        examples: The demonstrations.
    """

    write: Callable[[Path], None]
    facts: Mapping[str, Any]
    instruction: str
    examples: tuple[Example, ...]


@runtime_checkable
class Maker(Protocol):
    """Generates, refines and exports adapters. Methods are called from several threads."""

    @property
    def identity(self) -> str:
        """Digest of the generator."""
        ...

    def make(self, tasks: Sequence[Task], *, truncate: bool) -> list[Made]:
        """Generate an adapter per task in one forward pass. Raises `InputError` as in `AdapterGenerator.adapt`."""
        ...

    def check_examples(self, examples: Sequence[Example], settings: Refinement) -> None:
        """Raise `InputError` for examples that cannot be trained on."""
        ...

    def refine(self, folder: Path, examples: Sequence[Example], settings: Refinement, report: Report) -> Made:
        """Fine-tune a stored adapter."""
        ...

    def export(self, folder: Path, out: Path, *, lossy: bool) -> None:
        """Export a stored adapter as a PEFT folder. Raises `InputError` if parts would be lost, unless `lossy`."""
        ...


class GeneratorMaker:
    """A `Maker` whose generator an engine uses at the same time.

    Hooks that are attached to the backbone for a call apply to the calling thread only, and nothing here changes
    weights or modes that the engine reads. Refinements are trained on a copy, which shares the backbone if it is
    frozen.
    """

    def __init__(self, generator: AdapterGenerator) -> None:
        self.generator = generator.eval()
        self._identity = generator_digest(generator)
        self._making, self._training = threading.Lock(), threading.Lock()

    @property
    def identity(self) -> str:
        """Digest of the generator."""
        return self._identity

    def make(self, tasks: Sequence[Task], *, truncate: bool) -> list[Made]:
        """Generate an adapter per task in one forward pass. Raises `InputError` as in `AdapterGenerator.adapt`."""
        with self._making:
            return [_made(adapter) for adapter in self.generator.adapt_tasks(tasks, truncate=truncate)]

    def check_examples(self, examples: Sequence[Example], settings: Refinement) -> None:
        """Raise `InputError` for examples that cannot be trained on."""
        split_examples(labelled(examples), self.generator.text, settings)

    def refine(self, folder: Path, examples: Sequence[Example], settings: Refinement, report: Report) -> Made:
        """Fine-tune a stored adapter. Raises `InputError` for an adapter that is not a LoRA."""
        with self._training:
            adapter = TaskAdapter.from_pretrained(folder, self._copy())
            check_lora(adapter)
            return _made(adapter.refine(examples, settings, progress=report))

    def export(self, folder: Path, out: Path, *, lossy: bool) -> None:
        """Export a stored adapter as a PEFT folder. Raises `InputError` if parts would be lost, unless `lossy`."""
        with self._making:
            adapter = TaskAdapter.from_pretrained(folder, self.generator)
            if not lossy and not adapter.is_alone and (lost := exportable_of(adapter).lost("peft")):
                got = f"expected an adapter that is its LoRA alone, got one with {', '.join(lost)}"
                raise InputError(f"{got}: ask with lossy=true to export the LoRA without")
            adapter.export(out, lossy=lossy)

    def _copy(self) -> AdapterGenerator:
        """Return a generator for training. The trainer freezes it and moves it to the best device."""
        backbone = self.generator.backbone
        frozen = not any(parameter.requires_grad for parameter in backbone.parameters())
        shared = frozen and backbone.device.type == best_device().type
        return deepcopy(self.generator, {id(backbone): backbone} if shared else {})


def _made(adapter: TaskAdapter) -> Made:
    backbone, size = adapter.generator.backbone, adapter.summary()
    facts: dict[str, Any] = {"base_model": backbone.identity.name, "target_modules": len(backbone.target_modules)}
    facts |= {name: value for name, value in size.items() if name in ("rank", "module", "parameters")}
    if isinstance(adapter.bank, LoraBank):
        facts["layers"] = update_norms(adapter.bank)
    return Made(adapter.save_pretrained, facts, adapter.instruction, adapter.examples)


def update_norms(bank: LoraBank) -> dict[str, float]:
    """Return the Frobenius norm of one task's update Delta W for every target module, by its path."""
    norms = {}
    for path, pair in bank.factors.items():
        square = float(delta_products(LoraBank({path: pair}, bank.scale))[0, 0])
        norms[path] = round(max(square, 0.0) ** 0.5, 6)
    return norms
