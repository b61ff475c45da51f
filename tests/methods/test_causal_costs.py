"""The decoder-only formulas give what PyTorch's counter counts when transformers' models answer."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from tagi.errors import ConfigError
from tagi.methods.causal import CausalConcatenation
from tagi.methods.flops.causal import CausalShapes, causal_concatenation_cost
from tagi.methods.flops.costs import Lengths
from tagi.settings.generator import LoraShape
from tagi.settings.text import TextSettings
from tests import causal_models
from tests.methods.counting import counting

SEEN, READ, WRITTEN = 13, 7, 5
"""Tokens of instruction, input and answer."""

TEXT = TextSettings(encoding="plain", max_input_tokens=29, max_target_tokens=7)

GPT2 = CausalShapes(d_model=24, inner=24, key_value=24, d_ff=37, gated=False, layers=3, vocabulary=101)
OPT = CausalShapes(d_model=20, inner=20, key_value=20, d_ff=33, gated=False, layers=2, vocabulary=89)
LLAMA = CausalShapes(d_model=18, inner=30, key_value=10, d_ff=41, gated=True, layers=4, vocabulary=97)


def gpt2() -> Any:
    config = GPT2Config(n_embd=24, n_inner=37, n_layer=3, n_head=4, vocab_size=101, n_positions=64)
    return GPT2LMHeadModel(config)


def opt() -> Any:
    sizes = {"hidden_size": 20, "ffn_dim": 33, "num_hidden_layers": 2, "num_attention_heads": 5, "vocab_size": 89}
    return OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=20, max_position_embeddings=64))


def llama() -> Any:
    """Heads share keys and values, and are wider than the model together."""
    sizes = {"hidden_size": 18, "intermediate_size": 41, "num_hidden_layers": 4, "head_dim": 10, "vocab_size": 97}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=3, num_key_value_heads=1))


MODELS = {"gpt2": (gpt2, GPT2), "opt": (opt, OPT), "llama": (llama, LLAMA)}


@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_is_read_anew_or_its_start_kept(name: str) -> None:
    make, shapes = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.randint(3, 80, (1, SEEN + READ))

    def write(cache: DynamicCache, start: int) -> None:
        logits = model(ids[:, start:], past_key_values=cache, logits_to_keep=1).logits
        for _ in range(WRITTEN - 1):
            logits = model(logits.argmax(-1), past_key_values=cache, logits_to_keep=1).logits

    with counting() as anew:
        write(DynamicCache(), 0)
    kept = DynamicCache()
    with counting() as once:
        model.base_model(ids[:, :SEEN], past_key_values=kept)
    with counting() as each:
        write(kept, SEEN)
    lengths = Lengths(SEEN, READ, WRITTEN, 9)
    whole = causal_concatenation_cost(shapes, lengths, prefix_cached=False)
    assert (whole.once.total, whole.each.total) == (0, anew.total)
    assert whole.each.head == anew.inside("lm_head")
    cached = causal_concatenation_cost(shapes, lengths, prefix_cached=True)
    assert cached.once.total == cached.once.instruction == once.total
    assert cached.each.total == each.total
    assert cached.total == cached.once.total + 9 * cached.each.total < whole.total


def test_a_measured_prompt_may_be_shorter_than_its_parts() -> None:
    lengths = Lengths(SEEN, READ, WRITTEN, concatenated=SEEN + READ - 2)
    wanted = Lengths(SEEN, READ - 2, WRITTEN)
    for cached in (True, False):
        found = causal_concatenation_cost(OPT, lengths, prefix_cached=cached)
        assert found == causal_concatenation_cost(OPT, wanted, prefix_cached=cached)
    cut = replace(lengths, concatenated=SEEN - 3)
    assert causal_concatenation_cost(OPT, cut, prefix_cached=True).once.instruction == OPT.read(SEEN - 3)


@pytest.mark.parametrize("name", MODELS)
def test_shapes_are_found_in_a_model(name: str) -> None:
    make, shapes = MODELS[name]
    with torch.device("meta"):
        assert CausalShapes.of(make()) == shapes


@pytest.mark.parametrize("kind", causal_models.MODELS)
@pytest.mark.parametrize("rank", [None, 2])
def test_a_method_costs_what_it_does(kind: str, rank: int | None) -> None:
    if rank is not None and kind in causal_models.FUSED:
        with pytest.raises(ConfigError):
            CausalConcatenation(causal_models.tiny_causal(kind), TEXT, LoraShape(rank, 3.0))
        return
    fields = {"word_embed_proj_dim": causal_models.HIDDEN} if kind == "opt" else {}
    backbone = causal_models.tiny_causal(kind, **fields)
    lora = None if rank is None else LoraShape(rank, 3.0)
    method = CausalConcatenation(backbone, TEXT, lora).eval()
    ids, mask = torch.randint(3, 80, (1, SEEN + READ)), torch.ones(1, SEEN + READ, dtype=torch.bool)
    labels = torch.randint(3, 80, (1, 1))
    with counting() as counted:
        backbone.logits(ids, mask, labels)  # what gives the first token of an answer
    cost = method.cost(Lengths(SEEN, READ, 1, 9))
    assert cost.once.total == 0
    assert cost.each.total == counted.total
    assert (cost.each.adapter > 0) == (rank is not None)


def test_layers_of_another_kind_are_not_costed() -> None:
    with pytest.raises(ConfigError, match=r"FLOPs: expected layers .*got 'opt' with"):
        CausalShapes.of(causal_models.tiny_causal("opt").model)
