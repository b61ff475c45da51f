"""A generator's folder: the same generator comes back, or one line says why not. Never a pickle."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from tagi.api.generator import AdapterGenerator
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.load import load_backbone
from tagi.backbones.protocol import BaseModel
from tagi.errors import CheckpointError, TagiError
from tagi.formats.checkpoint import CONFIG, WEIGHTS
from tagi.formats.generator import generator_tensors, load_generator, save_generator
from tagi.hypernetwork.targets import describe_targets
from tagi.settings.generator import GeneratorSettings
from tests.models import INPUTS, INSTRUCTIONS, MODULES, settings, tiny_backbone, tiny_generator

KINDS: list[dict[str, Any]] = [
    {},
    {"kind": "pooled", "pooling": "attention"},
    {"fusion": "none"},
    {"fusion_norm": "post", "fusion_init": "cross"},
    {"tune": "ffn"},
    {"tune": "norms+embeddings"},
    {"tune": "all"},
    {"kind": "component"},
    *({**changed, "kind": kind} for changed in MODULES.values() for kind in ("query", "pooled", "component")),
]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trained(folder: Path, **changed: Any) -> AdapterGenerator:
    """A generator all of whose trained tensors have moved."""
    generator = tiny_generator(load_backbone(str(folder)), **changed)
    random = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in generator.parameters():
            if parameter.requires_grad:
                parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=random))
    return generator


@pytest.fixture
def checkpoint(backbone_folder: Path, tmp_path: Path) -> Path:
    trained(backbone_folder, tune="ffn").save_pretrained(tmp_path / "generator", {"steps": 3})
    return tmp_path / "generator"


@pytest.mark.parametrize("changed", KINDS)
def test_saved_loaded_and_generated_again(backbone_folder: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    generator = trained(backbone_folder, **changed)
    generator.save_pretrained(tmp_path / "one")
    again = AdapterGenerator.from_pretrained(tmp_path / "one")
    assert not again.training
    assert (again.settings, again.text.settings) == (generator.settings, generator.text.settings)
    assert again.backbone.identity == generator.backbone.identity
    for (name, wanted), found in zip(generator.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(found, wanted), name
    made = [one.adapt(INSTRUCTIONS[1]) for one in (generator, again)]
    for name, adapter in zip(("a", "b"), made, strict=True):
        assert isinstance(adapter, TaskAdapter)
        adapter.save(tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    again.save_pretrained(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert made[0].predict(INPUTS) == made[1].predict(INPUTS)
    loaded = TaskAdapter.load(tmp_path / "a", again)
    assert loaded.predict(INPUTS) == made[0].predict(INPUTS)


def test_no_file_is_a_pickle(checkpoint: Path, tmp_path: Path) -> None:
    made = AdapterGenerator.from_pretrained(checkpoint).adapt(INSTRUCTIONS[0])
    assert isinstance(made, TaskAdapter)
    made.save(tmp_path / "adapter")
    files = [*checkpoint.iterdir(), *(tmp_path / "adapter").iterdir()]
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    for path in files:
        if path.suffix == ".safetensors":
            assert load_file(path)
            assert path.read_bytes()[8:9] == b"{"  # a header of JSON after its length
        else:
            path.read_text(encoding="utf-8")


def test_only_what_was_trained_is_held(backbone_folder: Path) -> None:
    backbone = load_backbone(str(backbone_folder))
    none = generator_tensors(tiny_generator(backbone))
    assert {name.split(".")[0] for name in none} == {"hypernetwork", "fusion"}
    assert any("heads.start_" in name for name in none)
    everything = generator_tensors(tiny_generator(backbone, tune="all"))
    own = {f"backbone.{name}" for name, _ in backbone.named_parameters()}
    assert everything.keys() - none.keys() == own


def test_the_base_model_is_pinned(checkpoint: Path, backbone_folder: Path) -> None:
    config = json.loads((checkpoint / CONFIG).read_text())
    identity = load_backbone(str(backbone_folder)).identity
    assert config["base_model"] == {"name": identity.name, "revision": identity.revision}
    assert config["provenance"] == {"steps": 3}
    card = (checkpoint / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: tagi\n")
    for fact in (identity.revision, "LoRA of rank 4 (alpha 10) for 14 target modules", "| steps | `3` |", "`ffn`"):
        assert fact in card


def fault(folder: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_generator(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_base_model_is_refused_and_both_are_shown(checkpoint: Path, backbone_folder: Path) -> None:
    same = load_generator(checkpoint, backbone=load_backbone(str(backbone_folder)))
    assert same.settings.tune == "ffn"
    other = tiny_backbone()
    other.identity = BaseModel("other", "sha256:9")
    revision = same.backbone.identity.revision
    message = fault(checkpoint, backbone=other)
    assert message == f"{checkpoint}: expected base model {backbone_folder} ({revision}), got other (sha256:9)"


def test_a_backbone_that_changed_since_is_refused(backbone_folder: Path, tmp_path: Path) -> None:
    """The folder is named beside the checkpoint, both are moved, and then one weight is not what it was."""
    shutil.copytree(backbone_folder, tmp_path / "run" / "backbone")
    backbone = load_backbone("../backbone", relative_to=tmp_path / "run" / "model")
    save_generator(trained_on(backbone), tmp_path / "run" / "model")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    found = load_generator(tmp_path / "moved" / "model")
    assert found.backbone.identity == backbone.identity
    weights = tmp_path / "moved" / "backbone" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    message = fault(tmp_path / "moved" / "model")
    assert f"expected base model ../backbone ({backbone.identity.revision}), got ../backbone (sha256:" in message
    shutil.rmtree(tmp_path / "moved" / "backbone")
    assert "got no such folder" in fault(tmp_path / "moved" / "model")


def trained_on(backbone: Any) -> AdapterGenerator:
    return tiny_generator(backbone)


def change_config(*path: str, value: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        part = config
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        (folder / CONFIG).write_text(json.dumps(config))

    return change


def change_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (shutil.rmtree, "expected a built-in generator (toy, smollm2), a folder or a hub name"),
        (change_config("method", value="concatenation"), "expected a generator, got a checkpoint of method"),
        (change_config("model_type", value="t5"), "'model_type': expected 'tagi', got 't5'"),
        (change_config("generator", value=3), "generator settings: expected an object, got 3"),
        (change_config("generator", "kind", value="deep"), "kind: expected 'pooled', 'query'"),
        (change_config("generator", "kinds", value="deep"), "got a difference at 'kinds'"),
        (change_config("generator", "rank", value=5), "expected 'hypernetwork."),
        (change_config("generator", "fusion", value="none"), "is unexpected"),
        (change_config("generator", "tune", value="all"), "is missing"),
        (change_config("text", value=[]), "text settings: expected an object"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "got a damaged file"),
        (change_tensors(lambda tensors: tensors.popitem()), "is missing (1 such)"),
        (
            change_tensors(lambda tensors: tensors.update({"hypernetwork.key.weight": torch.ones(24, 14)})),
            "expected 'hypernetwork.key.weight' of shape (14, 24), got (24, 14)",
        ),
    ],
)
def test_damage_is_named(checkpoint: Path, damage: Callable[[Path], Any], named: str) -> None:
    load_generator(checkpoint)
    damage(checkpoint)
    assert named in fault(checkpoint)


def test_settings_travel_as_json() -> None:
    one = settings(kind="pooled", tune="ffn", seed=3)
    assert GeneratorSettings.from_dict(json.loads(json.dumps(one.as_dict()))) == one
    for fusion, fuses, concatenates in (("both", 1, 1), ("attention", 1, 0), ("concatenation", 0, 1), ("none", 0, 0)):
        found = settings(fusion=fusion)
        assert (found.fuses, found.concatenates) == (bool(fuses), bool(concatenates))


def test_settings_from_before_modules_could_be_chosen_are_of_lora() -> None:
    """They lack the keys, and are written as they were: the same bytes, the same digest."""
    later = ("module", "placement", "bottleneck", "prefix")
    for one in (settings(), settings(kind="pooled", tune="all")):
        assert not one.as_dict().keys() & set(later)
        assert GeneratorSettings.from_dict(one.as_dict()) == one
        assert GeneratorSettings.from_dict({**one.as_dict(), "module": "lora", "prefix": 30}) == one
    for name, changed in MODULES.items():
        one = settings(**changed)
        assert one.as_dict().keys() & set(later) == changed.keys(), name
        assert GeneratorSettings.from_dict(json.loads(json.dumps(one.as_dict()))) == one
        found = (one.makes_bottlenecks, one.makes_prefixes)
        assert found == ("bottleneck" in one.module, "prefix" in one.module)
    assert not settings().makes_bottlenecks
    assert not settings().makes_prefixes
    with pytest.raises(
        CheckpointError, match=r"module: expected 'lora', 'bottleneck', 'prefix' or 'bottleneck\+prefix', got 'x'"
    ):
        GeneratorSettings.from_dict({**settings().as_dict(), "module": "x"})
    with pytest.raises(CheckpointError, match="a difference at 'rank'"):
        GeneratorSettings.from_dict({key: value for key, value in settings().as_dict().items() if key != "rank"})


@pytest.mark.parametrize("name", MODULES)
def test_the_card_says_what_is_generated(backbone_folder: Path, tmp_path: Path, name: str) -> None:
    generator = trained(backbone_folder, **MODULES[name])
    generator.save_pretrained(tmp_path / "one")
    card = (tmp_path / "one" / "README.md").read_text()
    assert f"| generates | {describe_targets(generator.targets)} |" in card
    assert "lora" not in card.lower()
    assert "".join(f"- {tag}\n" for tag in generator.settings.module.split("+")) in card


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("nobody/nothing", "nobody/nothing: no such folder, and the hub gave none"),
        ("nothing", "nothing: expected a built-in generator (toy, smollm2), a folder or a hub name"),
        ("./a/b", "./a/b: expected a built-in generator"),
        ("bad name/x y", "no such folder, and the hub gave none"),
    ],
)
def test_a_generator_that_is_nowhere(name: str, named: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        AdapterGenerator.from_pretrained(name)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_generator_is_pushed_whole(backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str, Any]] = []

    class Api:
        def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
            calls.append(("create", repository, (private, exist_ok)))

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
            calls.append(("upload", repo_id, commit_message))
            shutil.copytree(folder_path, tmp_path / "hub")
            return type("Commit", (), {"commit_url": "https://example.org/commit"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    generator = trained(backbone_folder)
    assert generator.push_to_hub("me/mine", private=True, message="first") == "https://example.org/commit"
    assert calls == [("create", "me/mine", (True, True)), ("upload", "me/mine", "first")]
    generator.save_pretrained(tmp_path / "local")
    assert contents(tmp_path / "hub") == contents(tmp_path / "local")


def test_a_folder_that_cannot_be_written_is_left_as_it_was(checkpoint: Path) -> None:
    before = contents(checkpoint)
    generator = AdapterGenerator.from_pretrained(checkpoint)
    with pytest.raises((TagiError, TypeError)):
        generator.save_pretrained(checkpoint, {"odd": object()})
    assert contents(checkpoint) == before
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
