"""Merged weights: a second tree over the same tensors, the model itself untouched."""

import torch
from torch import nn

from tagi.adapters.attach import Attachment
from tagi.adapters.merge import merge, view_with_weights
from tests.models import ROUNDING, TASKS, random_bank, rounding, tiny_backbone, traces

IDS = torch.tensor([[30, 41, 52, 1], [63, 1, 0, 0]])
MASK = IDS != 0


def test_merged_equals_attached() -> None:
    backbone = tiny_backbone().double()
    bank = random_bank(backbone.target_modules).map(lambda tensor: tensor.double())
    for task in range(TASKS):
        view = merge(backbone.model, bank, task)
        merged = view.encoder(input_ids=IDS, attention_mask=MASK.long()).last_hidden_state
        alone = bank.select(torch.tensor([task]))
        with Attachment(alone.hooks(backbone.target_layers)).active():
            attached = backbone.encode(IDS, MASK)
        assert rounding(merged, attached) < ROUNDING
        assert rounding(attached, backbone.encode(IDS, MASK)) > 0.01


def test_the_model_is_left_as_it_was_and_its_tensors_are_shared() -> None:
    backbone = tiny_backbone()
    before = list(traces(backbone.model))
    bank = random_bank(backbone.target_modules, tasks=1)
    view = merge(backbone.model, bank)
    assert list(traces(backbone.model)) == before
    own = dict(backbone.model.named_parameters(remove_duplicate=False))
    target_modules = {f"{module.path}.weight" for module in backbone.target_modules}
    found = dict(view.named_parameters(remove_duplicate=False))
    assert found.keys() == own.keys()
    assert {name for name in own if found[name] is not own[name]} == target_modules
    assert not any(found[name].requires_grad for name in target_modules)
    modules = dict(backbone.model.named_modules())
    assert not any(modules[path] is module for path, module in view.named_modules())
    assert view.lm_head.weight is view.shared.weight is view.encoder.embed_tokens.weight


def test_a_change_of_the_view_does_not_reach_the_model() -> None:
    model = tiny_backbone().model.train()
    before = list(traces(model))
    view = view_with_weights(model, {})
    assert not any(module.training for module in view.modules())
    view.register_forward_hook(lambda *_: None)
    view.encoder.block[0].note = "here"
    view.encoder.block.append(nn.Identity())
    view.shared.weight = nn.Parameter(torch.zeros(2, 3))
    view.encoder.register_buffer("extra", torch.zeros(1), persistent=False)
    assert list(traces(model)) == before


def test_a_view_made_during_a_call_takes_none_of_it() -> None:
    """Another thread may be inside a call on the same backbone when an adapter is merged."""
    backbone = tiny_backbone()
    bare = backbone.encode(IDS, MASK)
    kept = []
    backbone.model.encoder.register_forward_hook(lambda *_: kept.append(1))
    bank = random_bank(backbone.target_modules, tasks=1)
    with Attachment(bank.hooks(backbone.target_layers)).active():
        view = view_with_weights(backbone.model, {})
        found = view.encoder(input_ids=IDS, attention_mask=MASK.long()).last_hidden_state
    assert torch.equal(found, bare)
    assert kept == [1]  # what is no attachment is part of the model
    assert [path for path, module in view.named_modules() if module._forward_hooks] == ["encoder"]


def test_added_in_single_precision_and_rounded_once() -> None:
    backbone = tiny_backbone()
    bank = random_bank(backbone.target_modules, tasks=1)
    module = backbone.target_modules[3].path
    weight = backbone.model.bfloat16().get_submodule(module).weight.detach()
    narrow = bank.map(lambda tensor: tensor.bfloat16())
    found = merge(backbone.model, narrow).get_submodule(module).weight
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, (weight.float() + narrow.delta(module)).bfloat16())


def test_a_zero_update_gives_the_weight_to_the_bit() -> None:
    backbone = tiny_backbone()
    weights = {module.path: backbone.model.get_submodule(module.path).weight for module in backbone.target_modules}
    merged = merge(backbone.model, random_bank(backbone.target_modules, tasks=1).zero())
    assert all(torch.equal(merged.get_submodule(module).weight, weight) for module, weight in weights.items())
