"""One adapter three ways: our bank in the batch, PEFT's loading of our folder, and merged weights.

How far two of them may be apart is what rounding costs the reference itself: PEFT in fp32 against PEFT in fp64.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import T5ForConditionalGeneration

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank
from tagi.adapters.merge import merge
from tagi.api.task_adapter import TaskAdapter
from tagi.backbones.load import load_backbone
from tagi.backbones.t5 import T5Backbone
from tagi.data.text.encoder import TextEncoder
from tagi.formats.peft import CONFIG, WEIGHTS, read_peft, write_lora
from tests.models import (
    INPUTS,
    INSTRUCTIONS,
    RANK,
    ROW_TASKS,
    TASKS,
    random_bank,
    text_settings,
    tiny_generator,
    tokenizer,
)

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

OWN_ROUNDING = 4
"""Another order of summation than PEFT's may cost a few times what PEFT's own order does."""

TEXT = TextEncoder(tokenizer(), text_settings())
IDS, MASK = TEXT.batch([TEXT.input(text) for text in INPUTS])
LABELS = TEXT.labels([TEXT.target(text) for text in reversed(INPUTS)])
ROWS = torch.tensor(ROW_TASKS)


@pytest.fixture(scope="module")
def backbone(backbone_folder: Path) -> T5Backbone:
    return load_backbone(str(backbone_folder))


def export(bank: LoraBank, task: int, folder: Path, base: Path) -> Path:
    folder.mkdir(parents=True)
    write_lora(folder, bank.select(torch.tensor([task])), load_backbone(str(base)))
    return folder


def peft_model(base: Path, adapter: Path, dtype: torch.dtype = torch.float32) -> Any:
    model = T5ForConditionalGeneration.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, str(adapter)).to(dtype).eval()


@torch.no_grad()
def peft_logits(base: Path, adapter: Path, dtype: torch.dtype, *, merged: bool = False) -> Tensor:
    model = peft_model(base, adapter, dtype)
    model = model.merge_and_unload() if merged else model
    return model(input_ids=IDS, attention_mask=MASK.long(), labels=LABELS).logits


def exact_and_own_rounding(base: Path, adapter: Path) -> tuple[Tensor, float]:
    """PEFT in fp64, and how far another computation in fp32 may be from it."""
    exact = peft_logits(base, adapter, torch.float64)
    single = [peft_logits(base, adapter, torch.float32, merged=merged) for merged in (False, True)]
    return exact, OWN_ROUNDING * max(apart(logits, exact) for logits in single)


@torch.no_grad()
def bank_logits(backbone: T5Backbone, bank: LoraBank, rows: Tensor | None = ROWS) -> Tensor:
    with Attachment(bank.hooks(backbone.target_layers, rows)).active():
        return backbone.logits(backbone.encode(IDS, MASK), MASK, LABELS)


@torch.no_grad()
def merged_logits(backbone: T5Backbone, bank: LoraBank, task: int) -> Tensor:
    view = T5Backbone(merge(backbone.model, bank, task), backbone.tokenizer, backbone.identity)
    return view.logits(view.encode(IDS, MASK), MASK, LABELS)


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max())


def test_bank_in_a_mixed_batch_is_peft_is_merged(backbone: T5Backbone, backbone_folder: Path, tmp_path: Path) -> None:
    bank = random_bank(backbone.target_modules)
    mixed = bank_logits(backbone, bank)
    unscaled = bank_logits(backbone, LoraBank(bank.factors, 1.0))
    mispaired = bank_logits(backbone, LoraBank({s: (a.flip(1), b) for s, (a, b) in bank.factors.items()}, bank.scale))
    bare = bank_logits(backbone, bank.zero())
    for task in range(TASKS):
        adapter = export(bank, task, tmp_path / str(task), backbone_folder)
        exact, own = exact_and_own_rounding(backbone_folder, adapter)
        assert 0 < own < 1e-2 * apart(bare, exact)
        of_task = task == ROWS
        assert apart(mixed[of_task], exact[of_task]) <= own
        assert apart(merged_logits(backbone, bank, task), exact) <= own
        assert apart(bank_logits(backbone, bank.select(torch.tensor([task])), None), exact) <= own
        assert apart(mixed[~of_task], exact[~of_task]) > 100 * own
        for wrong in (unscaled, mispaired):
            assert apart(wrong[of_task], exact[of_task]) > 100 * own


def test_a_predicting_adapter_is_its_folder_in_peft(
    backbone: T5Backbone, backbone_folder: Path, tmp_path: Path
) -> None:
    generator = tiny_generator(backbone, fusion="none")
    answers = []
    for at, adapter in enumerate(generator.adapt(INSTRUCTIONS)):
        adapter.save(tmp_path / str(at))
        model = peft_model(backbone_folder, tmp_path / str(at))
        found = model.generate(
            input_ids=IDS, attention_mask=MASK.long(), max_new_tokens=6, do_sample=False, num_beams=1
        )
        answers.append(adapter.predict(INPUTS, max_new_tokens=6))
        assert answers[-1] == TEXT.decode(found)
    assert answers[0] != answers[1] != answers[2] != answers[0]


def test_what_we_write_peft_names_in_short_and_in_full(
    backbone: T5Backbone, backbone_folder: Path, tmp_path: Path
) -> None:
    bank = random_bank(backbone.target_modules, tasks=1)
    some = LoraBank({s: f for s, f in bank.factors.items() if "EncDecAttention" in s}, bank.scale)
    assert json.loads((export(bank, 0, tmp_path / "all", backbone_folder) / CONFIG).read_text())["target_modules"] == [
        "q",
        "v",
    ]
    adapter = export(some, 0, tmp_path / "some", backbone_folder)
    assert len(json.loads((adapter / CONFIG).read_text())["target_modules"]) == len(some.factors) == 4
    exact, own = exact_and_own_rounding(backbone_folder, adapter)
    assert apart(bank_logits(backbone, some, None), exact) <= own
    assert apart(bank_logits(backbone, bank, None), exact) > 100 * own


def test_read_back_to_the_bit_and_written_again(backbone: T5Backbone, backbone_folder: Path, tmp_path: Path) -> None:
    bank = random_bank(backbone.target_modules, tasks=2, scale=7 / RANK)
    adapter = export(bank, 1, tmp_path / "one", backbone_folder)
    found = read_peft(adapter)
    assert found.scale == bank.scale
    assert found.factors.keys() == bank.factors.keys()
    for module, (a, b) in found.factors.items():
        assert torch.equal(a[0], bank.factors[module][0][1])
        assert torch.equal(b[0], bank.factors[module][1][1])
    again = export(found, 0, tmp_path / "two", backbone_folder)
    for name in (CONFIG, WEIGHTS):
        assert (again / name).read_bytes() == (adapter / name).read_bytes()


def test_what_peft_trains_and_writes_we_read(backbone: T5Backbone, backbone_folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=6, target_modules=["q", "v"], init_lora_weights=False)
    model = get_peft_model(T5ForConditionalGeneration.from_pretrained(backbone_folder), config).eval()
    model.save_pretrained(str(tmp_path / "theirs"))
    bank = read_peft(tmp_path / "theirs")
    assert (bank.rank, bank.scale, len(bank.factors)) == (RANK, 6 / RANK, len(backbone.target_modules))
    exact, own = exact_and_own_rounding(backbone_folder, tmp_path / "theirs")
    assert apart(bank_logits(backbone, bank, None), exact) <= own


def test_only_one_task_is_written(backbone: T5Backbone, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds one task, the bank has 3"):
        write_lora(tmp_path, random_bank(backbone.target_modules), backbone)


def test_an_adapter_folder_is_whole_for_peft(backbone: T5Backbone, backbone_folder: Path, tmp_path: Path) -> None:
    """Beside PEFT's two files stand ours, which it does not mind; its base is pinned by name."""
    generator = tiny_generator(backbone)
    adapter = generator.adapt(INSTRUCTIONS[0])
    assert isinstance(adapter, TaskAdapter)
    adapter.save(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == str(backbone_folder)
    assert config["lora_alpha"] == config["r"] * adapter.bank.scale
    shutil.copytree(tmp_path / "adapter", tmp_path / "moved")
    assert peft_model(backbone_folder, tmp_path / "moved").peft_config["default"].r == RANK
