"""Exports beside their base models: found by folder alone, described without private paths, configured as the base."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tagi.backbones.load import load_backbone, make_backbone
from tagi.backbones.protocol import BaseModel
from tagi.formats.export import export, open_exportable
from tagi.formats.peft import write_lora
from tests.causal_models import causal_tokenizer, tiny_causal_model
from tests.models import SIZES, random_bank, tiny_model, tokenizer

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny Llama."""
    tiny_causal_model("llama").save_pretrained(tmp_path / "base")
    causal_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def lora_of(base: Path, folder: Path) -> Path:
    backbone = load_backbone(str(base))
    folder.mkdir()
    write_lora(folder, random_bank(backbone.target_modules, tasks=1), backbone)
    return folder


HUB = """
import sys, torch
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    torch.save(model(input_ids=torch.tensor([[5, 9, 7]])).logits, sys.argv[2])
assert not any(name.split(".")[0] == "tagi" for name in sys.modules)
"""


def test_an_export_for_a_model_of_the_hub_is_loaded_by_its_folder_alone(base: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "cache" / "models--own--tiny"
    shutil.copytree(base, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    source = open_exportable(lora_of(base, tmp_path / "lora"))
    source.backbone.identity = BaseModel("own/tiny", commit)
    named = replace(source, origin=source.origin.model_copy(update={"base_model": source.backbone.identity}))
    export(named, "peft", tmp_path / "peft")
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", HUB, str(tmp_path / "peft"), str(tmp_path / "logits")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "peft")).eval()
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([[5, 9, 7]])).logits
    assert torch.equal(torch.load(tmp_path / "logits"), wanted)
    card = (tmp_path / "peft" / "README.md").read_text()
    assert 'base_model: "own/tiny"\n' in card
    assert 'model = AutoPeftModelForCausalLM.from_pretrained("this folder")' in card


def test_a_card_says_how_to_get_the_packaged_model(base: Path, tmp_path: Path) -> None:
    source = open_exportable(lora_of(base, tmp_path / "lora"))
    source.backbone.identity = BaseModel("smollm2-135m-instruct", "sha256:0")
    named = replace(source, origin=source.origin.model_copy(update={"base_model": source.backbone.identity}))
    export(named, "peft", tmp_path / "peft")
    card = (tmp_path / "peft" / "README.md").read_text()
    assert "base_model:" not in card
    assert (
        'base = load_backbone("smollm2-135m-instruct", revision="sha256:0")\nbase.model.save_pretrained("base")' in card
    )
    assert '.from_pretrained("base")\nmodel = PeftModel' in card


def t5_base(folder: Path) -> Path:
    """A T5 in bfloat16 with a head of its own, as other versions of transformers write it."""
    model = tiny_model(tie_word_embeddings=False).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("scale_decoder_outputs")
    written = {**config, "tie_word_embeddings": False, "torch_dtype": config.pop("dtype"), "note": "of the base"}
    (folder / "config.json").write_text(json.dumps(written))
    return folder


def test_merged_says_of_its_head_and_type_what_the_base_says(tmp_path: Path) -> None:
    base = t5_base(tmp_path / "t5")
    backbone = load_backbone(str(base))
    export(open_exportable(lora_of(base, tmp_path / "lora")), "merged", tmp_path / "merged")
    wanted = json.loads((base / "config.json").read_text())
    found = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert found == {**wanted, "transformers_version": found["transformers_version"]}
    assert found["tie_word_embeddings"] is False
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert "lm_head.weight" in tensors
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (base, tmp_path / "merged")]
    assert abs(sizes[0] - sizes[1]) < 0.1 * sizes[0]
    merged = load_backbone(str(tmp_path / "merged"))
    head = merged.model.lm_head.weight
    assert torch.equal(head, backbone.model.lm_head.weight)
    assert not torch.equal(head, merged.model.get_input_embeddings().weight)


def test_a_made_backbone_says_that_its_head_is_its_own(tmp_path: Path, backbone_folder: Path) -> None:
    fields = {**SIZES, "vocab_size": 251, "tie_word_embeddings": False}
    made = make_backbone(fields, str(backbone_folder), 0, tmp_path / "made")
    assert json.loads((made / "config.json").read_text())["tie_word_embeddings"] is False
    backbone = load_backbone(str(made))
    assert not torch.equal(backbone.model.lm_head.weight, backbone.model.get_input_embeddings().weight)
