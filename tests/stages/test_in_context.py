"""Methods that learn in context and generators that read demonstrations, from a recipe to scores."""

import json
from pathlib import Path

import pytest
import torch

from tagi.errors import ConfigError, InputError
from tagi.evaluation.conditions import SENSITIVITY, empty_instruction_states
from tagi.evaluation.reports.paired_evaluations import compare
from tagi.methods.load import load_method
from tagi.methods.tagi import TAGI
from tagi.stages.estimate import estimate
from tagi.stages.evaluate import EvaluationRequest, evaluate
from tagi.stages.protocol import Sources
from tagi.stages.recipe_settings import in_context_text
from tagi.stages.recipes import load_recipe
from tagi.stages.registry import stage_of
from tagi.stages.run import run
from tagi.stages.tasks import load_tasks
from tagi.stages.train import train_stage
from tests.commands import Run

METHODS = ("fid-icl", "concat-icl", "ensemble-icl")
SHORT = [
    *(
        "training.steps=2",
        "training.tasks_per_batch=3",
        "training.queries_per_task=2",
        "training.report_to=[]",
        "training.log_every=1",
    ),
    *("training.metatrain.steps=2", "training.finetune.steps=2", "training.pretrain.steps=2"),
    *("data.instances_per_task=12", "data.test_instances_per_task=3", "shots.count=4", "evaluation.batch_size=5"),
    *("losses.kl=0", "losses.ins=0", "run.stages=['metatrain', 'finetune']"),
]


@pytest.fixture(scope="module")
def metatrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every method's two steps. Never write into it."""
    out = tmp_path_factory.mktemp("in-context")
    for method in METHODS:
        record = train_stage(
            load_recipe("toy", [*SHORT, f"metatrain.method={method}"]), "metatrain", out / method, progress=False
        )
        assert record["training"]["history"][-1]["step"] == 2
    return out


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_trained_and_scored(metatrained: Path, method: str, tmp_path: Path) -> None:
    loaded = load_method(metatrained / method / "model")
    recipe = load_recipe("toy", [*SHORT, f"metatrain.method={method}"])
    assert loaded.name == method
    assert loaded.text.settings == in_context_text(recipe)
    asked = EvaluationRequest(SENSITIVITY, limit=2)
    record = evaluate(str(metatrained / method), recipe, request=asked, out=tmp_path / "scores", progress=False)
    assert list(record["results"]) == ["right", "paraphrase", "same category", "other category", "none"]
    assert record["not_scored"] == ["shuffled", "random", "empty", "mean adapter"]
    assert record["data"]["shots"]["count"] == 4
    assert record["results"]["right"]["n"] == 24 * 2


def test_scores_with_and_without_shots_are_of_the_same_test_data(metatrained: Path, tmp_path: Path) -> None:
    """A recipe of any method names the same tests, and what a checkpoint needs is drawn for it."""
    plain = load_recipe("toy", SHORT)
    asked = EvaluationRequest(limit=1, tasks=("toy-animal*",))
    records = {
        "shown": evaluate(str(metatrained / "fid-icl"), plain, request=asked, out=tmp_path / "shown", progress=False),
        "told": evaluate("toy", plain, request=asked, out=tmp_path / "told", progress=False),
    }
    assert "shots" not in records["told"]["data"]
    other = load_recipe("toy", [*SHORT, "shots.seed=1"])
    again = evaluate(str(metatrained / "fid-icl"), other, request=asked, progress=False)
    assert again["data"]["digest"] == records["shown"]["data"]["digest"] == records["told"]["data"]["digest"]
    assert again["data"]["shots"]["digest"] != records["shown"]["data"]["shots"]["digest"]
    assert again["evaluation"] != records["shown"]["evaluation"]
    found = compare(tmp_path / "told", tmp_path / "shown")
    assert found["n"] == records["told"]["results"]["right"]["n"]


def test_every_episode_has_as_many_shots_as_the_recipe_says() -> None:
    recipe = load_recipe("toy", [*SHORT, "metatrain.method=concat-icl"])
    loaded = load_tasks(recipe, "train")
    assert {len(sample.shots) for sample in stage_of("metatrain").task_batches(recipe, loaded)[0]} == {4}
    assert {len(sample.shots) for sample in stage_of("finetune").task_batches(recipe, loaded)[0]} == {0}
    assert {
        len(sample.shots) for sample in stage_of("metatrain").task_batches(load_recipe("toy", SHORT), loaded)[0]
    } == {0}
    reader = load_recipe("toy", [*SHORT, "generator.reads=demonstrations"])
    assert {len(sample.shots) for sample in stage_of("finetune").task_batches(reader, loaded)[0]} == {4}


def test_p3_is_read_without_instructions(data_dir: Path) -> None:
    fixed = [f"data.path={data_dir / 'p3' / 'train'}", "metatrain.method=fid-icl", "losses.teacher=fid-icl"]
    assert in_context_text(load_recipe("p3-small", fixed)).reads == "demonstrations"
    assert in_context_text(load_recipe("toy", ["data.positives=2"])).reads == "instruction"
    assert in_context_text(load_recipe("toy", ["data.positives=2"])).positives == 0


@pytest.mark.parametrize("method", METHODS)
def test_the_cheap_variant_trains_a_lora_alone(method: str, tmp_path: Path) -> None:
    recipe = load_recipe("toy", [*SHORT, f"metatrain.method={method}", "metatrain.tune=lora", "generator.rank=3"])
    record = train_stage(recipe, "metatrain", tmp_path, progress=False)
    loaded = load_method(tmp_path / "model")
    assert all("lora_" in name for name in loaded.trained_tensors())
    assert record["parameters"]["trained"] == sum(tensor.numel() for tensor in loaded.trained_tensors().values())
    assert record["parameters"]["trained"] < record["parameters"]["frozen"] / 10
    whole = load_recipe("toy", [*SHORT, f"metatrain.method={method}"])
    assert (
        evaluate(str(tmp_path), whole, request=EvaluationRequest(limit=1), progress=False)["results"]["right"]["n"] > 0
    )


def test_fid_icl_teaches(metatrained: Path, tmp_path: Path) -> None:
    taught = [*SHORT, "losses.kl=1.0", "losses.teacher=fid-icl", "metatrain.method=fid-icl"]
    sources = Sources(metatrained=str(metatrained / "fid-icl"))
    live = train_stage(load_recipe("toy", taught), "finetune", tmp_path / "live", sources=sources, progress=False)
    cached = train_stage(
        load_recipe("toy", [*taught, "losses.top_k=200"]),
        "finetune",
        tmp_path / "kept",
        sources=sources,
        progress=False,
    )
    assert (tmp_path / "kept" / "teacher-cache" / "complete").exists()
    for one, kept in zip(live["training"]["history"], cached["training"]["history"], strict=True):
        if "kl" in one:
            assert kept["kl"] == pytest.approx(one["kl"], rel=0.05)
    with pytest.raises(ConfigError, match=r"losses\.teacher = 'fid-icl': expected --metatrained CHECKPOINT, got none"):
        train_stage(load_recipe("toy", taught), "finetune", tmp_path / "none", progress=False)
    other = Sources(metatrained=str(metatrained / "concat-icl"))
    with pytest.raises(ConfigError, match=r"expected a meta-trained model \(fid-icl\), got method 'concat-icl'"):
        train_stage(load_recipe("toy", taught), "finetune", tmp_path / "other", sources=other, progress=False)
    wrong = load_recipe("toy", [*SHORT, "losses.kl=1.0", "losses.teacher=metatrained"])
    with pytest.raises(ConfigError, match=r"expected a meta-trained model \(concatenation\), got method 'fid-icl'"):
        train_stage(wrong, "finetune", tmp_path / "wrong", sources=sources, progress=False)


def test_a_whole_run_with_fid_icl_as_teacher(tmp_path: Path) -> None:
    recipe = load_recipe(
        "toy",
        [
            *(*SHORT, "losses.kl=1.0", "losses.teacher=fid-icl", "metatrain.method=fid-icl"),
            *("data.validation_tasks=3", "data.validation_instances=2", "training.metatrain.validate_every=2"),
            "evaluation.limit=1",
        ],
    )
    rows = run(recipe, tmp_path / "run", progress=False)
    assert [row["step"] for row in rows] == ["metatrain", "finetune", "evaluate", "evaluate-metatrain"]
    records = {row["step"]: json.loads((tmp_path / "run" / row["step"] / "record.json").read_text()) for row in rows}
    assert records["finetune"]["start"]["metatrained"].startswith("sha256:")
    assert [entry["step"] for entry in records["metatrain"]["training"]["history"] if "validation" in entry] == [2]
    assert records["evaluate-metatrain"]["method"] == "fid-icl"
    assert records["evaluate-metatrain"]["data"]["digest"] == records["evaluate"]["data"]["digest"]
    assert {row["state"] for row in run(recipe, tmp_path / "run", progress=False)} == {"skipped: complete"}


READER = [*SHORT, "generator.reads=demonstrations", "training.finetune.steps=3"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that reads a task's shots. Never write into it."""
    out = tmp_path_factory.mktemp("reader") / "shots"
    train_stage(load_recipe("toy", READER), "finetune", out, progress=False)
    return out


def test_a_generator_reads_shots(reader: Path) -> None:
    recipe = load_recipe("toy", READER)
    method = load_method(reader / "model")
    assert isinstance(method, TAGI)
    assert method.text.settings.reads == "demonstrations"
    record = evaluate(
        str(reader), recipe, request=EvaluationRequest(SENSITIVITY, limit=1, tasks=("toy-animal*",)), progress=False
    )
    assert set(record["results"]) == set(SENSITIVITY) - {"paraphrase", "shuffled", "random"}
    task = load_tasks(recipe, "test").tasks[0]
    assert len(task.shots) == 4
    # Marks, words and marks of every shot, as many as fit, and one end.
    assert method.prepare([task]).mask.sum() == 1 + sum(len(method.text.demonstration(shot)) for shot in task.shots[:4])


def test_a_generator_reads_a_tasks_own_examples(tmp_path: Path) -> None:
    recipe = load_recipe("toy", [*READER, "data.positives=2"])
    train_stage(recipe, "finetune", tmp_path / "run", progress=False)
    assert load_method(tmp_path / "run" / "model").text.settings.positives == 2
    record = evaluate(str(tmp_path / "run"), recipe, request=EvaluationRequest(limit=1), progress=False)
    assert "shots" not in record["data"]
    task = load_tasks(recipe, "test").tasks[0]
    assert (len(task.examples), task.shots) == (2, ())


def test_demonstrations_on_the_command_line(reader: Path, run_tagi: Run, tmp_path: Path) -> None:
    shown = ["--example", "cat river king pen soup => cat", "--example", "dog hill queen axe rice => dog"]
    made = run_tagi("generate", "-g", reader, *shown, "--out", tmp_path / "adapter", "--json")
    assert made.code == 0, made.err
    record = json.loads((tmp_path / "adapter" / "task_adapter.json").read_text())
    assert [example["output"] for example in record["examples"]] == ["cat", "dog"]
    text = "pen king bear soup hill"
    from_folder = run_tagi("predict", "-a", tmp_path / "adapter", text)
    at_once = run_tagi("predict", "-g", reader, *shown, text)
    told = run_tagi("predict", "-g", reader, *shown, "-i", "an instruction that is not read", text)
    assert (from_folder.code, at_once.code, told.code) == (0, 0, 0), (from_folder.err, at_once.err, told.err)
    assert from_folder.out == at_once.out == told.out
    for arguments, words in (
        (["predict", "-g", reader, "-i", "do it", text], "expected examples of the task, which this generator reads"),
        (["generate", "-g", reader, "-i", "do it", "--out", tmp_path / "no"], "expected examples of the task"),
        (["predict", "-a", tmp_path / "adapter", *shown, text], "expected one of -a and --example, got both"),
        (["predict", *shown, text], "expected an instruction, got an empty text"),
        (["predict", "-g", reader, "--example", "a b", text], "--example: expected 'INPUT => OUTPUT', got 'a b'"),
    ):
        failed = run_tagi(*arguments)
        assert (failed.code, failed.err.count("\n")) == (2, 1), failed.err
        assert words in failed.err


def test_what_a_reader_is_without_demonstrations(reader: Path) -> None:
    method = load_method(reader / "model")
    task = load_tasks(load_recipe("toy", SHORT), "test").tasks[0]
    with pytest.raises(InputError, match=rf"^{task.name}: expected demonstrations, .* got none$"):
        method.prepare([task])
    assert empty_instruction_states(method.generator).mask.sum() == 1
    assert torch.isfinite(
        empty_instruction_states(method.generator).bank.delta(method.generator.backbone.target_modules[0].path)
    ).all()  # type: ignore[attr-defined]


def test_a_run_in_context_is_estimated(tmp_path: Path) -> None:
    tokens = {
        method: float(
            estimate(load_recipe("toy", [*SHORT, f"metatrain.method={method}"]), tmp_path, tflops=1.0)[0]["tokens"]
        )
        for method in ("concatenation", *METHODS)
    }
    rows, one = 2 * 3 * 2, 64 + 16
    assert tokens["concatenation"] == tokens["concat-icl"] == rows * one
    assert tokens["fid-icl"] == pytest.approx(rows * one + 2 * 3 * 4 * one, rel=1e-2)
    assert tokens["ensemble-icl"] == pytest.approx(4 * rows * one, rel=1e-2)
