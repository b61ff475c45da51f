"""Query and value inside layers that project query, key and value at once."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from tagi.adapters.slices import slice_name
from tagi.backbones.protocol import Projection, TargetModule

Columns = tuple[tuple[int, int], tuple[int, int], int]
"""Start and stop of the query and of the value, and their period in columns."""


def fused_target_modules(model: nn.Module) -> tuple[TargetModule, ...]:
    """Return query and value columns of every fused projection, with layers numbered in the model's order.

    Empty for models without fused projections.
    """
    target_modules: list[TargetModule] = []
    for path, module in model.named_modules():
        columns = _LAYOUTS.get(path.rsplit(".", 1)[-1])
        if columns is None or not isinstance(module, nn.Linear | Conv1D):
            continue
        d_in, width = module.weight.shape if isinstance(module, Conv1D) else reversed(module.weight.shape)
        query, value, period = columns(model.config, width)
        layer = len(target_modules) // 2
        named: tuple[tuple[Projection, tuple[int, int]], ...] = (("q", query), ("v", value))
        for projection, (start, stop) in named:
            d_out = width // period * (stop - start)
            target_modules.append(TargetModule(slice_name(path, start, stop, period), layer, projection, d_in, d_out))
    return tuple(target_modules)


def _thirds(_config: Any, width: int) -> Columns:
    """All of the query, then the key, then the value (GPT-2)."""
    return (0, width // 3), (2 * width // 3, width), width


def _grouped(config: Any, width: int) -> Columns:
    """Like `_thirds`, but key and value may have fewer heads than the query (Phi-3)."""
    heads, pairs = config.num_attention_heads, config.num_key_value_heads
    head = width // (heads + 2 * pairs)
    return (0, heads * head), (width - pairs * head, width), width


def _by_head(config: Any, width: int) -> Columns:
    """Each head's query, key and value together (GPT-NeoX)."""
    period = width // config.num_attention_heads
    return (0, period // 3), (2 * period // 3, period), period


_LAYOUTS: dict[str, Callable[[Any, int], Columns]] = {
    "c_attn": _thirds,
    "qkv_proj": _grouped,
    "query_key_value": _by_head,
}
"""Layouts by the name of the layer."""
