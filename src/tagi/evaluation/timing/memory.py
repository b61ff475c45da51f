"""Peak memory of a call, and memory of tensors."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = "torch's allocator: most bytes allocated during the call, above those before it"
CPU = (
    "most bytes of tensors alive at once, looked at after every operation, above those before the call; "
    "what an operation uses inside is not seen"
)


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the tensors' storages. Shared storages count once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def peak_bytes(call: Callable[[], object], device: torch.device) -> tuple[int, str]:
    """Return the peak of additional memory during `call`, in bytes, and how it was measured.

    On a CPU the call is slow, because every operation is traced.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, CUDA
    with _Alive() as alive:
        call()
    return alive.peak, CPU


class _Alive(TorchDispatchMode):
    """Tracks the total size of live storages that operations create."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {_key(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and _key(tensor) not in given | self._counted:
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        size = storage.nbytes()
        self._counted.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
