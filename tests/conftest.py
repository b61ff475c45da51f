"""Fixtures every test may use, and the process settings that keep tests light, offline and repeatable."""

import os
from pathlib import Path

import pytest

from tests.commands import Ran, Run

# Before torch or tokenizers is imported: one thread per worker, and no test ever asks a hub.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
# What commands tell of their progress depends on the machine's speed.
os.environ["TAGI_QUIET"] = "1"
# As commands have it: they run in this process, where the libraries are imported before them.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data: the folder `TAGI_DATA`, else `../shared/data` beside the repository; else skips."""
    named = os.environ.get("TAGI_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        if named:
            pytest.fail(f"TAGI_DATA: expected a folder, got {named!r}")
        pytest.skip("no real data: neither TAGI_DATA nor ../shared/data beside the repository")
    return folder


@pytest.fixture
def run_tagi(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `tagi` with these arguments, as the shell would but in this process."""

    def run(*arguments: str | Path) -> Ran:
        from tagi.cli.app import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone as a folder, as transformers writes it. Never write into it."""
    from tests.models import tiny_model, tokenizer

    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    tiny_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
