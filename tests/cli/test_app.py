import os

import pytest

import tagi
from tagi.cli.app import app, main
from tagi.errors import DataError
from tests.commands import Run


def test_version(run_tagi: Run) -> None:
    ran = run_tagi("--version")
    assert (ran.code, ran.out) == (0, f"tagi {tagi.__version__}\n")


def test_libraries_are_told_to_be_quiet_unless_the_user_says_otherwise(
    run_tagi: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    run_tagi("--version")
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"


@pytest.mark.parametrize(
    ("raised", "code", "err"),
    [
        (DataError("tasks.jsonl:3:\nexpected x,  got y"), 2, "error: tasks.jsonl:3: expected x,  got y\n"),
        (
            NotADirectoryError(20, "Not a directory", "a/b"),
            2,
            "error: a/b: expected a path that can be used, got: Not a directory\n",
        ),
        (
            KeyboardInterrupt(),
            130,
            "interrupted: finished parts are kept. To continue, run the same command again "
            "(train, refine and evaluate need --resume)\n",
        ),
    ],
)
def test_how_a_command_ends(
    run_tagi: Run, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, err: str
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    app.command("fail")(fail)
    ran = run_tagi("fail")
    assert (ran.code, ran.out, ran.err) == (code, "", err)


def test_a_fault_of_ours_keeps_its_traceback(run_tagi: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    app.command("fail")(fail)
    with pytest.raises(ZeroDivisionError):
        main(["fail"])


@pytest.mark.parametrize(
    "arguments", [["nope"], ["recipes", "nope"], ["recipes", "list", "--nope"], ["recipes", "show"]]
)
def test_misuse_is_code_2_on_stderr(run_tagi: Run, arguments: list[str]) -> None:
    ran = run_tagi(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert "--help)" in ran.err
