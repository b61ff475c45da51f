"""Attention implementations with a prefix from the active attachment.

transformers selects attention implementations by name. This module registers implementations that prepend the prefix,
if there is one, and call transformers' own implementations.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface

from tagi.adapters.attach import AttentionPrefix, prefix_of
from tagi.adapters.protocol import row_fault
from tagi.errors import ConfigError

_NAME = "tagi_prefixed_"
_Attention = Callable[..., tuple[Tensor, Tensor | None]]


def take_prefixes(model: Any) -> None:
    """Make the model's attention modules use prefixes. Without a prefix the results are identical to before.

    Raises `ConfigError` if the attention implementation, or the version of transformers, does not support this.
    """
    found = str(model.config._attn_implementation)
    if found.startswith(_NAME):
        return
    own = _implementations()
    if found not in own or not model._can_set_attn_implementation():
        known = " or ".join(repr(name) for name in own)
        raise ConfigError(f"prefixes: expected attention implemented by {known or 'an interface'}, got {found!r}")
    for name, (attention, mask) in own.items():
        AttentionInterface.register(_NAME + name, _prefixed(attention))
        AttentionMaskInterface.register(_NAME + name, mask)
    model.set_attn_implementation(_NAME + found)


def takes_prefixes(*stacks: Any) -> bool:
    """Whether these models use prefixes. False if the attention implementation was changed since `take_prefixes`."""
    return all(str(stack.config._attn_implementation).startswith(_NAME) for stack in stacks)


def _implementations() -> dict[str, tuple[_Attention, Callable[..., Any]]]:
    """Return transformers' implementations of attention with a position bias, and of its masks, by name."""
    try:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward
        from transformers.masking_utils import eager_mask, sdpa_mask
        from transformers.models.t5.modeling_t5 import eager_attention_forward
    except ImportError:  # before T5's attention could be chosen
        return {}
    return {"sdpa": (sdpa_attention_forward, sdpa_mask), "eager": (eager_attention_forward, eager_mask)}


def _prefixed(own: _Attention) -> _Attention:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        position_bias: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        prefix = prefix_of(module)
        if prefix is not None and prefix.tokens:
            attention_mask = _visible(attention_mask, module, query, key, prefix.tokens)
            key, value = _before(prefix, key, value)
            if position_bias is not None:
                position_bias = pad(position_bias, (prefix.tokens, 0))
        return own(module, query, key, value, attention_mask, position_bias=position_bias, **options)

    return attention


def _before(
    prefix: AttentionPrefix,
    keys: Float[Tensor, "row heads token d_kv"],
    values: Float[Tensor, "row heads token d_kv"],
) -> tuple[Float[Tensor, "row heads joined d_kv"], Float[Tensor, "row heads joined d_kv"]]:
    """Concatenate the prefix and the attention's own keys or values."""
    rows, laid_out = keys.shape[0], prefix.keys.shape[0]
    if laid_out != rows and not prefix.shared:
        raise row_fault(laid_out, rows)

    def join(generated: Tensor, own: Tensor) -> Tensor:
        return torch.cat([generated.to(own.dtype).expand(rows, -1, -1, -1), own], dim=2)

    return join(prefix.keys, keys), join(prefix.values, values)


def _visible(
    mask: Bool[Tensor, "#row 1 #query token"] | Float[Tensor, "#row 1 #query token"] | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    tokens: int,
) -> Tensor | None:
    """Return the mask with a visible prefix. An implicit causal mask is made explicit.

    Masks are boolean (True for visible) or are added to the scores.
    """
    if mask is None:
        asked, known = query.shape[2], key.shape[2]
        if not getattr(module, "is_causal", False) or asked == 1:
            return None
        mask = torch.ones(asked, known, dtype=torch.bool, device=key.device).tril()[None, None]
    return pad(mask, (tokens, 0), value=1 if mask.dtype == torch.bool else 0)
