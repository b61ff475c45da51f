"""The example with twenty tasks of one's own, rehearsed with two on a tiny model: from the table to other software."""

import runpy
from pathlib import Path

import pytest

from tests.prompted_adapters import tiny_chat_base, tiny_chat_generator

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def test_from_a_table_to_files_that_need_no_tagi(
    repo_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_chat_generator(tiny_chat_base(tmp_path / "base")).save_pretrained(tmp_path / "generator")
    script = runpy.run_path(str(repo_root / "examples" / "own_tasks.py"))
    made = script["main"](tmp_path / "own", str(tmp_path / "generator"), tasks=2, rows=2, steps=2)
    *rows, mean = made["report"]
    assert [(row["task"], row["n"]) for row in rows] == [("urgent", 2), ("department", 2)]
    assert set(made["refined"]) <= {"urgent", "department"}
    for name in ("stock", "adapter", "in the end"):
        assert float(mean[name]) == pytest.approx(sum(float(row[name]) for row in rows) / 2, abs=0.6)
    table = (tmp_path / "own" / "tasks.md").read_text()
    assert table.count("\n") == len(made["report"]) + len(made["seconds"]) + 5
    assert "score the test rows, the stock model's too" in table
    assert "tensors of lora" in capfd.readouterr().out
