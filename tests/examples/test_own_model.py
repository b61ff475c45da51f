"""The tutorial on a model of one's own: every type from nothing to an export."""

import runpy
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tagi.formats.records import ExportRecord

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_from_nothing_to_an_export(
    kind: str, repo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(repo_root / "examples" / "own_model.py"))
    script["main"](kind, tmp_path, steps=3)
    out = capsys.readouterr().out
    assert "finetune: done" in out
    assert "checks that failed: none" in out
    record = ExportRecord.read(tmp_path / "peft")
    assert record.lost == []
    base = AutoModelForCausalLM.from_pretrained(record.base_model.name)
    assert base.config.model_type == kind
    assert PeftModel.from_pretrained(base, tmp_path / "peft").peft_config["default"].r == record.rank
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (tmp_path / "gguf" / "adapter.gguf").is_file()
