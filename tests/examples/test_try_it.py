"""The first tutorial's script."""

import runpy
from pathlib import Path

import pytest


def test_it_answers(repo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(repo_root / "examples" / "try_it.py"))["main"](tmp_path)
    assert capsys.readouterr().out.splitlines() == ["cats pens", "['cats pens', 'hens nails']", "hens nails"]
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
