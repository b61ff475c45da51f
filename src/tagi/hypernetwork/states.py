"""Task states: everything that is computed once per task, for several tasks."""

from dataclasses import dataclass, replace

import torch

from tagi.adapters.protocol import Bank
from tagi.backbones.kv_cache import longest, select_rows
from tagi.backbones.protocol import Instructions, KeysValues
from tagi.backbones.shapes import InstructionIds, InstructionMask, InstructionStates, TaskRows


@dataclass(frozen=True)
class TaskStates:
    """Generated bank, instruction states `I_x` with mask, and keys and values over the instructions.

    The first axis of every tensor is the task. `fusion` has keys and values per fusion layer (None without attention
    fusion). `cross` has those per decoder layer: of cross-attention for T5, of self-attention (the KV prefix) for
    decoder-only backbones; None without concatenation. `ids` are the token ids of the instructions, stored if the KV
    prefix depends on the bank and must be recomputed for another one.
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
        """Whether inputs are encoded without the instruction before them."""
        return self.cross is None

    @property
    def bare(self) -> bool:
        """Whether there is only the adapter: neither fusion nor a KV prefix."""
        return self.cross is None and self.fusion is None

    @property
    def read(self) -> Instructions:
        """The encoded instructions, without the generated bank."""
        return Instructions(self.states, self.mask, self.cross, self.ids)

    def select(self, rows: TaskRows) -> "TaskStates":
        """Return states whose task i is task `rows[i]` of this one. Rows may repeat. Common padding is dropped."""
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
        """Return states of the adapter alone, without fusion and KV prefix."""
        return replace(self, fusion=None, cross=None)

    def without_lora(self) -> "TaskStates":
        """Return the states with a bank of zero updates.

        Keys and values over the instruction are not recomputed: use `GeneratorModel.states_from` for that.
        """
        return replace(self, bank=self.bank.zero())
