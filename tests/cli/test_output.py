"""Tables on a terminal of 80 columns: nothing is truncated, and no two rows become alike."""

import re
from pathlib import Path
from typing import Any

import pytest

from tagi.cli.output import print_table, refuse_used
from tagi.errors import DataError
from tests.commands import Run

WIDTH = 80


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def lines_of(out: str) -> list[str]:
    """Lines without the terminal's codes. Those of tables, which are indented, are no longer than it is wide."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert max(len(line.rstrip()) for line in lines if line.startswith(" ")) <= WIDTH
    assert "\N{HORIZONTAL ELLIPSIS}" not in out
    return lines


ROWS: list[dict[str, Any]] = [
    {
        "category": f"question_answering_{name}",
        "n": 119,
        "A": "41.2",
        "B": "39.8",
        "A - B": "+1.4",
        "95%": "-12.3 to +14.5 (one task)",
        "wins": 12_345,
        "ties": 54_321,
        "losses": 10_203,
        "given": f"the instruction of another task of the same category, drawn by seed, as {name}",
    }
    for name in ("commonsense", "commonsensical")
]


@pytest.mark.usefixtures("terminal")
def test_every_cell_is_whole_whatever_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS)
    lines = lines_of(capsys.readouterr().out)
    for row in ROWS:
        assert sum(line.startswith(f" {row['category']} ") for line in lines) == 3  # named in each part
        for key, value in row.items():
            assert key == "given" or any(f" {value} " in line for line in lines)
    words = " ".join(" ".join(line[36:].split()) for line in lines)
    assert all(word in words for row in ROWS for word in row["given"].split())


def test_what_is_piped_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(f" {ROWS[0]['category']} ") for line in lines) == 1


GIVEN = ("--instruction", "100", "--input", "60", "--output", "5")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    "command",
    [
        ("methods",),
        ("recipes",),
        ("describe",),
        ("flops", "t5-base-lm-adapt", "--methods", "tk-instruct,hint,tagi,causal", "--components", *GIVEN),
        ("run", "toy", "--dry-run", "--tflops", "1"),
        ("sweep", "toy", "--over", "losses.kl=0,1", "--dry-run", "--tflops", "1"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_commands_print_whole_tables(command: tuple[str, ...], run_tagi: Run, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path)) if command[0] in ("run", "sweep") else ()
    ran = run_tagi(*command, *out)
    assert ran.code == 0, ran.err
    lines = lines_of(ran.out)
    if command == ("methods",):
        names = [line.split()[0] for line in lines if " yes " in line]
        assert names.count("tk-instruct") == names.count("tk-instruct-lora") >= 2


def test_only_names_that_are_new_are_measured(tmp_path: Path) -> None:
    """Of the folders that exist already only `--out` itself gets a temporary one beside it."""
    long = tmp_path / ("a" * 220)
    long.mkdir()
    refuse_used(long / "out")
    for out in (long, tmp_path / ("b" * 220) / "out", tmp_path / ("c" * 300)):
        with pytest.raises(DataError, match="--out: expected names of at most 200 bytes"):
            refuse_used(out)
