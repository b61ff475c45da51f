"""What every kind of bank offers: numbers generated for several tasks at once, and how they act on a model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tagi.adapters.attach import Attached

B = TypeVar("B", bound="Bank")


class Bank(ABC):
    """What was generated for several tasks. Every tensor's first axis is the task.

    A place is the path of a module of the backbone that the bank acts on.
    """

    module: ClassVar[str]
    """The kind of what is generated, as a recipe's `generator.module` names it."""

    @property
    @abstractmethod
    def places(self) -> tuple[str, ...]:
        """The paths of all modules that it acts on."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that was generated, by place and part: `place.part`."""

    @abstractmethod
    def like(self: B, tensors: Mapping[str, Tensor]) -> B:
        """The bank with other tensors under the same names."""

    @abstractmethod
    def joins(self, other: "Bank") -> bool:
        """Whether all that is no tensor is equal in both, so that their tasks can stand in one bank."""

    @abstractmethod
    def zero(self: B) -> B:
        """As many tasks, for which nothing changes."""

    @abstractmethod
    def mean(self: B) -> B:
        """One task that stands for the mean of all."""

    @abstractmethod
    def acting(self, place: str, shared: bool) -> Attached:
        """What to attach to the module at `place`: task i for row i, or with `shared` the one task for all rows."""

    @property
    def tasks(self) -> int:
        """How many tasks the bank holds."""
        return next(iter(self.tensors().values())).shape[0]

    @property
    def parameters_per_task(self) -> int:
        """Numbers generated for one task, all places together."""
        return sum(tensor[0].numel() for tensor in self.tensors().values())

    def select(self: B, rows: Int[Tensor, " row"]) -> B:
        """The bank whose task i is this bank's task `rows[i]`; rows may repeat."""
        return self.map(lambda tensor: tensor[rows])

    def map(self: B, function: Callable[[Tensor], Tensor]) -> B:
        """The bank with `function` applied to every tensor."""
        return self.like({name: function(tensor) for name, tensor in self.tensors().items()})

    def hooks(
        self, modules: Mapping[str, nn.Module], rows: Int[Tensor, " row"] | None = None
    ) -> dict[nn.Module, Attached]:
        """What to attach: row i of a call gets task `rows[i]`; without `rows` the one task serves all rows.

        Raises `ValueError` if there are several tasks and no `rows`, or if a place is unknown.
        """
        unknown = sorted(set(self.places) - set(modules))
        if unknown:
            raise ValueError(f"the bank has factors for {unknown[0]!r}, which is no site of this backbone")
        if rows is None and self.tasks != 1:
            raise ValueError(f"a bank of {self.tasks} tasks needs to know which row of the batch has which task")
        shared = rows is None or self.tasks == 1
        chosen = self if shared else self.select(rows)  # type: ignore[arg-type]
        return {modules[place]: chosen.acting(place, shared) for place in self.places}


class JointBank(Bank):
    """Banks of the same tasks that act together, each at places of its own."""

    def __init__(self, banks: Sequence[Bank]) -> None:
        self.banks = tuple(banks)
        self.module = "+".join(bank.module for bank in banks)  # type: ignore[misc]
        self._owner = {place: bank for bank in banks for place in bank.places}
        if len(self._owner) != sum(len(bank.places) for bank in banks):
            raise ValueError("banks can act together only at places of their own")

    @property
    def places(self) -> tuple[str, ...]:
        """Those of all banks."""
        return tuple(self._owner)

    def tensors(self) -> dict[str, Tensor]:
        """Those of all banks."""
        return {name: tensor for bank in self.banks for name, tensor in bank.tensors().items()}

    def like(self, tensors: Mapping[str, Tensor]) -> "JointBank":
        """Every bank with its own of the other tensors."""
        return JointBank([bank.like({name: tensors[name] for name in bank.tensors()}) for bank in self.banks])

    def joins(self, other: Bank) -> bool:
        """Whether bank joins bank."""
        if not isinstance(other, JointBank) or len(other.banks) != len(self.banks):
            return False
        return all(one.joins(two) for one, two in zip(self.banks, other.banks, strict=True))

    def zero(self) -> "JointBank":
        """Every bank's."""
        return JointBank([bank.zero() for bank in self.banks])

    def mean(self) -> "JointBank":
        """Every bank's."""
        return JointBank([bank.mean() for bank in self.banks])

    def acting(self, place: str, shared: bool) -> Attached:
        """As the bank does to which the place belongs."""
        return self._owner[place].acting(place, shared)


def stack_banks(banks: Sequence[B]) -> B:
    """Join banks of one kind, equal places, shapes and scale along the task axis."""
    first, parts = banks[0], [bank.tensors() for bank in banks]
    alike = all(first.joins(bank) and own.keys() == parts[0].keys() for bank, own in zip(banks, parts, strict=True))
    if not alike:
        raise ValueError("banks can be joined only if their sites and scales are equal")
    return first.like({name: torch.cat([own[name] for own in parts]) for name in parts[0]})


def row_fault(laid_out: int, found: int) -> ValueError:
    """A bank laid out for other rows than a call has would broadcast silently for a batch of one."""
    return ValueError(f"the bank is laid out for {laid_out} rows, the call has {found}")
