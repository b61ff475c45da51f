"""The LoRA bank: generated factors for every target module of a backbone, for several tasks at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tagi.adapters.attach import Attached, OutputHook
from tagi.adapters.protocol import Bank, PlacedBank, row_fault
from tagi.adapters.slices import sliced_layers, whole_layers

Factors = tuple[Float[Tensor, "task rank d_in"], Float[Tensor, "task d_out rank"]]


@dataclass(frozen=True)
class LoraBank(PlacedBank):
    """LoRA factors per target module, in PEFT's orientation: `y += scale * B(Ax)`.

    Args:
        factors: A `(task, rank, d_in)` and B `(task, d_out, rank)` by the path of the target module.
        scale: alpha / rank, the same for every target module.
    """

    factors: Mapping[str, Factors]
    scale: float

    module = "lora"
    parts = ("A", "B")
    zeroed = ("B",)

    @property
    def form(self) -> tuple[float]:
        """The scale."""
        return (self.scale,)

    @property
    def rank(self) -> int:
        """Rows of A."""
        return next(iter(self.factors.values()))[0].shape[1]

    def whole(self) -> "LoraBank":
        """Return the same update as factors of whole layers: slices of one layer are joined, and their ranks added."""
        return LoraBank(whole_layers(self.factors), self.scale)

    def sliced(self, target_modules: Sequence[str]) -> "LoraBank":
        """Invert `whole`: return factors of `target_modules`. Slices of one layer must have equal ranks."""
        return LoraBank(sliced_layers(target_modules, self.factors), self.scale)

    def mean(self) -> "LoraBank":
        """Return a bank with one task, whose update Delta W is the mean over all tasks.

        The mean of products is not the product of means, so the factors are concatenated along the rank. The result has
        rank `tasks * rank`.
        """
        factors = {}
        for module, (a, b) in self.factors.items():
            stacked_a = a.flatten(0, 1).unsqueeze(0)
            stacked_b = b.permute(1, 0, 2).flatten(1, 2).unsqueeze(0) / self.tasks
            factors[module] = (stacked_a, stacked_b)
        return LoraBank(factors, self.scale)

    def delta(self, module: str, task: int = 0) -> Float[Tensor, "d_out d_in"]:
        """Return Delta W of one target module for one task, including the scale, in fp32 or higher precision."""
        a, b = self.factors[module]
        dtype = torch.promote_types(a.dtype, torch.float32)
        return self.scale * (b[task].to(dtype) @ a[task].to(dtype))

    def acting(self, place: str, shared: bool) -> OutputHook:
        """Return a hook that adds `scale * B(Ax)` to the target module's output."""
        a, b = self.factors[place]
        return _shared_hook(a[0], b[0], self.scale) if shared else _per_row_hook(a, b, self.scale)

    def hooks(
        self, modules: Mapping[str, nn.Module], rows: Int[Tensor, " row"] | None = None
    ) -> dict[nn.Module, Attached]:
        """Return the attachment. `modules` are the target modules' layers by path."""
        return super(LoraBank, self.whole()).hooks(modules, rows)


def as_lora(bank: Bank, what: str) -> LoraBank:
    """Return the bank if it is a LoRA bank. Otherwise raise a `ValueError` that names what needs LoRA."""
    if not isinstance(bank, LoraBank):
        raise ValueError(f"{what}: expected a bank of LoRA, got {bank.module}")
    return bank


def delta_products(bank: LoraBank) -> Float[Tensor, "task task"]:
    """Compute the inner products `<Delta W_i, Delta W_j>` of the tasks' updates over all target modules, in fp64.

    Uses r-by-r products, `scale^2 sum (B_i^T B_j) * (A_i A_j^T)`, without computing Delta W.
    """
    products = torch.zeros(bank.tasks, bank.tasks, dtype=torch.float64)
    for a, b in bank.factors.values():
        down, up = a.detach().cpu().double(), b.detach().cpu().double()
        joined_down = down.flatten(0, 1) @ down.flatten(0, 1).T
        joined_up = up.permute(0, 2, 1).flatten(0, 1) @ up.permute(1, 0, 2).flatten(1)
        shape = (bank.tasks, bank.rank, bank.tasks, bank.rank)
        products += (joined_down.view(shape) * joined_up.view(shape)).sum((1, 3))
    return bank.scale**2 * products


def delta_variance(bank: LoraBank) -> float:
    """Compute the relative variance of the tasks' updates: E_task ||Delta W - mean||^2 / E_task ||Delta W||^2.

    It is 0 if all tasks have the same update, and near 1 if the updates are unrelated.
    """
    products = delta_products(bank)
    total = float(products.diagonal().mean())
    return max(0.0, total - float(products.mean())) / total if total else 0.0


def _shared_hook(a: Float[Tensor, "rank d_in"], b: Float[Tensor, "d_out rank"], scale: float) -> OutputHook:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0]
        low = nn.functional.linear(x, a.to(x.dtype))
        return output + nn.functional.linear(low, b.to(x.dtype)) * scale

    return hook


def _per_row_hook(a: Float[Tensor, "row rank d_in"], b: Float[Tensor, "row d_out rank"], scale: float) -> OutputHook:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0]
        if x.shape[0] != a.shape[0]:
            raise row_fault(a.shape[0], x.shape[0])
        low = x @ a.to(x.dtype).transpose(1, 2)
        return output + (low @ b.to(x.dtype).transpose(1, 2)) * scale

    return hook
