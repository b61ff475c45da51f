"""T5 and its relatives: target modules, encoding, cached decoding equal to transformers' own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tagi.adapters.attach import Attachment
from tagi.backbones.protocol import count_parameters
from tagi.backbones.t5 import T5Backbone
from tagi.data.text.encoder import TextEncoder
from tests.models import (
    CHOICES,
    D_KV,
    D_MODEL,
    HEADS,
    IDENTITY,
    INPUTS,
    ROUNDING,
    ROW_TASKS,
    ROWS,
    SIZES,
    VARIANTS,
    random_bank,
    rounding,
    same,
    text_settings,
    tiny_backbone,
    tiny_model,
    tokenizer,
)

TEXT = TextEncoder(tokenizer(), text_settings())
IDS, MASK = TEXT.batch([TEXT.input(text) for text in INPUTS])
LABELS = TEXT.labels([TEXT.target(row[-1]) for row in CHOICES])
FAMILY = [*VARIANTS, "mt5"]


@pytest.mark.parametrize("variant", FAMILY)
def test_every_attention_has_two_sites(variant: str) -> None:
    sizes = {**SIZES, **VARIANTS.get(variant, {})}
    backbone = tiny_backbone(variant)
    attentions = sizes["num_layers"] + 2 * sizes["num_decoder_layers"]
    assert len(backbone.target_modules) == len(backbone.target_layers) == 2 * attentions
    assert [module.layer for module in backbone.target_modules] == [at // 2 for at in range(2 * attentions)]
    assert [module.projection for module in backbone.target_modules] == ["q", "v"] * attentions
    for module in backbone.target_modules:
        assert module.path.endswith(f".{module.projection}")
        assert (module.d_in, module.d_out) == (D_MODEL, HEADS * D_KV)
        assert backbone.target_layers[module.path].weight.shape == (module.d_out, module.d_in)
    decoder = [module.path for module in backbone.target_modules if module.path.startswith("decoder")]
    assert sum("EncDecAttention" in path for path in decoder) == len(decoder) / 2
    assert len(backbone.fusion_places) == sizes["num_layers"]
    assert len(backbone.cross_attentions) == sizes["num_decoder_layers"]


def test_parameters_are_counted() -> None:
    backbone = tiny_backbone()
    total = sum(parameter.numel() for parameter in backbone.model.parameters())
    backbone.model.shared.requires_grad_(False)
    assert count_parameters(backbone) == total
    assert count_parameters(backbone, trained=False) == backbone.model.shared.weight.numel()
    assert count_parameters(backbone, trained=True) == total - backbone.model.shared.weight.numel()


def own_generate(model: Any, beams: int) -> list[str]:
    found = model.generate(
        input_ids=IDS,
        attention_mask=MASK.long(),
        max_new_tokens=6,
        num_beams=beams,
        do_sample=False,
        early_stopping=beams > 1,
    )
    return TEXT.decode(found)


def generate(backbone: T5Backbone, beams: int) -> list[str]:
    cross = backbone.cross_keys_values(backbone.encode(IDS, MASK))
    return TEXT.decode(backbone.generate(cross, MASK, max_new_tokens=6, num_beams=beams))


@pytest.mark.parametrize("variant", ["v1.0", "v1.1", "mt5"])
def test_logits_and_answers_are_transformers_own(variant: str) -> None:
    model = tiny_model(variant)
    backbone = T5Backbone(model, tokenizer(), IDENTITY)
    with torch.no_grad():
        own = model(input_ids=IDS, attention_mask=MASK.long(), labels=LABELS).logits
        assert torch.equal(backbone.logits(backbone.encode(IDS, MASK), MASK, LABELS), own)
        answers = {beams: generate(backbone, beams) for beams in (1, 3)}
    for beams, found in answers.items():
        assert found == own_generate(model, beams)
    assert answers[1] != answers[3]
    assert len(set(answers[1])) > ROWS // 2


@pytest.mark.parametrize("variant", FAMILY)
def test_cached_is_recomputed(variant: str) -> None:
    backbone = tiny_backbone(variant).double()
    with torch.no_grad():
        states = backbone.encode(IDS, MASK)
        cached = backbone.logits_from_cache(backbone.cross_keys_values(states), MASK, LABELS)
        same(cached, backbone.logits(states, MASK, LABELS))


def test_a_decoder_deeper_than_the_encoder_answers() -> None:
    """transformers' own `generate` cannot: it makes a cache with too few layers. Greedy, token by token, instead."""
    backbone = tiny_backbone("deep decoder")
    with torch.no_grad():
        states = backbone.encode(IDS, MASK)
        answer = torch.full((ROWS, 1), -100)
        for _ in range(6):
            logits = backbone.logits(states, MASK, torch.cat([answer[:, 1:], torch.zeros(ROWS, 1).long()], dim=1))
            answer = torch.cat([answer, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        found = backbone.generate(backbone.cross_keys_values(states), MASK, max_new_tokens=6)
    for row, wanted in zip(found[:, 1:].tolist(), answer[:, 1:].tolist(), strict=True):
        ends = wanted.index(1) + 1 if 1 in wanted else len(wanted)
        assert row[:ends] == wanted[:ends]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_scores_by_hand(reduction: Any) -> None:
    backbone = tiny_backbone().double()
    labels = TEXT.choice_labels(CHOICES)
    most = max(len(row) for row in CHOICES)
    assert labels.shape[:2] == (ROWS, most)
    with torch.no_grad():
        states = backbone.encode(IDS, MASK)
        cross = backbone.cross_keys_values(states)
        found = backbone.scores(cross, MASK, labels, reduction)
        assert found.shape == (ROWS, most)
        for row, choices in enumerate(CHOICES):
            for at, choice in enumerate(choices):
                tokens = TEXT.target(choice)
                one = slice(row, row + 1)
                logits = backbone.logits(states[one], MASK[one], torch.tensor([tokens]))[0]
                steps = [logits[step].float().log_softmax(-1)[token] for step, token in enumerate(tokens)]
                wanted = torch.stack(steps).sum() / (len(tokens) if reduction == "mean" else 1)
                assert found[row, at] == pytest.approx(float(wanted), rel=1e-6)
            assert torch.equal(found[row, len(choices) :], torch.zeros(most - len(choices)))


def test_a_batch_gives_every_row_what_it_gets_alone() -> None:
    backbone = tiny_backbone().double()
    with torch.no_grad():
        together = backbone.logits(backbone.encode(IDS, MASK), MASK, LABELS)
        for row in range(ROWS):
            ids, mask = TEXT.batch([TEXT.input(INPUTS[row])])
            alone = backbone.logits(backbone.encode(ids, mask), mask, LABELS[row : row + 1])
            same(together[row : row + 1], alone)


def test_half_precision() -> None:
    """In bf16 the whole path runs and stays in bf16; how far off it is, bf16 itself decides."""
    backbone = tiny_backbone()
    bank = random_bank(backbone.target_modules)
    rows = torch.tensor(ROW_TASKS)

    def logits() -> Tensor:
        with torch.no_grad(), Attachment(bank.hooks(backbone.target_layers, rows)).active():
            return backbone.logits(backbone.encode(IDS, MASK), MASK, LABELS)

    exact = logits()
    backbone = backbone.to(torch.bfloat16)
    found = logits()
    assert found.dtype == torch.bfloat16
    assert ROUNDING < rounding(found, exact) < 64 * torch.finfo(torch.bfloat16).eps
    with torch.no_grad(), Attachment(bank.hooks(backbone.target_layers, rows)).active():
        cross = backbone.cross_keys_values(backbone.encode(IDS, MASK))
        assert {part.dtype for layer in cross for part in layer} == {torch.bfloat16}
        assert backbone.generate(cross, MASK, max_new_tokens=5).shape[0] == ROWS
