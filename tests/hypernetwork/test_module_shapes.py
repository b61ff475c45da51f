"""What each paper generates, and how large it is: from configurations alone, on torch's meta device."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.bank import LoraBank
from tagi.adapters.bottleneck import BottleneckBank
from tagi.adapters.prefix_bank import PrefixBank
from tagi.adapters.protocol import JointBank
from tagi.api.generator import AdapterGenerator
from tagi.backbones.load import build_t5
from tagi.backbones.protocol import BaseModel, count_parameters
from tagi.backbones.t5 import T5Backbone
from tagi.hypernetwork.component import ComponentHypernetwork, SharedHeads
from tagi.hypernetwork.heads import JointHeads, RowHeads
from tagi.hypernetwork.pooled import PooledHypernetwork
from tagi.hypernetwork.targets import describe_targets
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings
from tests.models import (
    D_MODEL,
    DECODER,
    ENCODER,
    HEADS,
    HIDDEN,
    MODULES,
    RANK,
    fresh_generator,
    settings,
    tiny_backbone,
    tiny_generator,
    tokenizer,
)

XL: dict[str, Any] = {
    "d_model": 2048,
    "d_kv": 64,
    "num_heads": 32,
    "d_ff": 5120,
    "num_layers": 24,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
TASKS, TOKENS = 3, 11


def generated(**changed: Any) -> tuple[AdapterGenerator, Any]:
    """A generator on T5-XL's shape, and the bank that it makes of three instructions."""
    with torch.device("meta"):
        backbone = T5Backbone(build_t5(XL), tokenizer(), BaseModel("xl", "no weights")).eval()
        settings = GeneratorSettings(**{"alpha": 64.0, "hidden": 128, **changed})
        generator = AdapterGenerator(backbone, settings, TextSettings()).eval()
        states = torch.zeros(TASKS, TOKENS, 2048)
        mask = torch.ones(TASKS, TOKENS, dtype=torch.bool)
        return generator, generator.generate_bank(states, mask)


def of_backbone(generator: AdapterGenerator) -> float:
    return count_parameters(generator.hypernetwork) / count_parameters(generator.backbone)


def test_hint() -> None:
    """Adapters 512 wide beside 48 feed-forwards; 30 keys and values of 32 x 64 for 72 attentions; one MLP per part."""
    generator, bank = generated(
        kind="component", module="bottleneck+prefix", placement="ffn", bottleneck=512, prefix=30, hidden=2048
    )
    assert isinstance(bank, JointBank)
    bottlenecks, prefixes = bank.banks
    assert isinstance(bottlenecks, BottleneckBank)
    assert isinstance(prefixes, PrefixBank)
    assert len(bottlenecks.places) == 48
    assert bottlenecks.parallel
    assert all(place.endswith("DenseReluDense") for place in bottlenecks.places)
    for down, down_bias, up, up_bias in bottlenecks.factors.values():
        assert (down.shape, down_bias.shape) == ((TASKS, 512, 2048), (TASKS, 512))
        assert (up.shape, up_bias.shape) == ((TASKS, 2048, 512), (TASKS, 2048))
    check_prefixes(prefixes)
    heads = generator.hypernetwork.heads
    assert isinstance(generator.hypernetwork, ComponentHypernetwork)
    assert isinstance(heads, SharedHeads)
    outputs = {"down": 2048, "up": 2048, "down_bias": 512, "up_bias": 2048, "keys": 2048, "values": 2048}
    keys = {f"{part}_{width}": width for part, width in outputs.items()}
    assert {key: tuple(weight.shape) for key, weight in heads.first.items()} == dict.fromkeys(keys, (2048, 2048))
    assert {key: tuple(head.shape) for key, head in heads.heads.items()} == {k: (w, 2048) for k, w in keys.items()}
    assert generator.hypernetwork.components.shape == (48 * (2 * 512 + 2) + 72 * 2 * 30, 2048)
    assert of_backbone(generator) < 0.1


def check_prefixes(bank: PrefixBank) -> None:
    assert len(bank.factors) == 24 + 2 * 24 == 72
    kinds = [place.split(".")[0] + place.split(".")[-1] for place in bank.places]
    for kind in ("encoderSelfAttention", "decoderSelfAttention", "decoderEncDecAttention"):
        assert kinds.count(kind) == 24
    vectors = 0
    for pair in bank.factors.values():
        for part in pair:
            assert part.shape == (TASKS, 32, 30, 64)
            vectors += part.shape[2]
    assert vectors == (24 + 2 * 24) * 2 * 30
    assert bank.parameters_per_task == vectors * 32 * 64


@pytest.mark.parametrize("kind", ["pooled", "query", "component"])
def test_hyperprefix(kind: Any) -> None:
    generator, bank = generated(kind=kind, module="prefix", prefix=30, hidden=256, width=256, heads=8)
    assert isinstance(bank, PrefixBank)
    check_prefixes(bank)
    assert of_backbone(generator) < 0.1


def test_hyperlora() -> None:
    """Query and value projections of every attention."""
    _, bank = generated(kind="query", rank=16)
    assert isinstance(bank, LoraBank)
    assert {place.rpartition(".")[2] for place in bank.places} == {"q", "v"}
    assert len(bank.places) == 2 * 72


def test_hypter() -> None:
    """An adapter after every self-attention, by an MLP of its own: hidden d_model / 4, 2dw + w + d numbers out."""
    d, w = 2048, 32
    generator, bank = generated(kind="pooled", module="bottleneck", placement="attention", bottleneck=w, hidden=d // 4)
    assert isinstance(bank, BottleneckBank)
    assert not bank.parallel
    assert len(bank.places) == 24 + 24
    assert sum(place.startswith("encoder.") for place in bank.places) == 24
    assert all(place.endswith(".layer.0.dropout") for place in bank.places)
    for place, layers in bank.factors.items():
        assert (layers.down.shape, layers.up.shape) == ((TASKS, w, d), (TASKS, d, w))
        assert sum(tensor[0].numel() for tensor in layers) == 2 * d * w + w + d, place
    heads = generator.hypernetwork.heads
    assert isinstance(generator.hypernetwork, PooledHypernetwork)
    assert isinstance(heads, RowHeads)
    assert heads.first.shape == (48, d // 4, d)  # none is shared
    assert {head.shape[0] for head in heads.heads.values()} == {48}
    assert of_backbone(generator) < 0.1


def test_what_acts_where_on_a_small_model() -> None:
    backbone = tiny_backbone()
    assert len(backbone.feed_forwards) == len(backbone.self_attention_outputs) == ENCODER + DECODER
    assert len(backbone.attentions) == ENCODER + 2 * DECODER
    for place in backbone.feed_forwards:
        assert type(backbone.places[place]).__name__ == "T5DenseActDense"
    for place in backbone.self_attention_outputs:
        assert isinstance(backbone.places[place], torch.nn.Dropout)
    for place in backbone.attentions:
        assert type(backbone.places[place]).__name__ == "T5Attention"


@pytest.mark.parametrize("name", MODULES)
def test_words_and_sizes_say_what_is_generated(name: str) -> None:
    generator = tiny_generator(**MODULES[name])
    bank = generator.prepare(*generator.text.batch([generator.text.instruction("w1 w2")])).bank
    assert sum(target.parameters for target in generator.targets) == bank.parameters_per_task
    words = {
        "bottleneck": f"bottleneck adapters 7 wide after self-attentions, {ENCODER + DECODER} in all",
        "parallel bottleneck": f"bottleneck adapters 7 wide beside feed-forwards, {ENCODER + DECODER} in all",
        "prefix": f"prefixes of 2 tokens for {ENCODER + 2 * DECODER} attentions",
    }
    words["bottleneck+prefix"] = f"{words['parallel bottleneck']}; {words['prefix']}"
    assert describe_targets(generator.targets) == words[name]
    lora = fresh_generator()
    assert (
        describe_targets(lora.targets)
        == f"LoRA of rank {RANK} (alpha 10) for {2 * (ENCODER + 2 * DECODER)} target modules"
    )
    assert settings(**MODULES[name]).module == bank.module


def rows_of(heads: RowHeads, features: Tensor) -> dict[str, Tensor]:
    return {".".join(key): part for key, part in heads.rows(features).items()}


def test_heads_of_two_targets_are_heads_of_each() -> None:
    """Side by side: features of the first target's rows, then of the second's; none reaches the other's rows."""
    generator = tiny_generator(**MODULES["bottleneck+prefix"])
    heads = generator.hypernetwork.heads
    assert isinstance(heads, JointHeads)
    first, second = heads.parts
    assert isinstance(first, RowHeads)
    assert isinstance(second, RowHeads)
    rows = [(ENCODER + DECODER) * (2 * 7 + 2), (ENCODER + 2 * DECODER) * 2 * 2]
    assert heads.shape == (sum(rows),)
    width = first.first.shape[2]
    features = torch.randn(2, sum(rows), width)
    found = heads(features).tensors()
    shares = features.split(rows, dim=1)
    for part, share in ((first, shares[0]), (second, shares[1])):
        alone = part(share.unflatten(1, part.shape)).tensors()
        assert all(torch.equal(found[key], tensor) for key, tensor in alone.items())
    same = heads(features[:, :1]).tensors()
    wide = heads(features[:, :1].expand(-1, sum(rows), -1)).tensors()
    for key, tensor in same.items():
        torch.testing.assert_close(tensor, wide[key], rtol=1e-4, atol=1e-5)
    assert not torch.equal(first.first[0], second.first[0])


def test_a_row_of_a_bottleneck_by_hand() -> None:
    """MLP_l(features; id): gelu(W1_l x + id) W2; columns of `up`, rows of `down`, biases as rows of one."""
    generator = tiny_generator(**MODULES["bottleneck"]).double()
    heads = generator.hypernetwork.heads
    assert isinstance(heads, RowHeads)
    features = torch.randn(2, *heads.shape, heads.first.shape[2], dtype=torch.float64)
    bank = heads(features)
    for layer, place in enumerate(bank.places):
        down, down_bias, up, up_bias = bank.factors[place]
        for row, key, found in (
            (3, f"down_{D_MODEL}", down[1, 3]),
            (7 + 4, f"up_{D_MODEL}", up[1, :, 4]),
            (14, "down_bias_7", down_bias[1]),
            (15, f"up_bias_{D_MODEL}", up_bias[1]),
        ):
            mixed = heads.first[layer] @ features[1, layer, row] + heads.id_embedding[layer, row]
            torch.testing.assert_close(heads.heads[key][layer] @ torch.nn.functional.gelu(mixed), found)


def test_component_rows_by_hand() -> None:
    """One attention, one network per part for all layers, divided by sqrt(d_model); head by head, task by task."""
    generator = tiny_generator(**MODULES["bottleneck+prefix"], kind="component").double()
    network = generator.hypernetwork
    assert isinstance(network, ComponentHypernetwork)
    states = torch.randn(2, 9, D_MODEL, dtype=torch.float64)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    bank = network(states, mask).tensors()
    parts = [("down", 7, ENCODER + DECODER), ("up", 7, ENCODER + DECODER)]
    parts += [("down_bias", 1, ENCODER + DECODER), ("up_bias", 1, ENCODER + DECODER)]
    parts += [("keys", 2, ENCODER + 2 * DECODER), ("values", 2, ENCODER + 2 * DECODER)]
    for task, length in enumerate((9, 4)):
        read = network.norm(states[task, :length])
        at = 0
        for part, rows, places in parts:
            (key,) = [key for key in network.heads.first if key.rpartition("_")[0] == part]
            for place in [name for name in bank if name.endswith(f".{part}")][:places]:
                for row in range(rows):
                    query = network.query(network.components[at]).unflatten(0, (HEADS, -1))
                    keys = network.key(read).unflatten(1, (HEADS, -1))
                    values = network.value(read).unflatten(1, (HEADS, -1))
                    seen = [(keys[:, h] @ query[h]).softmax(0) @ values[:, h] for h in range(HEADS)]
                    vector = network.norm_out(network.output(torch.cat(seen)))
                    hidden = torch.nn.functional.gelu(network.heads.first[key] @ vector)
                    assert hidden.shape == (HIDDEN,)
                    wanted = network.heads.heads[key] @ hidden / D_MODEL**0.5
                    torch.testing.assert_close(found_row(bank[place][task], part, row), wanted)
                    at += 1
        assert at == len(network.components)


def found_row(tensor: Tensor, part: str, row: int) -> Tensor:
    if part == "up":
        return tensor[:, row]
    if part in ("keys", "values"):
        return tensor[:, row].flatten()
    return tensor if part.endswith("bias") else tensor[row]
