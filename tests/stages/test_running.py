"""A whole run: its order, what is skipped, what is shared, what is refused; and what it is estimated to take."""

import json
from pathlib import Path
from typing import Any

import pytest

from tagi.errors import ConfigError, DataError, TrainingError
from tagi.formats.peft import read_peft
from tagi.settings.recipe import Recipe
from tagi.stages.describe import describe
from tagi.stages.estimate import estimate
from tagi.stages.identity import stage_identity
from tagi.stages.many_models import folder_name
from tagi.stages.protocol import Job, Sources
from tagi.stages.recipes import load_recipe
from tagi.stages.registry import stage_of
from tagi.stages.run import plan, run
from tagi.stages.train import train_stage
from tests.causal_models import causal_tokenizer, tiny_causal, tiny_causal_model
from tests.commands import Run

TINY = [
    *(f"training.{stage}steps=2" for stage in ("", "metatrain.", "teachers.", "pretrain.")),
    *("training.tasks_per_batch=3", "training.queries_per_task=2", "training.report_to=[]"),
    *("data.instances_per_task=4", "data.test_instances_per_task=1", "training.log_every=1"),
]
SET = [part for setting in TINY for part in ("--set", setting)]
STEPS = ["metatrain", "teachers", "pretrain", "finetune", "evaluate", "evaluate-metatrain"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of the toy recipe, two steps a stage. Never write into it."""
    out = tmp_path_factory.mktemp("run") / "toy"
    rows = run(load_recipe("toy", TINY), out, progress=False)
    assert [(row["step"], row["state"]) for row in rows] == [(step, "done") for step in STEPS]
    return out


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_record_and_an_output_for_every_stage(finished: Path) -> None:
    records = {step: json.loads((finished / step / "record.json").read_text()) for step in STEPS}
    assert [records[step]["stage"] for step in STEPS] == [*STEPS[:4], "finetune", "metatrain"]
    assert [records[step]["kind"] for step in STEPS] == ["training"] * 4 + ["evaluation"] * 2
    teachers = json.loads((finished / "teachers" / "catalogue.json").read_text())["teachers"]
    assert len(teachers) == 6
    for teacher in teachers:
        assert read_peft(finished / "teachers" / teacher["path"]).rank == 8
        assert teacher["steps"] == 2
    assert not list((finished / "teachers" / "checkpoints").iterdir())
    assert records["teachers"]["training"]["tokens"] == sum(teacher["tokens"] for teacher in teachers) > 0
    finetuned = records["finetune"]
    assert finetuned["start"]["teachers"].startswith("sha256:")
    assert finetuned["start"]["parameters"][0] > 1_000_000  # what pretraining trained
    assert {"prediction", "kl", "ins"} <= set(finetuned["training"]["history"][-1])
    assert finetuned["training"]["tokens"] > 0
    assert finetuned["training"]["peak_memory"] > 0
    assert set(records["evaluate"]["results"]) == {"right", "paraphrase", "other", "none"}


def test_run_again_it_does_nothing(finished: Path) -> None:
    before = times(finished)
    rows = run(load_recipe("toy", TINY), finished, progress=False)
    assert {row["state"] for row in rows} == {"skipped: complete"}
    assert times(finished) == before


def test_another_recipe_is_refused_where_it_differs(finished: Path) -> None:
    before = times(finished)
    other = load_recipe("toy", [*TINY, "losses.kl=0.25"])
    rows = run(other, finished, last="pretrain", progress=False)
    assert {row["state"] for row in rows} == {"skipped: complete"}
    with pytest.raises(TrainingError, match="finetune: expected a run of this recipe"):
        run(other, finished, first="finetune", progress=False)
    with pytest.raises(ConfigError, match="evaluate: expected scores of this recipe"):
        run(load_recipe("toy", [*TINY, "evaluation.num_beams=2"]), finished, first="evaluate", progress=False)
    assert times(finished) == before


def test_stages_are_the_same_where_their_tables_are(tmp_path: Path) -> None:
    def identities(*overrides: str) -> dict[str, str]:
        recipe = load_recipe("toy", [*TINY, *overrides])
        return {stage: stage_identity(recipe, stage, Sources()) for stage in recipe.run.stages}

    base = identities()
    changes = {
        "losses.ins=0.5": {"finetune"},
        "training.pretrain.steps=3": {"pretrain"},
        "generator.fusion=none": {"pretrain", "finetune"},
        "generator.rank=4": set(base) - {"metatrain"},
        "metatrain.tune=lora": {"metatrain"},
        "seed=1": set(base),
        "data.test_instances_per_task=2": set(),
        "training.finetune.keep_checkpoints=5": set(),
        "evaluation.max_new_tokens=3": set(),
        "teacher.base=metatrained": {"teachers"},
    }
    for override, expected in changes.items():
        found = identities(override)
        assert {stage for stage in base if base[stage] != found[stage]} == expected, override


def test_a_step_needs_those_before_it(tmp_path: Path) -> None:
    recipe = load_recipe("toy", TINY)
    with pytest.raises(ConfigError, match="finetune: expected the finished stage 'teachers'"):
        run(recipe, tmp_path, first="finetune", progress=False)
    with pytest.raises(ConfigError, match="evaluate: expected the finished stage 'finetune'"):
        run(recipe, tmp_path, first="evaluate", progress=False)
    with pytest.raises(ConfigError, match=r"--until: expected one of this recipe's steps .*got 'finetun'"):
        run(recipe, tmp_path, last="finetun", progress=False)
    with pytest.raises(ConfigError, match="the first step before the last"):
        run(recipe, tmp_path, first="finetune", last="metatrain", progress=False)
    assert not list(tmp_path.iterdir())


def sources_of(recipe: Recipe, out: Path) -> dict[str, Sources]:
    return {step.name: step.sources for step in plan(recipe, out)}


def test_stages_rest_on_what_the_recipe_says(tmp_path: Path) -> None:
    given = sources_of(load_recipe("toy"), tmp_path)
    assert given["finetune"] == Sources((str(tmp_path / "pretrain"),), tmp_path / "teachers", None)
    assert given["teachers"] == given["pretrain"] == given["metatrain"] == Sources()
    metatrained = str(tmp_path / "metatrain")
    on = sources_of(load_recipe("toy", ["run.start=metatrained", "teacher.base=metatrained"]), tmp_path)
    assert on["teachers"] == Sources(metatrained=metatrained)
    assert on["pretrain"] == Sources(start=(metatrained,))
    assert on["finetune"] == Sources((metatrained, str(tmp_path / "pretrain")), tmp_path / "teachers", metatrained)
    plain = sources_of(load_recipe("toy", ["losses.ins=0", "losses.teacher=metatrained"]), tmp_path)
    assert plain["finetune"] == Sources((str(tmp_path / "pretrain"),), None, metatrained)
    alone = sources_of(load_recipe("toy", ["losses.ins=0", "losses.kl=0", "run.stages=['finetune']"]), tmp_path)
    assert alone == {"finetune": Sources(), "evaluate": Sources()}


def test_an_interrupted_catalogue_keeps_what_is_finished(finished: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "teachers"
    shutil.copytree(finished / "teachers", out)
    (out / "record.json").unlink()
    shutil.rmtree(out / "plural")
    kept = times(out / "kelvan")
    recipe = load_recipe("toy", TINY)
    with pytest.raises(TrainingError, match="expected a teacher of this recipe"):
        train_stage(load_recipe("toy", [*TINY, "seed=3"]), "teachers", out, resume=True, progress=False)
    assert times(out / "kelvan") == kept
    record = train_stage(recipe, "teachers", out, resume=True, progress=False)
    assert times(out / "kelvan") == kept
    assert len(record["teachers"]) == 6
    whole, again = (read_peft(folder / "plural") for folder in (finished / "teachers", out))
    for module, (a, b) in whole.factors.items():
        assert (a.numpy().tobytes(), b.numpy().tobytes()) == tuple(x.numpy().tobytes() for x in again.factors[module])


def test_an_odd_teacher_is_named(finished: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "teachers"
    shutil.copytree(finished / "teachers", out)
    (out / "record.json").unlink()
    for odd in ("[]", "{}"):
        (out / "kelvan" / "trained.json").write_text(odd)
        with pytest.raises(TrainingError, match=r"trained\.json: expected what is known of a finished teacher"):
            train_stage(load_recipe("toy", TINY), "teachers", out, resume=True, progress=False)


def test_alignment_with_nothing_is_refused_and_with_something_is_counted(finished: Path, tmp_path: Path) -> None:
    import shutil

    record = json.loads((finished / "finetune" / "record.json").read_text())
    assert record["data"]["aligned_tasks"] == record["data"]["tasks"] == 96
    out = tmp_path / "teachers"
    shutil.copytree(finished / "teachers", out)
    catalogue = json.loads((out / "catalogue.json").read_text())
    for entry in catalogue["teachers"]:
        entry["category"] += " elsewhere"
    (out / "catalogue.json").write_text(json.dumps(catalogue))
    with pytest.raises(ConfigError, match=r"losses\.ins: expected a LoRA teacher .*got none"):
        train_stage(
            load_recipe("toy", [*TINY, "losses.kl=0"]),
            "finetune",
            tmp_path / "finetune",
            sources=Sources(teachers=out),
            progress=False,
        )


def test_categories_that_would_share_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tagi.stages import many_models

    assert folder_name("Question Answering") == "question-answering"
    monkeypatch.setattr(many_models, "folder_name", lambda category: "same")
    with pytest.raises(DataError, match="'copy' and 'kelvan'"):
        stage_of("teachers").build(Job.of(load_recipe("toy", TINY), tmp_path))


def test_run_from_the_command_line(run_tagi: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    dry = run_tagi("run", "toy", "--out", out, "--dry-run", "--tflops", "1", "--json", *SET)
    assert dry.code == 0, dry.err
    assert [row["step"] for row in json.loads(dry.out)] == STEPS
    assert not out.exists()
    first = run_tagi("run", "toy", "--out", out, "--until", "metatrain", *SET)
    assert first.code == 0, first.err
    assert "metatrain" in first.out
    assert "done" in first.out
    second = run_tagi("run", "toy", "--out", out, "--until", "metatrain", "--json", *SET)
    assert json.loads(second.out)[0]["state"] == "skipped: complete"
    wrong = run_tagi("run", "toy", "--out", out, "--from", "nothing", *SET)
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)


def test_estimates_follow_shapes(tmp_path: Path) -> None:
    rows = {row["step"]: row for row in estimate(load_recipe("sni-base"), tmp_path, tflops=100.0)}
    assert rows["metatrain"]["trained"] == "247,577,856"  # T5-LM-adapt base
    assert rows["teachers"]["trained"] == "3,538,944"  # 72 target modules x 32 x (768 + 768)
    half = {row["step"]: row for row in estimate(load_recipe("sni-base"), tmp_path, tflops=200.0)}
    assert float(rows["finetune"]["hours"]) == pytest.approx(2 * float(half["finetune"]["hours"]), rel=0.02)
    longer = estimate(load_recipe("sni-base", ["training.steps=40000"]), tmp_path, tflops=100.0)
    assert float(longer[3]["hours"]) == pytest.approx(2 * float(rows["finetune"]["hours"]), rel=0.02)
    assert float(rows["evaluate"]["hours"]) == pytest.approx(2 * float(half["evaluate"]["hours"]), rel=0.02)
    fewer = estimate(load_recipe("sni-base", ["evaluation.limit=50"]), tmp_path, tflops=100.0)
    assert 0 < float(fewer[-1]["tokens"]) < 0.6 * float(rows["evaluate"]["tokens"])
    with pytest.raises(ConfigError, match=r"some/model: expected a built-in backbone .*, a model folder, a GGUF file"):
        estimate(load_recipe("sni-base", ["backbone.name=some/model"]), tmp_path)


def test_estimates_know_what_a_method_trains(tmp_path: Path) -> None:
    def first(method: str, *overrides: str) -> dict[str, Any]:
        return estimate(load_recipe(f"sni-base+{method}", overrides), tmp_path, tflops=100.0)[0]

    assert (first("no-ft")["trained"], first("no-ft")["steps"], first("no-ft")["hours"]) == ("0", 0, "0")
    assert first("full-ft")["trained"] == first("tk-instruct")["trained"] == "247,577,856"
    assert first("full-ft", "single.tune=lora")["trained"] == first("tk-instruct-lora")["trained"] == "3,538,944"
    longer = first("full-ft", "training.single.steps=600")
    assert float(longer["tokens"]) == pytest.approx(2 * float(first("full-ft")["tokens"]), rel=0.01)
    causal = estimate(load_recipe("toy+causal", ["backbone.tokenizer=toy"]), tmp_path, tflops=100.0)[0]
    assert causal["trained"] == "1,232,640"  # the GPT-2 of 1,232,640 parameters that is the toy's decoder-only rival


def test_estimates_on_a_decoder_only_model(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    model = tiny_causal_model("llama")
    model.save_pretrained(folder)
    causal_tokenizer().save_pretrained(folder)
    limits = ["data.max_instruction_tokens=13", "data.max_input_tokens=17", "data.max_target_tokens=5"]
    own = [f"backbone.name={folder}", "data.encoding=plain", "backbone.dtype=float32", *limits]
    widths, target_modules = [module.d_in + module.d_out for module in tiny_causal("llama").target_modules], 2 * 2

    def rows(*changed: str) -> list[dict[str, Any]]:
        return estimate(load_recipe("smollm2", [*own, *changed]), tmp_path / "run", tflops=0.001)[:2]

    (shared, row), described = rows(), describe("recipe", load_recipe("smollm2", own))
    assert (shared["step"], shared["trained"]) == ("metatrain", f"{16 * sum(widths):,}")
    assert shared["frozen"] == f"{model.num_parameters():,}" == f"{described['backbone_parameters']:,}"
    assert (row["step"], row["trained"]) == ("finetune", f"{described['trained']:,}")
    assert described["shared_lora"] == 16 * sum(widths)
    assert (described["rank"], described["shared_rank"]) == (24, 16)
    assert row["frozen"] == f"{model.num_parameters() + described['shared_lora']:,}"
    assert described["generated_per_adapter"] == 8 * sum(widths) + 16 * target_modules
    prompted, alone = 13 + 17 + 5, 17 + 5  # and 13 tokens of the instruction once more, for its states
    assert float(shared["tokens"]) == 2000 * 8 * prompted
    assert float(row["tokens"]) == pytest.approx(10000 * 4 * (prompted + alone + 13), rel=5e-3)
    (_, told) = rows("losses.alone=0", "losses.alone_kl=0")
    assert float(told["tokens"]) == pytest.approx(10000 * 4 * (prompted + 13), rel=5e-3)
    (_, stock) = rows("generator.instruction_cache=stock")
    assert float(stock["tokens"]) == pytest.approx(10000 * 4 * (2 * alone + 13), rel=5e-3)
    assert float(stock["memory_gib"]) < float(row["memory_gib"])
    (_, both) = rows("generator.shared_tune=true")
    assert both["trained"] == f"{described['trained'] + described['shared_lora']:,}"
    assert describe("recipe", load_recipe("smollm2", [*own, "generator.shared_tune=true"]))["trained"] == (
        described["trained"] + described["shared_lora"]
    )
    (_, tuned) = rows("generator.tune=all")
    assert (tuned["frozen"], float(tuned["hours"]) > float(row["hours"])) == (f"{described['shared_lora']:,}", True)
    assert describe(str(folder), load_recipe("smollm2", own))["backbone_parameters"] == model.num_parameters()
