"""A user's mistake: one line that says what was expected and got, exit code 2, nothing left behind."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.commands import Ran, Run

INSTRUCTION = "take the animal and the tool and translate each into zorbish ."
INPUT = "pen king bear soup hill"


ALONE = ("--set", "losses.kl=0", "--set", "losses.ins=0")  # no teachers


def assert_refused(ran: Ran, *words: str) -> None:
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    for word in words:
        assert word in ran.err


@pytest.fixture
def adapter(run_tagi: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    assert run_tagi("generate", "-g", "toy", "-i", INSTRUCTION, "--out", folder).code == 0
    return folder


def test_empty_instruction(run_tagi: Run, tmp_path: Path) -> None:
    assert_refused(
        run_tagi("generate", "-g", "toy", "-i", "  ", "--out", tmp_path / "out"), "expected an instruction", "empty"
    )
    assert not (tmp_path / "out").exists()


def test_instruction_over_the_limit_unless_truncated(run_tagi: Run, tmp_path: Path) -> None:
    text = " ".join(["the animal"] * 100)
    refused = run_tagi("generate", "-g", "toy", "-i", text, "--out", tmp_path / "out")
    assert_refused(refused, "expected at most 64 tokens", "got 201")
    assert list(tmp_path.iterdir()) == []
    assert run_tagi("generate", "-g", "toy", "-i", text, "--out", tmp_path / "out", "--truncate").code == 0


def test_no_instruction_or_two(run_tagi: Run, tmp_path: Path) -> None:
    assert_refused(run_tagi("generate", "-g", "toy", "--out", tmp_path / "out"), "-i and --from", "neither")
    assert_refused(run_tagi("predict", "-i", INSTRUCTION, "-a", tmp_path, INPUT), "both")


def test_unknown_recipe_key_and_recipe(run_tagi: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused = run_tagi("train", "finetune", "toy", "--set", "training.learning_rat=1", "--out", out)
    assert_refused(refused, "training.learning_rat", "learning_rate")
    assert_refused(run_tagi("train", "finetune", "no-such-recipe", "--out", out), "no-such-recipe")
    assert_refused(run_tagi("train", "nonsense", "toy", "--out", out), "finetune", "nonsense")
    assert not out.exists()


def test_wrong_base_model_for_a_checkpoint(run_tagi: Run, tmp_path: Path, repo_root: Path) -> None:
    folder = tmp_path / "generator"
    shutil.copytree(repo_root / "src" / "tagi" / "assets" / "toy-generator", folder)
    config = json.loads((folder / "config.json").read_text())
    config["base_model"]["revision"] = "sha256:0123456789abcdef"
    (folder / "config.json").write_text(json.dumps(config))
    refused = run_tagi("generate", "-g", folder, "-i", INSTRUCTION, "--out", tmp_path / "out")
    assert_refused(refused, "expected base model toy (sha256:0123456789abcdef)", "got toy (sha256:")


def test_damaged_checkpoint(run_tagi: Run, tmp_path: Path, repo_root: Path) -> None:
    folder = tmp_path / "generator"
    shutil.copytree(repo_root / "src" / "tagi" / "assets" / "toy-generator", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused = run_tagi("generate", "-g", folder, "-i", INSTRUCTION, "--out", tmp_path / "out")
    assert_refused(refused, "model.safetensors", "damaged")
    assert not (tmp_path / "out").exists()


def test_foreign_checkpoint(run_tagi: Run, tmp_path: Path, repo_root: Path) -> None:
    foreign = repo_root / "src" / "tagi" / "assets" / "toy-backbone"
    refused = run_tagi("generate", "-g", foreign, "-i", INSTRUCTION, "--out", tmp_path / "out")
    assert_refused(refused, "'model_type': expected 'tagi', got 't5'")
    assert_refused(run_tagi("predict", "-a", foreign, INPUT), "task_adapter.json")


def test_adapter_of_another_generator(run_tagi: Run, adapter: Path) -> None:
    record = json.loads((adapter / "task_adapter.json").read_text())
    record["generator"] = "sha256:0123456789abcdef"
    (adapter / "task_adapter.json").write_text(json.dumps(record))
    assert_refused(run_tagi("predict", "-a", adapter, INPUT), "expected the generator sha256:0123456789abcdef", "got")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"task": "a", "category": "c"}\n', ("tasks.jsonl", "1", "instruction")),
        (b'{"task": "a", "category": "c", "instruction": "b"}\n{"task"\n', ("tasks.jsonl", "2", "JSON")),
        (b'{"task": "a", "category": "c", "instruction": 3}\n', ("tasks.jsonl", "instruction", "3")),
        (b'{"task": "a", "category": "\xff", "instruction": "b"}\n', ("tasks.jsonl", "UTF-8")),
        (b"", ("tasks.jsonl",)),
    ],
)
def test_malformed_task_file(run_tagi: Run, tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_bytes(content)
    assert_refused(run_tagi("generate", "-g", "toy", "--from", tasks, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_inputs_that_are_not_text(run_tagi: Run, tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.txt"
    inputs.write_bytes(b"cat\n\xe9t\xe9\n")
    assert_refused(
        run_tagi("predict", "-g", "toy", "-i", INSTRUCTION, "-f", inputs), "inputs.txt", "UTF-8", "0xe9 at 4"
    )
    assert_refused(run_tagi("predict", "-g", "toy", "-i", INSTRUCTION, "-f", tmp_path / "none.txt"), "none.txt")


def test_nothing_on_standard_input(run_tagi: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert_refused(run_tagi("predict", "-g", "toy", "-i", INSTRUCTION), "stdin", "nothing")


def test_input_of_no_and_of_100_000_characters(run_tagi: Run, adapter: Path) -> None:
    assert_refused(run_tagi("predict", "-a", adapter, INPUT, ""), "input 2 of 2", "empty")
    assert_refused(run_tagi("predict", "-a", adapter, "cat " * 25_000), "expected at most 64 tokens", "got 25001")
    assert run_tagi("predict", "-a", adapter, "cat " * 25_000, "--truncate").code == 0


def test_a_loss_that_is_not_finite(run_tagi: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tagi.methods import tagi

    monkeypatch.setattr(tagi, "prediction_loss", lambda logits, labels: logits.sum() * torch.nan)
    out = tmp_path / "run"
    short = ("--set", "training.steps=3", "--set", "data.instances_per_task=3", *ALONE)
    assert_refused(run_tagi("train", "finetune", "toy", "--out", out, *short), "step 1", "finite loss", "nan")
    assert not (out / "model").exists()
    assert not (out / "record.json").exists()


def test_a_folder_that_holds_something(run_tagi: Run, adapter: Path, tmp_path: Path) -> None:
    before = sorted(file.name for file in adapter.iterdir())
    assert_refused(run_tagi("generate", "-g", "toy", "-i", INSTRUCTION, "--out", adapter), "expected a new")
    assert sorted(file.name for file in adapter.iterdir()) == before
    assert_refused(run_tagi("evaluate", "toy", "toy", "--out", adapter), "expected a new folder")
    (tmp_path / "checkpoints").mkdir()
    assert_refused(run_tagi("train", "finetune", "toy", "--out", tmp_path, *ALONE), "--resume")
    assert_refused(run_tagi("train", "finetune", "toy", "--out", tmp_path / "new"), "losses", "--teachers")


def test_a_file_where_a_folder_is_wanted(run_tagi: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert_refused(run_tagi("generate", "-g", "toy", "-i", INSTRUCTION, "--out", file), "got a file")
    assert_refused(run_tagi("generate", "-g", "toy", "-i", INSTRUCTION, "--out", file / "sub"), "file")
    assert_refused(run_tagi("train", "finetune", "toy", "--out", file), "file")
    assert_refused(run_tagi("evaluate", "toy", "toy", "--out", file, "--limit", "1"), "file")
    assert_refused(run_tagi("predict", "-a", tmp_path / "none", INPUT), "got no such file")
    assert file.read_text() == "x"
    assert list(tmp_path.iterdir()) == [file]


def test_words_that_are_no_text(run_tagi: Run, adapter: Path, tmp_path: Path) -> None:
    broken = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert_refused(run_tagi("predict", "-a", adapter, broken), "argument 4", "expected UTF-8 text", "caf\\xe9")
    assert_refused(run_tagi("generate", "-g", "toy", "-i", broken, "--out", tmp_path / "new"), "argument 5", "UTF-8")
    record = json.loads((adapter / "task_adapter.json").read_text())
    del record["source"]  # as older folders are
    (adapter / "task_adapter.json").write_text(json.dumps(record))
    (adapter / "generator.txt").write_bytes(b"\xff\xfe")
    assert_refused(run_tagi("predict", "-a", adapter, "pen king"), "generator.txt", "in UTF-8")
    (adapter / "generator.txt").write_text("\n")
    assert_refused(
        run_tagi("predict", "-a", adapter, "pen king"), "expected the name of the generator that made it, got none"
    )


def test_a_folder_of_others(run_tagi: Run, tmp_path: Path) -> None:
    own = tmp_path / "model" / "mine.txt"
    own.parent.mkdir()
    own.write_text("precious")
    ran = run_tagi("train", "finetune", "toy", "--set", "losses.kl=0", "--set", "losses.ins=0", "--out", tmp_path)
    assert_refused(ran, "expected a new folder, got one that holds files")
    assert own.read_text() == "precious"


def test_a_configuration_of_wrong_types(run_tagi: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "big"}')
    assert_refused(run_tagi("describe", tmp_path, "--recipe", "smollm2"), "hidden_size")


def test_what_no_one_has(run_tagi: Run, tmp_path: Path) -> None:
    refused = run_tagi("generate", "-g", "no/such", "-i", INSTRUCTION, "--out", tmp_path / "out")
    assert_refused(refused, "no/such")
    assert_refused(run_tagi("describe", "t5-enormous"), "t5-base-lm-adapt", "t5-enormous")
    refused = run_tagi("train", "finetune", "toy", "--set", "backbone.name=no/model", "--out", tmp_path / "run", *ALONE)
    assert_refused(refused, "no/model")
