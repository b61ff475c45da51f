"""The default device, and a progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def counting(name: str, total: int, progress: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr if it is a terminal. Yields the function that advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bar:
        shown = bar.add_task(name, total=total)
        yield lambda count: bar.advance(shown, count)


def machine_dtype() -> torch.dtype:
    """Return the fastest type for training: bfloat16 on accelerators and CPUs that support it, else float32."""
    if torch.accelerator.is_available():
        return torch.bfloat16
    supported = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, Arm
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(capabilities.get(name) for name in supported) else torch.float32
