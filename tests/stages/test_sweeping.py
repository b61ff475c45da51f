"""Sweeps that run: what points share, what is done again, and what the table says."""

import json
from pathlib import Path

import pytest

from tagi.config.sweeps import Point, sweep_points
from tagi.errors import ConfigError
from tagi.stages import sweep as sweeping
from tagi.stages.sweep import sweep, sweep_plan

TINY = [
    *(f"training.{stage}steps=1" for stage in ("metatrain.", "teachers.", "pretrain.")),
    *("training.finetune.steps=2", "training.tasks_per_batch=3", "training.queries_per_task=2"),
    *("training.pretrain.tasks_per_batch=2", "training.log_every=1", "training.report_to=[]"),
    *("data.instances_per_task=2", "data.test_instances_per_task=1", "evaluation.max_new_tokens=2"),
]
ALONE = ['run.stages=["finetune"]', "losses.kl=0", "losses.ins=0"]
TAUGHT = 'run.stages=["teachers", "pretrain", "finetune"]'
OVER = ["losses.kl=0,1.0", "generator.fusion=none"]
ROUGE = "evaluation.metric=rouge"
STEPS = ["metatrain", "teachers", "pretrain", "finetune", "evaluate", "evaluate-metatrain"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides: two tasks of one category, so that there is one teacher; nothing is meta-trained."""
    file = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
    instances = [{"input": "cat hen", "outputs": ["hen"]}, {"input": "fox dog", "outputs": ["dog", "fox"]}]
    tasks = [{"task": f"copy {n}", "category": "copy", "instruction": f"copy word {n}"} for n in ("one", "two")]
    file.write_text("".join(json.dumps({**task, "instances": instances}) + "\n" for task in tasks))
    return [*TINY, TAUGHT, "data.source=jsonl", f"data.path={file}", "data.test_on_training=true", ROUGE]


@pytest.fixture(scope="module")
def points(taught: list[str]) -> list[Point]:
    """Without L_kl, the recipe itself, another generator."""
    return sweep_points("toy", over=OVER, overrides=taught)


@pytest.fixture(scope="module")
def finished(points: list[Point], taught: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole sweep. Never write into it."""
    out = tmp_path_factory.mktemp("sweep") / "toy"
    rows = sweep("toy", points, out, overrides=taught, progress=False)
    assert [(row["label"], row["steps"]) for row in rows] == [(point.label, 2) for point in points]
    return out


def test_the_plan_says_what_is_shared(tmp_path: Path) -> None:
    points = sweep_points("toy", over=[*OVER, "training.finetune.steps=3", "training.metatrain.steps=4"])
    rows = sweep_plan("toy", points, tmp_path)
    assert [(row["n"], row["point"]) for row in rows] == [(n, point.label) for n, point in enumerate(points, 1)]
    assert list(rows[0])[2:] == [*STEPS, "hours"]
    assert [[row[step] for step in STEPS] for row in rows] == [
        ["to do"] * 6,
        ["as 1", "as 1", "as 1", "to do", "to do", "as 1"],
        ["as 1", "as 1", "to do", "to do", "to do", "as 1"],
        ["as 1", "as 1", "as 1", "to do", "to do", "as 1"],
        ["to do", "as 1", "as 1", "as 2", "as 2", "to do"],  # nothing here rests on the meta-trained model
    ]
    hours = [float(row["hours"]) for row in rows]
    assert hours[0] > max(hours[1:]) >= min(hours[1:]) > 0  # what is shared counts once
    assert not list(tmp_path.iterdir())


def test_what_rests_on_another_stage_is_shared_only_with_it(tmp_path: Path) -> None:
    on_metatrained = ["losses.teacher=metatrained", "teacher.base=metatrained", "run.start=metatrained"]
    points = sweep_points("toy", over=["training.metatrain.steps=4,5"], overrides=on_metatrained)
    rows = sweep_plan("toy", points, tmp_path, overrides=on_metatrained)
    assert [row[step] for row in rows for step in STEPS] == ["to do"] * 12


def test_a_step_that_a_point_leaves_out_is_empty(tmp_path: Path) -> None:
    table4 = sweep_points("toy", grids=["table4"], overrides=TINY)
    plan = {row["point"]: row for row in sweep_plan("toy", table4[::-1], tmp_path, overrides=TINY)}
    assert plan["without pretraining"]["pretrain"] == ""
    assert list(plan["without pretraining"])[2:] == [*STEPS, "hours"]


def test_points_share_what_they_have_in_common(finished: Path, points: list[Point], taught: list[str]) -> None:
    names = [folder.name.rpartition("-")[0] for folder in (finished / "shared").iterdir()]
    counts = {name: names.count(name) for name in sorted(names)}
    assert counts == {"teachers": 1, "pretrain": 2, "finetune": 3, "evaluate": 3}
    plan = sweep_plan("toy", points, finished, overrides=taught)
    assert [[row[step] for step in STEPS[1:5]] for row in plan] == [
        ["complete"] * 4,
        ["as 1", "as 1", "complete", "complete"],
        ["as 1", "complete", "complete", "complete"],
    ]
    for entry in json.loads((finished / "sweep.json").read_text())["points"]:
        record = json.loads((finished / "shared" / entry["folders"]["finetune"] / "record.json").read_text())
        assert record["start"]["parameters"][0] > 0  # what pretraining trained
        assert record["recipe"]["losses"]["kl"] == (0 if entry["label"] == "losses.kl=0" else 1)
        assert record["recipe"]["generator"]["fusion"] == ("none" if "fusion" in entry["label"] else "both")


def test_the_table_has_scores_and_their_origin(finished: Path, taught: list[str]) -> None:
    entries = json.loads((finished / "sweep.json").read_text())["points"]
    assert [entry["label"] for entry in entries] == ["losses.kl=0", "default", "generator.fusion=none"]
    for entry in entries:
        assert entry["metric"] == "rougeL (tested on training data)"
        low, high = entry["interval"]
        assert 0 <= low <= entry["value"] <= high <= 100
        assert entry["overrides"][: len(taught)] == taught
        scores = json.loads((finished / "shared" / entry["folders"]["evaluate"] / "record.json").read_text())
        assert scores["results"]["right"]["overall"]["rougeL"] == entry["value"]
        assert Path(scores["checkpoint"]).name == entry["folders"]["finetune"]


def test_a_finished_sweep_is_not_looked_at(
    finished: Path, points: list[Point], taught: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "shared").rglob("*") if path.is_file()}
    monkeypatch.setattr(sweeping, "run", None)  # nothing calls it
    rows = sweep("toy", points[::-1], finished, overrides=taught, progress=False)
    assert [row["label"] for row in rows] == [point.label for point in points[::-1]]
    assert {path: path.stat().st_mtime_ns for path in (finished / "shared").rglob("*") if path.is_file()} == before
    assert len(json.loads((finished / "sweep.json").read_text())["points"]) == 3


def test_an_interrupted_sweep_goes_on_where_it_was(
    taught: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [*taught, *ALONE]
    points = sweep_points("toy", over=["training.finetune.steps=2,3"], overrides=alone)
    real, ran = sweeping.run, []

    def interrupted_once(*arguments: object, **named: object) -> object:
        ran.append(arguments)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeping, "run", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        sweep("toy", points, tmp_path, overrides=alone, progress=False)
    assert len(json.loads((tmp_path / "sweep.json").read_text())["points"]) == 1
    rows = sweep("toy", points, tmp_path, overrides=alone, progress=False)
    assert [row["steps"] for row in rows] == [2, 3]
    assert len(ran) == 3
    # What the table says is not believed where a folder has gone.
    scores = next((tmp_path / "shared").glob("evaluate-*")) / "record.json"
    scores.unlink()
    assert sweep("toy", points, tmp_path, overrides=alone, progress=False) == rows
    assert len(ran) == 4
    assert scores.exists()
    assert len(json.loads((tmp_path / "sweep.json").read_text())["points"]) == 2


def test_without_test_tasks_the_last_loss_is_the_result(tmp_path: Path) -> None:
    rows = [{"inputs_pretokenized": f"sort : {word}", "targets_pretokenized": word} for word in ("cat", "hen", "fox")]
    data = tmp_path / "p3"
    data.mkdir()
    for name in ("rotten_tomatoes_one", "rotten_tomatoes_two", "imdb_three"):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [*TINY, *ALONE, "data.source=p3", f"data.path={data}"]
    points = sweep_points("toy", over=["training.finetune.steps=2"], overrides=own)
    assert points == [Point("default")]
    (row,) = sweep("toy", points, tmp_path / "out", overrides=own, progress=False)
    assert (row["metric"], row["interval"], row["steps"]) == ("loss", None, 2)
    assert row["value"] > 0


def test_a_table_that_is_none_is_named(tmp_path: Path, points: list[Point]) -> None:
    (tmp_path / "sweep.json").write_text("[1]")
    with pytest.raises(ConfigError, match="expected the table of a sweep"):
        sweep("toy", points, tmp_path, overrides=TINY, progress=False)
