"""`TaskAdapter`: everything that is computed once for a task, in memory or in a folder."""

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
from tagi.formats.finding import adapter_in
from tagi.formats.peft import write_lora
from tagi.formats.task_adapter import open_adapter, read_adapter, write_adapter
from tagi.hypernetwork.adapted_task import AdaptedTask
from tagi.hypernetwork.model import GeneratorModel

if TYPE_CHECKING:  # PEFT and the trainer take seconds to import, and answers need neither
    from peft import PeftModel

    from tagi.api.lora_training import Refinement
    from tagi.training.progress import Report


class TaskAdapter(AdaptedTask, Uploadable):
    """The adapter of one task, as returned by `AdapterGenerator.adapt`."""

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the adapter to a folder: PEFT's two files, the instruction states and a record.

        PEFT can load the folder, but applies the LoRA only; see `export`. Modules other than LoRA are stored in a
        file that PEFT does not read. Saving the same adapter twice gives identical files.

        Args:
            folder: New or empty folder.
            overwrite: Replace the content of the folder.

        Raises:
            InputError: The adapter is the result of `alone()` and depended on its instruction states.
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
        """Load an adapter that was written by `save_pretrained` or `tagi generate`.

        Args:
            folder: Folder of the adapter, or of its refinement.
            generator: Generator of the adapter, or its name; by default the one that the folder names. Pass the same
                object for several adapters to share its weights.
            base: New location of the base model, if it was moved. It must be the same model.
            device: Device; by default that of the given generator, or a GPU if there is one. A given generator is
                moved too.
            dtype: Data type of the backbone's weights; by default unchanged.

        Raises:
            InputError: A base model was given with a generator that is loaded already.
            CheckpointError: The folder is damaged or not an adapter, or belongs to another generator or base model.
        """
        folder = adapter_in(Path(folder))
        if isinstance(generator, GeneratorModel):
            if base is not None:
                raise InputError(f"base: expected none with a generator that is already loaded, got {str(base)!r}")
            states, instruction, examples, refined = read_adapter(folder, generator)
            adapter = cls(generator, states, instruction, examples, refined=refined)
        else:
            source, at = (None if name is None else str(name) for name in (generator, base))
            adapter = open_adapter(folder, source, base=at, kind=cls)
            device = best_device() if device is None else device
        return adapter.to(device, dtype)

    @classmethod
    def load(cls, folder: str | Path, generator: GeneratorModel | str | Path | None = None) -> "TaskAdapter":
        """Alias of `from_pretrained`."""
        return cls.from_pretrained(folder, generator)

    def summary(self) -> dict[str, Any]:
        """Return size, number of parameters and instruction of the adapter."""
        bank = self.bank
        if isinstance(bank, LoraBank):
            size: dict[str, Any] = {"rank": bank.rank, "target_modules": len(bank.factors)}
        else:
            size = {"module": bank.module, "places": len(bank.places)}
        return {**size, "parameters": bank.parameters_per_task, "instruction": self.instruction}

    @property
    def is_alone(self) -> bool:
        """Whether the adapter works without fusion and instruction states."""
        return self.states.bare

    def alone(self) -> "TaskAdapter":
        """Return the adapter without fusion and instruction states."""
        states = self.states.without_states()
        return TaskAdapter(self.generator, states, self.instruction, self.examples, refined=self.refined)

    def refine(
        self,
        examples: Sequence[Demonstration],
        settings: Optional["Refinement"] = None,
        *,
        progress: "bool | Report" = False,
    ) -> "TaskAdapter":
        """Fine-tune the adapter's LoRA on labelled examples. This adapter and its generator are not changed.

        Args:
            examples: Labelled examples, as `Example` objects or `(input, output)` tuples. The last `settings.held_out`
                of them are not used.
            settings: Training settings; by default `Refinement()`.
            progress: Show progress, or a function that is called after every step with the number of steps done and
                the total.

        Returns:
            The new adapter. Its `refined` attribute records the number of `examples`, the digest of the `data`, the
            settings, the `loss` of the `first` and `last` steps, the digest of the LoRA it started `from`, and as
            `earlier` the record of a previous refinement.

        Raises:
            InputError: There is no example to train on, an example is empty or exceeds the generator's length limits,
                or the adapter is not a LoRA.
        """
        from tagi.api.lora_training import Refinement, check_lora, labelled, split_examples, train_lora

        settings = settings or Refinement()
        check_lora(self)
        given, _ = split_examples(labelled(examples), self.generator.text, settings)
        shown = [one.example for one in given]
        with tempfile.TemporaryDirectory() as folder:
            return train_lora(self, shown, settings, Path(folder), progress=progress)[0]

    def to_peft(self) -> "PeftModel":
        """Return the backbone with the LoRA as a PEFT model in memory.

        The model shares the backbone's weights with the generator. Its prompt is the instruction followed by the
        input, or the input only after `alone()`.

        Raises:
            InputError: The adapter has parts other than LoRA. `alone()` drops them.
        """
        from peft import PeftModel

        bank, backbone = self._lora(), self.generator.backbone
        shared = {name: parameter.detach() for name, parameter in backbone.model.named_parameters()}
        with tempfile.TemporaryDirectory() as folder:
            write_lora(Path(folder), bank, backbone)
            return PeftModel.from_pretrained(view_with_parameters(backbone.model, shared), folder).eval()

    def merge(self) -> PreTrainedModel:
        """Return a transformers model with the LoRA merged. Unchanged weights are shared with the generator.

        Raises:
            InputError: As in `to_peft`.
        """
        merged: PreTrainedModel = merge(self.generator.backbone.model, self._lora())
        return merged

    def export(
        self, folder: str | Path, format: Format = "peft", *, lossy: bool = False, overwrite: bool = False
    ) -> dict[str, Any]:
        """Export the adapter for other software and return a summary.

        Args:
            folder: New or empty folder.
            format: "peft" (for PEFT and vLLM), "merged" (a transformers model with tokenizer) or "gguf" (a LoRA for
                llama.cpp).
            lossy: Export the LoRA even if other parts of the adapter are lost.
            overwrite: Replace the content of the folder.

        Raises:
            InputError: The adapter is not a LoRA, or parts would be lost and `lossy` is False.
        """
        source = exportable_of(self)
        if self.is_alone:  # nothing else would be lost
            source = replace(source, beside=())
        return export(source, format, Path(folder), lossy=lossy, overwrite=overwrite)

    def _lora(self) -> LoraBank:
        """Return the LoRA. Raises `InputError` if the adapter has other parts."""
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
    """Write several adapters, each to a subfolder with its name, and return the subfolders. Writes all or none.

    Characters other than letters, digits, dots and hyphens are replaced by hyphens. Raises `DataError` if two names
    then coincide, or if one is too long.
    """
    names = adapter_folders(list(adapters))
    with new_folder(Path(folder)) as temporary:
        for name, adapter in zip(names, adapters.values(), strict=True):
            adapter.save_pretrained(temporary / name)
    return [Path(folder) / name for name in names]
