"""Attention with a prefix: masks of every form, and what cannot take one refused."""

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from tagi.adapters.attach import Attachment, AttentionPrefix
from tagi.backbones.prefix_attention import take_prefixes, takes_prefixes
from tagi.errors import ConfigError
from tests.models import D_KV, HEADS, INPUTS, random_module, rounding, tiny_backbone, tokenizer
from tests.models import ROUNDING as ROUNDING_FP64

ROWS, QUERIES, KEYS, TOKENS = 2, 7, 9, 4


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention_of(name: str) -> nn.Module:
    backbone = tiny_backbone()
    backbone.model.set_attn_implementation(name)
    take_prefixes(backbone.model)
    module: nn.Module = backbone.model.decoder.block[0].layer[0].SelfAttention
    return module


def by_hand(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, bias: Tensor) -> Tensor:
    """Softmax over what is seen, query by query; `seen` and `bias` are (row, head, query, key)."""
    scores = query @ key.mT + bias
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("queries", [QUERIES, 1])
@pytest.mark.parametrize("mask", ["padding", "causal left to the arithmetic", "none"])
@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_a_prefix_is_seen_by_all_and_has_no_bias(name: str, mask: str, queries: int) -> None:
    module = attention_of(name)
    if name == "eager" and mask == "causal left to the arithmetic":
        mask = "padding"  # eager attention is always given its mask
    keys = queries if mask.startswith("causal") else KEYS
    query, key, value = (draw(ROWS, HEADS, n, D_KV, seed=at) for at, n in enumerate((queries, keys, keys)))
    bias = draw(1, HEADS, queries, keys, seed=3)
    prefix = AttentionPrefix(draw(ROWS, HEADS, TOKENS, D_KV, seed=4), draw(ROWS, HEADS, TOKENS, D_KV, seed=5), False)
    seen = torch.ones(ROWS, 1, queries, keys, dtype=torch.bool)
    given: Tensor | None = None
    module.is_causal = mask.startswith("causal")
    if mask == "padding":
        seen[1, :, :, 5:] = False
        given = seen if name == "sdpa" else torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -1e30)
    elif module.is_causal:
        seen = seen.tril()
    run = AttentionInterface()[f"tagi_prefixed_{name}"]
    options = {"scaling": 1.0, "position_bias": bias}
    with Attachment({module: prefix}).active():
        found, _ = run(module, query, key, value, given, **options)
    wide = torch.cat([prefix.keys, key], 2), torch.cat([prefix.values, value], 2)
    visible = torch.cat([torch.ones(ROWS, 1, queries, TOKENS, dtype=torch.bool), seen], 3)
    unbiased = torch.cat([torch.zeros(1, HEADS, queries, TOKENS, dtype=torch.float64), bias], 3)
    assert rounding(found, by_hand(query, *wide, visible, unbiased)) < ROUNDING_FP64
    bare, _ = run(module, query, key, value, given, **options)
    assert rounding(bare, by_hand(query, key, value, seen, bias)) < ROUNDING_FP64
    assert rounding(found, bare) > 0.01
    shared = AttentionPrefix(prefix.keys[:1], prefix.values[:1], True)
    with Attachment({module: shared}).active():
        same, _ = run(module, query, key, value, given, **options)
    assert rounding(same[0], found[0]) < ROUNDING_FP64
    with (
        Attachment({module: AttentionPrefix(prefix.keys[:1], prefix.values[:1], False)}).active(),
        pytest.raises(ValueError, match="laid out for 1 rows, the call has 2"),
    ):
        run(module, query, key, value, given, **options)


@pytest.mark.parametrize("variant", ["v1.0", "mt5"])
@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_taking_prefixes_changes_nothing_without_one(name: str, variant: str) -> None:
    backbone = tiny_backbone(variant)
    backbone.model.set_attn_implementation(name)
    text = [tokenizer()(one)["input_ids"] for one in INPUTS]
    length = max(map(len, text))
    ids = torch.tensor([one + [0] * (length - len(one)) for one in text])
    labels = ids[:, :4]

    def everything() -> list[Tensor]:
        found = []
        for mask in (ids != 0, torch.ones_like(ids, dtype=torch.bool)):  # with padding, and without: no mask at all
            encoded = backbone.encode(ids, mask)
            found += [encoded, backbone.logits(encoded, mask, labels)]
            found.append(backbone.generate(backbone.cross_keys_values(encoded), mask, max_new_tokens=5, num_beams=2))
        return found

    with torch.no_grad():
        wanted = everything()
        assert not takes_prefixes(backbone.model.encoder)
        backbone.take_prefixes()
        backbone.take_prefixes()  # once is enough
        assert takes_prefixes(backbone.model.encoder, backbone.model.decoder)
        assert all(map(torch.equal, everything(), wanted))


def test_a_prefix_that_would_be_overlooked_is_refused() -> None:
    backbone = tiny_backbone()
    bank = random_module(backbone, "prefix", tasks=1)
    assert len(backbone.hooks(bank)) == len(backbone.attentions)
    backbone.model.set_attn_implementation("eager")  # someone chose another since
    with pytest.raises(ValueError, match="takes no prefixes"):
        backbone.hooks(bank)
    backbone.take_prefixes()
    backbone.hooks(bank)
    backbone.model.decoder.config._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match="takes no prefixes"):
        backbone.hooks(bank)
    backbone.hooks(random_module(backbone, "bottleneck", tasks=1))


def test_attention_that_cannot_is_refused() -> None:
    backbone = tiny_backbone()
    backbone.model.config._attn_implementation = "flex_attention"
    with pytest.raises(ConfigError, match="expected attention implemented by 'sdpa' or 'eager', got 'flex_attention'"):
        backbone.take_prefixes()


def test_a_saved_backbone_does_not_name_it() -> None:
    backbone = tiny_backbone()
    backbone.take_prefixes()
    assert "tagi_prefixed" not in str(backbone.model.config.to_dict())
