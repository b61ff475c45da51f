"""Everything computed once per task, for several tasks at once."""

from dataclasses import dataclass, replace

import torch

from tagi.adapters.protocol import Bank
from tagi.backbones.kv_cache import longest, select_rows
from tagi.backbones.protocol import Instructions, KeysValues
from tagi.backbones.shapes import InstructionIds, InstructionMask, InstructionStates, TaskRows


@dataclass(frozen=True)
class TaskStates:
    """The tasks' LoRA or other module, their instruction states `I_x` with mask, and keys and values over `I_x`.

    `fusion` is per fused layer (None without attention fusion), `cross` per layer that writes the answer (None without
    concatenation): of T5's cross-attentions, of a decoder-only backbone's own attentions. `ids` are the instructions'
    tokens, kept where their keys and values are computed under the task's own LoRA: another bank needs them again.

    Position i along every first axis is task i.
    """

    bank: Bank
    states: InstructionStates
    mask: InstructionMask
    fusion: KeysValues | None
    cross: KeysValues | None
    ids: InstructionIds | None = None

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return self.mask.shape[0]

    @property
    def alone(self) -> bool:
        """Whether inputs are read by themselves, without the instruction before them."""
        return self.cross is None

    @property
    def bare(self) -> bool:
        """Whether there is nothing of the instruction but the adapter: neither fusion nor a prefix."""
        return self.cross is None and self.fusion is None

    @property
    def read(self) -> Instructions:
        """The instructions as they were read, before anything was generated from them."""
        return Instructions(self.states, self.mask, self.cross, self.ids)

    def select(self, rows: TaskRows) -> "TaskStates":
        """Return states whose task i is this one's task `rows[i]`; rows may repeat. Padding of all rows is dropped."""
        length = longest(self.mask[rows])

        def pick(layers: KeysValues | None) -> KeysValues | None:
            return None if layers is None else select_rows(layers, rows, length)

        ids = None if self.ids is None else self.ids[rows][:, :length]
        states, mask = self.states[rows][:, :length], self.mask[rows][:, :length]
        return TaskStates(self.bank.select(rows), states, mask, pick(self.fusion), pick(self.cross), ids)

    def to(self, device: torch.device | str) -> "TaskStates":
        """Return the same states on a device."""

        def move(layers: KeysValues | None) -> KeysValues | None:
            return None if layers is None else [(keys.to(device), values.to(device)) for keys, values in layers]

        bank = self.bank.map(lambda tensor: tensor.to(device))
        ids = None if self.ids is None else self.ids.to(device)
        return TaskStates(bank, self.states.to(device), self.mask.to(device), move(self.fusion), move(self.cross), ids)

    def without_states(self) -> "TaskStates":
        """Return states of the adapter alone: neither fusion nor a prefix."""
        return replace(self, fusion=None, cross=None)

    def without_lora(self) -> "TaskStates":
        """Return the instruction states with an adapter that changes nothing.

        Keys and values over the instruction stay as they were computed under the adapter: `GeneratorModel.states_from`
        computes them under another one.
        """
        return replace(self, bank=self.bank.zero())
