"""Exports: what other software makes of them, that they are the same when made twice, and what is said to be lost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from tagi.adapters.attach import Attachment
from tagi.adapters.bank import LoraBank
from tagi.adapters.protocol import stack_banks
from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import folder_revision, load_backbone
from tagi.data.text.encoder import CausalTextEncoder
from tagi.errors import CheckpointError, ConfigError, InputError
from tagi.formats.export import GGUF_FILE, export, open_exportable
from tagi.formats.gguf_lora import gguf_factors, interleaved
from tagi.formats.peft import read_peft, write_lora
from tagi.formats.records import ExportRecord
from tests.causal_models import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, causal_tokenizer, close, tiny_causal_model
from tests.commands import Run
from tests.gguf_files import write_gguf_model
from tests.models import INPUTS, INSTRUCTIONS, RANK, random_bank, rounding, text_settings, tiny_generator

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TEXT = CausalTextEncoder(causal_tokenizer(), text_settings())
IDS, MASK = TEXT.batch([TEXT.input(text) for text in INPUTS])
LABELS = TEXT.labels([TEXT.target(text) for text in reversed(INPUTS)])
KINDS = ("llama", "gpt2", "phi3")


def save(kind: str, folder: Path) -> Path:
    tiny_causal_model(kind).save_pretrained(folder)
    causal_tokenizer().save_pretrained(folder)
    return folder


def adapter(base: Path, folder: Path, seed: int = 3) -> Path:
    backbone = load_backbone(str(base))
    folder.mkdir()
    write_lora(folder, random_bank(backbone.target_modules, tasks=1, seed=seed), backbone)
    return folder


def logits_of(base: Path, bank: LoraBank | None, rows: Tensor | None = None) -> Tensor:
    backbone = load_backbone(str(base), CausalBackbone)
    hooks = {} if bank is None else bank.hooks(backbone.target_layers, rows)
    with torch.no_grad(), Attachment(hooks).active():
        return backbone.logits(IDS, MASK, LABELS)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_a_plain_model(kind: str, tmp_path: Path) -> None:
    base = save(kind, tmp_path / "base")
    lora = adapter(base, tmp_path / "lora")
    source = open_exportable(lora)
    row = export(source, "merged", tmp_path / "merged")
    assert row["bytes"] > (base / "model.safetensors").stat().st_size
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    found = CausalBackbone(model, AutoTokenizer.from_pretrained(tmp_path / "merged"), source.backbone.identity)
    with torch.no_grad():
        close(found.logits(IDS, MASK, LABELS), logits_of(base, read_peft(lora)))
    assert rounding(found.logits(IDS, MASK, LABELS), logits_of(base, None)) > 0.01
    assert found.tokenizer.get_vocab() == causal_tokenizer().get_vocab()
    assert load_backbone(str(tmp_path / "merged")).identity.revision != load_backbone(str(base)).identity.revision


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", ["peft", "merged"])
def test_made_twice_it_is_the_same_and_says_what_it_is(kind: str, format: Any, tmp_path: Path) -> None:
    base = save(kind, tmp_path / "base")
    lora = adapter(base, tmp_path / "lora")
    for name in ("one", "two"):
        export(open_exportable(lora), format, tmp_path / name)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert {"README.md", ExportRecord.FILE} < one.keys()
    record = json.loads(one[ExportRecord.FILE])
    rank = RANK if kind == "llama" else 2 * RANK
    assert (record["rank"], record["alpha"], record["layers"]) == (
        rank,
        rank * 2.5,
        2 * LAYERS if kind == "llama" else LAYERS,
    )
    assert record["base_model"] == {"name": str(base), "revision": folder_revision(base)}
    card = one["README.md"].decode()
    assert str(base) not in card  # a private place, which the hub takes for no model either
    assert "base_model:" not in card
    for said in (base.name, folder_revision(base), f"rank {rank}", *record["targets"], record["model"]):
        assert str(said) in card
    assert record["lost"] == []


ALONE = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, asked, found = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
with torch.no_grad():
    logits = [model(input_ids=torch.tensor([ids])).logits[0] for ids in json.load(open(asked))]
torch.save(logits, found)
assert not any(name.split(".")[0] == "tagi" for name in sys.modules)
"""


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_alone_does_the_same_in_a_process_that_knows_nothing_of_us(kind: str, tmp_path: Path) -> None:
    base = save(kind, tmp_path / "base")
    lora = adapter(base, tmp_path / "lora")
    export(open_exportable(lora), "peft", tmp_path / "peft")
    prompts = [TEXT.input(text) for text in INPUTS]
    (tmp_path / "asked.json").write_text(json.dumps(prompts))
    arguments = [base, tmp_path / "peft", tmp_path / "asked.json", tmp_path / "found.pt"]
    subprocess.run([sys.executable, "-c", ALONE, *map(str, arguments)], check=True, capture_output=True)
    backbone = load_backbone(str(base), CausalBackbone)
    bank = read_peft(lora)
    for prompt, logits in zip(prompts, torch.load(tmp_path / "found.pt", weights_only=True), strict=True):
        with torch.no_grad(), Attachment(bank.hooks(backbone.target_layers)).active():
            close(logits, backbone.model(input_ids=torch.tensor([prompt])).logits[0])


@pytest.mark.parametrize("kind", KINDS)
def test_two_adapters_mixed_by_peft_are_our_mixed_batch(kind: str, tmp_path: Path) -> None:
    base = save(kind, tmp_path / "base")
    loras = [adapter(base, tmp_path / f"lora{at}", seed=at) for at in range(2)]
    for at, lora in enumerate(loras):
        export(open_exportable(lora), "peft", tmp_path / f"peft{at}")
    rows = torch.tensor([at % 2 for at in range(len(INPUTS))])
    mixed = logits_of(base, stack_banks([read_peft(lora) for lora in loras]), rows)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "peft0"), adapter_name="0"
    )
    model.load_adapter(str(tmp_path / "peft1"), adapter_name="1")
    model.eval()
    for row, text in enumerate(INPUTS):
        prompt, target = TEXT.input(text), TEXT.target(INPUTS[len(INPUTS) - 1 - row])
        asked = torch.tensor([prompt + target])
        with torch.no_grad():  # the other adapter's row beside it
            both = model(input_ids=asked.repeat(2, 1), adapter_names=["0", "1"]).logits
        wanted = both[int(rows[row]), len(prompt) - 1 : -1]
        close(mixed[row, : len(target)], wanted)
        assert rounding(mixed[row, : len(target)], both[1 - int(rows[row]), len(prompt) - 1 : -1]) > 0.001


def test_what_a_lora_does_not_carry_is_said_before_anything_is_written(
    run_tagi: Run, backbone_folder: Path, tmp_path: Path
) -> None:
    for fusion, tune, named in (
        ("both", "none", ["fusion with the instruction in the encoder", "instruction states before the decoder"]),
        ("none", "ffn", ["tuned backbone parameters (ffn)"]),
        ("none", "none", []),
    ):
        generator = tiny_generator(load_backbone(str(backbone_folder)), fusion=fusion, tune=tune)
        folder = tmp_path / f"{fusion}-{tune}"
        generator.save_pretrained(folder / "generator")
        made = run_tagi(
            "generate",
            "-g",
            folder / "generator",
            "-i",
            INSTRUCTIONS[1],
            "--example",
            "w3 => w4",
            "--out",
            folder / "a",
        )
        assert made.code == 0, made.err
        out = folder / "peft"
        ran = run_tagi("export", folder / "a", "--out", out)
        if named:
            assert ran.code == 2
            assert ran.err.count("\n") == 1
            assert all(name in ran.err for name in named)
            assert not out.exists()
            ran = run_tagi("export", folder / "a", "--out", out, "--lossy")
            assert all(name in ran.err for name in named)
        else:
            assert ran.err == ""
        assert ran.code == 0, ran.err
        record = json.loads((out / ExportRecord.FILE).read_text())
        assert record["lost"] == named
        assert record["instruction"] == INSTRUCTIONS[1]
        card = (out / "README.md").read_text()
        for said in (INSTRUCTIONS[1], record["generator"], *named):
            assert said in card
        assert (
            load_file(out / "adapter_model.safetensors").keys()
            == load_file(folder / "a" / "adapter_model.safetensors").keys()
        )


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_generator_of_lora_alone_goes_whole(kind: str, run_tagi: Run, tmp_path: Path) -> None:
    """From an instruction to PEFT's answers to inputs alone, which are the adapter's own."""
    base = save(kind, tmp_path / "base")
    generator = tiny_generator(load_backbone(str(base)), fusion="none")
    generator.save_pretrained(tmp_path / "generator")
    assert run_tagi("generate", "-g", tmp_path / "generator", "-i", INSTRUCTIONS[0], "--out", tmp_path / "a").code == 0
    ran = run_tagi("export", tmp_path / "a", "--out", tmp_path / "peft")
    assert (ran.code, ran.err) == (0, "")
    assert run_tagi("verify", tmp_path / "peft", "--input", INPUTS[0]).code == 0
    model = AutoModelForCausalLM.from_pretrained(base)
    bare = CausalBackbone(model, causal_tokenizer(), generator.backbone.identity).generate(IDS, MASK, max_new_tokens=6)
    peft = PeftModel.from_pretrained(model, str(tmp_path / "peft")).eval()
    loaded = CausalBackbone(peft.base_model.model, causal_tokenizer(), generator.backbone.identity)
    answers = TEXT.decode(loaded.generate(IDS, MASK, max_new_tokens=6))
    assert answers == generator.adapt(INSTRUCTIONS[0]).predict(INPUTS, max_new_tokens=6)
    assert answers != TEXT.decode(bare)


@pytest.mark.parametrize(
    ("fusion", "named"),
    [
        ("attention", "fusion with the instruction in the layers"),
        ("concatenation", "the instruction's keys and values"),
        ("both", "fusion with the instruction in the layers, the instruction's keys and values"),
    ],
)
def test_what_a_decoder_only_generator_has_besides_is_said(
    fusion: str, named: str, run_tagi: Run, tmp_path: Path
) -> None:
    base = save("llama", tmp_path / "base")
    tiny_generator(load_backbone(str(base)), fusion=fusion).save_pretrained(tmp_path / "generator")
    assert run_tagi("generate", "-g", tmp_path / "generator", "-i", INSTRUCTIONS[0], "--out", tmp_path / "a").code == 0
    ran = run_tagi("export", tmp_path / "a", "--format", "merged", "--out", tmp_path / "merged")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert f"got one with {named}: give --lossy" in ran.err
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("module", ["prefix", "bottleneck"])
def test_what_is_no_lora_is_refused(module: str, run_tagi: Run, backbone_folder: Path, tmp_path: Path) -> None:
    tiny_generator(load_backbone(str(backbone_folder)), module=module).save_pretrained(tmp_path / "generator")
    made = run_tagi("generate", "-g", tmp_path / "generator", "-i", INSTRUCTIONS[1], "--out", tmp_path / "a")
    assert made.code == 0, made.err
    ran = run_tagi("export", tmp_path / "a", "--out", tmp_path / "peft", "--lossy")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert f"expected an adapter of LoRA, got one of {module}, which other software lacks" in ran.err
    assert not (tmp_path / "peft").exists()


def test_merged_holds_what_was_tuned(run_tagi: Run, backbone_folder: Path, tmp_path: Path) -> None:
    generator = tiny_generator(load_backbone(str(backbone_folder)), fusion="none", tune="ffn")
    with torch.no_grad():
        for name, parameter in generator.backbone.named_parameters():
            if parameter.requires_grad and "wi" in name:
                parameter.mul_(1.5)
    generator.save_pretrained(tmp_path / "generator")
    assert run_tagi("generate", "-g", tmp_path / "generator", "-i", INSTRUCTIONS[0], "--out", tmp_path / "a").code == 0
    ran = run_tagi("export", tmp_path / "a", "--format", "merged", "--out", tmp_path / "merged", "--json")
    assert ran.code == 0, ran.err
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()
    task = generator.adapt(INSTRUCTIONS[0])
    ids, mask = generator.text.batch([generator.text.input(text) for text in INPUTS])
    answers = model.generate(input_ids=ids, attention_mask=mask.long(), max_new_tokens=6, do_sample=False, num_beams=1)
    assert generator.text.decode(answers) == task.predict(INPUTS, max_new_tokens=6)
    plain = AutoModelForSeq2SeqLM.from_pretrained(backbone_folder).state_dict()
    own = model.state_dict()
    changed = {name for name in plain if not torch.equal(plain[name], own[name])}
    assert any("wi" in name for name in changed)
    assert any(".q." in name for name in changed)


def test_an_export_is_exported_again_with_all_that_is_known(tmp_path: Path) -> None:
    base = save("llama", tmp_path / "base")
    export(open_exportable(adapter(base, tmp_path / "lora")), "peft", tmp_path / "one")
    record = json.loads((tmp_path / "one" / ExportRecord.FILE).read_text())
    (tmp_path / "one" / ExportRecord.FILE).write_text(json.dumps({**record, "instruction": "say it", "seed": 7}))
    export(open_exportable(tmp_path / "one"), "merged", tmp_path / "two")
    again = json.loads((tmp_path / "two" / ExportRecord.FILE).read_text())
    assert (again["instruction"], again["seed"], again["kind"]) == ("say it", 7, "merged")


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    base, wider = save("llama", tmp_path / "base"), save("gpt2", tmp_path / "wider")
    lora = adapter(base, tmp_path / "lora")
    with pytest.raises(CheckpointError, match=r"expected LoRA for layers of .*wider"):
        open_exportable(lora, base=str(wider))
    narrow = tmp_path / "narrow"
    tiny_causal_model("llama", head_dim=HEAD_DIM - 2).save_pretrained(narrow)
    causal_tokenizer().save_pretrained(narrow)
    with pytest.raises(CheckpointError, match=r"expected LoRA of 48 x 24 for .*q_proj.*, got 60 x 24"):
        open_exportable(lora, base=str(narrow))
    export(open_exportable(lora), "peft", tmp_path / "peft")
    with pytest.raises(CheckpointError, match=r"expected base model .*narrow \(sha256:"):
        open_exportable(tmp_path / "peft", base=str(narrow))
    with pytest.raises(InputError, match="expected an adapter of a generator, got"):
        open_exportable(lora, generator="toy")


def test_rows_follow_llama_cpps_rotation() -> None:
    """Neighbours rotated in its order are halves rotated in transformers'."""
    half = HEAD_DIM // 2
    angles = torch.linspace(0.1, 1.3, half, dtype=torch.float64)
    states = torch.randn(HEADS * HEAD_DIM, 1, dtype=torch.float64)

    def halves(x: Tensor) -> Tensor:
        first, second = x.view(HEADS, 2, half).unbind(1)
        return torch.cat(
            [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], 1
        )

    def neighbours(x: Tensor) -> Tensor:
        first, second = x.view(HEADS, half, 2).unbind(2)
        return torch.stack(
            [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], 2
        )

    wanted = interleaved(halves(states[:, 0]).reshape(-1, 1), HEADS)
    found = neighbours(interleaved(states, HEADS)[:, 0])
    torch.testing.assert_close(found.reshape(-1, 1), wanted)
    assert not torch.equal(interleaved(states, HEADS), states)


def test_llama_cpps_names_and_shapes(tmp_path: Path) -> None:
    backbone = load_backbone(str(save("llama", tmp_path / "base")), CausalBackbone)
    bank = random_bank(backbone.target_modules, tasks=1)
    found = gguf_factors(bank, HEADS)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        f"blk.{layer}.{name}.weight.lora_{factor}": shape
        for layer in range(LAYERS)
        for name, d_out in (("attn_q", HEADS * HEAD_DIM), ("attn_v", KV_HEADS * HEAD_DIM))
        for factor, shape in (("a", (RANK, HIDDEN)), ("b", (d_out, RANK)))
    }
    value = bank.factors["model.layers.1.self_attn.v_proj"]
    assert torch.equal(found["blk.1.attn_v.weight.lora_b"], value[1][0])
    query = bank.factors["model.layers.1.self_attn.q_proj"][1][0]
    assert torch.equal(found["blk.1.attn_q.weight.lora_b"], interleaved(query, HEADS))


def test_layers_whose_rows_are_not_known_are_refused() -> None:
    pair = (torch.ones(1, 2, 5), torch.ones(1, 7, 2))
    with pytest.raises(ConfigError, match=r"expected LoRA on q_proj, v_proj alone for llama.cpp, .*self_attn.k_proj"):
        gguf_factors(LoraBank({"model.layers.0.self_attn.k_proj": pair}, 1.0), HEADS)


def test_a_file_for_llama_cpp_holds_the_lora(run_tagi: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGI_CACHE", str(tmp_path / "cache"))
    base = write_gguf_model(tmp_path / "base.gguf")
    lora = adapter(base, tmp_path / "lora")
    for name in ("one", "two"):
        ran = run_tagi("export", lora, "--format", "gguf", "--out", tmp_path / name, "--json")
        assert ran.code == 0, ran.err
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert one.keys() == {GGUF_FILE, "README.md", ExportRecord.FILE}
    reader = GGUFReader(tmp_path / "one" / GGUF_FILE)
    said = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert said == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": f"LoRA for {base}",
        "adapter.type": "lora",
        "adapter.lora.alpha": 2.5 * RANK,
    }
    wanted = gguf_factors(read_peft(lora), HEADS)
    found = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


def test_what_llama_cpp_cannot_have_is_one_line(tmp_path: Path) -> None:
    source = open_exportable(adapter(save("gpt2", tmp_path / "base"), tmp_path / "lora"))
    with pytest.raises(ConfigError, match=r"a base model of type llama, .* got 'gpt2' \(another one: CONTRIB"):
        export(source, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
