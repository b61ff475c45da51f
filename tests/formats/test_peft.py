"""PEFT's folder read as a bank: whatever a bank cannot hold is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tagi.adapters.bank import LoraBank
from tagi.backbones.protocol import Backbone, BaseModel, TargetModule
from tagi.errors import CheckpointError
from tagi.formats.peft import CONFIG, WEIGHTS, read_peft, write_lora
from tests.models import random_bank

SITES = [TargetModule("block.0.q", 0, "q", 6, 5), TargetModule("block.0.v", 0, "v", 6, 9)]
KEY = "base_model.model.block.0.q.lora_A.weight"


def backbone_with(names: str, revision: str) -> Any:
    """A backbone of one block with linear layers of these names."""
    block = nn.ModuleDict({name: nn.Linear(1, 1) for name in names})
    backbone: Any = Backbone(nn.ModuleDict({"block": nn.ModuleList([block])}), None, BaseModel("base", revision))
    backbone.target_modules, backbone.encoder_decoder = (), True
    return backbone


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    write_lora(tmp_path, random_bank(SITES, tasks=1), backbone_with("qvo", "f" * 40))
    return tmp_path


def test_the_folder_says_what_it_is(adapter: Path) -> None:
    config = json.loads((adapter / CONFIG).read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("base", "f" * 40)
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 10.0, ["q", "v"])
    assert sorted(path.name for path in adapter.iterdir()) == [CONFIG, WEIGHTS]
    tensors = load_file(adapter / WEIGHTS)
    assert tensors[KEY].shape == (4, 6)
    assert tensors[KEY.replace("lora_A", "lora_B")].shape == (5, 4)


@pytest.mark.parametrize(
    ("rank", "scale", "written"), [(4, 2.5, "10"), (49, 1 / 49, "1"), (4, 0.375, "1.5"), (3, 1.0, "3"), (4, 0.0, "0")]
)
def test_alpha_is_an_integer_where_it_is_whole(rank: int, scale: float, written: str, tmp_path: Path) -> None:
    """PEFT writes it so, and some readers take no other. The scale that is read back is the same to the bit."""
    bank = LoraBank({"block.0.q": (torch.ones(1, rank, 6), torch.ones(1, 5, rank))}, scale)
    write_lora(tmp_path, bank, backbone_with("q", "sha256:0"))
    assert f'"lora_alpha": {written},' in (tmp_path / CONFIG).read_text()
    assert read_peft(tmp_path).scale == scale


def test_folders_that_say_alpha_as_a_float_are_read_as_before(adapter: Path) -> None:
    scale = read_peft(adapter).scale
    change_config(lora_alpha=10.0)(adapter)
    assert read_peft(adapter).scale == scale


def change_config(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = {**json.loads((folder / CONFIG).read_text()), **changed}
        (folder / CONFIG).write_text(json.dumps(config))

    return change


def change_tensor(key: str, value: Callable[[torch.Tensor], torch.Tensor] | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        old = tensors.pop(key, torch.zeros(1))
        if value is not None:
            tensors[key] = value(old).contiguous()
        save_file(tensors, folder / WEIGHTS)

    return change


def replace(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "adapter_config.json.*got no such file"),
        (lambda folder: (folder / WEIGHTS).unlink(), "got no such file"),
        (truncate, "got a damaged file"),
        (replace(CONFIG, b"{"), "expected the configuration of a plain LoRA adapter; Invalid JSON"),
        (replace(CONFIG, b"\xff"), "Invalid JSON"),
        (replace(CONFIG, b"[]"), r"a plain LoRA adapter; expected an object, got \[\]"),
        (change_config(peft_type="IA3"), "'peft_type': expected 'LORA', got 'IA3'"),
        (change_config(use_dora=True), r"'use_dora': expected it to be off \(null, false or empty\), got True"),
        (change_config(use_rslora=True), "'use_rslora': .*got True"),
        (change_config(alora_invocation_tokens=[3, 4]), r"'alora_invocation_tokens': .*got \[3, 4\]"),
        (change_config(something_new=2), "'something_new': expected it to be off .*got 2"),
        (change_config(init_lora_weights="pissa"), "'init_lora_weights': expected true, .*got 'pissa': convert"),
        (change_config(init_lora_weights="olora"), "'init_lora_weights': .*got 'olora'"),
        (change_config(alpha_pattern={"q": 3}), "'alpha_pattern': .*got {'q': 3}"),
        (change_config(rank_pattern={"q": 3}), "'rank_pattern': .*got {'q': 3}"),
        (change_config(bias="all"), "'bias': expected 'none', got 'all'"),
        (change_config(modules_to_save=["lm_head"]), "'modules_to_save': .*got .'lm_head'"),
        (change_config(r=None), "'r': expected a valid integer, got None"),
        (change_config(lora_alpha="8"), "'lora_alpha': expected a valid number, got '8'"),
        (change_config(r=3), r"expected A \(3, d_in\) and B \(d_out, 3\) for 'block.0.q', got \(4, 6\)"),
        (change_tensor(KEY, None), "expected A and B for 'block.0.q', got one of them"),
        (change_tensor(KEY, lambda a: a.T), r"got \(6, 4\) and \(5, 4\)"),
        (change_tensor(KEY, lambda a: a[0]), r"got \(6,\) and"),
        (change_tensor(KEY, lambda a: a * torch.inf), "expected finite numbers"),
        (change_tensor("base_model.model.lm_head.weight", lambda a: a), "expected LoRA factors alone"),
        (lambda folder: save_file({}, folder / WEIGHTS), "got no tensor"),
    ],
)
def test_what_a_bank_cannot_hold_is_named(adapter: Path, damage: Callable[[Path], None], named: str) -> None:
    read_peft(adapter)
    damage(adapter)
    with pytest.raises(CheckpointError, match=named) as caught:
        read_peft(adapter)
    assert "\n" not in str(caught.value)
    assert str(adapter) in str(caught.value)
