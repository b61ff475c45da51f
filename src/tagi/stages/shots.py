"""Shots: labelled examples of tasks that are not scored."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tagi.data.batches import draw_examples, with_shuffled_inputs
from tagi.data.digest import tasks_digest
from tagi.data.readers.p3_eval import read_p3_eval, sets_with_training_file
from tagi.data.task import Example, Instance, Task
from tagi.data.toy.family import toy_instances
from tagi.data.toy.programs import program_of
from tagi.errors import DataError
from tagi.settings.recipe import Recipe
from tagi.settings.stages import DEMONSTRATE

P3_POOL = 1000
"""Rows of a P3 prompt that its shots are drawn from: the first of a training set, or those after the tested ones."""


def in_context(recipe: Recipe) -> bool:
    """Return whether the meta-trained model is an in-context method."""
    return _learns_in_context(recipe.metatrain.method)


def by_shots(recipe: Recipe) -> bool:
    """Return whether the generator reads shots instead of instructions or the tasks' own examples."""
    return recipe.generator.reads == "demonstrations" and not recipe.data.positives


def wants_shots(recipe: Recipe, stages: Sequence[str] | None = None) -> bool:
    """Return whether a method trained by these stages (by default the recipe's) reads shots of test tasks."""
    trained = recipe.run.stages if stages is None else stages
    return (in_context(recipe) and not set(DEMONSTRATE).isdisjoint(trained)) or by_shots(recipe)


def reads_shots(checkpoint: Path) -> bool:
    """Return whether the method in a checkpoint's folder reads shots."""
    from tagi.formats.checkpoint import read_config

    config = read_config(checkpoint)
    text = config["text"]
    if _learns_in_context(config["method"]):
        return True
    return isinstance(text, dict) and text.get("reads") == "demonstrations" and not text.get("positives")


def _learns_in_context(method: str) -> bool:
    from tagi.methods.in_context import InContext
    from tagi.methods.load import METHODS

    return method in METHODS and issubclass(METHODS[method], InContext)


def with_test_shots(
    recipe: Recipe,
    tasks: Sequence[Task],
    further: Mapping[str, Sequence[Instance]],
    sets: Mapping[str, Sequence[Instance]],
    count: int | None,
) -> list[Task]:
    """Return test tasks with `count` shots, or all there are.

    They are drawn from a task's instances in `sets`, P3's training sets (`shot_sets`), and where it has none from
    `further`, instances that are not tested. On the toy family they are drawn from training inputs. Where they are too
    few, a task's own examples follow.
    """
    remedy = "lower data.test_instances_per_task or shots.count"
    if recipe.data.source == "p3":
        remedy += (
            ", put the training set beside the set that is tested (super_glue/cb/train.jsonl), or name a folder of "
            "training sets in shots.path"
        )
        further = {**_not_of_other_prompts(tasks, further), **sets}
    shown = [_candidates(recipe, task, further.get(task.name, ()), count) for task in tasks]
    return [_with_shots(recipe, task, own, remedy, count) for task, own in zip(tasks, shown, strict=True)]


def shot_sets(recipe: Recipe) -> dict[str, tuple[Instance, ...]]:
    """Read P3's training sets, instances by task: those in `shots.path`, or beside the sets that are tested."""
    if recipe.data.source != "p3":
        return {}
    data, path = recipe.data, recipe.shots.path or str(recipe.data.test_path)
    beside = sets_with_training_file(Path(path)) if recipe.shots.path is None else None
    if beside == []:
        return {}
    sets = read_p3_eval(path, templates=data.templates, prompts=data.prompts, limit=P3_POOL, split="train", sets=beside)
    return {task.name: task.instances for task in sets.tasks}


def with_validation_shots(recipe: Recipe, tasks: Sequence[Task]) -> list[Task]:
    """Held-out tasks with shots from their instances beyond those that are validated on."""
    tested, remedy = recipe.data.validation_instances, "lower data.validation_instances or shots.count"
    made = []
    for task in tasks:
        shown = draw_examples(task.name, task.instances[tested:], recipe.shots.seed)
        made.append(_with_shots(recipe, task, shown, remedy, recipe.shots.count, tested))
    return made


def shots_record(recipe: Recipe, tasks: Sequence[Task]) -> dict[str, Any]:
    """How the tasks' shots were drawn, and a digest of them."""
    return {
        **recipe.shots.model_dump(mode="json"),
        "digest": tasks_digest(replace(task, instances=()) for task in tasks),
    }


def _candidates(recipe: Recipe, task: Task, further: Sequence[Instance], count: int | None) -> list[Example]:
    """What may be shown of a task, in the order in which it is taken."""
    if recipe.data.source != "toy":
        return [*draw_examples(task.name, further, recipe.shots.seed), *task.examples]
    enough = (recipe.data.instances_per_task if count is None else count) + len(task.examples)
    known = {example.input for example in task.examples}
    own = toy_instances(program_of(task.name), enough, recipe.shots.seed, "train")
    return [Example(one.input, one.outputs[0]) for one in own if one.input not in known]


def _not_of_other_prompts(
    tasks: Sequence[Task], further: Mapping[str, Sequence[Instance]]
) -> dict[str, list[Instance]]:
    """Rows that no prompt of the same data set is tested on: one that passes over rows tests later ones than others."""
    tested: dict[str, set[str]] = {}
    for task in tasks:
        tested.setdefault(task.category, set()).update(instance.id for instance in task.instances)
    category = {task.name: task.category for task in tasks}
    return {
        name: [instance for instance in instances if instance.id not in tested[category[name]]]
        for name, instances in further.items()
    }


def _with_shots(
    recipe: Recipe, task: Task, candidates: Sequence[Example], remedy: str, count: int | None, first: int | None = None
) -> Task:
    """Return the task with the first `count` candidates (all for None) as shots.

    Candidates are left out whose inputs, spaces apart, are those of others or of tested instances: the task's `first`,
    or all of them.
    """
    tested = task.instances[:first]
    seen = {_words(instance.prompt) for instance in tested}
    chosen: list[Example] = []
    for example in candidates:
        if (count is None or len(chosen) < count) and _words(example.input) not in seen:
            seen.add(_words(example.input))
            chosen.append(example)
    if len(chosen) < (count or 1):
        wanted = f"{count or 'some'} labelled examples (shots) apart from its {len(tested)} tested instances"
        raise DataError(f"{task.name}: expected {wanted}, got {len(chosen)}: {remedy}")
    return replace(task, shots=_shuffled(recipe, chosen) if recipe.data.shuffle_inputs else tuple(chosen))


def _shuffled(recipe: Recipe, shots: Sequence[Example]) -> tuple[Example, ...]:
    """Under the control that takes inputs from their targets, those of shots go too."""
    instances = tuple(Instance(str(at), shot.input, (shot.output,)) for at, shot in enumerate(shots))
    (mixed,) = with_shuffled_inputs([Task("shots", "", "", instances)], recipe.seed)
    return tuple(Example(one.input, one.outputs[0]) for one in mixed.instances)


def _words(text: str) -> str:
    return " ".join(text.split())
