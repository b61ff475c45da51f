"""A method's checkpoint folder: whole or absent, the same bytes for the same content, faults in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tagi.errors import CheckpointError
from tagi.formats.checkpoint import (
    CONFIG,
    WEIGHTS,
    base_of,
    read_config,
    read_tensors,
    write_checkpoint,
    write_tensors,
)
from tests.models import IDENTITY

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.tensor(0.5), "d": torch.ones(4, dtype=torch.bfloat16)}


def write(folder: Path, **changed: Any) -> None:
    content: dict[str, Any] = {"method": "m", "base": IDENTITY, "settings": {"text": {}}, "tensors": TENSORS}
    write_checkpoint(folder, **{**content, **changed})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write(tmp_path / "one", extra={"steps": 3}, files={"README.md": "card"})
    return tmp_path / "one"


def test_written_and_read(checkpoint: Path) -> None:
    assert sorted(path.name for path in checkpoint.iterdir()) == ["README.md", CONFIG, WEIGHTS]
    config = read_config(checkpoint)
    assert (config["method"], config["text"], config["provenance"]) == ("m", {}, {"steps": 3})
    assert base_of(config) == IDENTITY
    found = read_tensors(checkpoint, TENSORS)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert (checkpoint / "README.md").read_text() == "card"


def test_the_same_content_gives_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    backwards = dict(reversed(TENSORS.items()))
    write(tmp_path / "two", extra={"steps": 3}, files={"README.md": "card"}, tensors=backwards)
    for path in checkpoint.iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_an_earlier_checkpoint_is_replaced_as_a_whole_or_kept(checkpoint: Path) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    with pytest.raises(TypeError):
        write(checkpoint, extra={"steps": object()})
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    write(checkpoint)
    assert sorted(path.name for path in checkpoint.iterdir()) == [CONFIG, WEIGHTS]
    assert [path.name for path in checkpoint.parent.iterdir()] == ["one"]


def test_views_of_one_tensor_are_written_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    write(tmp_path / "views", tensors={"x": whole[:4], "y": whole[2:]})
    assert torch.equal(load_file(tmp_path / "views" / WEIGHTS)["y"], whole[2:])


def change_config(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = {**json.loads((folder / CONFIG).read_text()), **changed}
        kept = {name: value for name, value in config.items() if value is not None}
        (folder / CONFIG).write_text(json.dumps(kept))

    return change


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / CONFIG).unlink(), r"expected a checkpoint of tagi \(config.json\), got no such file"),
        (lambda folder: (folder / CONFIG).write_text("{") and None, "Invalid JSON"),
        (lambda folder: (folder / CONFIG).write_bytes(b"\xff") and None, "Invalid JSON"),
        (
            lambda folder: (folder / CONFIG).write_text("[]") and None,
            r"of tagi; expected an object, got \[\]",
        ),
        (change_config(model_type="t5"), "expected a checkpoint of tagi; 'model_type': expected 'tagi', got 't5'"),
        (change_config(format=2), "'format': expected 1, got 2"),
        (change_config(method=None), "'method': expected a value, got none"),
        (change_config(text=None), "'text': expected a value, got none"),
        (change_config(base_model=None), "'base_model': expected a value, got none"),
        (change_config(base_model="tiny"), "'base_model': expected an object, got 'tiny'"),
        (change_config(base_model={"name": "tiny"}), "'base_model.revision': expected a value, got none"),
    ],
)
def test_a_damaged_or_foreign_configuration(checkpoint: Path, damage: Callable[[Path], None], named: str) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=named) as caught:
        read_config(checkpoint)
    assert "\n" not in str(caught.value)
    assert str(checkpoint) in str(caught.value)


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-3])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), "got no such file"),
        (truncate, "got a damaged file"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"") and None, "got a damaged file"),
        (lambda folder: save_file({"a": TENSORS["a"]}, folder / WEIGHTS), r"'b.c' is missing \(2 such\)"),
        (lambda folder: save_file({**TENSORS, "e": torch.ones(1)}, folder / WEIGHTS), "'e' is unexpected"),
        (
            lambda folder: save_file({**TENSORS, "a": torch.ones(3, 2)}, folder / WEIGHTS),
            r"expected 'a' of shape \(2, 3\), got \(3, 2\)",
        ),
    ],
)
def test_damaged_or_foreign_tensors(checkpoint: Path, damage: Callable[[Path], None], named: str) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=named) as caught:
        read_tensors(checkpoint, TENSORS)
    assert "\n" not in str(caught.value)
    assert str(checkpoint) in str(caught.value)


def test_a_disk_that_does_not_take_tensors_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        write_tensors(tmp_path / "missing", TENSORS)
    assert raised.value.filename == str(tmp_path / "missing" / WEIGHTS)
