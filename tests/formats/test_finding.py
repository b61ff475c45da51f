"""Every name that may stand for a checkpoint finds it, and an adapter's folder finds its generator by itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.errors import CheckpointError
from tagi.files import write_text
from tagi.formats import finding
from tagi.formats.finding import BUILT_IN, find_checkpoint
from tagi.formats.generator import generator_tensors, load_generator
from tagi.formats.records import AdapterRecord
from tagi.formats.task_adapter import open_adapter
from tagi.settings.stages import MODELS
from tests.commands import Run
from tests.models import INSTRUCTIONS, tiny_generator

INPUT = "pen king bear soup hill"


def checkpoint(folder: Path) -> Path:
    write_text(folder / "config.json", "{}")
    return folder


def test_folders_that_lead_to_a_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for stage in ("metatrain", "teachers/a", "evaluate"):
        (run / stage).mkdir(parents=True)
    model = checkpoint(run / "metatrain" / "model")
    assert find_checkpoint(str(model)) == find_checkpoint(str(run / "metatrain")) == find_checkpoint(str(run)) == model
    checkpoint(run / "pretrain" / "model")
    assert find_checkpoint(str(run)) == model
    finetuned = checkpoint(run / "finetune" / "model")
    assert find_checkpoint(str(run)) == finetuned
    assert find_checkpoint(str(run / "metatrain")) == model
    for name, folder in BUILT_IN.items():
        assert find_checkpoint(name).name == folder


def test_what_was_looked_for_is_listed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(str(tmp_path))
    looked_for = ["model/config.json", "config.json", *(f"{stage}/model/config.json" for stage in MODELS)]
    assert str(caught.value).endswith(f"got none of {', '.join([*looked_for, 'task_adapter.json'])}")
    assert str(tmp_path) in str(caught.value)


def test_a_revision_stands_behind_the_name_or_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(name: str, revision: str | None = None) -> Path:
        asked.append((name, revision))
        return tmp_path

    monkeypatch.setattr(finding, "download_folder", download)
    find_checkpoint("me/mine")
    find_checkpoint("me/mine@v2")
    find_checkpoint("me/mine", "v3")
    assert asked == [("me/mine", None), ("me/mine", "v2"), ("me/mine", "v3")]
    commit = tmp_path / ("a" * 40)
    assert finding.source_of("me/mine", commit) == finding.source_of("me/mine@v2", commit) == f"me/mine@{'a' * 40}"


def saved(folder: Path, backbone_folder: Path, name: str = "adapter") -> Path:
    """An adapter made in Python by a generator that is in a folder."""
    from tagi.backbones.load import load_backbone

    tiny_generator(load_backbone(str(backbone_folder))).save_pretrained(folder / "generator")
    adapter = AdapterGenerator.from_pretrained(folder / "generator").adapt(INSTRUCTIONS[0])
    assert isinstance(adapter, TaskAdapter)
    adapter.save(folder / name)
    return folder / name


def test_an_adapter_saved_in_python_is_used_by_every_command(
    tmp_path: Path, backbone_folder: Path, run_tagi: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = saved(tmp_path, backbone_folder)
    assert run_tagi("generate", "-g", tmp_path / "generator", "-i", INSTRUCTIONS[0], "--out", tmp_path / "b").code == 0
    for file in adapter.iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert sorted(file.name for file in adapter.iterdir()) == sorted(file.name for file in (tmp_path / "b").iterdir())
    shutil.move(adapter, tmp_path / "far" / "moved")
    monkeypatch.chdir(tmp_path / "far")
    answers = [run_tagi("predict", "-a", folder, INSTRUCTIONS[1]) for folder in ("moved", tmp_path / "b")]
    assert answers[0].code == 0, answers[0].err
    assert answers[0].out == answers[1].out
    for kind in ("peft", "merged"):
        ran = run_tagi("export", "moved", "--format", kind, "--lossy", "--out", kind)
        assert ran.code == 0, ran.err
    assert run_tagi("generate", "-g", "moved", "-i", INSTRUCTIONS[1], "--out", "c").code == 0


def test_an_adapter_of_a_built_in_generator_names_it_so(tmp_path: Path) -> None:
    for at, name in enumerate(("toy", str(find_checkpoint("toy")))):
        adapter = AdapterGenerator.from_pretrained(name).adapt("take the animal")
        assert isinstance(adapter, TaskAdapter)
        adapter.save(tmp_path / str(at))
        assert AdapterRecord.read(tmp_path / str(at)).source == "toy"
    assert open_adapter(tmp_path / "0").predict(INPUT) == adapter.predict(INPUT)
    assert find_checkpoint(str(tmp_path / "0")) == find_checkpoint("toy")


def changed(folder: Path, **values: Any) -> None:
    record = {**json.loads((folder / AdapterRecord.FILE).read_text()), **values}
    kept = {key: value for key, value in record.items() if value is not None}
    (folder / AdapterRecord.FILE).write_text(json.dumps(kept))


def test_an_older_folder_names_its_generator_in_a_file(tmp_path: Path, backbone_folder: Path) -> None:
    adapter = saved(tmp_path, backbone_folder)
    wanted = open_adapter(adapter).predict(INPUT)
    changed(adapter, source=None)
    with pytest.raises(CheckpointError, match="expected the name of the generator that made it, got none"):
        open_adapter(adapter)
    assert open_adapter(adapter, str(tmp_path / "generator")).predict(INPUT) == wanted
    (adapter / "generator.txt").write_text(f"{tmp_path / 'generator'}\n")
    opened = open_adapter(adapter)
    assert opened.predict(INPUT) == wanted
    assert opened.generator.source == str(tmp_path / "generator")


def test_an_adapter_of_a_generator_that_was_never_saved_says_so(tmp_path: Path) -> None:
    generator = tiny_generator()
    made = generator.adapt(INSTRUCTIONS[0])
    assert isinstance(made, TaskAdapter)
    made.save(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="a generator that was not saved before its adapter: give the generator"):
        open_adapter(tmp_path / "adapter")
    generator.save_pretrained(tmp_path / "generator")
    made.save(tmp_path / "again")
    assert AdapterRecord.read(tmp_path / "again").source == str(tmp_path / "generator")


def test_a_generator_that_is_gone_or_another_is_said_to_be(tmp_path: Path, backbone_folder: Path) -> None:
    adapter = saved(tmp_path, backbone_folder)
    made = load_generator(tmp_path / "generator", kind=AdapterGenerator)
    next(iter(generator_tensors(made).values())).data.add_(1)
    made.save_pretrained(tmp_path / "generator")
    with pytest.raises(CheckpointError, match="expected the generator sha256:"):
        open_adapter(adapter)
    (tmp_path / "generator").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{adapter}: cannot read its generator: {tmp_path / 'generator'}: exp"):
        open_adapter(adapter)
