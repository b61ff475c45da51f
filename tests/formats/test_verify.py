"""Verifying an export: a good one passes every check, a damaged one is caught by the check that is for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tagi.backbones.load import load_backbone
from tagi.errors import CheckpointError, InputError
from tagi.formats.checkpoint import content_digest
from tagi.formats.export import export, open_exportable
from tagi.formats.peft import CONFIG, WEIGHTS, write_lora
from tagi.formats.records import ExportRecord
from tagi.formats.verify import LARGEST_RANK, verify
from tests.causal_models import causal_tokenizer, tiny_causal_model
from tests.commands import Run
from tests.models import random_bank

KINDS = ("llama", "gpt2", "gpt_neox")
Q, V = (f"base_model.model.model.layers.0.self_attn.{name}_proj.lora_" for name in "qv")
NEXT = Q.replace("layers.0", "layers.1")
CHECKS = ["files", "configuration", "type", "finite", "not zero", "digest", "base", "keys", "shapes", "PEFT"]


def save(kind: str, folder: Path, seed: int = 0) -> Path:
    tiny_causal_model(kind, seed).save_pretrained(folder)
    causal_tokenizer().save_pretrained(folder)
    return folder


def exported(kind: str, folder: Path, **bank: Any) -> Path:
    backbone = load_backbone(str(save(kind, folder / "base")))
    (folder / "lora").mkdir()
    write_lora(folder / "lora", random_bank(backbone.target_modules, tasks=1, **bank), backbone)
    export(open_exportable(folder / "lora"), "peft", folder / "peft")
    return folder / "peft"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return exported("llama", tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_export_passes(kind: str, tmp_path: Path) -> None:
    checks = verify(exported(kind, tmp_path), inputs=("w1 w2 w3", "w4 w5"))
    assert [(check.name, check.passed) for check in checks] == [(name, True) for name in CHECKS], checks
    assert "on 2 inputs logits within" in checks[-1].detail


Change = Callable[[dict[str, Tensor]], None]


def tensors(change: Change) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / WEIGHTS, {"format": "pt"})

    return damage


def settings(file: str = CONFIG, **changed: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return damage


def swap(found: dict[str, Tensor]) -> None:
    found[Q + "A.weight"], found[NEXT + "A.weight"] = found[NEXT + "A.weight"], found[Q + "A.weight"]


def to_nan(found: dict[str, Tensor]) -> None:
    found[V + "B.weight"][2, 1] = torch.nan


def narrow(found: dict[str, Tensor]) -> None:
    for name, tensor in found.items():
        found[name] = tensor[:3] if ".lora_A." in name else tensor[:, :3]


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def recorded(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    """Damage that the digest does not tell: as if it had been exported so."""

    def both(folder: Path) -> None:
        damage(folder)
        settings(ExportRecord.FILE, tensors=content_digest(load_file(folder / WEIGHTS), typed=True))(folder)

    return both


def other_base(folder: Path) -> None:
    other = save("llama", folder.parent / "other", seed=1)
    settings(base_model_name_or_path=str(other))(folder)


def changed_base(folder: Path) -> None:
    save("llama", folder.parent / "base", seed=1)


def target_as_text(folder: Path) -> None:
    settings(target_modules="q_proj")(folder)
    settings(ExportRecord.FILE, targets=["q_proj"])(folder)


ZEROED = tensors(lambda found: [tensor.zero_() for tensor in found.values()] and None)
TRANSPOSED = tensors(lambda found: found.update({Q + "A.weight": found[Q + "A.weight"].T}))
MISSING = tensors(lambda found: found.pop(Q + "B.weight") is None)
EXTRA = tensors(lambda found: found.update({"base_model.model.lm_head.lora_A.weight": found[Q + "A.weight"].clone()}))
HALVED = tensors(lambda found: found.update({name: tensor.half() for name, tensor in found.items()}))
DAMAGE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "zeroed": (recorded(ZEROED), "not zero", "8 of 8 that are all zero"),
    "transposed": (recorded(TRANSPOSED), "shapes", f"expected '{Q}A.weight' of shape (4, 24), got (24, 4)"),
    "missing key": (recorded(MISSING), "keys", f"'{Q}B.weight' is missing (1 such)"),
    "wrong base": (other_base, "base", "expected base model"),
    "base that changed": (changed_base, "base", "expected base model"),
    "base that is gone": (settings(base_model_name_or_path="nobody/nothing"), "base", "got 'nobody/nothing'"),
    "NaN": (recorded(tensors(to_nan)), "finite", f"'{V}B.weight'"),
    "extra module": (recorded(EXTRA), "keys", "'base_model.model.lm_head.lora_A.weight' is unexpected"),
    "extra target": (settings(target_modules=["k_proj", "q_proj", "v_proj"]), "configuration", "'k_proj'"),
    "target as text": (target_as_text, "configuration", "expected a list of target_modules, got 'q_proj'"),
    "wrong rank": (settings(r=3, lora_alpha=7.5), "configuration", "expected rank 4, got 3"),
    "wrong rank of tensors": (recorded(tensors(narrow)), "shapes", "of shape (4, 24), got (3, 24)"),
    "wrong scale": (settings(lora_alpha=4.0), "configuration", "expected alpha 10.0, got 4.0"),
    "truncated": (truncate, "files", "expected whole safetensors"),
    "swapped layers": (tensors(swap), "digest", "expected the tensors that were exported"),
    "wrong type": (recorded(HALVED), "type", "expected float32, got float16"),
    "bias": (settings(bias="all"), "configuration", "'bias': expected 'none', got 'all'"),
    "further modules": (settings(modules_to_save=["lm_head"]), "configuration", "modules_to_save"),
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), "configuration", "got no such file"),
    "no tensors": (lambda folder: (folder / WEIGHTS).unlink(), "files", "got no such file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_caught_by_the_check_that_is_for_it(name: str, good: Path) -> None:
    damage, wanted, said = DAMAGE[name]
    damage(good)
    failed = {check.name: check.detail for check in verify(good, inputs=("w1 w2",)) if check.passed is False}
    assert failed.keys() == {wanted}, failed
    assert said in failed[wanted]
    assert "\n" not in failed[wanted]


def test_what_rests_on_a_broken_check_is_not_looked_at(good: Path) -> None:
    truncate(good)
    found = {check.name: check.passed for check in verify(good)}
    assert [name for name, passed in found.items() if passed] == ["configuration", "base"]
    assert found["PEFT"] is found["keys"] is found["digest"] is None


def test_an_adapter_too_small_to_matter_is_said_to_be(tmp_path: Path) -> None:
    folder = exported("llama", tmp_path, scale=1e-12)
    failed = [(check.name, check.detail) for check in verify(folder, inputs=("w1 w2",)) if check.passed is False]
    assert [name for name, _ in failed] == ["PEFT"]
    assert "expected an adapter that changes logits" in failed[0][1]


@pytest.mark.parametrize("what", ["loads", "computes"])
def test_a_peft_that_does_otherwise_is_caught(what: str, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should another version of it read our folders in another way."""
    from peft.tuners.lora import layer

    if what == "loads":
        own = layer.LoraLayer.update_layer

        def double(module: Any, _: Any) -> None:
            module.weight.data.mul_(2)

        def changed(self: Any, name: str, *rest: Any, **named: Any) -> None:
            own(self, name, *rest, **named)
            self.lora_A[name].register_load_state_dict_post_hook(double)

        monkeypatch.setattr(layer.LoraLayer, "update_layer", changed)
    else:
        monkeypatch.setattr(layer.Linear, "forward", lambda self, x, *_, **__: self.base_layer(x) * 1.01)
    failed = {check.name: check.detail for check in verify(good, inputs=("w1 w2",)) if check.passed is False}
    assert failed.keys() == {"PEFT"}
    assert ("load every tensor as it is" if what == "loads" else "of TAGI's, got") in failed["PEFT"]


def test_the_largest_rank_is_what_servers_take(good: Path) -> None:
    over = LARGEST_RANK + 1
    settings(r=over, lora_alpha=2.5 * over)(good)
    failed = [check.detail for check in verify(good) if check.passed is False]
    assert f"expected a rank from 1 to {LARGEST_RANK}, got {over}" in failed[0]


def test_the_command(run_tagi: Run, good: Path, tmp_path: Path) -> None:
    ran = run_tagi("verify", good, "--input", "w1 w2 w3", "--json")
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)
    assert [(row["check"], row["result"]) for row in rows] == [(name, "passed") for name in CHECKS]
    assert "on 1 inputs" in rows[-1]["found"]
    assert run_tagi("verify", good, "--base", tmp_path / "base").code == 0
    moved = (tmp_path / "base").rename(tmp_path / "moved")
    assert run_tagi("verify", good).code == 1
    assert run_tagi("verify", good, "--base", moved).code == 0
    truncate(good)
    ran = run_tagi("verify", good, "--base", moved)
    assert ran.code == 1
    assert "failed" in ran.out
    assert "not checked: files failed" in ran.out


def test_what_is_no_peft_export_is_refused(good: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"record of an export \(tagi_export\.json\), got no such file"):
        verify(tmp_path)
    with pytest.raises(InputError, match="expected inputs"):
        verify(good, inputs=("w1", " "))
    settings(ExportRecord.FILE, kind="merged")(good)
    with pytest.raises(CheckpointError, match="expected an export of format 'peft', got one of 'merged'"):
        verify(good)
    settings(ExportRecord.FILE, kind="peft", format=2)(good)
    with pytest.raises(CheckpointError, match="'format': expected 1, got 2"):
        verify(good)
    (good / ExportRecord.FILE).write_text("{}")
    with pytest.raises(CheckpointError, match="'base_model': expected a value"):
        verify(good)
