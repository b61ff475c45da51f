"""Shots of test tasks: drawn by their seed alone, never what is tested, on every source of tasks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tagi.data.readers.p3_eval import EVALUATION_SETS
from tagi.data.task import Example, Task
from tagi.errors import DataError
from tagi.settings.recipe import Recipe
from tagi.stages.identity import stage_identity
from tagi.stages.protocol import Sources
from tagi.stages.recipes import load_recipe
from tagi.stages.shots import wants_shots
from tagi.stages.tasks import load_tasks

SEEDS = (0, 1, 32, 42, 1024)
"""Those of FiD-ICL's paper."""
IN_CONTEXT = "metatrain.method=fid-icl"
FID = (IN_CONTEXT, "losses.teacher=fid-icl")
TOY = ("data.instances_per_task=4", "data.test_instances_per_task=40", IN_CONTEXT)


def scored_on(recipe: Recipe, **how: Any) -> dict[str, Task]:
    return {task.name: task for task in load_tasks(recipe, "test", **how).tasks}


def words(text: str) -> str:
    return " ".join(text.split())


def check(tasks: dict[str, Task], count: int) -> None:
    """As many as asked for, all different, none of them tested."""
    for task in tasks.values():
        shown = [words(shot.input) for shot in task.shots]
        assert len(set(shown)) == len(shown) == count
        assert not set(shown) & {words(instance.input) for instance in task.instances}


def five_draws(recipe_of: Any) -> None:
    draws = [{name: task.shots for name, task in scored_on(recipe_of(f"shots.seed={seed}")).items()} for seed in SEEDS]
    for name in draws[0]:
        assert len({frozenset(draw[name]) for draw in draws}) == 5, name
    assert draws[3] == {name: task.shots for name, task in scored_on(recipe_of("shots.seed=42", "seed=9")).items()}


def toy(*overrides: str) -> Recipe:
    return load_recipe("toy", [*TOY, *overrides])


def test_toy_shots_are_training_inputs_of_the_same_program() -> None:
    from tagi.data.toy.family import input_split
    from tagi.data.toy.programs import program_of

    tasks = scored_on(toy("shots.count=11"))
    assert len(tasks) == 24
    check(tasks, 11)
    for name, task in tasks.items():
        for shot in task.shots:
            assert input_split(shot.input) == "train"
            assert shot.output == " ".join(program_of(name).apply(shot.input.split()))
    five_draws(toy)


def test_the_same_seed_gives_the_same_shots() -> None:
    shots = {name: task.shots for name, task in scored_on(toy()).items()}
    assert all(len(own) == 16 for own in shots.values())
    for change in ("seed=3", "data.test_instances_per_task=7", "evaluation.limit=2", "metatrain.method=concat-icl"):
        assert {name: task.shots for name, task in scored_on(toy(change)).items()} == shots, change
    fewer = scored_on(toy("shots.count=5"))
    assert {name: task.shots for name, task in fewer.items()} == {name: own[:5] for name, own in shots.items()}
    # The tasks' own examples are apart from them.
    shown = scored_on(toy("data.positives=3"))
    for task in shown.values():
        assert len(task.examples) == 3
        assert not {example.input for example in task.examples} & {shot.input for shot in task.shots}


def test_shots_are_there_where_they_are_read() -> None:
    plain = load_recipe("toy", TOY[:2])
    assert not wants_shots(plain)
    assert all(not task.shots for task in scored_on(plain).values())
    assert scored_on(plain, shots=True) == scored_on(toy())
    assert scored_on(toy(), shots=False) == scored_on(plain)
    for overrides, wanted in (
        (["generator.reads=demonstrations"], True),
        (["generator.reads=demonstrations", "data.positives=2"], False),
        (["metatrain.method=ensemble-icl"], True),
        (["losses.teacher=fid-icl", "metatrain.method=fid-icl"], True),
    ):
        assert wants_shots(load_recipe("toy", overrides)) == wanted, overrides
    assert all(not task.shots for task in load_tasks(toy(), "train").tasks)
    summary = load_tasks(toy("shots.count=3", "shots.seed=8"), "test").summary
    assert {key: summary["shots"][key] for key in ("count", "seed", "path")} == {"count": 3, "seed": 8, "path": None}
    assert summary["instances"] == 24 * 40


def test_held_out_tasks_show_what_they_are_not_validated_on() -> None:
    recipe = toy(
        "data.instances_per_task=20", "data.validation_tasks=5", "data.validation_instances=6", "shots.count=13"
    )
    held = load_tasks(recipe, "validation").tasks
    assert len(held) == 5
    for task in held:
        shown = {shot.input for shot in task.shots}
        assert len(shown) == 13
        assert shown <= {instance.input for instance in task.instances[6:]}
    few = toy("data.instances_per_task=20", "data.validation_tasks=5", "data.validation_instances=8", "shots.count=13")
    with pytest.raises(
        DataError, match=r"expected 13 labelled examples .* its 8 tested instances, got 12: lower data\.v"
    ):
        load_tasks(few, "validation")


def own_tasks(path: Path, instances: int, examples: int = 2) -> Path:
    """A task whose last instances repeat earlier inputs but for spaces."""
    texts = [*(f"input {at}" for at in range(instances)), " input  0 ", "input\t1"]
    line = {
        "task": "own",
        "category": "c",
        "instruction": "do it",
        "examples": [{"input": f"example {at}", "output": f"shown {at}"} for at in range(examples)],
        "instances": [{"input": text, "outputs": [f"out {at}", "or so"]} for at, text in enumerate(texts)],
    }
    path.write_text(json.dumps(line) + "\n")
    return path


def test_own_tasks_show_further_instances_and_then_their_examples(tmp_path: Path) -> None:
    def recipe(*overrides: str) -> Recipe:
        path = own_tasks(tmp_path / "tasks.jsonl", 9)
        fixed = ("data.source=jsonl", f"data.path={path}", IN_CONTEXT, "data.test_instances_per_task=3")
        return load_recipe("toy", [*fixed, *overrides])

    check(scored_on(recipe("shots.count=6")), 6)
    shots = scored_on(recipe("shots.count=6"))["own"].shots
    assert {shot.input for shot in shots} == {f"input {at}" for at in range(3, 9)}
    assert {shot.output for shot in shots} == {f"out {at}" for at in range(3, 9)}
    more = scored_on(recipe("shots.count=8"))["own"]
    assert more.shots == (*shots, Example("example 0", "shown 0"), Example("example 1", "shown 1"))
    assert len(more.examples) == 2
    five_draws(lambda *changed: recipe("shots.count=3", *changed))
    with pytest.raises(
        DataError,
        match=r"^own: expected 9 labelled examples \(shots\) apart from its 3 tested instances, got 8: "
        r"lower data\.test_instances_per_task or shots\.count$",
    ):
        load_tasks(recipe("shots.count=9"), "test")
    # Fewer tests leave more to show, and what is shown stays unless it has a better place in the order.
    wider = scored_on(recipe("shots.count=6", "data.test_instances_per_task=2"))["own"].shots
    assert len(set(wider) & set(shots)) >= 5


def test_the_control_takes_inputs_from_shots_too(tmp_path: Path) -> None:
    path = own_tasks(tmp_path / "tasks.jsonl", 30)
    fixed = ["data.source=jsonl", f"data.path={path}", IN_CONTEXT, "data.test_instances_per_task=3"]
    right, mixed = (
        scored_on(load_recipe("toy", [*fixed, *more]))["own"].shots for more in ([], ["data.shuffle_inputs=true"])
    )
    assert sorted(shot.input for shot in right) == sorted(shot.input for shot in mixed)
    assert [shot.output for shot in right] == [shot.output for shot in mixed]
    assert len(set(right) & set(mixed)) < 6


def test_super_natural_instructions(data_dir: Path) -> None:
    def recipe(*overrides: str) -> Recipe:
        where = f"data.path={data_dir / 'natural-instructions'}"
        return load_recipe(
            "sni-small", [where, *FID, "teacher.base=backbone", "data.test_instances_per_task=60", *overrides]
        )

    loaded = load_tasks(recipe(), "test")
    tasks = {task.name: task for task in loaded.tasks}
    assert len(tasks) == 55
    assert all(len(task.instances) <= 60 for task in tasks.values())
    assert loaded.summary["instances"] == sum(len(task.instances) for task in tasks.values())
    assert loaded.summary["instances_per_task"] == 60
    check(tasks, 16)
    plain = scored_on(load_recipe("sni-small", [f"data.path={data_dir / 'natural-instructions'}", *TOY[:0]]))
    for name, task in tasks.items():
        assert task.instances == plain[name].instances[:60]
        outputs = {instance.input: instance.outputs[0] for instance in plain[name].instances}
        assert all(outputs[shot.input] == shot.output for shot in task.shots)
    five_draws(recipe)
    with pytest.raises(DataError, match=r"^task\d+_\w+: expected 16 labelled examples .* its 100 tested .* got \d:"):
        load_tasks(recipe("data.test_instances_per_task=100"), "test")


def p3(data_dir: Path, *overrides: str) -> Recipe:
    where = (f"data.path={data_dir / 'p3' / 'train'}", f"data.test_path={data_dir / 'p3' / 'eval'}")
    templates = f"data.templates={data_dir / 'p3' / 'templates'}"
    return load_recipe("p3-small", [*where, templates, *FID, "data.test_instances_per_task=30", *overrides])


def test_p3_prompts_show_further_rows(data_dir: Path) -> None:
    loaded = load_tasks(p3(data_dir), "test")
    tasks = {task.name: task for task in loaded.tasks}
    assert len({task.category for task in tasks.values()}) == 9
    assert loaded.summary["instances"] == 30 * len(tasks)
    check(tasks, 16)
    for category in {task.category for task in tasks.values()}:
        inputs = {words(i.input) for task in tasks.values() if task.category == category for i in task.instances}
        assert not inputs & {words(s.input) for task in tasks.values() if task.category == category for s in task.shots}
    plain = scored_on(load_recipe("p3-small", _without_shots(p3(data_dir))))
    assert {name: replace(task, shots=()) for name, task in tasks.items()} == plain
    with pytest.raises(DataError, match=r"^super_glue_cb\w+: expected 16 .* got 6: .* training sets in shots\.path$"):
        load_tasks(p3(data_dir, "data.test_instances_per_task=50"), "test")


def _without_shots(recipe: Recipe) -> list[str]:
    data = recipe.data
    return [
        *(f"data.path={data.path}", f"data.test_path={data.test_path}", f"data.templates={data.templates}"),
        f"data.test_instances_per_task={data.test_instances_per_task}",
    ]


@pytest.fixture
def two_sets(data_dir: Path, tmp_path: Path) -> Path:
    """COPA and CB alone for tests, the rest of COPA and RTE's rows as training sets; templates beside them."""
    copa, cb = (data_dir / "p3" / "eval" / "super_glue" / name / "validation.jsonl" for name in ("copa", "cb"))
    for folder, name, lines in (
        ("eval", "copa", copa.read_text().splitlines()[:20]),
        ("eval", "cb", cb.read_text().splitlines()[:20]),
        ("train", "copa", copa.read_text().splitlines()[10:]),
        ("train", "cb", cb.read_text().splitlines()[20:]),
    ):
        file = tmp_path / folder / "super_glue" / name / "rows.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(lines) + "\n")
    (tmp_path / "templates").symlink_to(data_dir / "p3" / "templates")
    return tmp_path


def test_p3_prompts_show_training_sets(data_dir: Path, two_sets: Path) -> None:
    """Ten of COPA's rows are in both, and are never shown."""

    def recipe(*overrides: str) -> Recipe:
        where = (f"data.test_path={two_sets / 'eval'}", f"data.templates={two_sets / 'templates'}")
        return p3(data_dir, *where, f"shots.path={two_sets / 'train'}", "data.test_instances_per_task=20", *overrides)

    tasks = scored_on(recipe())
    prompts = {one.name: one.prompts for one in EVALUATION_SETS}
    assert len(tasks) == prompts["super_glue_copa"] + prompts["super_glue_cb"] - _missing(tasks, prompts)
    check(tasks, 16)
    five_draws(recipe)
    everything = scored_on(recipe("shots.count=36"))
    check(everything, 36)
    with pytest.raises(DataError, match=r"^super_glue_c\w+: expected 40 .*, got 36: lower"):
        load_tasks(recipe("shots.count=40"), "test")


def _missing(tasks: dict[str, Task], prompts: dict[str, int]) -> int:
    here = [task.category for task in tasks.values()]
    return sum(prompts[name] - here.count(name) for name in ("super_glue_copa", "super_glue_cb"))


def test_what_another_prompt_is_tested_on_is_not_shown(data_dir: Path, tmp_path: Path) -> None:
    """A prompt that passes over rows is tested on later ones, which are the same examples in other words."""
    for prompt, unranked in (("super_glue_copa_one", 0), ("super_glue_copa_two", 3)):
        rows = [
            {
                "inputs_pretokenized": f"{prompt} {number}",
                "targets_pretokenized": "" if number < unranked else "yes",
                "answer_choices": ["yes", "no"],
            }
            for number in range(12)
        ]
        (tmp_path / f"{prompt}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = (f"data.test_path={tmp_path}", "data.templates=", "data.test_instances_per_task=4", "shots.count=5")
    tasks = scored_on(p3(data_dir, *where))
    shown = {name: {int(shot.input.split()[-1]) for shot in task.shots} for name, task in tasks.items()}
    assert shown == {name: {7, 8, 9, 10, 11} for name in ("super_glue_copa_one", "super_glue_copa_two")}
    with pytest.raises(DataError, match=r"^super_glue_copa_one: expected 6 .* got 5:"):
        load_tasks(p3(data_dir, *where[:3], "shots.count=6"), "test")


def test_shots_decide_the_stages_that_read_them() -> None:
    def identities(*overrides: str) -> dict[str, str]:
        recipe = load_recipe("toy", ["data.instances_per_task=4", *overrides])
        return {stage: stage_identity(recipe, stage, Sources()) for stage in recipe.run.stages}

    def changed(fixed: list[str], change: str) -> set[str]:
        before, after = identities(*fixed), identities(*fixed, change)
        return {stage for stage in before if before[stage] != after[stage]}

    assert changed([], IN_CONTEXT) == {"metatrain"}
    assert changed([], "shots.count=3") == changed([], "shots.seed=3") == set()
    assert changed([IN_CONTEXT], "shots.count=3") == {"metatrain"}
    assert changed([IN_CONTEXT], "shots.seed=3") == set()
    assert changed([IN_CONTEXT], "metatrain.method=concat-icl") == {"metatrain"}
    teacher = [IN_CONTEXT, "losses.teacher=fid-icl"]
    assert changed(teacher, "shots.seed=3") == {"finetune"}
    assert changed(teacher, "shots.count=3") == {"metatrain", "finetune"}
    reader = ["generator.reads=demonstrations"]
    assert changed(reader, "shots.count=3") == {"finetune"}
    assert changed(reader, "shots.seed=3") == set()
    held_out = ["data.instances_per_task=30", "data.validation_tasks=3", IN_CONTEXT]
    assert "metatrain" in changed(held_out, "shots.seed=3")
