"""Runs that differ in their seed alone are one score; everything else that decides an outcome parts them."""

from pathlib import Path
from typing import Any

import pytest

from tagi.evaluation.reports.groups import HYPERT5, MTEST11, Group, grouped
from tagi.evaluation.reports.labels import variant_names
from tagi.evaluation.reports.records import Record, read_records
from tagi.evaluation.reports.settings import setting_of
from tagi.evaluation.scoring.statistics import bootstrap_interval
from tests.evaluation.reports.made_up import SIZES, evaluation, predictions, result, write

FIRST, SECOND = {"a": 0.0, "b": 50.0, "c": 100.0}, {"a": 40.0, "b": 70.0, "c": 20.0}


def groups_of(folder: Path, *made: dict[str, Any]) -> list[Group]:
    for index, content in enumerate(made):
        write(folder / str(index), content)
    read, left_out = read_records(folder)
    assert left_out == []
    return grouped(read)


def names_of(folder: Path, *made: dict[str, Any]) -> set[str]:
    return set(variant_names([group.setting for group in groups_of(folder, *made)]).values())


def test_seeds_are_one_score_with_its_interval_over_tasks(tmp_path: Path) -> None:
    sizes = {name: size for size, name in enumerate("abcdefgh", start=2)}
    first = {name: 7.0 * size % 40 for name, size in sizes.items()}
    second = {name: 60.0 + 11.0 * size % 23 for name, size in sizes.items()}
    made = [evaluation(seed=s, results={"right": result(one, sizes=sizes)}) for s, one in ((3, first), (1, second))]
    for index in range(2):
        write(tmp_path / str(index), predictions(sizes), "predictions-right.jsonl")
    (group,) = groups_of(tmp_path, *made)
    score = group.score()
    assert score is not None
    n = sum(sizes.values())
    of_first, of_second = (sum(sizes[name] * one[name] for name in sizes) / n for one in (first, second))
    assert score.value == pytest.approx((of_first + of_second) / 2)
    assert score.seeds == pytest.approx({1: of_second, 3: of_first})
    assert score.spread == pytest.approx(abs(of_first - of_second) / 2**0.5)
    assert score.n == n
    values = [(first[name] + second[name]) / 2 for name, size in sizes.items() for _ in range(size)]
    tasks = [name for name, size in sizes.items() for _ in range(size)]
    assert score.interval == pytest.approx(bootstrap_interval(values, tasks, seed=0))


def test_one_seed_keeps_its_records_interval(tmp_path: Path) -> None:
    (group,) = groups_of(tmp_path, evaluation(FIRST))
    score = group.score()
    assert score is not None
    assert score.interval == (score.value - 3, score.value + 4)
    assert score.spread is None


def test_without_predictions_tasks_must_be_of_one_size(tmp_path: Path) -> None:
    (group,) = groups_of(tmp_path / "unlike", evaluation(FIRST), evaluation(SECOND, seed=1))
    score = group.score()
    assert score is not None
    assert score.interval is None
    alike = [
        evaluation(seed=seed, results={"right": result(scores, n=9, overall={"accuracy": sum(scores.values()) / 3})})
        for seed, scores in enumerate((FIRST, SECOND))
    ]
    (group,) = groups_of(tmp_path / "alike", *alike)
    score = group.score()
    assert score is not None
    values = [(FIRST[task] + SECOND[task]) / 2 for task in SIZES for _ in range(3)]
    tasks = [task for task in SIZES for _ in range(3)]
    assert score.interval == pytest.approx(bootstrap_interval(values, tasks, seed=0))


def test_a_condition_that_one_seed_lacks_is_of_the_others(tmp_path: Path) -> None:
    both = {"right": result(FIRST), "none": result(dict.fromkeys("abc", 4.0))}
    (group,) = groups_of(tmp_path, evaluation(SECOND), evaluation(seed=1, results=both))
    assert group.conditions == ["right", "none"]
    score = group.score("none")
    assert score is not None
    assert score.seeds == {1: 4.0}
    assert group.score("other") is None


@pytest.mark.parametrize(
    "override",
    [
        "losses.kl=0",
        "generator.rank=4",
        "generator.alpha=32.0",
        "training.pretrain.steps=7",
        "training.learning_rate=0.5",
        "backbone.name=folder/other",
        "data.positives=2",
        "data.max_input_tokens=9",
        'run.stages=["metatrain", "teachers", "finetune"]',
    ],
)
def test_what_decides_an_outcome_parts_settings(tmp_path: Path, override: str) -> None:
    assert len(groups_of(tmp_path, evaluation(), evaluation(overrides=[override], seed=1))) == 2


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "description=other",
        "training.keep_checkpoints=7",
        "training.save_every=7",
        "training.finetune.steps=1000",
    ],
)
def test_what_decides_none_does_not(tmp_path: Path, override: str) -> None:
    assert len(groups_of(tmp_path, evaluation(), evaluation(overrides=[override], seed=1))) == 1


def test_a_metatrained_model_rests_on_its_own_tables_alone(tmp_path: Path) -> None:
    made = [
        evaluation(stage="metatrain"),
        evaluation(stage="metatrain", overrides=["losses.kl=0", "training.finetune.steps=7"], seed=1),
        evaluation(stage="metatrain", overrides=["training.metatrain.steps=7"], seed=2),
    ]
    assert sorted(len(group.runs) for group in groups_of(tmp_path, *made)) == [1, 2]


def test_a_checkpoints_own_training_counts_not_the_recipe_it_is_scored_by(tmp_path: Path) -> None:
    trained = evaluation(overrides=["losses.kl=0"], seed=5)
    alone = evaluation(stage=None, trained={key: trained[key] for key in ("recipe", "stage", "seed")})
    unknown = evaluation(stage=None, checkpoint="runs/<b>")
    groups = groups_of(tmp_path, trained, alone, unknown)
    assert [len(group.runs) for group in groups] == [2, 1]
    assert groups[0].setting.missing == ("L_kl",)
    names = variant_names([group.setting for group in groups])
    assert list(names.values()) == ["TAGI", "TAGI, checkpoint runs/<b> (sha256:00000000), training not recorded"]
    score = groups[1].score()
    assert score is not None
    assert list(score.seeds) == [None]


def test_names_hold_what_is_not_as_most_have_it(tmp_path: Path) -> None:
    made = [
        evaluation(),
        evaluation(overrides=["losses.kl=0"]),
        evaluation(overrides=["training.finetune.learning_rate=0.25", "losses.ins=0"]),
        evaluation(overrides=["generator.rank=4", "generator.alpha=8.0"]),
        evaluation(overrides=['run.stages=["metatrain", "teachers", "finetune"]']),
        evaluation(overrides=["generator.fusion=none"]),
        evaluation(overrides=["generator.width=128"]),
        evaluation(overrides=["losses.ins=0.5"]),
        evaluation(stage="metatrain"),
        evaluation(stage="metatrain", overrides=["metatrain.method=fid-icl"]),
    ]
    assert names_of(tmp_path, *made) == {
        "TAGI",
        "TAGI, without L_kl",
        "TAGI: without L_ins, learning rate 0.25",
        "TAGI, rank 4",
        "TAGI, without pretraining",
        "TAGI, without instruction fusion",
        "TAGI, generator.width = 128",
        "TAGI, L_ins weighed 0.5",
        "Meta-trained",
        "FiD-ICL",
    }


def test_a_pretrained_generator_is_not_a_finetuned_one(tmp_path: Path) -> None:
    assert names_of(tmp_path, evaluation(), evaluation(stage="pretrain", seed=1)) == {"TAGI", "TAGI, pretrained alone"}


def test_words_for_training_are_of_the_settings_own_stage(tmp_path: Path) -> None:
    earlier, own = ["training.metatrain.steps=7"], ["training.finetune.steps=7"]
    names = names_of(tmp_path, evaluation(), evaluation(overrides=earlier), evaluation(overrides=own))
    assert names == {"TAGI", "TAGI, training.metatrain.steps = 7", "TAGI, 7 steps"}


def test_a_method_that_tables_have_no_word_for_goes_by_its_own_name() -> None:
    made = evaluation(stage="metatrain")
    made["recipe"]["metatrain"]["method"] = "another"
    assert setting_of(Record("x", made, 0.0)).method == "another"


def test_where_no_value_is_the_most_frequent_all_are_named(tmp_path: Path) -> None:
    names = names_of(tmp_path, evaluation(), evaluation(overrides=["training.finetune.steps=7"]))
    assert names == {"TAGI, 1000 steps", "TAGI, 7 steps"}


def test_a_setting_counts_as_often_as_it_was_run() -> None:
    often, once = (
        setting_of(Record("x", evaluation(overrides=[f"training.finetune.steps={steps}"]), 0.0)) for steps in (9, 7)
    )
    assert variant_names([once, often, often]) == {once: "TAGI, 7 steps", often: "TAGI"}


def test_a_checkpoint_of_an_older_form_has_its_recipes_seed(tmp_path: Path) -> None:
    trained = evaluation(seed=5)
    older = {"recipe": trained["recipe"], "stage": "finetune", "seed": None}
    (group,) = groups_of(tmp_path, evaluation(stage=None, trained=older))
    score = group.score()
    assert score is not None
    assert list(score.seeds) == [5]


def test_p3s_averages(tmp_path: Path) -> None:
    averages = {"mtest11": {"value": 45.5, "missing": []}, "HyperT5": None}
    right = {**result(FIRST), "averages": averages}
    (group,) = groups_of(tmp_path, evaluation(results={"right": right}))
    score = group.score(of=MTEST11)
    assert score is not None
    assert (score.value, score.interval) == (45.5, None)
    assert group.score(of=HYPERT5) is None
