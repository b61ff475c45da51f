"""The Python of docs/python.md is run, its outputs are compared, and mypy accepts it and the README's as they stand."""

import re
from pathlib import Path

import pytest

import tagi

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
NOT_SHOWN = {
    *("CheckpointError", "ConfigError", "DataError", "TagiError", "TrainingError"),  # named in the text
    *("Generator", "load", "save"),  # aliases
    *("Instance", "Recipe", "Task", "__version__", "is_alone"),
}


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def promised(block: str) -> list[str]:
    """The comments behind calls of `print`: what each of them prints."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)


def test_every_block_runs_and_prints_what_it_says(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def push(folder: Path, repository: str, *, private: bool, message: str) -> str:
        assert any(folder.iterdir())
        return f"https://huggingface.co/{repository}/commit/main"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tagi.api.hub.push_folder", push)
    namespace: dict[str, object] = {}
    for block in blocks(repo_root / "docs" / "python.md"):
        capsys.readouterr()
        exec(compile(block, "docs/python.md", "exec"), namespace)
        assert capsys.readouterr().out.splitlines() == promised(block), block
    assert len(namespace) > 20


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
