"""P3 from a recipe to scores: who reads which form of a prompt, where shots come from, and which teachers there are."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tagi.backbones.protocol import initial_factors
from tagi.data.batches import TaskBatches
from tagi.data.task import Instance, Task
from tagi.errors import ConfigError, DataError
from tagi.evaluation.reports.paired_evaluations import compare
from tagi.methods.flops import Lengths
from tagi.methods.objective.teachers import ConcatenatedTeacher
from tagi.settings.recipe import Recipe
from tagi.stages.compare_methods import MethodComparison, compare_methods
from tagi.stages.flops import table
from tagi.stages.protocol import Sources
from tagi.stages.recipe_models import concatenated_method, load_metatrained, load_recipe_backbone
from tagi.stages.recipe_settings import concatenated_text
from tagi.stages.recipes import as_method, load_recipe
from tagi.stages.registry import last_stage, stage_of
from tagi.stages.run import run
from tagi.stages.tasks import RecipeData, load_tasks
from tagi.stages.train import train_stage
from tests.models import tiny_model, tokenizer
from tests.p3_files import put_templates

PROMPT, FIELDS = "sort the animals : cat hen", "cat hen"
TASK = Task("t", "c", "sort the animals : [...]", (Instance("0", FIELDS, ("hen",), None, PROMPT),))
BASELINES = ("no-ft", "tk-instruct", "tk-instruct-lora", "full-ft", "simple-ft")
DEMONSTRATED = ("fid-icl", "concat-icl", "ensemble-icl", "full-ft", "simple-ft", "hyperprefix", "hyperlora")
TESTED = 9


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of different fields: two animals and a number in dashes."""
    return [{"premise": f"cat {'- ' * (first + n + 1)}hen", "label": n % 2} for n in range(count)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two training templates of one data set, CB alone for tests, promptsource's templates of both."""
    sets, train = tmp_path / "eval" / "super_glue" / "cb", tmp_path / "train"
    for folder in (sets, train):
        folder.mkdir(parents=True)
    (sets / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(TESTED)))
    ask = "sort the animals : {{premise}} ||| {{answer_choices[label]}}"
    put_templates(tmp_path / "templates" / "super_glue" / "cb", ask=(ask, "cat ||| hen", True))
    put_templates(tmp_path / "templates" / "imdb", **dict.fromkeys(("ask", "tell"), (ask, "cat ||| hen", True)))
    for name in ("imdb_ask", "imdb_tell"):
        rendered = [
            {
                "inputs_pretokenized": f"sort the animals : {row['premise']}",
                "targets_pretokenized": ("cat", "hen")[row["label"]],
            }
            for row in rows(12, first=20)
        ]
        (train / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rendered))
    return tmp_path


def p3(place: Path, *overrides: str) -> Recipe:
    return load_recipe("toy", settings(place, *overrides))


def settings(place: Path, *overrides: str) -> list[str]:
    return [
        *("data.source=p3", f"data.path={place / 'train'}", f"data.test_path={place / 'eval'}"),
        *(f"data.templates={place / 'templates'}", "data.max_input_tokens=60", "data.truncate=true"),
        *(f"training.{stage}steps=1" for stage in ("", "metatrain.", "teachers.", "pretrain.", "finetune.")),
        *("training.tasks_per_batch=2", "training.queries_per_task=2", "training.report_to=[]", "shots.count=4"),
        *("data.instances_per_task=6", "losses.ins=0", "losses.teacher=metatrained", "losses.kl=1.0"),
        "training.log_every=1",
        *('run.stages=["metatrain", "finetune"]', *overrides),
    ]


def only_row(batch: dict[str, torch.Tensor], name: str) -> list[int]:
    return batch[f"{name}_ids"][0][batch[f"{name}_mask"][0]].tolist()


@pytest.mark.parametrize("inputs", ["rendered", "fields"])
def test_baselines_and_teachers_read_the_rendered_prompt_alone(place: Path, tmp_path: Path, inputs: str) -> None:
    recipe = p3(place, f"data.inputs={inputs}")
    samples = TaskBatches([TASK], length=1, tasks_per_batch=1, queries_per_task=1, seed=0)[0]
    for name in BASELINES:
        own = as_method(recipe, name)
        method = last_stage(own).untrained(own, load_recipe_backbone(own, tmp_path))
        assert only_row(method.collate(samples), "input") == method.text.input(PROMPT), name
        states = method.prepare([TASK])
        ids, mask = method._tokens(states, torch.tensor([0]), [method.input_of(TASK.instances[0])], False)
        assert ids[0][mask[0]].tolist() == method.text.input(PROMPT), name
    backbone = load_recipe_backbone(recipe, tmp_path)
    lora = concatenated_method(recipe, backbone, "lora")  # what the stage teachers trains
    assert only_row(lora.collate(samples), "input") == lora.text.input(PROMPT)
    teacher = ConcatenatedTeacher(backbone, concatenated_text(recipe))
    assert only_row(teacher.collate(samples), "input") == lora.text.input(PROMPT)


def test_a_decoder_only_model_keeps_what_rendered_prompts_have_in_common(place: Path, tmp_path: Path) -> None:
    """With a cache, of a token at most, the scores are those without."""
    prompts = (PROMPT, "sort the animals : fox", "copy dog")
    task = Task("t", "c", TASK.instruction, tuple(Instance(text, text, ("hen",)) for text in prompts))
    sizes = "{model_type='gpt2', n_embd=16, n_layer=2, n_head=2, n_positions=96, vocab_size=238}"
    small = ("backbone.name=config", "backbone.tokenizer=toy", f"backbone.config={sizes}")
    chosen = [one for one in settings(place, *small) if not one.startswith("run.stages")]
    recipe = load_recipe("toy+causal-cached", chosen)
    scores = []
    for cached in (False, True):
        own = recipe.model_copy(update={"metatrain": replace(recipe.metatrain, prefix_cached=cached)})
        method = last_stage(own).untrained(own, load_recipe_backbone(own, tmp_path)).eval()
        assert not method.reads_instruction
        rows, choices = torch.zeros(3, dtype=torch.long), [["hen", "cat"]] * 3
        scores.append(method.score_choices(method.prepare([task]), rows, list(prompts), choices))
    assert torch.allclose(torch.tensor(scores[0]), torch.tensor(scores[1]), atol=1e-5)


def test_tagi_reads_the_fields_and_what_reads_demonstrations_the_whole_prompt(place: Path, tmp_path: Path) -> None:
    samples = TaskBatches([TASK], length=1, tasks_per_batch=1, queries_per_task=1, seed=0)[0]
    backbone = load_recipe_backbone(p3(place), tmp_path)
    for reads, text in (("instruction", FIELDS), ("demonstrations", PROMPT)):
        method = stage_of("finetune").untrained(p3(place, f"generator.reads={reads}"), backbone)
        assert method.input_of(samples[0]) == method.input_of(TASK.instances[0]) == text


@pytest.mark.parametrize("inputs", ["rendered", "fields"])
def test_every_stage_runs_with_fid_icl_as_teacher(place: Path, tmp_path: Path, inputs: str) -> None:
    recipe = p3(
        place, f"data.inputs={inputs}", "losses.teacher=fid-icl", "metatrain.method=fid-icl", "losses.top_k=3",
        'run.stages=["metatrain", "teachers", "finetune"]', "losses.ins=1.0", "data.test_instances_per_task=3",
    )  # fmt: skip
    run(recipe, tmp_path / "out", progress=False)
    records = {name: json.loads((tmp_path / "out" / name / "record.json").read_text()) for name in
               ("metatrain", "teachers", "evaluate", "evaluate-metatrain")}  # fmt: skip
    assert records["metatrain"]["data"]["instructions"]["from_templates"] == 2
    assert records["evaluate"]["data"]["digest"] == records["evaluate-metatrain"]["data"]["digest"]
    assert compare(tmp_path / "out" / "evaluate", tmp_path / "out" / "evaluate-metatrain")["n"] == 3
    catalogue = json.loads((tmp_path / "out" / "teachers" / "catalogue.json").read_text())
    assert catalogue["reads"] == "nothing"
    lines = (tmp_path / "out" / "evaluate" / "predictions-right.jsonl").read_text().splitlines()
    assert all(json.loads(line)["input"].startswith("sort the animals : cat") for line in lines)


def test_both_forms_of_inputs_are_scored_on_the_same_data(place: Path) -> None:
    forms = [load_tasks(p3(place, f"data.inputs={form}"), "test").tasks for form in ("rendered", "fields")]
    assert [[one.prompt for one in tasks[0].instances] for tasks in forms] == [
        [f"sort the animals : {row['premise']}" for row in rows(TESTED)]
    ] * 2
    assert [one.input for one in forms[1][0].instances] == [row["premise"] for row in rows(TESTED)]


@pytest.mark.parametrize("method", DEMONSTRATED)
def test_shots_are_looked_for_before_anything_is_trained(place: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    recipe = as_method(p3(place, "data.test_instances_per_task=7"), method)
    wanted = r"got 2: lower data\.test_instances_per_task or shots\.count, put the training set beside"
    if method == "simple-ft":
        recipe = as_method(p3(place), method)
        wanted = "expected some labelled examples"
    with pytest.raises(DataError, match=wanted):
        run(recipe, out, progress=False)
    assert not out.exists()


def test_a_comparison_looks_for_all_shots_before_it_trains_any_method(place: Path, tmp_path: Path) -> None:
    asked = MethodComparison(("tk-instruct", "fid-icl"), steps=1, inputs=2, pairs=2)
    overrides = [one for one in settings(place) if not one.startswith("run.stages")]
    with pytest.raises(DataError, match="expected 4 labelled examples"):
        compare_methods("toy", asked, tmp_path / "out", overrides=overrides, progress=False)
    assert not (tmp_path / "out" / "shared").exists()


def test_methods_that_read_no_shots_need_none(place: Path) -> None:
    for method in ("tk-instruct", "hint", "tagi"):
        recipe = as_method(p3(place), method)
        RecipeData(recipe).check_shots(recipe.run.stages)
    paper = load_recipe("p3-base+hint", settings(place, "losses.ins=0", 'run.stages=["finetune"]'))
    assert (paper.metatrain.method, paper.shots.count) == ("fid-icl", 4)
    RecipeData(paper).check_shots(paper.run.stages)


def test_shots_come_from_the_training_set_beside_the_one_that_is_tested(place: Path) -> None:
    file = place / "eval" / "super_glue" / "cb" / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(8, first=50)))
    (task,) = load_tasks(p3(place, "data.inputs=fields"), "test", shots=True).tasks
    assert len(task.instances) == TESTED
    shown = {f"sort the animals : {row['premise']}" for row in rows(8, first=50)}
    assert {shot.input for shot in task.shots} < shown
    assert len(task.shots) == 4


def test_flops_are_beside_the_rendered_prompt(place: Path) -> None:
    """Against the prompt that T0 reads TAGI costs more if it reads the same prompt, and less if the fields alone."""

    def ratio(recipe: Recipe, lengths: Lengths) -> dict[str, float]:
        found = table(["t5-base-lm-adapt"], recipe, {"a": lengths}, methods=["no-ft", "tk-instruct", "full-ft", "tagi"])
        return {row["method"]: row["costs"]["t5-base-lm-adapt"]["ratio"] for row in found}

    base = [
        *(f"data.{key}={place / key.removesuffix('_path')}" for key in ("templates",)),
        *(f"data.path={place / 'train'}", f"data.test_path={place / 'eval'}"),
    ]
    rendered = ratio(load_recipe("p3-base", base), Lengths(30, 90, 4, concatenated=90))
    fields = ratio(load_recipe("p3-base", base), Lengths(30, 65, 4, concatenated=90, rendered=90))
    for found in (rendered, fields):
        titles = list(found)
        assert [found[title] for title in titles[:3]] == [1.0, 1.0, 1.0]
    assert rendered["TAGI"] > 1 > fields["TAGI"]


@pytest.fixture
def one_category(tmp_path: Path) -> list[str]:
    file = tmp_path / "tasks.jsonl"
    instances = [{"input": "cat hen", "outputs": ["hen"]}, {"input": "fox dog", "outputs": ["dog"]}]
    line = {"task": "one", "category": "copy", "instruction": "copy word one", "instances": instances}
    file.write_text(json.dumps(line) + "\n")
    return [
        *("data.source=jsonl", f"data.path={file}", "losses.kl=0", "losses.ins=1.0", "training.report_to=[]"),
        "training.log_every=1",
        *(f"training.{stage}steps=1" for stage in ("teachers.", "pretrain.", "finetune.")),
        *("training.tasks_per_batch=1", "training.teachers.tasks_per_batch=1", "training.pretrain.tasks_per_batch=2"),
    ]


@pytest.fixture
def of_seed(one_category: list[str]) -> Callable[..., Recipe]:
    return lambda seed, *more: load_recipe("toy", [*one_category, "losses.alignment=factors", f"seed={seed}", *more])


def test_a_generator_takes_the_a_of_teachers_of_another_seed(of_seed: Callable[..., Recipe], tmp_path: Path) -> None:
    from tagi.formats.generator import load_generator

    losses = {}
    for seed in (0, 1):
        train_stage(of_seed(seed), "teachers", tmp_path / f"teachers-{seed}", progress=False)
        sources, out = Sources(teachers=tmp_path / f"teachers-{seed}"), tmp_path / f"finetuned-{seed}"
        record = train_stage(of_seed(0), "finetune", out, sources=sources, progress=False)
        losses[seed] = record["training"]["history"][0]["ins"]
        found = load_generator(out / "model")
        start = initial_factors(found.backbone.target_modules, 8, seed)
        for path, a in start.items():
            assert torch.equal(found.hypernetwork.heads.start(path), a)
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


def test_a_checkpoint_to_start_from_must_have_the_teachers_a(of_seed: Callable[..., Recipe], tmp_path: Path) -> None:
    train_stage(of_seed(1), "teachers", tmp_path / "teachers", progress=False)
    train_stage(of_seed(0), "pretrain", tmp_path / "pretrained", progress=False)
    sources = Sources(start=(str(tmp_path / "pretrained"),), teachers=tmp_path / "teachers")
    with pytest.raises(ConfigError, match=r"^losses\.ins: expected a generator .* drawn by seed 1, got a checkpoint"):
        train_stage(of_seed(0), "finetune", tmp_path / "out", sources=sources, progress=False)
    product = of_seed(0, "losses.alignment=product")
    record = train_stage(product, "finetune", tmp_path / "product", sources=sources, progress=False)
    assert record["training"]["steps"] == 1


@pytest.fixture
def published(tmp_path: Path) -> Callable[[int], str]:
    """Folders such as the hub's: a T5 as transformers writes it, with so many rows of embeddings without a token."""

    def made(unused: int) -> str:
        folder = tmp_path / f"published-{unused}"
        tiny_model(vocab_size=len(tokenizer()) + unused).save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return str(folder)

    return made


@pytest.mark.parametrize("kind", ["fid-icl", "concatenation"])
@pytest.mark.parametrize("top_k", ["", "5"])
def test_a_published_checkpoint_teaches_without_training(
    place: Path, tmp_path: Path, published: Callable[[int], str], kind: str, top_k: str
) -> None:
    """Its vocabulary may be padded to another size than the student's."""
    method = ("losses.teacher=" + ("fid-icl" if kind == "fid-icl" else "metatrained"), f"metatrain.method={kind}")
    frozen = p3(place, *method, "metatrain.tune=none", f"backbone.name={published(3)}")
    record = train_stage(frozen, "metatrain", tmp_path / "teacher", progress=False)
    assert record["training"]["steps"] == record["parameters"]["trained"] == 0
    student = p3(place, *method, f"backbone.name={published(8)}", f"losses.top_k={top_k}")
    sources = Sources(metatrained=str(tmp_path / "teacher"))
    done = train_stage(student, "finetune", tmp_path / "student", sources=sources, progress=False)
    assert done["training"]["history"][0]["kl"] > 0


def test_a_teacher_with_another_tokenizer_is_refused(
    place: Path, tmp_path: Path, published: Callable[[int], str]
) -> None:
    frozen = p3(place, "metatrain.tune=none", f"backbone.name={published(3)}")
    train_stage(frozen, "metatrain", tmp_path / "teacher", progress=False)
    sources = Sources(metatrained=str(tmp_path / "teacher"))
    with pytest.raises(ConfigError, match=r"^losses\.teacher: expected a teacher with the tokens of the student"):
        train_stage(p3(place), "finetune", tmp_path / "student", sources=sources, progress=False)


def test_old_p3_checkpoints_read_as_they_did(place: Path, tmp_path: Path) -> None:
    """A meta-trained model whose checkpoint says that it reads instructions still does."""
    recipe = p3(place)
    train_stage(recipe, "metatrain", tmp_path / "new", progress=False)
    config = tmp_path / "new" / "model" / "config.json"
    content = json.loads(config.read_text())
    assert content["text"]["reads"] == "nothing"
    del content["text"]["reads"]
    config.write_text(json.dumps(content))
    from tagi.methods.concatenation import Concatenation

    old = load_metatrained(Concatenation, str(tmp_path / "new"), "a test")
    states = old.prepare([TASK])
    assert old.reads_instruction
    ids, mask = old._tokens(states, torch.tensor([0]), [PROMPT], False)
    assert ids[0][mask[0]].tolist() == old.text.concatenated(TASK.instruction, (), PROMPT)
    assert len(ids[0][mask[0]]) > len(old.text.input(PROMPT))


def test_the_small_recipe_leaves_shots_of_every_real_prompt(data_dir: Path, tmp_path: Path) -> None:
    """Half of COPA's prompts apply to half of its rows, and no training sets are beside these."""
    for name in ("cb", "copa", "rte"):
        (tmp_path / "super_glue").mkdir(exist_ok=True)
        (tmp_path / "super_glue" / name).symlink_to(data_dir / "p3" / "eval" / "super_glue" / name)
    recipe = load_recipe("p3-small", [f"data.test_path={tmp_path}", f"data.templates={data_dir / 'p3' / 'templates'}"])
    loaded = RecipeData(as_method(recipe, "fid-icl")).tasks("test", shots=True).tasks
    assert len(loaded) == 37
    assert {len(task.instances) for task in loaded} == {recipe.data.test_instances_per_task}
    assert {len(task.shots) for task in loaded} == {recipe.shots.count} == {16}
