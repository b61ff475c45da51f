"""What to expect of a generator: from an evaluation's record to the line that predict and generate print."""

import json
import shutil
from pathlib import Path

import pytest

from tagi.backbones.load import folder_revision
from tagi.errors import CheckpointError
from tagi.formats.quality import Quality
from tests.commands import Run

INSTRUCTION = "take the animal and the tool and translate each into zorbish ."
RESULTS = {
    "right": {"metric": "right", "overall": {"right": 41.25}, "interval": [35.0, 47.5]},
    "stock": {"metric": "right", "overall": {"right": 30.0}, "interval": [20.0, 40.0]},
}
COMMAND = "tagi evaluate toy everyday --stock"
LINE = (
    "What to expect: right answers 41.2% (35.0 to 47.5) on 24 everyday tasks; the stock model: 30.0. "
    "Measured by: tagi evaluate toy everyday --stock\n"
)


@pytest.fixture
def generator(repo_root: Path, tmp_path: Path) -> Path:
    """The toy generator with its quality beside it."""
    folder = shutil.copytree(repo_root / "src" / "tagi" / "assets" / "toy-generator", tmp_path / "generator")
    before = folder_revision(folder)
    Quality.of_evaluation({"results": RESULTS}, "24 everyday tasks", COMMAND).write(folder)
    assert folder_revision(folder) == before  # what was evaluated is what has the record
    return folder


def test_predict_and_generate_print_it_unless_quiet(generator: Path, run_tagi: Run, tmp_path: Path) -> None:
    made = run_tagi("generate", "-g", generator, "-i", INSTRUCTION, "--out", tmp_path / "adapter")
    answered = run_tagi("predict", "-a", tmp_path / "adapter", "pen king")
    assert (made.code, answered.code) == (0, 0)
    assert made.err == answered.err == LINE
    quiet = run_tagi("predict", "-g", generator, "-i", INSTRUCTION, "pen king", "--quiet")
    assert (quiet.code, quiet.err, quiet.out) == (0, "", answered.out)


def test_a_generator_without_it_prints_nothing(run_tagi: Run) -> None:
    ran = run_tagi("predict", "-g", "toy", "-i", INSTRUCTION, "pen king")
    assert (ran.code, ran.err) == (0, "")


def test_a_damaged_record_is_named(generator: Path) -> None:
    record = json.loads((generator / Quality.FILE).read_text())
    (generator / Quality.FILE).write_text(json.dumps({**record, "score": "high"}))
    with pytest.raises(CheckpointError, match=r"quality.json: .*'score': .* got 'high'"):
        Quality.find(generator)


def test_a_damaged_record_is_a_warning_of_commands(generator: Path, run_tagi: Run) -> None:
    asked = ("predict", "-g", generator, "-i", INSTRUCTION, "pen king")
    whole = run_tagi(*asked)
    (generator / Quality.FILE).write_text("{")
    ran = run_tagi(*asked)
    assert (ran.code, ran.out) == (0, whole.out)
    assert ran.err.startswith(f"warning: {generator / Quality.FILE}: expected the measured quality of a generator; ")
    assert ran.err.count("\n") == 1


def test_without_a_stock_model_nothing_is_said_of_it() -> None:
    quality = Quality.of_evaluation({"results": {"right": RESULTS["right"]}}, "data", "command")
    assert quality.stock is None
    assert "stock" not in quality.line
