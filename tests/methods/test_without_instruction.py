"""The input alone, for all tasks alike: the control of methods that read the instruction with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tagi.data.batches import Sample
from tagi.errors import ConfigError
from tagi.evaluation.conditions import INSTRUCTIONS as INSTRUCTIONS_GIVEN
from tagi.evaluation.conditions import SENSITIVITY, conditions
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.flops import Lengths
from tagi.methods.load import load_method
from tagi.methods.prompted import Prompted
from tagi.stages.flops import flops
from tagi.stages.recipe_models import load_recipe_backbone
from tagi.stages.recipes import load_recipe
from tagi.stages.registry import characteristics, last_stage, stage_of
from tests.causal_models import tiny_causal
from tests.models import INPUTS, INSTRUCTIONS, ROW_TASKS, tasks, text_settings, tiny_backbone

LENGTHS = Lengths(instruction=13, input=7, output=3, examples=5, concatenated=19)
KINDS: dict[str, tuple[type[Prompted[Any]], Any]] = {
    "encoder-decoder": (Concatenation, tiny_backbone),
    "decoder-only": (CausalConcatenation, tiny_causal),
}
both = pytest.mark.parametrize("kind", list(KINDS))


def made(kind: str, reads: str) -> Prompted[Any]:
    method, backbone = KINDS[kind]
    return method(backbone(), replace(text_settings(), reads=reads)).eval()


def samples() -> list[Sample]:
    return [Sample(tasks()[task], INSTRUCTIONS[task], INPUTS[row], "e f") for row, task in enumerate(ROW_TASKS)]


@both
def test_what_is_read_is_the_input(kind: str) -> None:
    alone, told = made(kind, "nothing"), made(kind, "instruction")
    bare = told.without_instruction(told.prepare(tasks()))
    rows = torch.tensor(ROW_TASKS)
    assert alone.predict(alone.prepare(tasks()), rows, INPUTS, max_new_tokens=3) == told.predict(
        bare, rows, INPUTS, max_new_tokens=3
    )
    batch, other = alone.collate(samples()), told.collate(samples())
    for ids, mask, text in zip(batch["input_ids"], batch["input_mask"], INPUTS, strict=True):
        assert ids[mask].tolist() == alone.text.input(text)
    assert other["input_ids"].shape[1] > batch["input_ids"].shape[1]
    assert torch.equal(batch["labels"], other["labels"])


@both
def test_an_instruction_over_the_limit_is_nobodys_business(kind: str) -> None:
    alone = made(kind, "nothing")
    long = [replace(task, instruction=f"{task.instruction} " * 99) for task in tasks()]
    alone.prepare(long)
    assert not alone.reads_instruction
    assert not alone.needs_demonstrations


@both
def test_it_costs_what_the_input_costs(kind: str) -> None:
    alone, told = made(kind, "nothing"), made(kind, "instruction")
    without = replace(LENGTHS, instruction=0, concatenated=None)
    assert alone.cost(LENGTHS) == told.cost(without)
    assert alone.cost(LENGTHS).each.total < told.cost(LENGTHS).each.total


@both
def test_it_is_asked_in_one_way(kind: str) -> None:
    (right,) = conditions(made(kind, "nothing"), tasks(), (*INSTRUCTIONS_GIVEN, *SENSITIVITY))
    assert (right.name, right.given) == ("right", "the input alone")


def test_its_cost_is_a_share_of_the_instructed_ones() -> None:
    recipe = load_recipe("sni-base", ["metatrain.instruction=false", "run.stages=['metatrain']"])
    (row,) = flops(["t5-base-lm-adapt"], recipe, LENGTHS, methods=["tk-instruct"])["methods"]
    assert 0.1 < row["costs"]["t5-base-lm-adapt"]["ratio"] < 0.8


@pytest.mark.parametrize("name", ["tk-instruct", "tk-instruct-lora"])
def test_a_recipe_says_so(name: str) -> None:
    recipe = load_recipe(f"toy+{name}", ["metatrain.instruction=false"])
    found = characteristics(recipe)
    assert not any(found[cell] for cell in ("Instr. Concat.", "Instr. Fus.", "Instr. Learning"))
    assert found["Meta-Train"]
    assert characteristics(load_recipe(f"toy+{name}"))["Instr. Concat."]


def test_a_checkpoint_says_so(tmp_path: Path) -> None:
    recipe = load_recipe("toy+tk-instruct-lora", ["metatrain.instruction=false"])
    method = stage_of("metatrain").untrained(recipe, load_recipe_backbone(recipe, tmp_path))
    method.save(tmp_path / "model")
    assert load_method(tmp_path / "model").text.settings.reads == "nothing"
    single = load_recipe("toy+full-ft", ["metatrain.instruction=false"])
    assert last_stage(single).untrained(single, load_recipe_backbone(single, tmp_path)).reads_instruction


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("fid-icl", [], r"metatrain.instruction: expected true with method = 'fid-icl', got false"),
        ("causal-cached", [], r"metatrain.instruction: expected true with prefix_cached = true, got false"),
        (
            "tagi",
            ["losses.teacher=metatrained", "losses.kl=1", "run.stages=['metatrain', 'finetune']", "losses.ins=0"],
            r"expected metatrain.instruction = true \(losses.teacher = 'metatrained'\), got false",
        ),
    ],
)
def test_what_needs_the_instruction_refuses(name: str, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_recipe(f"toy+{name}", ["metatrain.instruction=false", *overrides])
