"""An LRU cache of loaded adapters for the embedded engine."""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from tagi.adapters.bank import LoraBank
from tagi.adapters.protocol import Bank
from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.protocol import KeysValues
from tagi.errors import TagiError
from tagi.hypernetwork.states import TaskStates
from tagi.serving.protocol import EngineError, PromptError


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter in memory, as rows of a batch need it.

    Args:
        bank: The LoRA or other generated modules, of whole layers.
        prefix: KV prefix of the instruction, without padding; None if inputs are read without it.
        fusion: Keys and values that inputs attend to, per fused layer; None without fusion.
    """

    bank: Bank
    prefix: KeysValues | None
    fusion: KeysValues | None

    @classmethod
    def of_states(cls, states: TaskStates) -> "LoadedAdapter":
        """Return the adapter of one task's states."""
        bank = states.bank.whole() if isinstance(states.bank, LoraBank) else states.bank
        tokens = int(states.mask.sum())

        def of_tokens(layers: KeysValues | None) -> KeysValues | None:
            return layers and [(keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in layers]

        return cls(bank, of_tokens(states.cross), of_tokens(states.fusion))

    @property
    def bytes(self) -> int:
        """Memory that the adapter takes."""
        pairs = [*(self.prefix or []), *(self.fusion or [])]
        return sum(part.nbytes for part in [*self.bank.tensors().values(), *(part for pair in pairs for part in pair)])


class AdapterMemory:
    """Adapters by id. One thread makes all calls; others may read `bytes` and the length of `loaded`.

    Args:
        generator: The generator that made the adapters.
        limit: Maximum size of loaded adapters in bytes. The most recently used one is always kept.
    """

    def __init__(self, generator: AdapterGenerator, limit: int) -> None:
        self.generator = generator
        self.limit = limit
        self.folders: dict[str, Path] = {}
        self.loaded: OrderedDict[str, LoadedAdapter] = OrderedDict()
        self.bytes = 0
        """Memory that all loaded adapters take."""

    def add(self, adapter: str, folder: Path) -> None:
        """Register an adapter's folder under an id. An adapter that was loaded under this id is dropped."""
        self.remove(adapter)
        self.folders[adapter] = folder

    def remove(self, adapter: str) -> None:
        """Remove an adapter."""
        self.folders.pop(adapter, None)
        self._unload(adapter)

    @torch.no_grad()
    def get(self, adapter: str) -> LoadedAdapter:
        """Return an adapter. If it is not in memory, load it and process its instruction.

        Raises `PromptError` for an unknown id and `EngineError` for a folder that cannot be read.
        """
        folder = self.folders.get(adapter)
        if folder is None:
            raise PromptError(f"expected the id of an adapter, got {adapter!r}")
        if adapter not in self.loaded:
            try:
                states = TaskAdapter.from_pretrained(folder, self.generator).states
            except TagiError as error:
                reason = str(error).replace(str(folder), "its folder")  # do not show paths to clients
                raise EngineError(f"cannot load adapter {adapter}: {reason}") from error
            self.loaded[adapter] = LoadedAdapter.of_states(states)
            self.bytes += self.loaded[adapter].bytes
        self.loaded.move_to_end(adapter)
        while len(self.loaded) > 1 and self.bytes > self.limit:
            self._unload(next(iter(self.loaded)))
        return self.loaded[adapter]

    def _unload(self, adapter: str) -> None:
        if adapter in self.loaded:
            self.bytes -= self.loaded.pop(adapter).bytes
