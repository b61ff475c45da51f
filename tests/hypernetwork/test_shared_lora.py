"""A LoRA for all tasks as part of the generator: on T5 it is trained with the hypernetwork, else copied and frozen."""

import pytest
import torch

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank
from tagi.api.generator import AdapterGenerator
from tagi.hypernetwork.shared_lora import SharedLora
from tests.causal_models import close
from tests.models import ALPHA, INPUTS, INSTRUCTIONS, ROW_TASKS, fresh_generator, random_bank, tiny_backbone

SHARED = 6


def batch(generator: AdapterGenerator) -> dict[str, torch.Tensor]:
    text = generator.text
    told, told_mask = text.batch_instructions([text.instruction(one) for one in INSTRUCTIONS])
    given, mask = text.batch([text.input(one) for one in INPUTS])
    labels = text.labels([text.target(one) for one in INPUTS])
    return {
        "instruction_ids": told,
        "instruction_mask": told_mask,
        "rows": torch.tensor(ROW_TASKS),
        "input_ids": given,
        "input_mask": mask,
        "labels": labels,
    }


def test_a_new_shared_lora_and_its_residual_change_nothing() -> None:
    backbone = tiny_backbone()
    plain = fresh_generator(backbone, shared_rank=0).eval()
    shared = fresh_generator(backbone, shared_rank=SHARED, residual="both", shared_tune=True).eval()
    with torch.no_grad():
        close(shared(**batch(shared))[0], plain(**batch(plain))[0])


def test_a_task_gets_one_lora_whose_rank_is_the_sum() -> None:
    generator = fresh_generator(shared_rank=SHARED, residual="both")
    states = generator.prepare(*batch_of_instructions(generator))
    bank = states.bank
    assert isinstance(bank, LoraBank)
    assert bank.rank == generator.settings.adapter_rank == SHARED + generator.settings.rank
    assert bank.scale == 1.0
    scales = fresh_generator(shared_rank=SHARED, residual="scales")
    assert scales.settings.adapter_rank == SHARED
    assert sum(target.parameters for target in scales.targets) == SHARED * len(scales.backbone.target_modules)


def batch_of_instructions(generator: AdapterGenerator) -> tuple[torch.Tensor, torch.Tensor]:
    made = batch(generator)
    return made["instruction_ids"], made["instruction_mask"]


@pytest.mark.parametrize("tuned", [True, False])
def test_it_is_trained_only_if_the_settings_say_so(tuned: bool) -> None:
    generator = fresh_generator(shared_rank=SHARED, residual="both", shared_tune=tuned)
    assert generator.shared is not None
    logits, _ = generator(**batch(generator))
    logits.square().mean().backward()
    moved = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in generator.shared.b]
    assert all(moved) if tuned else not any(moved)


def test_a_trained_lora_is_copied_with_its_scale() -> None:
    backbone = tiny_backbone()
    bank = random_bank(backbone.target_modules, tasks=1, scale=ALPHA)
    shared = SharedLora(backbone.target_modules, bank.rank, seed=1)
    shared.copy_from(bank)
    copied = LoraBank(shared.factors(), 1.0)
    for module in bank.factors:
        close(copied.delta(module), bank.delta(module))
    text = batch(fresh_generator(backbone))
    found = []
    for one in (bank, copied):
        with torch.no_grad(), Attachment(backbone.hooks(one)).active():
            found.append(backbone.forced_logits(text["input_ids"], text["input_mask"], text["labels"]))
    close(*found)


def test_another_rank_or_several_tasks_are_refused() -> None:
    backbone = tiny_backbone()
    shared = SharedLora(backbone.target_modules, SHARED, seed=1)
    with pytest.raises(ValueError, match="expected one LoRA of rank 6"):
        shared.copy_from(random_bank(backbone.target_modules, tasks=1))
    with pytest.raises(ValueError, match="got 2 of rank"):
        SharedLora(backbone.target_modules, random_bank(backbone.target_modules).rank, seed=1).copy_from(
            random_bank(backbone.target_modules, tasks=2)
        )
