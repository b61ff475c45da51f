"""Every type of decoder-only model: bank in a mixed batch = each row alone = PEFT's loading of our folder = merged.

In types that project query, key and value by one layer, a bank touches query and value alone; PEFT adapts the whole.
"""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank
from tagi.adapters.merge import merge
from tagi.adapters.slices import layer_of
from tagi.backbones.causal import CausalBackbone
from tagi.data.text.encoder import CausalTextEncoder
from tagi.formats.peft import CONFIG, WEIGHTS, read_peft, write_lora
from tests.causal_models import (
    FUSED,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    MODELS,
    SINGLE,
    causal_tokenizer,
    close,
    exact_causal,
    tiny_causal,
    tiny_causal_model,
)
from tests.models import INPUTS, RANK, ROW_TASKS, TASKS, random_bank, rounding, text_settings

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TEXT = CausalTextEncoder(causal_tokenizer(), text_settings())
IDS, MASK = TEXT.batch([TEXT.input(text) for text in INPUTS])
LABELS = TEXT.labels([TEXT.target(text) for text in reversed(INPUTS)])
ROWS_OF = torch.tensor(ROW_TASKS)
every_type = pytest.mark.parametrize("kind", MODELS)
fused = pytest.mark.parametrize("kind", FUSED)


def exact_bank(backbone: CausalBackbone, kind: str, tasks: int = TASKS) -> LoraBank:
    bank = random_bank(backbone.target_modules, tasks=tasks)
    return bank if kind in SINGLE else bank.map(lambda factor: factor.double())


@torch.no_grad()
def logits_with(backbone: CausalBackbone, bank: LoraBank, rows: Tensor | None) -> Tensor:
    with Attachment(bank.hooks(backbone.target_layers, rows)).active():
        return backbone.logits(IDS, MASK, LABELS)


def export(backbone: CausalBackbone, bank: LoraBank, folder: Path) -> Path:
    folder.mkdir()
    write_lora(folder, bank, backbone)
    return folder


@every_type
def test_bank_in_a_mixed_batch_is_alone_is_peft_is_merged(kind: str, tmp_path: Path) -> None:
    backbone = exact_causal(kind)
    bank = exact_bank(backbone, kind)
    mixed = logits_with(backbone, bank, ROWS_OF)
    with torch.no_grad():
        assert rounding(mixed, backbone.logits(IDS, MASK, LABELS)) > 0.01
    for task in range(TASKS):
        one, rows = bank.select(torch.tensor([task])), task == ROWS_OF
        close(logits_with(backbone, one, None)[rows], mixed[rows])
        merged = CausalBackbone(merge(backbone.model, bank, task), backbone.tokenizer, backbone.identity)
        folder = export(backbone, one, tmp_path / str(task))
        peft = PeftModel.from_pretrained(tiny_causal_model(kind), str(folder)).to(backbone.model.dtype).eval()
        loaded = CausalBackbone(peft.base_model.model, backbone.tokenizer, backbone.identity)
        with torch.no_grad():
            close(merged.logits(IDS, MASK, LABELS)[rows], mixed[rows])
            close(loaded.logits(IDS, MASK, LABELS)[rows], mixed[rows])
            assert rounding(loaded.logits(IDS, MASK, LABELS)[~rows], mixed[~rows]) > 0.001


@every_type
def test_a_zero_adapter_is_the_backbone_to_the_bit(kind: str) -> None:
    backbone = tiny_causal(kind)
    zero = random_bank(backbone.target_modules).zero()
    with torch.no_grad():
        bare = backbone.logits(IDS, MASK, LABELS)
    assert torch.equal(logits_with(backbone, zero, ROWS_OF), bare)
    view = merge(backbone.model, zero)
    for name, weight in backbone.model.state_dict().items():
        assert torch.equal(view.state_dict()[name], weight)


@fused
def test_a_slice_is_the_query_and_the_value_alone(kind: str) -> None:
    """Worked out by hand from each type's layout: the rest of the weight stays as it is, to the bit."""
    backbone = tiny_causal(kind)
    head = HIDDEN // HEADS
    narrow = head * KV_HEADS
    of_head = torch.arange(3 * HIDDEN) // head % 3
    changed = {
        "gpt2": torch.arange(3 * HIDDEN) // HIDDEN != 1,
        "gpt_neox": of_head != 1,
        "phi3": (torch.arange(HIDDEN + 2 * narrow) < HIDDEN) | (torch.arange(HIDDEN + 2 * narrow) >= HIDDEN + narrow),
    }[kind]
    assert [(module.layer, module.projection) for module in backbone.target_modules] == [
        (at, p) for at in range(LAYERS) for p in "qv"
    ]
    bank = random_bank(backbone.target_modules, tasks=1)
    view = merge(backbone.model, bank)
    for layer, module in backbone.target_layers.items():
        change = view.get_submodule(layer).weight - module.weight
        change = change.T if kind == "gpt2" else change
        assert torch.equal((change != 0).any(1), changed)
        query, value = (module for module in backbone.target_modules if layer_of(module.path) == layer)
        assert (query.projection, value.projection) == ("q", "v")
        if kind == "gpt_neox":
            rows_of_query, rows_of_value = of_head == 0, of_head == 2
        else:
            at = torch.arange(len(changed))
            rows_of_query, rows_of_value = changed & (at < HIDDEN), changed & (at >= HIDDEN)
        for module, rows in ((query, rows_of_query), (value, rows_of_value)):
            assert (module.d_out, module.d_in) == (int(rows.sum()), HIDDEN)
            torch.testing.assert_close(change[rows], bank.delta(module.path), rtol=0, atol=1e-6)


@fused
def test_what_is_exported_of_fused_layers_is_read_back_as_whole_layers(kind: str, tmp_path: Path) -> None:
    backbone = exact_causal(kind)
    bank = exact_bank(backbone, kind, tasks=1)
    folder = export(backbone, bank, tmp_path / "one")
    config = json.loads((folder / CONFIG).read_text())
    name = {"gpt2": "c_attn", "gpt_neox": "query_key_value", "phi3": "qkv_proj"}[kind]
    assert config["target_modules"] == [name]
    assert (config["r"], config["lora_alpha"] / config["r"]) == (2 * RANK, bank.scale)
    assert config["fan_in_fan_out"] == (kind == "gpt2")
    found = read_peft(folder)
    assert found.factors.keys() == backbone.target_layers.keys()
    close(logits_with(backbone, found, None), logits_with(backbone, bank, None))
    again = export(backbone, found, tmp_path / "two")
    assert (again / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert {tensor.dtype for tensor in load_file(folder / WEIGHTS).values()} == {torch.float64}
