"""Every stage of training on a decoder-only model: from a configuration to scores, and what is refused."""

import json
from pathlib import Path

import pytest

from tagi.errors import ConfigError
from tagi.formats.generator import load_generator
from tagi.formats.peft import read_peft
from tagi.stages.recipes import load_recipe
from tagi.stages.run import run
from tests.commands import Run

SIZES = (
    '{model_type="llama",hidden_size=24,intermediate_size=37,num_hidden_layers=2,num_attention_heads=6,'
    "num_key_value_heads=3,head_dim=10,max_position_embeddings=160,vocab_size=238}"
)
CAUSAL = ["backbone.name=config", "backbone.family=causal", "backbone.tokenizer=toy", f"backbone.config={SIZES}"]
SHORT = [
    *(f"training.{stage}.steps={steps}" for stage, steps in (("metatrain", 3), ("teachers", 2), ("pretrain", 3))),
    *("training.steps=4", "data.instances_per_task=5", "data.test_instances_per_task=1", "training.tasks_per_batch=5"),
    *(
        "training.teachers.tasks_per_batch=3",
        "generator.fusion_every=2",
        "evaluation.max_new_tokens=3",
        "training.log_every=1",
    ),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("causal") / "run"
    run(load_recipe("toy", [*CAUSAL, *SHORT]), out, progress=False)
    return out


def test_every_stage_leaves_what_the_next_rests_on(finished: Path) -> None:
    record = json.loads((finished / "finetune" / "record.json").read_text())
    assert record["data"]["aligned_tasks"] == record["data"]["tasks"] == 96
    last = record["training"]["history"][-1]
    assert {"prediction", "kl", "ins"} <= last.keys()
    pretrained, taken = record["start"]["start"], record["start"]["parameters"]
    assert len(pretrained) == len(taken) == 1
    generator = load_generator(finished / "finetune" / "model")
    assert taken[0] == sum(p.numel() for p in [*generator.parameters(), *generator.hypernetwork.buffers()])
    teacher = read_peft(finished / "teachers" / "copy")
    assert set(teacher.factors) == {module.path for module in generator.backbone.target_modules}
    assert any(bool(b.any()) for _, b in teacher.factors.values())


def test_it_is_scored_by_every_condition_and_channel(finished: Path, run_tagi: Run, tmp_path: Path) -> None:
    scored = run_tagi(
        "evaluate", finished / "finetune", "toy", "--limit", "1", "--sensitivity", "--channels", "--json",
        *(word for change in CAUSAL for word in ("--set", change)), "--tasks", "*plural*",
    )  # fmt: skip
    assert scored.code == 0, scored.err
    results = json.loads(scored.out)["results"]
    assert {"right", "shuffled", "mean adapter", "LoRA alone", "states alone", "right LoRA, other states"} <= set(
        results
    )


def test_a_finished_run_is_left_alone(finished: Path) -> None:
    states = [row["state"] for row in run(load_recipe("toy", [*CAUSAL, *SHORT]), finished, progress=False)]
    assert set(states) == {"skipped: complete"}


def test_it_is_taught_by_the_model_that_reads_both(tmp_path: Path) -> None:
    """A LoRA on the decoder-only model as meta-trained teacher, from a cache of its likeliest tokens."""
    taught = ["losses.teacher=metatrained", "losses.ins=0", "losses.top_k=7", "metatrain.tune=lora"]
    recipe = load_recipe("toy", [*CAUSAL, *SHORT, *taught, "run.stages=['metatrain','finetune']"])
    run(recipe, tmp_path / "run", progress=False, last="finetune")
    record = json.loads((tmp_path / "run" / "finetune" / "record.json").read_text())
    assert record["training"]["history"][-1]["kl"] > 0


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (
            ["generator.module=prefix"],
            "expected generator.module = 'lora' for 'pretrain' with backbone.family = 'causal'",
        ),
        (["generator.fusion_init=cross"], "expected generator.fusion_init = 't5' for 'pretrain'"),
        (["generator.reader=own"], "expected generator.reader = 'backbone' for 'pretrain'"),
        (
            ["training.finetune.gradient_checkpointing=true"],
            "expected training.finetune.gradient_checkpointing = false with backbone.family = 'causal' and "
            "a cached instruction, which it would drop, got true",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(changed: list[str], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("toy", [*CAUSAL, "losses.ins=0", *changed])
    assert f"run.stages: {named}" in str(caught.value)


def test_chat_templates_are_for_decoder_only_models() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.encoding: expected backbone\.family = 'causal' with 'chat', got 't5'"
    ):
        load_recipe("toy", ["data.encoding=chat"])
