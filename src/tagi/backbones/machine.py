"""The default device, and a progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from tagi.activity import activity


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def counting(name: str, total: int, progress: bool = True) -> Iterator[Callable[[int], None]]:
    """Show progress: a bar on a terminal, else as activity of the command. Yields the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not progress:
        yield lambda count: None
        return
    if not console.is_terminal:
        done = 0
        with activity(f"{name}: 0 of {total}") as tell:

            def advance(count: int) -> None:
                nonlocal done
                done += count
                tell(f"{name}: {done} of {total}")

            yield advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with activity(None), Progress(*columns, console=console) as bar:
        shown = bar.add_task(name, total=total)
        yield lambda count: bar.advance(shown, count)


def machine_dtype() -> torch.dtype:
    """Return the fastest type for training: bfloat16 on accelerators and CPUs that support it, else float32."""
    if torch.accelerator.is_available():
        return torch.bfloat16
    supported = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86, Arm
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(capabilities.get(name) for name in supported) else torch.float32
