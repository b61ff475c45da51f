"""Finding, making and pinning backbones; what cannot be used is said in one line."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from tagi import activity
from tagi.backbones.causal import CausalBackbone
from tagi.backbones.gguf import ANOTHER
from tagi.backbones.load import (
    CAUSAL,
    _bars_on_terminals,
    build_t5,
    folder_revision,
    load_backbone,
    load_tokenizer,
    locate,
    make_backbone,
)
from tagi.backbones.protocol import BaseModel
from tagi.backbones.t5 import T5Backbone
from tagi.errors import CheckpointError, ConfigError, TagiError
from tests.causal_models import causal_tokenizer, tiny_causal_model
from tests.models import DECODER, ENCODER, SIZES, tiny_model, tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(backbone_folder: Path, tmp_path: Path) -> Path:
    """A backbone that a test may damage."""
    return Path(shutil.copytree(backbone_folder, tmp_path / "backbone"))


def fault(kind: type[TagiError], name: str, **options: object) -> str:
    with pytest.raises(kind) as caught:
        load_backbone(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_is_loaded_and_pinned(backbone_folder: Path) -> None:
    backbone = load_backbone(str(backbone_folder))
    assert backbone.identity == BaseModel(str(backbone_folder), folder_revision(backbone_folder))
    assert re.fullmatch("sha256:[0-9a-f]{16}", backbone.identity.revision)
    own = tiny_model().state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in backbone.model.state_dict().items())
    assert backbone.tokenizer.get_vocab() == tokenizer().get_vocab()
    assert backbone.dropout == 0.1
    assert not backbone.model.training


def test_type_and_dropout_can_be_chosen(backbone_folder: Path) -> None:
    backbone = load_backbone(str(backbone_folder), dtype=torch.bfloat16, dropout=0.0)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}
    rates = {m.p for m in backbone.modules() if isinstance(m, torch.nn.Dropout)}
    assert (rates, backbone.dropout) == ({0.0}, 0.0)


def test_the_revision_is_of_configuration_and_weights(folder: Path) -> None:
    first = folder_revision(folder)
    assert load_backbone(str(folder), revision=first).identity.revision == first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "feed_forward_proj": "gated-gelu"}))
    second = folder_revision(folder)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    assert len({first, second, folder_revision(folder)}) == 3


def test_another_revision_shows_both(folder: Path) -> None:
    found = folder_revision(folder)
    other = "sha256:" + "0" * 16
    message = fault(CheckpointError, str(folder), revision=other)
    assert f"expected base model {folder} ({other})" in message
    assert f"got {folder} ({found})" in message
    assert "0" * 40 in fault(CheckpointError, str(folder), revision="0" * 40)


def test_a_folder_beside_a_checkpoint_is_found_wherever_both_are(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "model"
    assert locate("../backbone", relative_to=checkpoint) == folder
    assert load_backbone("../backbone", relative_to=checkpoint).identity.name == "../backbone"
    assert locate("some/model", relative_to=checkpoint) == "some/model"
    message = fault(CheckpointError, "../gone", relative_to=checkpoint, revision=folder_revision(folder))
    wanted = f"expected the folder of base model ../gone ({folder_revision(folder)}), got no such folder"
    assert message == f"{wanted}: if it was moved, say where it is (--base on the command line)"


def test_a_hub_name_without_a_network_is_one_line() -> None:
    assert fault(ConfigError, "nobody/nothing").startswith("nobody/nothing: expected a built-in backbone (toy, ")
    assert "nothing at all" in fault(ConfigError, "nothing at all", revision="main")


def test_another_kind_of_model_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bart"}')
    supported = ", ".join(sorted(["t5", "mt5", *CAUSAL]))
    assert f"{folder}: expected a model of type {supported}, got 'bart' ({ANOTHER})" == fault(ConfigError, str(folder))
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    assert "unheard-of" in fault(ConfigError, str(folder))


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_decoder_only_model_is_loaded_and_pinned(kind: str, tmp_path: Path) -> None:
    model = tiny_causal_model(kind)
    model.save_pretrained(tmp_path)
    causal_tokenizer().save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path), revision=folder_revision(tmp_path), dropout=0.3)
    assert isinstance(backbone, CausalBackbone)
    assert backbone.identity == BaseModel(str(tmp_path), folder_revision(tmp_path))
    assert type(backbone.model) is type(model)
    own = model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in backbone.model.state_dict().items())
    rates = {name: rate for name, rate in backbone.model.config.to_dict().items() if re.search("dropout|pdrop", name)}
    other = {name for name in rates if re.search("classifier|summary", name)}  # of heads that are not there
    assert {rate for name, rate in rates.items() if name not in other} == {0.3}
    assert backbone.tokenizer.get_vocab().items() >= causal_tokenizer().get_vocab().items()  # Qwen's adds padding
    assert not backbone.model.training
    typed = load_backbone(str(tmp_path), CausalBackbone, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in typed.parameters()} == {torch.bfloat16}
    message = fault(ConfigError, str(tmp_path), family=T5Backbone)
    assert message == f"{tmp_path}: expected a model of type mt5, t5, got {kind!r}"


def test_an_encoder_decoder_is_no_causal_model(backbone_folder: Path) -> None:
    assert isinstance(load_backbone(str(backbone_folder), T5Backbone), T5Backbone)
    message = fault(ConfigError, str(backbone_folder), family=CausalBackbone)
    assert message == f"{backbone_folder}: expected a model of type {', '.join(CAUSAL)}, got 't5'"


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def widen_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["encoder.final_layer_norm.weight"] = torch.zeros(7)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def widen_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "d_model": "wide"}))


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (drop_tensor, CheckpointError, "got none for 'encoder.block.1.layer.0.SelfAttention.q.weight' (1 such)"),
        (widen_tensor, CheckpointError, "expected whole weights of its shape"),
        (truncate, CheckpointError, "expected whole weights of its shape"),
        (lambda folder: (folder / WEIGHTS).unlink(), ConfigError, "cannot load the backbone"),
        (lambda folder: (folder / "tokenizer.json").unlink(), ConfigError, "cannot load the backbone"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), ConfigError, "cannot load the backbone"),
        (lambda folder: (folder / "config.json").write_text("{"), ConfigError, "not a valid JSON file"),
        (widen_config, ConfigError, "'d_model'"),
        (lambda folder: (folder / "config.json").unlink(), ConfigError, "a GGUF file or a hub name"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], kind: type[TagiError], named: str) -> None:
    damage(folder)
    message = fault(kind, str(folder))
    assert named in message
    assert str(folder) in message


def test_a_head_of_its_own_survives(tmp_path: Path) -> None:
    model = tiny_model("v1.1")
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    found = load_backbone(str(tmp_path)).model
    assert torch.equal(found.lm_head.weight, model.lm_head.weight)
    assert found.lm_head.weight is not found.shared.weight
    tied = build_t5({"vocab_size": 30, **SIZES})
    assert tied.lm_head.weight is tied.shared.weight


def test_a_backbone_is_made_from_a_configuration(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    fields = {**SIZES, "vocab_size": len(tokenizer()) + 1, "tie_word_embeddings": False}
    state = torch.random.get_rng_state()
    folders = [
        make_backbone(fields, str(tmp_path / "tokenizer"), seed, tmp_path / name)
        for name, seed in (("one", 1), ("same", 1), ("two", 2))
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    one, same, two = map(folder_revision, folders)
    assert one == same != two
    backbone = load_backbone(str(folders[0]))
    assert (len(backbone.fusion_places), len(backbone.cross_attentions)) == (ENCODER, DECODER)
    assert backbone.model.config.decoder_start_token_id == 0
    assert not list(tmp_path.rglob("*.bin"))


def test_a_backbone_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    name = str(tmp_path / "tokenizer")
    with pytest.raises(ConfigError, match=f"the tokenizer's {len(tokenizer())}, got 9"):
        make_backbone({**SIZES, "vocab_size": 9}, name, 0, tmp_path / "made")
    with pytest.raises(ConfigError, match=r"backbone\.tokenizer: cannot load"):
        make_backbone(SIZES, str(tmp_path), 0, tmp_path / "made")
    for wrong in ({"d_model": "wide"}, {"feed_forward_proj": "one-two-three"}):
        with pytest.raises(ConfigError, match=r"^backbone\.config: .*(d_model|one-two-three)") as caught:
            make_backbone({**SIZES, **wrong}, name, 0, tmp_path / "made")
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_a_tokenizer_without_its_vocabulary_is_refused(tmp_path: Path) -> None:
    """transformers makes one of special tokens alone, with which training would run to its end."""
    model = tiny_model()
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    for load in (load_backbone, load_tokenizer):
        with pytest.raises(ConfigError, match=r"expected the files of the tokenizer's vocabulary .* knows no word"):
            load(str(tmp_path))


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_weights_of_more_layers_than_the_configuration_says_are_refused(kind: str, tmp_path: Path) -> None:
    """transformers leaves them out: half a model that answers."""
    model, key = (tiny_model(), "num_layers") if kind == "t5" else (tiny_causal_model(), "num_hidden_layers")
    model.save_pretrained(tmp_path)
    (tokenizer() if kind == "t5" else causal_tokenizer()).save_pretrained(tmp_path)
    load_backbone(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: config[key] - 1}))
    assert "expected weights of as many layers as config.json says, got further ones" in fault(
        CheckpointError, str(tmp_path)
    )


def test_a_quantised_model_is_refused(folder: Path) -> None:
    """A LoRA cannot be merged into its weights, and what is merged would not be what its configuration says."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    assert "expected weights in floating point, into which a LoRA can be merged" in fault(ConfigError, str(folder))


@pytest.mark.filterwarnings("ignore:Cannot (en|dis)able progress bars:UserWarning")
@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_of_transformers_is_told_alone(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told = activity._Told()
    monkeypatch.setattr(activity, "_told", told)
    monkeypatch.setattr(logging, "_tqdm_active", True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with activity.activity("Loading"), _bars_on_terminals():
        assert told.text() == (None if terminal else "Loading")
        assert logging.is_progress_bar_enabled() == terminal
    assert logging.is_progress_bar_enabled()
    monkeypatch.setattr(logging, "_tqdm_active", False)
    with activity.activity("Loading"), _bars_on_terminals():
        assert told.text() == "Loading"
