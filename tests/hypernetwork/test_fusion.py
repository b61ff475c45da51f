"""Fusion by hand, its starts, and the padding that never counts."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.attach import Attachment
from tagi.hypernetwork.fusion import Fusion, FusionLayer
from tagi.settings.generator import GeneratorSettings
from tests.models import (
    ALPHA,
    D_KV,
    D_MODEL,
    DECODER,
    ENCODER,
    HEADS,
    HIDDEN,
    INSTRUCTIONS,
    ROW_TASKS,
    ROWS,
    TASKS,
    same,
    tiny_backbone,
    tiny_generator,
)

EPSILON, TOKENS, INSTRUCTION_TOKENS = 1e-6, 8, 11


def settings(**changed: Any) -> GeneratorSettings:
    return GeneratorSettings(kind="pooled", alpha=ALPHA, hidden=HIDDEN, **changed)


def layer(norm: Any = "pre", gate: float = 0.7) -> FusionLayer:
    backbone = tiny_backbone()
    assert (backbone.width, backbone.heads, backbone.d_kv, backbone.norm_epsilon) == (D_MODEL, HEADS, D_KV, EPSILON)
    torch.manual_seed(0)
    made = FusionLayer(backbone, norm).double().eval()
    with torch.no_grad():
        made.norm.weight.uniform_(0.5, 1.5)
        made.q.weight.mul_(10)  # scores that differ between tokens
        if made.gate is not None:
            made.gate.fill_(gate)
    return made


def given(rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    states = torch.randn(rows, TOKENS, D_MODEL, generator=random, dtype=torch.float64)
    instruction = torch.randn(rows, INSTRUCTION_TOKENS, D_MODEL, generator=random, dtype=torch.float64)
    mask = torch.arange(INSTRUCTION_TOKENS) < 1 + (torch.arange(rows)[:, None] * 3) % INSTRUCTION_TOKENS
    return states, instruction, mask


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_eq_1_by_hand(norm: str) -> None:
    fusion, (states, instruction, mask) = layer(norm), given()
    found = fusion(states, *fusion.keys_values(instruction), mask)

    def rms(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * fusion.norm.weight

    for row in range(ROWS):
        known = instruction[row][mask[row]]
        queries = fusion.q.weight @ (rms(states[row]) if norm == "pre" else states[row]).T
        read = []
        for head in range(HEADS):
            part = slice(head * D_KV, (head + 1) * D_KV)
            scores = queries[part].T @ (fusion.k.weight @ known.T)[part]  # T5 does not scale them
            read.append(scores.softmax(-1) @ (fusion.v.weight @ known.T)[part].T)
        attended = torch.cat(read, dim=-1) @ fusion.o.weight.T
        wanted = states[row] + 0.7 * attended if norm == "pre" else rms(states[row] + attended)
        same(found[row], wanted)


def test_one_task_serves_all_rows() -> None:
    fusion, (states, instruction, mask) = layer(), given()
    keys, values = fusion.keys_values(instruction)
    found = fusion(states, keys[2:3], values[2:3], mask[2:3])
    rows = torch.full((ROWS,), 2)
    same(found, fusion(states, keys[rows], values[rows], mask[rows]))


def test_a_closed_gate_is_the_state_to_the_bit() -> None:
    fusion, (states, instruction, mask) = layer(gate=0.0), given()
    assert torch.equal(fusion(states, *fusion.keys_values(instruction), mask), states)


def test_it_starts_closed_and_as_t5_starts() -> None:
    fusion = Fusion(tiny_backbone(), settings(seed=3))
    assert len(fusion.layers) == ENCODER
    for one in fusion.layers:
        assert one.gate.item() == 0
        assert torch.equal(one.norm.weight, torch.ones(D_MODEL))
        for name, std in (("q", (D_MODEL * D_KV) ** -0.5), ("k", D_MODEL**-0.5), ("v", D_MODEL**-0.5)):
            assert getattr(one, name).weight.std().item() == pytest.approx(std, rel=0.15)
        assert one.o.weight.std().item() == pytest.approx((HEADS * D_KV) ** -0.5, rel=0.15)
    assert Fusion(tiny_backbone(), settings(fusion_norm="post")).layers[0].gate is None


def test_the_seed_alone_decides() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = Fusion(tiny_backbone(), settings(seed=3)).state_dict()
    torch.manual_seed(1)
    Fusion(tiny := tiny_backbone(), settings(seed=3))
    torch.random.set_rng_state(state)
    again = Fusion(tiny, settings(seed=3))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in one.items())
    assert not torch.equal(Fusion(tiny, settings(seed=4)).layers[0].q.weight, again.layers[0].q.weight)
    assert not torch.equal(again.layers[1].q.weight, again.layers[0].q.weight)


def test_it_can_start_as_the_decoders_cross_attention() -> None:
    backbone = tiny_backbone()
    fusion = Fusion(backbone, settings(fusion_init="cross"))
    for at, source in enumerate((0, 0, 1)):  # 3 encoder layers from 2 of the decoder
        for name in "qkvo":
            found = getattr(fusion.layers[at], name).weight
            wanted = getattr(backbone.cross_attentions[source], name).weight
            assert torch.equal(found, wanted)
            assert found is not wanted
    assert len(backbone.cross_attentions) == DECODER
    assert fusion.layers[0].gate.item() == 0
    deep = Fusion(tiny_backbone("deep decoder"), settings(fusion_init="cross"))
    assert len(deep.layers) == 2


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_every_encoder_layer_is_fused_after_its_self_attention(norm: Any) -> None:
    """What the feed-forward part of a layer reads is F_l, made from S_l, the state after the residual."""
    backbone = tiny_backbone().double()
    generator = tiny_generator(backbone, fusion_norm=norm).double()
    assert generator.fusion is not None
    ids, mask = generator.text.batch([generator.text.instruction(text) for text in INSTRUCTIONS])
    keys_values = generator.fusion.keys_values(generator.encode_instructions(ids, mask))
    seen: dict[str, list[Tensor]] = {"before": [], "after": []}

    def before(_module: Any, _args: Any, output: Any) -> None:
        seen["before"].append(output[0])

    def after(_module: Any, args: Any) -> None:
        seen["after"].append(args[0])

    handles = [
        handle
        for block in backbone.model.encoder.block
        for handle in (
            block.layer[0].register_forward_hook(before),  # runs before what is attached later
            block.layer[1].register_forward_pre_hook(after),
        )
    ]
    with Attachment(generator.fusion.hooks(backbone, keys_values, mask)).active():
        backbone.encode(ids, mask)
    for handle in handles:
        handle.remove()
    assert len(seen["before"]) == len(seen["after"]) == ENCODER
    for at, (state, fused) in enumerate(zip(seen["before"], seen["after"], strict=True)):
        same(fused, generator.fusion.layers[at](state, *keys_values[at], mask))
        assert (fused - state).abs().max() > 0.01


def test_padding_of_instructions_never_counts() -> None:
    fusion, (states, instruction, mask) = layer(), given(len(ROW_TASKS))
    padded = torch.cat([instruction, torch.full((ROWS, 2, D_MODEL), 1e3, dtype=torch.float64)], dim=1)
    longer = torch.cat([mask, torch.zeros(ROWS, 2, dtype=torch.bool)], dim=1)
    padded[~longer] = -1e3
    same(
        fusion(states, *fusion.keys_values(padded), longer),
        fusion(states, *fusion.keys_values(instruction), mask),
    )


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_states_of_a_narrower_type_are_read_and_kept(norm: Any) -> None:
    fusion = layer(norm).float()
    states, instruction, mask = given(TASKS)
    narrow = states.bfloat16()
    keys, values = fusion.keys_values(instruction.bfloat16())
    found = fusion(narrow, keys, values, mask)
    assert (keys.dtype, found.dtype) == (torch.float32, torch.bfloat16)
    exact = fusion(narrow.float(), keys, values, mask)
    assert (found.float() - exact).abs().max() <= 2 * torch.finfo(torch.bfloat16).eps * exact.abs().max()
