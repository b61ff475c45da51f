"""Cache of instruction states for training with a frozen instruction encoder."""

from collections import OrderedDict

import torch
from torch import Tensor

from tagi.backbones.modes import evaluating
from tagi.backbones.protocol import Instructions
from tagi.backbones.shapes import InstructionIds, InstructionMask
from tagi.hypernetwork.model import GeneratorModel

_LIMIT = 1 << 30


class StatesMemory:
    """LRU cache of instruction states by token ids, on the CPU.

    Args:
        limit: Maximum size in bytes.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self.limit = limit
        self.size = 0
        self._kept: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def read(self, generator: GeneratorModel, ids: InstructionIds, mask: InstructionMask) -> Instructions:
        """Like `GeneratorModel.read_instructions`, without dropout; cached states are reused.

        On a CPU instructions are encoded one by one, which is not slower there, so that their states do not depend on
        the content of the cache and a resumed run is identical.
        """
        keys = [tuple(row[kept].tolist()) for row, kept in zip(ids.cpu(), mask.cpu(), strict=True)]
        missing = [at for at, key in enumerate(keys) if key not in self._kept]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        together = 1 if ids.device.type == "cpu" else max(1, len(missing))
        for first in range(0, len(missing), together):
            chosen = missing[first : first + together]
            longest = max(len(keys[at]) for at in chosen)
            rows = torch.tensor(chosen, device=ids.device)
            with evaluating(generator.backbone.model if generator.reader is None else generator.reader):
                read = generator.encode_instructions(ids[rows, :longest], mask[rows, :longest])
            for at, states in zip(chosen, read, strict=True):
                found[keys[at]] = states[: len(keys[at])].detach().cpu()
        states = next(iter(found.values()))
        joined = states.new_zeros(len(keys), ids.shape[1], states.shape[1])
        for at, key in enumerate(keys):
            joined[at, : len(key)] = found[key]
            self._keep(key, found[key])
        return Instructions(joined.to(ids.device), mask, ids=ids if generator.settings.adapts_prefix else None)

    def _keep(self, key: tuple[int, ...], states: Tensor) -> None:
        if key not in self._kept:
            self.size += states.numel() * states.element_size()
            self._kept[key] = states.clone()
        self._kept.move_to_end(key)
        while self.size > self.limit and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self.size -= dropped.numel() * dropped.element_size()
