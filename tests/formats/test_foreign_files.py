"""Files as others leave them: Git LFS pointers, LoRAs that name no base, regular expressions, pickles, moved bases."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tagi.backbones.load import load_backbone, load_tokenizer
from tagi.errors import CheckpointError, ConfigError, InputError, TagiError
from tagi.formats.export import export, open_exportable
from tagi.formats.peft import CONFIG, WEIGHTS, write_lora
from tests.causal_models import causal_tokenizer, tiny_causal_model
from tests.commands import Run
from tests.models import INSTRUCTIONS, random_bank, tiny_generator

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 17\n"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_causal_model("llama").save_pretrained(tmp_path / "base")
    causal_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def lora(base: Path, tmp_path: Path) -> Path:
    backbone, folder = load_backbone(str(base)), tmp_path / "lora"
    folder.mkdir()
    write_lora(folder, random_bank(backbone.target_modules, tasks=1), backbone)
    return folder


def change(lora: Path, **values: object) -> None:
    config = json.loads((lora / CONFIG).read_text())
    (lora / CONFIG).write_text(json.dumps({**config, **values}))


def pointed_at(file: Path, read: Callable[[], object]) -> None:
    """Reading names the file and what to do once it is a pointer."""
    file.write_text(POINTER)
    with pytest.raises(TagiError, match="got a Git LFS pointer to it: download it with `git lfs pull`") as caught:
        read()
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_in_a_model_folder_is_named(name: str, base: Path) -> None:
    pointed_at(base / name, lambda: load_backbone(str(base)))


def test_a_pointer_in_another_tokenizers_folder_is_named(base: Path, tmp_path: Path) -> None:
    causal_tokenizer().save_pretrained(tmp_path / "words")
    pointed_at(tmp_path / "words" / "tokenizer.json", lambda: load_tokenizer(str(tmp_path / "words")))


def test_a_hub_name_is_no_path_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nobody").mkdir()
    (tmp_path / "nobody" / "nothing").write_text(POINTER)
    for read in (load_backbone, load_tokenizer):
        with pytest.raises(ConfigError, match="nobody/nothing"):
            read("nobody/nothing")


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_pointer_in_an_adapter_is_named(name: str, lora: Path) -> None:
    pointed_at(lora / name, lambda: open_exportable(lora))


def test_a_pointer_in_place_of_a_gguf_file_is_named(tmp_path: Path) -> None:
    pointed_at(tmp_path / "model.gguf", lambda: load_backbone(str(tmp_path / "model.gguf")))


def test_a_lora_that_names_no_base_takes_the_one_that_is_given(lora: Path, base: Path, tmp_path: Path) -> None:
    change(lora, base_model_name_or_path=None)
    with pytest.raises(InputError, match=r"expected the name of its base model .* got none: give it with --base"):
        open_exportable(lora)
    assert export(open_exportable(lora, base=str(base)), "peft", tmp_path / "out")["layers"] == 4


def test_target_modules_may_be_a_regular_expression(lora: Path, tmp_path: Path) -> None:
    change(lora, target_modules=r".*self_attn\.(q|v)_proj")
    export(open_exportable(lora), "peft", tmp_path / "out")
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["target_modules"] == ["q_proj", "v_proj"]


def test_a_pickle_is_never_loaded_and_its_conversion_is_told(lora: Path) -> None:
    (lora / WEIGHTS).rename(lora / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"got adapter_model.bin, a pickle, .* never loaded: .*save_pretrained"):
        open_exportable(lora)


def test_a_tokenizer_that_cannot_be_reached_is_named(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"^backbone.tokenizer: cannot load 'nobody/words'"):
        load_backbone(str(base), tokenizer="nobody/words")


def test_a_generator_whose_base_was_moved_takes_its_new_place(base: Path, run_tagi: Run, tmp_path: Path) -> None:
    tiny_generator(load_backbone(str(base)), fusion="none").save_pretrained(tmp_path / "generator")
    moved = base.rename(tmp_path / "moved")
    asked = ("generate", "-g", tmp_path / "generator", "-i", INSTRUCTIONS[0], "--out", tmp_path / "a")
    ran = run_tagi(*asked)
    assert (ran.code, "if it was moved, say where it is (--base" in ran.err) == (2, True)
    ran = run_tagi(*asked, "--base", moved)
    assert ran.code == 0, ran.err
    shutil.copytree(moved, tmp_path / "other")
    for command in (["predict", "w1 w2", "-a"], ["export", "--out", tmp_path / "out"]):
        assert run_tagi(*command, tmp_path / "a").code == 2
        ran = run_tagi(*command, tmp_path / "a", "--base", moved)
        assert ran.code == 0, ran.err
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    ran = run_tagi("predict", "w1 w2", "-a", tmp_path / "a", "--base", tmp_path / "other")
    assert ran.code == 2
    assert "expected base model" in ran.err


@pytest.mark.parametrize("name", ["n" * 400, "ä" * 101])
def test_a_task_name_that_is_too_long_for_a_folder_is_known_before_anything_is_loaded(
    name: str, run_tagi: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"task": name, "instruction": "say it"}) + "\n")
    monkeypatch.setattr("tagi.formats.generator.find_checkpoint", None)
    ran = run_tagi("generate", "-g", "toy", "--from", tmp_path / "tasks.jsonl", "--out", tmp_path / "out")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "expected names of at most 200 bytes, since a folder is named after each" in ran.err
