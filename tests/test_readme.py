"""What the README shows is run: its Python, its commands on the shipped model, its example of a task."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.commands import Run


@pytest.fixture(scope="module")
def readme(repo_root: Path) -> str:
    return (repo_root / "README.md").read_text(encoding="utf-8")


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)


def commands(readme: str) -> list[list[str]]:
    lines = [line for block in blocks(readme, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("tagi ")]


def test_the_python_runs(readme: str, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(readme, "python")
    exec(code, {})
    assert "Lisbon" in capsys.readouterr().out


def test_the_commands_on_the_shipped_model_run(
    readme: str, run_tagi: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (task,) = blocks(readme, "json")
    (tmp_path / "tasks.jsonl").write_text(json.dumps(json.loads(task)) + "\n")
    ran = 0
    for command in commands(readme):
        if command[0] in ("generate", "predict"):
            result = run_tagi(*command)
            assert result.code == 0, (command, result.err)
            ran += 1
    assert ran >= 3


def test_every_command_and_option_exists(readme: str, run_tagi: Run) -> None:
    helps: dict[str, str] = {}
    for command in commands(readme):
        path = command[: 2 if command[0] == "recipes" else 1]
        shown = helps.setdefault(" ".join(path), run_tagi(*path, "--help").out)
        assert shown, command
        for option in (word for word in command if word.startswith("--")):
            assert option in shown, (command, option)
    assert len(helps) >= 6
