"""What cannot be used is named with its path and reason, and nothing of it is in a number."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tagi.config.methods import method_row
from tagi.evaluation.reports.choosing import choose
from tagi.evaluation.reports.groups import grouped
from tagi.evaluation.reports.records import LeftOut, Record, read_records
from tagi.evaluation.reports.report import make_report
from tagi.evaluation.reports.settings import setting_of
from tests.evaluation.reports.made_up import (
    environment,
    evaluation,
    predictions,
    result,
    training,
    write,
)


def chosen(folder: Path) -> tuple[list[Record], list[LeftOut]]:
    read, unread = read_records(folder)
    used, others = choose(read)
    return used, [*unread, *others]


def without(*keys: str) -> dict[str, Any]:
    made = evaluation(90.0, seed=2)
    table = made
    for key in keys[:-1]:
        table = table[key]
    del table[keys[-1]]
    return made


def results(**changes: Any) -> dict[str, Any]:
    return evaluation(90.0, seed=2, results={"right": {**result(dict.fromkeys("abc", 90.0)), **changes}})


BROKEN: dict[str, tuple[Any, str, str]] = {
    "cut": ('{"format": 1, "rec', "broken", "not JSON"),
    "list": ([1, 2], "broken", "not a JSON object"),
    "old": (without("format"), "another form", "expected a record of format 1, got one without a format"),
    "newer": (evaluation(90.0, seed=2, format=2), "another form", "got 2"),
    "time": (evaluation(90.0, seed=2, kind="time"), "broken", "methods: expected a value, got nothing"),
    "export": (evaluation(90.0, seed=2, kind="export"), "another kind", "of kind 'export'"),
    "no digest": (without("data", "digest"), "broken", "data.digest: expected text, got None"),
    "no version": (without("environment", "tagi"), "broken", "environment.tagi"),
    "no source": (without("recipe", "data", "source"), "broken", "recipe.data.source"),
    "no seed": (without("seed"), "broken", "seed: expected a whole number, got None"),
    "no results": (evaluation(90.0, seed=2, results={}), "broken", "results: expected a table of at least 1"),
    "score not finite": (
        results(overall={"accuracy": math.nan}),
        "broken",
        "results.right.overall.accuracy: expected a finite number, got nan",
    ),
    "task not finite": (
        results(per_task={"a": {"accuracy": math.inf}}),
        "broken",
        "results.right.per_task.a.accuracy",
    ),
    "interval not finite": (results(interval=[math.nan, 1.0]), "broken", "results.right.interval"),
    "category not finite": (results(per_category={"odd": {"accuracy": math.nan}}), "broken", "finite"),
    "no n": (results(n=0), "broken", "results.right.n: expected more than 0, got 0"),
    "partial": (evaluation(90.0, seed=2, partial=True), "partial", "--limit or --tasks"),
    "other wording": (
        evaluation(90.0, seed=2, data={"digest": "sha256:one", "instances": 12, "wording": "terse"}),
        "asked otherwise",
        "--wording or --positives",
    ),
    "other examples": (
        evaluation(90.0, seed=2, data={"digest": "sha256:one", "instances": 12, "positives": 0}),
        "asked otherwise",
        "--wording or --positives",
    ),
    "examples where none are usual": (
        evaluation(
            90.0,
            seed=2,
            overrides=["data.positives=2", "data.demonstrations=0.5"],
            data={"digest": "sha256:one", "instances": 12, "positives": 2},
        ),
        "asked otherwise",
        "--wording or --positives",
    ),
    "other version": (
        evaluation(90.0, seed=2, environment=environment(tagi="0.2.0")),
        "another version",
        "tagi 0.2.0, where 2 of 3 have tagi 0.1.0",
    ),
    "other data": (
        evaluation(90.0, seed=2, data={"digest": "sha256:two", "instances": 12}),
        "other test data",
        "sha256:two, where 2 of 3 have sha256:one",
    ),
    "other settings": (
        evaluation(90.0, overrides=["evaluation.num_beams=4"], seed=2),
        "other evaluation settings",
        "num_beams = 4, where 2 of 3 have max_new_tokens = 8, num_beams = 1",
    ),
    "ranked": (
        results(choice_score="mean"),
        "other evaluation settings",
        "choice_score = mean, where 2 of 3 have max_",
    ),
    "other metric": (evaluation(90.0, seed=2, metric="rougeL"), "another metric", "rougeL, where 2 of 3 have accuracy"),
    "a seed again": (evaluation(90.0, seed=1, revision="sha256:other"), "counted once", "of the same setting and seed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_used_is_named_and_moves_no_average(tmp_path: Path, name: str) -> None:
    content, reason, detail = BROKEN[name]
    write(tmp_path / "x" / "broken", content)  # the oldest
    for seed, score in enumerate((20.0, 60.0)):
        write(tmp_path / f"seed-{seed}", evaluation(score, seed=seed))
    used, left_out = chosen(tmp_path)
    assert [record.path for record in used] == ["seed-0/record.json", "seed-1/record.json"]
    (one,) = left_out
    assert (one.path, one.reason) == ("x/broken/record.json", reason)
    assert detail in one.detail
    (group,) = grouped(used)
    score = group.score()
    assert score is not None
    assert score.value == pytest.approx(40)


def test_no_examples_are_usual_where_demonstrations_are_drawn(tmp_path: Path) -> None:
    drawn = ["data.positives=2", "data.demonstrations=0.5"]
    data = {"digest": "sha256:one", "instances": 12, "positives": 0}
    write(tmp_path / "x", evaluation(90.0, overrides=drawn, data=data))
    used, left_out = chosen(tmp_path)
    assert ([record.path for record in used], left_out) == (["x/record.json"], [])


def test_a_good_third_record_does_move_the_average(tmp_path: Path) -> None:
    for seed, score in enumerate((20.0, 60.0, 90.0)):
        write(tmp_path / f"seed-{seed}", evaluation(score, seed=seed))
    used, left_out = chosen(tmp_path)
    assert left_out == []
    score = grouped(used)[0].score()
    assert score is not None
    assert score.value == pytest.approx(170 / 3)


def write_predictions(folder: Path, text: str) -> None:
    write(folder, text, "predictions-right.jsonl")


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (predictions({"a": 2, "b": 3, "c": 6}), "predictions-right.jsonl: expected 12 predictions"),
        (predictions({"a": 2, "b": 3, "d": 7}), "expected predictions of the record's tasks"),
        (predictions()[:-9], "predictions-right.jsonl, line 12: expected an answer as JSON"),
        (predictions().replace('"x"', "NaN", 1), "expected finite numbers"),
    ],
)
def test_predictions_that_are_not_the_records_are_broken(tmp_path: Path, text: str, detail: str) -> None:
    write_predictions(write(tmp_path / "run", evaluation()), text)
    used, (one,) = chosen(tmp_path)
    assert used == []
    assert (one.path, one.reason) == ("run/record.json", "broken")
    assert detail in one.detail
    assert str(tmp_path) not in one.detail


def test_predictions_tell_the_tasks_sizes(tmp_path: Path) -> None:
    write_predictions(write(tmp_path / "run", evaluation()), predictions())
    (used,), left_out = chosen(tmp_path)
    assert left_out == []
    assert used.counts == {"right": {"a": 2, "b": 3, "c": 7}}


def test_what_did_not_end_is_named(tmp_path: Path) -> None:
    write(tmp_path / "scores", {"evaluation": "0"}, "evaluation.json")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    write(tmp_path / "done", evaluation())
    write(tmp_path / "done", {"evaluation": "0"}, "evaluation.json")
    used, left_out = chosen(tmp_path)
    assert [record.path for record in used] == ["done/record.json"]
    assert [(one.path, one.reason) for one in left_out] == [("scores", "interrupted"), ("run", "interrupted")]


def test_records_of_other_names_are_found_and_other_files_are_not(tmp_path: Path) -> None:
    write(tmp_path, evaluation(), "scores.json")
    write(tmp_path, training(), "finetune.json")
    write(tmp_path, {"recipe": "none"}, "config.json")
    write(tmp_path, [{"recipe": 1, "environment": 2}], "list.json")
    used, left_out = chosen(tmp_path)
    assert [record.path for record in used] == ["finetune.json", "scores.json"]
    assert left_out == []
    write(tmp_path, '{"recipe": 1, "environment": ', "cut.json")
    (one,) = chosen(tmp_path)[1]
    assert (one.path, one.reason) == ("cut.json", "broken")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda made: made["training"].pop("steps"), "training.steps: expected a whole number, got None"),
        (
            lambda made: made["training"]["history"].append({"loss": 1.0}),
            "training.history.2.step: expected a value, got nothing",
        ),
        (lambda made: made["training"]["history"].append({"step": 40, "loss": math.nan}), "expected finite numbers"),
    ],
)
def test_broken_training_records(tmp_path: Path, change: Callable[[Any], object], detail: str) -> None:
    made = training()
    change(made)
    write(tmp_path, made)
    used, (one,) = chosen(tmp_path)
    assert used == []
    assert one.reason == "broken"
    assert detail in one.detail


def test_training_records_from_before_they_had_a_format_are_read(tmp_path: Path) -> None:
    older = {key: value for key, value in training().items() if key not in ("format", "kind", "seed")}
    write(tmp_path, older)
    (used,), left_out = chosen(tmp_path)
    assert left_out == []
    assert (used.kind, used.content["seed"]) == ("training", 0)


def test_teachers_losses_are_checked(tmp_path: Path) -> None:
    write(tmp_path, training("teachers", teachers=[{"first_loss": 2.0}]))
    _, (one,) = chosen(tmp_path)
    assert (one.reason, one.detail) == ("broken", "teachers.0.final_loss: expected a value, got nothing")


def test_of_as_many_the_newest_side_stays(tmp_path: Path) -> None:
    import os

    for name, version, time in (("old", "0.1.0", 100), ("new", "0.2.0", 200)):
        folder = write(tmp_path / name, evaluation(environment=environment(tagi=version), seed=time))
        os.utime(folder / "record.json", (time, time))
    used, (one,) = chosen(tmp_path)
    assert [record.path for record in used] == ["new/record.json"]
    assert one == LeftOut("another version", "old/record.json", "tagi 0.1.0, where 1 of 2 have tagi 0.2.0")


def test_data_sets_are_compared_with_themselves_alone(tmp_path: Path) -> None:
    write(tmp_path / "toy", evaluation())
    write(tmp_path / "sni", evaluation(recipe="sni-base", metric="rougeL", data={"digest": "sha256:s", "instances": 9}))
    own = ["data.source=jsonl", "data.path=folder/mine.jsonl"]
    write(tmp_path / "own", evaluation(recipe="sni-base", overrides=own, data={"digest": "sha256:o", "instances": 5}))
    used, left_out = chosen(tmp_path)
    assert left_out == []
    assert [record.data_set for record in used] == ["own tasks, mine.jsonl", "sni", "toy"]


def test_of_one_seed_twice_the_record_with_more_conditions_counts(tmp_path: Path) -> None:
    import os

    both = {"right": result(dict.fromkeys("abc", 30.0)), "none": result(dict.fromkeys("abc", 5.0))}
    write(tmp_path / "more", evaluation(results=both))
    later = write(tmp_path / "later", evaluation(30.0))
    os.utime(later / "record.json", (9e9, 9e9))
    used, (one,) = chosen(tmp_path)
    assert [record.path for record in used] == ["more/record.json"]
    assert one == LeftOut("counted once", "later/record.json", "the same checkpoint's scores are in more/record.json")


def test_the_same_checkpoint_on_other_data_counts_there(tmp_path: Path) -> None:
    own = {"source": "jsonl", "digest": "sha256:two", "tasks": 3, "instances": 12, "warning": None}
    write(tmp_path / "toy", evaluation(20.0))
    overrides = ["data.source=jsonl", "data.path=own.jsonl"]
    write(tmp_path / "own", evaluation(30.0, overrides=overrides, data=own))
    used, left_out = chosen(tmp_path)
    assert (len(used), left_out) == (2, [])


@pytest.mark.parametrize("change", ["positives", "trained", "deep"])
def test_a_recipe_that_was_edited_spoils_nothing_else(tmp_path: Path, change: str) -> None:
    write(tmp_path / "whole", evaluation(20.0))
    odd = evaluation(30.0, seed=1)
    if change == "positives":
        odd["recipe"]["data"]["positives"] = "two"
    if change == "trained":
        del odd["stage"]
        odd["trained"] = {"stage": "finetune", "seed": 3, "recipe": {}}
    write(tmp_path / "odd", "[" * 100_000 if change == "deep" else odd)
    used, left_out = chosen(tmp_path)
    assert [record.path for record in used] == ["whole/record.json"]
    assert [(one.path, one.reason) for one in left_out] == [("odd/record.json", "broken")]


def test_every_committed_record_is_read(repo_root: Path) -> None:
    """None is broken or of a form that is not read; some are partial or of other test data, which is what they are."""
    read, left_out = read_records(repo_root / "studies")
    assert {one.reason for one in left_out} == {"partial"}
    used, others = choose(read)
    assert {one.reason for one in others} == {"other test data"}
    assert {one.kind for one in used} == {"training", "evaluation", "flops", "methods", "time"}
    texts = [path.read_text() for path in (repo_root / "studies").rglob("*.json")]
    marked = [text for text in texts if '"environment"' in text and '"recipe"' in text]
    assert len(marked) == len(read) + len(left_out) > 50
    report = make_report(repo_root / "studies")
    assert len(report.used) == len(used)
    (measured,) = [section for section in report.sections if section.title == "Measurements"]
    assert len(measured.tables[0].rows) == sum(one.kind in ("flops", "methods", "time") for one in used)


def test_names_tell_of_the_stages_that_ran_and_of_no_others(tmp_path: Path) -> None:
    """A finetuning that rested on nothing; another recipe's steps of teachers are none of its business."""
    paths = []
    for steps in (20, 30):
        made = evaluation(90.0, overrides=[f"training.teachers.steps={steps}"])
        made["start"] = {"start": [], "teachers": None, "metatrained": None}
        paths.append(write(tmp_path / str(steps), made))
    read, _ = read_records(tmp_path)
    settings = {setting_of(one) for one in read}
    assert len(settings) == 1
    taught = evaluation(90.0, overrides=["training.teachers.steps=30"])
    taught["start"] = {"start": [], "teachers": "sha256:1", "metatrained": None}
    write(tmp_path / "taught", taught)
    settings = {setting_of(one) for one in read_records(tmp_path)[0]}
    assert len(settings) == 2


@pytest.mark.parametrize("recipe", ["toy+no-ft", "smollm2+no-ft"])
def test_what_is_not_trained_has_one_name(recipe: str, tmp_path: Path) -> None:
    write(tmp_path / "one", evaluation(90.0, recipe=recipe, stage="metatrain"))
    (read,), _ = read_records(tmp_path)
    assert setting_of(read).method == method_row("no-ft").title == "No FT"
