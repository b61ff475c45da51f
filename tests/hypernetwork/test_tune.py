"""Which of the backbone's parameters each setting trains, by name and count."""

from typing import get_args

import pytest

from tagi.hypernetwork.tune import set_tuned
from tagi.settings.generator import Tune
from tests.models import DECODER, ENCODER, tiny_model

NORMS = 2 * ENCODER + 3 * DECODER + 2


def tuned(variant: str, tune: str) -> set[str]:
    model = tiny_model(variant)
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    set_tuned(model, tune)
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_every_setting_is_known() -> None:
    assert get_args(Tune) == ("none", "norms+embeddings", "ffn", "all")


@pytest.mark.parametrize(("variant", "heads", "ffn"), [("v1.0", 0, 2), ("v1.1", 1, 3), ("mt5", 0, 3)])
def test_what_is_tuned(variant: str, heads: int, ffn: int) -> None:
    every = {name for name, _ in tiny_model(variant).named_parameters()}
    assert tuned(variant, "none") == set()
    assert tuned(variant, "all") == every
    norms = tuned(variant, "norms+embeddings")
    assert sum("layer_norm" in name for name in norms) == NORMS
    assert {name for name in norms if "norm" not in name} == {"shared.weight", *["lm_head.weight"] * heads}
    networks = tuned(variant, "ffn")
    assert len(networks) == ffn * (ENCODER + DECODER)
    assert all(".DenseReluDense.w" in name for name in networks)
    assert "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight" in every - norms - networks
