"""Everything computed once per task, for several tasks at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from tagi.adapters.protocol import Bank, stack_banks
from tagi.backbones.kv_cache import longest, select_rows
from tagi.backbones.protocol import Instructions, KeysValues


@dataclass(frozen=True)
class TaskStates:
    """The tasks' LoRA or other module, their instruction states `I_x` with mask, and keys and values over `I_x`.

    `fusion` is per fused layer (None without attention fusion), `cross` per layer that writes the answer (None without
    concatenation): of T5's cross-attentions, of a decoder-only backbone's own attentions. `ids` are the instructions'
    tokens, kept where their keys and values are computed under the task's own LoRA: another bank needs them again.

    Position i along every first axis is task i.
    """

    bank: Bank
    states: Float[Tensor, "task token d_model"]
    mask: Bool[Tensor, "task token"]
    fusion: KeysValues | None
    cross: KeysValues | None
    ids: Int[Tensor, "task token"] | None = None

    @property
    def tasks(self) -> int:
        """How many tasks."""
        return self.mask.shape[0]

    @property
    def read(self) -> Instructions:
        """What was read of the instructions, before anything was made of it."""
        return Instructions(self.states, self.mask, self.cross, self.ids)

    def select(self, rows: Int[Tensor, " row"]) -> "TaskStates":
        """States whose task i is this one's task `rows[i]`; rows may repeat. Padding of all is dropped."""
        length = longest(self.mask[rows])

        def pick(layers: KeysValues | None) -> KeysValues | None:
            return None if layers is None else select_rows(layers, rows, length)

        return TaskStates(
            self.bank.select(rows),
            self.states[rows][:, :length],
            self.mask[rows][:, :length],
            pick(self.fusion),
            pick(self.cross),
            None if self.ids is None else self.ids[rows][:, :length],
        )

    def to(self, device: torch.device | str) -> "TaskStates":
        """The same on a device."""

        def move(layers: KeysValues | None) -> KeysValues | None:
            return None if layers is None else [(keys.to(device), values.to(device)) for keys, values in layers]

        bank = self.bank.map(lambda tensor: tensor.to(device))
        ids = None if self.ids is None else self.ids.to(device)
        return TaskStates(bank, self.states.to(device), self.mask.to(device), move(self.fusion), move(self.cross), ids)

    def without_states(self) -> "TaskStates":
        """What is generated alone: neither fusion nor instruction states before the decoder."""
        return replace(self, fusion=None, cross=None)

    def without_lora(self) -> "TaskStates":
        """The instruction states alone: B = 0, or what else changes nothing.

        What the LoRA did to keys and values over the instruction is left as it is: `Generator.states_from` computes
        them anew under another bank.
        """
        return replace(self, bank=self.bank.zero())


def stack_states(parts: Sequence[TaskStates]) -> TaskStates:
    """Join along the task axis, padding to the longest instruction."""
    length = max(part.mask.shape[1] for part in parts)

    def extend(tensor: Tensor, axis: int) -> Tensor:
        missing = length - tensor.shape[axis]
        return pad(tensor, [0, 0] * (tensor.dim() - 1 - axis) + [0, missing])

    def join(layers: Sequence[KeysValues | None]) -> KeysValues | None:
        present = [layer for layer in layers if layer is not None]
        if len(present) != len(layers):
            return None
        return [
            tuple(torch.cat([extend(pair[side], 2) for pair in pairs]) for side in (0, 1))  # type: ignore[misc]
            for pairs in zip(*present, strict=True)
        ]

    return TaskStates(
        stack_banks([part.bank for part in parts]),
        torch.cat([extend(part.states, 1) for part in parts]),
        torch.cat([extend(part.mask, 1) for part in parts]),
        join([part.fusion for part in parts]),
        join([part.cross for part in parts]),
        _joined_ids([part.ids for part in parts], length),
    )


def _joined_ids(parts: Sequence[Tensor | None], length: int) -> Tensor | None:
    present = [pad(ids, [0, length - ids.shape[1]]) for ids in parts if ids is not None]
    return torch.cat(present) if len(present) == len(parts) else None
