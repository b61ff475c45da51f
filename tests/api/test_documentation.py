"""The Python of docs/python.md shows every public name, and mypy accepts it and the README's."""

import re
from pathlib import Path

import pytest

import tagi

NOT_SHOWN = {
    *("CheckpointError", "ConfigError", "DataError", "TagiError", "TrainingError"),  # named in the text
    *("Generator", "load", "save"),  # aliases
    *("Instance", "Recipe", "Task", "__version__", "is_alone"),
}


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_every_public_name_and_method_has_a_block(repo_root: Path) -> None:
    shown = set(re.findall(r"\w+", "\n".join(blocks(repo_root / "docs" / "python.md"))))
    methods = {name for kind in (tagi.TaskAdapter, tagi.AdapterGenerator) for name in vars(kind) if name[0] != "_"}
    assert {*tagi.__all__, *methods} - shown == NOT_SHOWN


@pytest.mark.slow
def test_mypy_accepts_every_block(repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In strict mode, without an assertion or an ignored line."""
    from mypy import api

    monkeypatch.setenv("MYPYPATH", str(repo_root / "src"))
    files = []
    for page in ("docs/python.md", "README.md"):
        files.append(str(tmp_path / f"{Path(page).stem.lower()}.py"))
        code = "\n".join(blocks(repo_root / page))
        assert not re.search("ignore|assert ", code)
        Path(files[-1]).write_text(code + "\nreveal_type(adapter.predict('a'))\n")
    out, err, _ = api.run(["--config-file", str(repo_root / "pyproject.toml"), *files])
    assert ([line for line in out.splitlines() if ": error:" in line], err) == ([], "")
    assert len(re.findall(r'Revealed type is "(builtins\.)?str"', out)) == 2
