"""Rows in pairs: every sample with the instruction before the input, and alone."""

from dataclasses import replace

import pytest
import torch

from tagi.data.batches import Sample
from tagi.methods.objective.losses import distillation_loss, prediction_loss
from tagi.methods.objective.objective import Objective
from tagi.methods.tagi import TAGI
from tagi.settings.losses import LossSettings
from tests.causal_models import exact_causal
from tests.hypernetwork.test_adapted_prefix import made
from tests.models import WORDS, tasks

WEIGHTS = LossSettings(prediction=0.7, alone=1.3, alone_kl=0.4)


def samples() -> list[Sample]:
    said = [" ".join(WORDS[at : at + 3 + at % 4]) for at in (0, 20, 40)]
    asked = tasks(said[:2])
    return [
        Sample(asked[row % 2], asked[row % 2].instruction, " ".join(WORDS[60 + row : 64 + 2 * row]), WORDS[90 + row])
        for row in range(3)
    ]


def test_a_sample_makes_two_rows_of_one_task_and_one_target() -> None:
    method = TAGI(made(exact_causal("llama")), Objective(WEIGHTS))
    batch = method.collate(samples())
    assert batch["rows"].tolist() == [0, 1, 0, 0, 1, 0]
    assert batch["alone"].tolist() == [False] * 3 + [True] * 3
    assert torch.equal(batch["labels"][:3], batch["labels"][3:])


def test_the_loss_is_of_both_rows_and_the_prompted_row_teaches_the_other() -> None:
    method = TAGI(made(exact_causal("llama")), Objective(WEIGHTS))
    batch, generator = method.collate(samples()), method.generator
    terms = method(**batch)
    read = generator.read_instructions(batch["instruction_ids"], batch["instruction_mask"])
    bank = generator.generate_bank(read.states, read.mask)
    given = [batch[name] for name in ("rows", "input_ids", "input_mask", "labels")]
    logits = generator.logits(read, bank, *given, batch["alone"])
    told, alone, labels = logits[:3], logits[3:], batch["labels"][:3]
    wanted = {
        "prediction": prediction_loss(told, labels),
        "alone": prediction_loss(alone, labels),
        "alone_kl": distillation_loss(alone, told, labels),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value.detach())
    total = 0.7 * wanted["prediction"] + 1.3 * wanted["alone"] + 0.4 * wanted["alone_kl"]
    torch.testing.assert_close(terms["loss"], total, check_dtype=False)
    assert wanted["alone_kl"] > 0


def test_the_teacher_gets_no_gradient_from_its_pupil() -> None:
    method = TAGI(made(exact_causal("llama")), Objective(LossSettings(prediction=0.0, alone_kl=1.0)))
    batch = method.collate(samples())
    method(**batch)["loss"].backward()
    pupil = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    read = method.generator.read_instructions(batch["instruction_ids"], batch["instruction_mask"])
    bank = method.generator.generate_bank(read.states, read.mask)
    given = [batch[name] for name in ("rows", "input_ids", "input_mask", "labels")]
    logits = method.generator.logits(read, bank, *given, batch["alone"])
    distillation_loss(logits[3:], logits[:3].detach(), batch["labels"][:3]).backward()
    assert pupil
    for name, parameter in method.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, pupil[name])


def test_pairs_and_state_dropout_exclude_each_other() -> None:
    generator = made(exact_causal("llama"), instruction_cache="stock", state_dropout=0.5)
    with pytest.raises(ValueError, match="state_dropout"):
        TAGI(generator, Objective(WEIGHTS))


def test_pairs_work_with_stock_prefixes() -> None:
    method = TAGI(made(exact_causal("llama"), instruction_cache="stock"), Objective(WEIGHTS))
    batch = method.collate(samples())
    terms = method(**batch)
    apart = method(**{**batch, "alone": batch["alone"].flip(0)})
    assert terms["alone"] != apart["alone"]
    assert replace(WEIGHTS, alone=0.0).pairs
    assert not LossSettings().pairs
