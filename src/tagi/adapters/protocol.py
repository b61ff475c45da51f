"""The interface of banks: generated parameters of several tasks, and their attachment to a model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tagi.adapters.attach import Attached

B = TypeVar("B", bound="Bank")
P = TypeVar("P", bound="PlacedBank")


class Bank(ABC):
    """Generated parameters of several tasks. The first axis of every tensor is the task.

    A place is the path of a backbone module that the bank changes.
    """

    module: ClassVar[str]
    """The kind of generated module, as in `generator.module` of recipes."""
    zeroed: ClassVar[tuple[str, ...]] = ()
    """Parts that are 0 in an adapter without effect."""

    @property
    @abstractmethod
    def places(self) -> tuple[str, ...]:
        """Paths of all modules that the bank changes."""

    @property
    @abstractmethod
    def form(self) -> tuple[Any, ...]:
        """Everything in the bank besides tensors. Banks of equal form can be stacked."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return all generated tensors, named `place.part`."""

    @abstractmethod
    def like(self: B, tensors: Mapping[str, Tensor]) -> B:
        """Return the bank with other tensors under the same names."""

    @abstractmethod
    def mean(self: B) -> B:
        """Return a bank with one task, whose update is the mean over all tasks."""

    @abstractmethod
    def acting(self, place: str, shared: bool) -> Attached:
        """Return the attachment for `place`: task i for row i, or with `shared` one task for all rows."""

    def zero(self: B) -> B:
        """Return a bank of the same number of tasks without effect."""
        zeros = {
            name: torch.zeros_like(tensor) if name.rpartition(".")[2] in self.zeroed else tensor
            for name, tensor in self.tensors().items()
        }
        return self.like(zeros)

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return next(iter(self.tensors().values())).shape[0]

    @property
    def parameters_per_task(self) -> int:
        """Number of parameters generated per task."""
        return sum(tensor[0].numel() for tensor in self.tensors().values())

    def select(self: B, rows: Int[Tensor, " row"]) -> B:
        """Return the bank whose task i is task `rows[i]` of this one. Rows may repeat."""
        return self.map(lambda tensor: tensor[rows])

    def map(self: B, function: Callable[[Tensor], Tensor]) -> B:
        """Return the bank with `function` applied to every tensor."""
        return self.like({name: function(tensor) for name, tensor in self.tensors().items()})

    def hooks(
        self, modules: Mapping[str, nn.Module], rows: Int[Tensor, " row"] | None = None
    ) -> dict[nn.Module, Attached]:
        """Return the attachment: row i of a call uses task `rows[i]`; without `rows` all rows use the only task.

        Raises `ValueError` if there are several tasks and no `rows`, or if a place is unknown.
        """
        unknown = sorted(set(self.places) - set(modules))
        if unknown:
            raise ValueError(f"the bank has factors for {unknown[0]!r}, which is no target module of this backbone")
        if rows is None and self.tasks != 1:
            raise ValueError(f"a bank of {self.tasks} tasks needs to know which row of the batch has which task")
        shared = rows is None or self.tasks == 1
        chosen = self if shared else self.select(rows)  # type: ignore[arg-type]
        return {modules[place]: chosen.acting(place, shared) for place in self.places}


@dataclass(frozen=True)
class PlacedBank(Bank):
    """A bank that holds the same parts at every place.

    Args:
        factors: The parts' tensors by place, in the order of `parts`.
    """

    factors: Mapping[str, tuple[Tensor, ...]]
    parts: ClassVar[tuple[str, ...]]
    packed: ClassVar[Any] = tuple
    """Builds the factors of one place from its parts."""

    @property
    def places(self) -> tuple[str, ...]:
        """Paths of all modules that the bank changes."""
        return tuple(self.factors)

    def tensors(self) -> dict[str, Tensor]:
        """Return all generated tensors, named `place.part`."""
        return {
            f"{place}.{part}": tensor
            for place, tensors in self.factors.items()
            for part, tensor in zip(self.parts, tensors, strict=True)
        }

    def like(self: P, tensors: Mapping[str, Tensor]) -> P:
        """Return the bank with other tensors under the same names."""
        factors = {place: self.packed(tensors[f"{place}.{part}"] for part in self.parts) for place in self.factors}
        return replace(self, factors=factors)


class JointBank(Bank):
    """Several banks of the same tasks that act at different places."""

    def __init__(self, banks: Sequence[Bank]) -> None:
        self.banks = tuple(banks)
        self.module = "+".join(bank.module for bank in banks)  # type: ignore[misc]
        self._owner = {place: bank for bank in banks for place in bank.places}
        if len(self._owner) != sum(len(bank.places) for bank in banks):
            raise ValueError("banks can act together only at places of their own")

    @property
    def places(self) -> tuple[str, ...]:
        """Paths of all modules that any of the banks acts on."""
        return tuple(self._owner)

    @property
    def form(self) -> tuple[Any, ...]:
        """Kind and form of every bank."""
        return tuple((type(bank), bank.form) for bank in self.banks)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of all banks."""
        return {name: tensor for bank in self.banks for name, tensor in bank.tensors().items()}

    def like(self, tensors: Mapping[str, Tensor]) -> "JointBank":
        """Return the banks with other tensors under the same names."""
        return JointBank([bank.like({name: tensors[name] for name in bank.tensors()}) for bank in self.banks])

    def zero(self) -> "JointBank":
        """Return a bank of the same number of tasks without effect."""
        return JointBank([bank.zero() for bank in self.banks])

    def mean(self) -> "JointBank":
        """Return the means of all banks."""
        return JointBank([bank.mean() for bank in self.banks])

    def acting(self, place: str, shared: bool) -> Attached:
        """Return the attachment of the bank that has `place`."""
        return self._owner[place].acting(place, shared)


def stack_banks(banks: Sequence[B]) -> B:
    """Concatenate banks along the task axis.

    Raises `ValueError` if they differ in kind, form, places or shapes.
    """
    first, parts = banks[0], [bank.tensors() for bank in banks]
    if any(
        (type(bank), bank.form, bank.tensors().keys()) != (type(first), first.form, parts[0].keys()) for bank in banks
    ):
        raise ValueError("banks can be joined only if their target modules and scales are equal")
    return first.like({name: torch.cat([own[name] for own in parts]) for name in parts[0]})


def row_fault(laid_out: int, found: int) -> ValueError:
    """Return the error for a bank whose number of tasks does not fit the rows of a call."""
    return ValueError(f"the bank is laid out for {laid_out} rows, the call has {found}")
