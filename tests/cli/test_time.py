"""`tagi time` from end to end on tiny models, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from tagi.backbones.load import load_backbone
from tagi.backbones.t5 import T5Backbone
from tagi.methods.concatenation import Concatenation
from tagi.settings.text import TextSettings
from tests.cli.test_bad_input import assert_refused
from tests.commands import Run

SMALL = (
    *(
        "--set",
        "backbone.tokenizer=toy",
        "--set",
        "backbone.config.d_model=48",
        "--set",
        "backbone.config.vocab_size=400",
    ),
    *("--set", "generator.rank=3", "--set", "generator.alpha=6.0"),
)
MADE_UP = ("--instruction", "11", "--input", "7", "--output", "5")


@pytest.fixture(scope="module")
def rival(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A meta-trained model of the toy shape."""
    folder = tmp_path_factory.mktemp("rival") / "model"
    Concatenation(load_backbone("toy", T5Backbone), TextSettings("plain", 0, 64, 64, 16)).save(folder)
    return folder


def methods(record: dict[str, Any]) -> set[tuple[str, str]]:
    (timing,) = record["timings"]
    return {(one["method"], one["instruction"]) for one in timing["comparisons"]}


def test_random_weights_of_a_recipe_and_lengths_that_are_given(run_tagi: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sizes = ("--batch-size", "3", "--inputs", "4", "--pairs", "3")
    ran = run_tagi("time", "sni-small", *SMALL, *MADE_UP, *sizes, "--out", out)
    assert ran.code == 0, ran.err
    record = json.loads((out / "record.json").read_text())
    assert record["kind"] == "time"
    assert record["weights"]["tagi"] == "random weights of sni-small"
    assert record["environment"]["threads"] == record["machine"]["threads"]
    (timing,) = record["timings"]
    assert timing["lengths"] == {
        "instruction": 11,
        "input": 7,
        "concatenated": 17,  # one end, not two
        "output": 5,
        "shots": 0,
        "demonstration": 0,
        "examples": 4,
        "rendered": None,
    }
    assert timing["batches"] == [3, 1]
    assert set(timing["output_tokens"].values()) == {5}
    assert len(methods(record)) == 6
    assert len(timing["comparisons"][0]["pairs"]) == 4
    for one in timing["comparisons"]:
        low, high = one["interval"]
        assert 0 < low <= one["ratio"] <= high
        assert one["predicted"] > 0
    tables = (out / "timing.md").read_text()
    assert "| TAGI per row, cold | 4 |" in tables
    for shown in (ran.out, tables):
        assert "instruction 11 tokens, input 7.0, both in one text 17.0, answers of 5; 4 inputs" in shown
    assert "TAGI merged, warm" in ran.out
    assert "keys and values" in ran.out


def test_a_trained_pair_on_the_task_of_median_length(run_tagi: Run, rival: Path) -> None:
    shared = ("--inputs", "2", "--pairs", "3", "--json")
    ran = run_tagi("time", "toy", "--tagi", "toy", "--metatrained", rival, "--batch-size", "2", *shared)
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert record["weights"] == {"tagi": "toy", "metatrained": str(rival)}
    (timing,) = record["timings"]
    assert timing["inputs"] == 2
    assert timing["lengths"]["concatenated"] == timing["lengths"]["instruction"] + timing["lengths"]["input"] - 1
    assert len(timing["comparisons"][0]["pairs"]) == 3
    assert record["data"]["tasks"] == 24
    assert set(timing["output_tokens"].values()) == {round(timing["lengths"]["output"])}


def test_named_tasks_the_generators_own_backbone_and_answers_longer_than_it_gives(run_tagi: Run) -> None:
    names = ["toy-animal-person-plural", "toy-tool-place-plural"]
    shared = ("--inputs", "1", "--pairs", "1", "--output", "13", "--clock", "processor", "--json")
    ran = run_tagi("time", "toy", "--tagi", "toy", *(word for name in names for word in ("--task", name)), *shared)
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert record["clock"] == "processor"
    assert record["weights"]["metatrained"] == "the backbone of toy"
    assert [(timing["task"], timing["batch_size"]) for timing in record["timings"]] == [(name, 1) for name in names]
    assert {tokens for timing in record["timings"] for tokens in timing["output_tokens"].values()} == {13}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("--metatrained", "x"), ("--metatrained", "--tagi")),
        (("--tagi", "toy", "--backbone", "t5-base-lm-adapt"), ("--tagi", "--backbone", "both")),
        (("--backbone", "t5-enormous"), ("--backbone", "t5-xl-lm-adapt", "'t5-enormous'")),
        (("--instruction", "5"), ("--input",)),
        (("--instruction", "5", "--input", "4"), ("--output", "got none")),
        (("--tagi", "toy", *MADE_UP), ("--instruction", "--tagi", "both")),
        (("--task", "a", *MADE_UP), ("--instruction", "--task", "both")),
        (("--instruction", "1", "--input", "4", "--output", "2"), ("--instruction", "at least 2", "got 1")),
        (("--task", "no-such-task"), ("--task", "24 test tasks", "'no-such-task'")),
        (("--batch-size", "5", "--inputs", "4"), ("--batch-size", "at most the 4 inputs", "got 5")),
        (("--clock", "sun"), ("--clock", "'wall', 'processor'", "'sun'")),
        (("--tagi", "no-such-checkpoint"), ("no-such-checkpoint",)),
        (("--set", "backbone.name=no-such-folder"), ("backbone.name", "'no-such-folder'")),
        (("--set", "data.source=jsonl", "--set", "data.path=no-such-file"), ("no-such-file",)),
    ],
)
def test_a_mistake_is_one_line(run_tagi: Run, given: tuple[str, ...], named: tuple[str, ...]) -> None:
    assert_refused(run_tagi("time", "toy", *given), *named)


def test_checkpoints_of_the_wrong_kind_and_shape(
    run_tagi: Run, rival: Path, backbone_folder: Path, tmp_path: Path
) -> None:
    assert_refused(run_tagi("time", "toy", "--tagi", rival), "--tagi", "a generator", "'concatenation'")
    assert_refused(run_tagi("time", "toy", "--tagi", "toy", "--metatrained", "toy"), "--metatrained", "'tagi'")
    other = tmp_path / "other"
    Concatenation(load_backbone(str(backbone_folder), T5Backbone), TextSettings("plain")).save(other)
    refused = run_tagi("time", "toy", "--tagi", "toy", "--metatrained", other)
    assert_refused(refused, "--metatrained", "d_model 128", "d_model 24")


def test_a_vocabulary_too_small_for_the_tokenizer(run_tagi: Run) -> None:
    small = ("--set", "backbone.config.vocab_size=37")
    assert_refused(run_tagi("time", "sni-small", *SMALL, *small, *MADE_UP), "vocabulary", "got 37")


def test_a_folder_that_holds_something(run_tagi: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_refused(run_tagi("time", "toy", "--out", tmp_path), "--out", "holds files")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
