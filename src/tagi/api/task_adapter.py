"""A task adapter: everything computed once for one task, ready to answer inputs, in memory or in a folder."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import torch
from transformers import PreTrainedModel

from tagi.adapters.bank import LoraBank
from tagi.adapters.merge import merge, view_with_parameters
from tagi.api.examples import Demonstration
from tagi.api.hub import Uploadable
from tagi.backbones.machine import best_device
from tagi.errors import InputError
from tagi.files import adapter_folders, new_folder
from tagi.formats.export import Format, export, exportable_of
from tagi.formats.peft import write_lora
from tagi.formats.task_adapter import open_adapter, read_adapter, write_adapter
from tagi.hypernetwork.adapted_task import AdaptedTask
from tagi.hypernetwork.model import GeneratorModel

if TYPE_CHECKING:  # PEFT and the trainer take seconds to import, and answers need neither
    from peft import PeftModel

    from tagi.api.lora_training import Refinement
    from tagi.training.progress import Report


class TaskAdapter(AdaptedTask, Uploadable):
    """One task's adapter with its generator, as `AdapterGenerator.adapt` makes it."""

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the adapter: PEFT's two files, the instruction states and a record of what it was made from.

        PEFT reads the folder as it is, but takes only the LoRA: `export` says what is lost. A module that is not LoRA
        is in a file of its own. The same adapter gives the same bytes.

        Args:
            folder: A new or empty folder.
            overwrite: Replace what the folder holds.
        """
        if self.is_alone and self._beside and not self.generator.settings.adapts_prefix:
            raise InputError("expected an adapter with what was read of its instruction, got one without: export it")
        with new_folder(Path(folder), overwrite=overwrite) as temporary:
            write_adapter(temporary, self.generator, self.states, self.instruction, self.examples, refined=self.refined)

    save = save_pretrained

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        generator: GeneratorModel | str | Path | None = None,
        *,
        base: str | Path | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "TaskAdapter":
        """Read an adapter that `save_pretrained` or `tagi generate` wrote.

        Args:
            folder: The adapter's folder.
            generator: The generator that made it, or its name; by default it is read by the name in the folder.
                Adapters that share one generator share its weights.
            base: Where the generator's base model is now, if not where the generator says. It must be the same model.
            device: Where to compute; by default where the given generator is, else the GPU if there is one. A given
                generator is moved along.
            dtype: The type of the backbone's weights; by default the one it has.

        Raises `CheckpointError` if the folder is damaged or foreign, or made with another generator or base model.
        """
        folder = Path(folder)
        if isinstance(generator, GeneratorModel):
            states, instruction, examples, refined = read_adapter(folder, generator)
            adapter = cls(generator, states, instruction, examples, refined=refined)
        else:
            source, at = (None if name is None else str(name) for name in (generator, base))
            adapter = open_adapter(folder, source, base=at, kind=cls)
            device = best_device() if device is None else device
        return adapter.to(device, dtype)

    @classmethod
    def load(cls, folder: str | Path, generator: GeneratorModel | str | Path | None = None) -> "TaskAdapter":
        """Read an adapter as `from_pretrained` does."""
        return cls.from_pretrained(folder, generator)

    def summary(self) -> dict[str, Any]:
        """Return the adapter's size, its number of parameters and its instruction."""
        bank = self.bank
        if isinstance(bank, LoraBank):
            size: dict[str, Any] = {"rank": bank.rank, "sites": len(bank.factors)}
        else:
            size = {"module": bank.module, "places": len(bank.places)}
        return {**size, "parameters": bank.parameters_per_task, "instruction": self.instruction}

    @property
    def is_alone(self) -> bool:
        """Whether the adapter acts without fusion and without anything read of its instruction."""
        return self.states.bare

    def alone(self) -> "TaskAdapter":
        """Return what was generated alone, without fusion and without anything read of the instruction."""
        states = self.states.without_states()
        return TaskAdapter(self.generator, states, self.instruction, self.examples, refined=self.refined)

    def refine(
        self,
        examples: Sequence[Demonstration],
        settings: Optional["Refinement"] = None,
        *,
        progress: "bool | Report" = False,
    ) -> "TaskAdapter":
        """Train the adapter's LoRA further on labelled examples; this adapter and its generator stay as they are.

        Args:
            examples: Inputs and their outputs, as `Example` objects or tuples. The last `settings.held_out` of them
                are left out.
            settings: How to train.
            progress: Show a bar on a terminal, or what is told after every step: the steps done, and all of them.

        The new adapter's `refined` says how it was trained: number of `examples` and digest of the `data`, the
        settings, the `loss` of the `first` and `last` steps (None without a step), the digest of the LoRA that it began
        `from`, and as `earlier` the same of a refinement before it.

        Raises `InputError` for no example to train on, for one that is empty or over the generator's limits, and for an
        adapter that is not LoRA.
        """
        from tagi.api.lora_training import Refinement, check_lora, labelled, split_examples, train_lora

        settings = settings or Refinement()
        check_lora(self)
        given, _ = split_examples(labelled(examples), self.generator.text, settings)
        shown = [one.example for one in given]
        with tempfile.TemporaryDirectory() as folder:
            return train_lora(self, shown, settings, Path(folder), progress=progress)[0]

    def to_peft(self) -> "PeftModel":
        """Return a PEFT model in memory whose logits are the adapter's: the backbone with the LoRA.

        It shares the backbone's weights with the generator and has parameters of its own for the LoRA. It is given what
        the adapter reads: the input alone after `alone()`, else the instruction before it.

        Raises `InputError` for an adapter that acts by more than a LoRA: `alone()` leaves the rest out.
        """
        from peft import PeftModel

        bank, backbone = self._lora(), self.generator.backbone
        shared = {name: parameter.detach() for name, parameter in backbone.model.named_parameters()}
        with tempfile.TemporaryDirectory() as folder:
            write_lora(Path(folder), bank, backbone)
            return PeftModel.from_pretrained(view_with_parameters(backbone.model, shared), folder).eval()

    def merge(self) -> PreTrainedModel:
        """Return a transformers model with the LoRA merged into its weights; the others are shared with the generator.

        Raises `InputError` as `to_peft` does.
        """
        merged: PreTrainedModel = merge(self.generator.backbone.model, self._lora())
        return merged

    def export(
        self, folder: str | Path, format: Format = "peft", *, lossy: bool = False, overwrite: bool = False
    ) -> dict[str, Any]:
        """Write the adapter for other software and return a summary.

        Args:
            folder: A new or empty folder.
            format: "peft" (PEFT, vLLM), "merged" (a transformers model with tokenizer) or "gguf" (a LoRA file for
                llama.cpp).
            lossy: Write the LoRA although the adapter acts by more than that.
            overwrite: Replace what the folder holds.

        Raises `InputError` for an adapter that is not LoRA, and unless `lossy` if something of it would be lost.
        """
        source = exportable_of(self)
        if self.is_alone:  # it rests on nothing else
            source = replace(source, beside=())
        return export(source, format, Path(folder), lossy=lossy, overwrite=overwrite)

    def _lora(self) -> LoraBank:
        """The LoRA of an adapter that acts by nothing else."""
        bank = self.bank
        if not isinstance(bank, LoraBank):
            raise InputError(f"expected an adapter of LoRA, got one of {bank.module}")
        if self._beside and not self.is_alone:
            lost = ", ".join(self._beside)
            raise InputError(f"expected an adapter that is a LoRA alone, got one with {lost}: alone() drops that")
        return bank

    @property
    def _beside(self) -> tuple[str, ...]:
        decoder_only = not self.generator.backbone.encoder_decoder
        return self.generator.settings.beside_lora(decoder_only=decoder_only)


def save_adapters(adapters: Mapping[str, TaskAdapter], folder: str | Path) -> list[Path]:
    """Write several adapters, all or none, each into a folder of its name; return these folders.

    Characters that are no letters, digits, dots or hyphens become hyphens. Raises `DataError` if two names then share
    a folder, and for a name that is too long for one.
    """
    names = adapter_folders(list(adapters))
    with new_folder(Path(folder)) as temporary:
        for name, adapter in zip(names, adapters.values(), strict=True):
            adapter.save_pretrained(temporary / name)
    return [Path(folder) / name for name in names]
