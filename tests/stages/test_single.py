"""One model for each test task, and none at all: what is trained on, what is asked, what is refused."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tagi.errors import CheckpointError, ConfigError, InputError
from tagi.methods.concatenation import Concatenation
from tagi.methods.load import load_method
from tagi.methods.single import SingleTask
from tagi.stages.recipes import load_recipe
from tagi.stages.run import run
from tagi.stages.tasks import load_tasks

TINY = [
    *("training.single.steps=3", "training.single.tasks_per_batch=1", "training.single.queries_per_task=5"),
    *("training.tasks_per_batch=3", "training.queries_per_task=2", "training.steps=2", "training.report_to=[]"),
    *("data.instances_per_task=7", "data.test_instances_per_task=2", "evaluation.max_new_tokens=3"),
    "training.single.learning_rate=1e-2",
]
OWN = [
    {
        "task": f"say {word}",
        "category": "say",
        "instruction": f"say {word}",
        "examples": [],
        "instances": [
            {"input": f"{noun} {other}", "outputs": [word]}
            for noun in ("cat", "hen", "fox")
            for other in ("dog", "owl")
        ],
    }
    for word in ("bread", "lake")
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two tasks of six instances, of which two are tested."""
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    file.write_text("".join(json.dumps(task) + "\n" for task in OWN))
    tasks = ("data.source=jsonl", f"data.path={file}", "data.test_on_training=true")
    return [*TINY, *tasks, "evaluation.metric=exact", "shots.count=3"]


@pytest.fixture(scope="module")
def trained(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Full FT. Never write into it."""
    out = tmp_path_factory.mktemp("single") / "run"
    rows = run(load_recipe("toy+full-ft", [*settings, "training.single.steps=60"]), out, progress=False)
    assert [row["step"] for row in rows] == ["single", "evaluate-single"]
    return out


def test_examples_are_shots_or_all_and_never_tested(settings: list[str]) -> None:
    recipe = load_recipe("toy+full-ft", settings)
    shots, every = (load_tasks(recipe, "test", shots=True, every=all_of) for all_of in (False, True))
    for few, many in zip(shots.tasks, every.tasks, strict=True):
        assert (len(few.shots), len(many.shots)) == (3, 4)
        tested = {instance.input for instance in many.instances}
        assert len(tested) == 2
        assert not tested & {shot.input for shot in many.shots}
        assert set(few.shots) <= set(many.shots)


def test_every_task_is_asked_of_its_own_model(trained: Path, settings: list[str]) -> None:
    record = json.loads((trained / "single" / "record.json").read_text())
    assert [entry["task"] for entry in record["models"]] == ["say bread", "say lake"]
    assert record["training"]["steps"] == 120
    method = load_method(trained / "single" / "model")
    assert isinstance(method, SingleTask)
    tasks = load_tasks(load_recipe("toy+full-ft", settings), "test").tasks
    before = {name: tensor.clone() for name, tensor in method.prompted.named_parameters()}
    rows, inputs = torch.tensor([1, 0, 1]), ["owl cat", "owl cat", "dog fox"]
    answers = method.predict(method.prepare(tasks), rows, inputs, max_new_tokens=3)
    assert answers == ["lake", "bread", "lake"]
    scores = method.score_choices(method.prepare(tasks), rows, inputs, [["lake", "bread"], ["lake"], ["bread", "lake"]])
    assert [len(own) for own in scores] == [2, 1, 2]
    assert scores[0][0] > scores[0][1]
    assert scores[2][1] > scores[2][0]
    assert all(torch.equal(before[name], tensor) for name, tensor in method.prompted.named_parameters())
    alone = method.predict(method.without_instruction(method.prepare(tasks)), rows, inputs, max_new_tokens=3)
    bare = Concatenation(method.prompted.backbone, method.text.settings)
    assert alone == bare.predict(bare.without_instruction(bare.prepare(tasks)), rows, inputs, max_new_tokens=3)


def test_a_task_without_a_model_is_named(trained: Path, settings: list[str]) -> None:
    method = load_method(trained / "single" / "model")
    task = load_tasks(load_recipe("toy+full-ft", settings), "test").tasks[0]
    with pytest.raises(InputError, match=r"expected a task that a model was trained for \(2: say bread.*got 'say owl'"):
        method.prepare([replace(task, name="say owl")])


def test_it_can_be_copied_and_damage_is_named(trained: Path, settings: list[str], tmp_path: Path) -> None:
    method = load_method(trained / "single" / "model")
    method.save(tmp_path / "copy" / "model")
    # the copy names the same base model, which lies beside the original's folder or in the package
    copied = tmp_path / "copy" / "model"
    assert sorted(path.name for path in copied.iterdir()) == ["config.json", "tasks"]
    (weights,) = (copied / "tasks").glob("say-lake-*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    again = load_method(copied)
    tasks = load_tasks(load_recipe("toy+full-ft", settings), "test").tasks
    with pytest.raises(CheckpointError, match="damaged"):
        again.predict(again.prepare(tasks), torch.tensor([1]), ["owl cat"], max_new_tokens=3)


def test_an_interrupted_run_goes_on_with_the_next_task(settings: list[str], tmp_path: Path) -> None:
    recipe = load_recipe("toy+simple-ft", settings)
    run(recipe, tmp_path / "whole", last="single", progress=False)
    run(recipe, tmp_path / "cut", last="single", progress=False)
    model = tmp_path / "cut" / "single" / "model"
    (lake,) = (model / "tasks").glob("say-lake-*")
    kept = {path: path.stat().st_mtime_ns for path in model.glob("tasks/say-bread-*/model.safetensors")}
    for path in (lake / "trained.json", model / "config.json", tmp_path / "cut" / "single" / "record.json"):
        path.unlink()
    run(recipe, tmp_path / "cut", last="single", progress=False)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for one, other in zip(
        sorted((tmp_path / "whole").rglob("tasks/*/model.safetensors")),
        sorted((tmp_path / "cut").rglob("tasks/*/model.safetensors")),
        strict=True,
    ):
        assert {name: tensor.numpy().tobytes() for name, tensor in load_file(one).items()} == {
            name: tensor.numpy().tobytes() for name, tensor in load_file(other).items()
        }


def test_a_lora_for_each_task(settings: list[str], tmp_path: Path) -> None:
    run(load_recipe("toy+full-ft", [*settings, "single.tune=lora"]), tmp_path, last="single", progress=False)
    method = load_method(tmp_path / "single" / "model")
    (bread,) = (tmp_path / "single" / "model" / "tasks").glob("say-bread-*")
    assert all("lora_" in name for name in load_file(bread / "model.safetensors"))
    tasks = load_tasks(load_recipe("toy+full-ft", settings), "test").tasks
    assert len(method.predict(method.prepare(tasks), torch.tensor([0]), ["owl cat"], max_new_tokens=2)) == 1


@pytest.mark.parametrize("tune", ["all", "lora"])
def test_models_begin_with_the_metatrained_one(tune: str, settings: list[str], tmp_path: Path) -> None:
    begun = ["run.stages=['metatrain', 'single']", "run.start=metatrained", f"single.tune={tune}", "generator.tune=ffn"]
    recipe = load_recipe("toy", [*settings, *begun])
    rows = run(recipe, tmp_path, progress=False)
    assert [row["step"] for row in rows] == ["metatrain", "single", "evaluate-metatrain", "evaluate-single"]
    model = tmp_path / "single" / "model"
    start, whole = (load_file(at / "model.safetensors") for at in (model / "start", tmp_path / "metatrain" / "model"))
    assert {name: tensor.numpy().tobytes() for name, tensor in start.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in whole.items()
    }
    method, metatrained = load_method(model), load_method(tmp_path / "metatrain" / "model")
    tasks, rows_of = load_tasks(recipe, "test").tasks, torch.tensor([1, 0])
    asked = (rows_of, ["owl cat", "dog fox"], [["lake", "bread"]] * 2)
    silent, wanted = (
        one.score_choices(one.without_instruction(one.prepare(tasks)), *asked) for one in (method, metatrained)
    )
    assert silent == [pytest.approx(own, rel=1e-5) for own in wanted]
    assert method.score_choices(method.prepare(tasks), *asked) != metatrained.score_choices(
        metatrained.prepare(tasks), *asked
    )
    weights = model / "start" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="damaged"):
        load_method(model)


def test_others_weights_in_its_place_are_refused(trained: Path, settings: list[str], tmp_path: Path) -> None:
    shutil.copytree(trained / "single", tmp_path / "single")
    members = tmp_path / "single" / "model" / "tasks"
    (bread,), (lake,) = (list(members.glob(f"{name}-*/model.safetensors")) for name in ("say-bread", "say-lake"))
    shutil.copy(bread, lake)
    method = load_method(tmp_path / "single" / "model")
    tasks = load_tasks(load_recipe("toy+full-ft", settings), "test").tasks
    with pytest.raises(CheckpointError, match=r"say-lake-.*: expected the weights that were trained \(sha256:"):
        method.predict(method.prepare(tasks), torch.tensor([1]), ["owl cat"], max_new_tokens=3)


def test_two_threads_each_get_their_own_tasks_model(trained: Path, settings: list[str]) -> None:
    method = load_method(trained / "single" / "model")
    assert isinstance(method, SingleTask)
    tasks = load_tasks(load_recipe("toy+full-ft", settings), "test").tasks
    gate = threading.Barrier(2)

    class Meeting(SingleTask):
        """Both have read their task's model before either asks it."""

        @property
        def _current(self) -> Any:
            return self.__dict__.get("held")

        @_current.setter
        def _current(self, held: Any) -> None:
            self.__dict__["held"] = held
            if held is not None:
                gate.wait(timeout=30)

    states = method.prepare(tasks)
    del method._current
    method.__class__ = Meeting

    def ask(task: int) -> str:
        return method.predict(states, torch.tensor([task]), ["owl cat"], max_new_tokens=3)[0]

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(ask, [0, 1])) == ["bread", "lake"]


def test_no_ft_is_never_trained(settings: list[str], tmp_path: Path) -> None:
    rows = run(load_recipe("toy+no-ft", settings), tmp_path, progress=False)
    assert [(row["step"], row["steps"]) for row in rows] == [("metatrain", 0), ("evaluate-metatrain", "")]
    record = json.loads((tmp_path / "metatrain" / "record.json").read_text())
    assert (record["training"]["steps"], record["parameters"]["trained"]) == (0, 0)
    assert not (tmp_path / "metatrain" / "checkpoints").exists()
    assert load_file(tmp_path / "metatrain" / "model" / "model.safetensors") == {}
    method = load_method(tmp_path / "metatrain" / "model")
    assert not method.trained_tensors()


def test_a_decoder_only_recipe_trains_and_is_scored(settings: list[str], tmp_path: Path) -> None:
    for name in ("causal", "causal-cached"):
        own = [*settings, "backbone.config.n_embd=32", "backbone.config.n_layer=2"]
        recipe = load_recipe(f"toy+{name}", [*own, "backbone.tokenizer=toy"])
        rows = run(recipe, tmp_path / name, progress=False)
        assert [row["step"] for row in rows] == ["metatrain", "evaluate-metatrain"]
        assert load_method(tmp_path / name / "metatrain" / "model").name == "causal-concatenation"
    answers = [
        (tmp_path / name / "evaluate-metatrain" / "predictions-right.jsonl").read_text()
        for name in ("causal", "causal-cached")
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("method", "overrides", "said"),
    [
        (
            "causal",
            ["run.stages=['finetune']", "generator.module=prefix", "losses.ins=0", "losses.kl=0"],
            "expected generator.module = 'lora' for 'finetune' with backbone.family = 'causal', got 'prefix'",
        ),
        ("causal", ["metatrain.method=fid-icl"], "metatrain.method: expected 'concatenation'"),
        ("tk-instruct", ["metatrain.prefix_cached=true"], "expected backbone.family = 'causal' with it"),
        ("causal", ["backbone.config.model_type=bert"], "model_type: expected one of gemma"),
        (
            "causal",
            ["backbone.config.n_embdd=7"],
            "n_embdd: unknown key of a model of type 'gpt2', did you mean n_embd",
        ),
        ("full-ft", ["data.test_instances_per_task=6"], "say bread: expected 3 labelled examples"),
    ],
)
def test_what_cannot_be_is_one_line(
    settings: list[str], tmp_path: Path, method: str, overrides: list[str], said: str
) -> None:
    from tagi.errors import TagiError

    with pytest.raises(TagiError) as caught:
        run(load_recipe(f"toy+{method}", [*settings, *overrides]), tmp_path, progress=False)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert issubclass(ConfigError, TagiError)
