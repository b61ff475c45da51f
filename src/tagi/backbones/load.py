"""Finding a backbone by built-in name, folder or hub name, and pinning what was found."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import cached_file, logging
from typing_extensions import TypeVar

from tagi.activity import activity, bar_of_library
from tagi.backbones.causal import CausalBackbone
from tagi.backbones.gguf import ANOTHER, SUFFIX, WHEELS, converted, file_digest, find_gguf
from tagi.backbones.hub import hub_is_unreachable
from tagi.backbones.model_files import CONFIG, BaseFiles, write_model
from tagi.backbones.protocol import Backbone, BaseModel
from tagi.backbones.t5 import T5Backbone
from tagi.errors import CheckpointError, ConfigError, first_line
from tagi.files import new_folder, refuse_pointers

if TYPE_CHECKING:  # imported where they are used: a decoder-only model needs none of them
    from transformers import T5Config, T5ForConditionalGeneration

BUILT_IN = {"toy": "toy-backbone"}
"""Backbones shipped inside the package: name -> folder under `tagi/assets`."""

CAUSAL = (
    *("gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox", "llama"),
    *("mistral", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3"),
)
"""Types of decoder-only models that are tested to give every row of a padded batch what it gets alone."""

_ARCHITECTURES: dict[str, tuple[type[Backbone], Any]] = {
    **dict.fromkeys(("t5", "mt5"), (T5Backbone, AutoModelForSeq2SeqLM)),
    **dict.fromkeys(CAUSAL, (CausalBackbone, AutoModelForCausalLM)),
}
_DROPOUTS = (
    *("attention_dropout", "attn_pdrop", "dropout", "dropout_rate", "embd_pdrop", "embed_dropout"),
    *("hidden_dropout", "resid_dropout", "resid_pdrop"),
)
"""Names of dropout rates in configurations."""
_IDENTITY = ("config.json", "*.safetensors", "*.bin")
_LEAST_WORDS = 10
"""The fewest entries of a vocabulary beside special tokens."""
_CONTENT = "sha256:"
_DIGITS = 16
_COMMIT = re.compile("[0-9a-f]{40}")
_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.)")
"""A layer's number in the name of a weight."""

B = TypeVar("B", bound=Backbone, default=Backbone)


def load_backbone(
    name: str,
    family: type[B] = Backbone,  # type: ignore[assignment]
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: str | None = None,
    relative_to: Path | None = None,
    dropout: float | None = None,
    attention: str | None = None,
) -> B:
    """Load a backbone and its tokenizer.

    Args:
        name: A built-in backbone, a folder, a GGUF file or a hub name. Only hub names are fetched.
        family: The kind of backbone that is accepted. Which kind it is follows from the model's configuration.
        revision: The expected revision.
        dtype: Type of the weights.
        tokenizer: Another source of the tokenizer.
        relative_to: Folder of the checkpoint that names the backbone, whose relative paths are relative to it.
        dropout: Replaces all dropout rates of the model.
        attention: Replaces transformers' choice of the implementation of attention.

    Raises `CheckpointError` for a model of another revision or a damaged one, and `ConfigError` for one that cannot be
    found or used.
    """
    source, file_revision = _source(name, relative_to)
    if isinstance(source, str) and revision is not None and revision.startswith(_CONTENT):
        wanted = f"expected the folder of base model {BaseModel(name, revision)}, got no such folder"
        raise CheckpointError(f"{wanted}: if it was moved, say where it is (--base on the command line)")
    config = _read_config(name, source, revision)
    backbone, architecture = _usable(name, config, family)
    found = file_revision or (folder_revision(source) if isinstance(source, Path) else str(config._commit_hash))
    # On the hub a branch or a tag names a commit; everywhere else the revision is what was found.
    named = isinstance(source, str) and revision is not None and not _COMMIT.fullmatch(revision)
    if revision not in (None, found) and not named:
        raise CheckpointError(f"expected base model {BaseModel(name, str(revision))}, got {name} ({found})")
    at = found if isinstance(source, str) else "main"
    changed: dict[str, Any] = {} if dropout is None else dict.fromkeys(config.to_dict().keys() & {*_DROPOUTS}, dropout)
    if attention is not None:
        changed["attn_implementation"] = attention
    try:
        with activity(f"Loading {name}"), _bars_on_terminals():
            model, report = architecture.from_pretrained(
                source, dtype=dtype, revision=at, output_loading_info=True, **_where(source), **changed
            )
        own = None if tokenizer else AutoTokenizer.from_pretrained(source, revision=at, **_where(source))
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{name}: cannot load the backbone: {first_line(error)}") from error
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{name}: expected whole weights of its shape, got: {first_line(error)}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(f"{name}: expected all weights, got none for {missing[0]!r} ({len(missing)} such)")
    _refuse_left_out_layers(name, model, report["unexpected_keys"])
    tokens = load_tokenizer(tokenizer) if tokenizer else _with_vocabulary(own, name)
    made = backbone(model, tokens, BaseModel(name, found))
    made.files = _base_files(source, at, own_tokenizer=tokenizer is None)
    return made


def _bars_on_terminals() -> AbstractContextManager[None]:
    """Show transformers' progress bars on terminals only: elsewhere they are hundreds of characters."""
    if not logging.is_progress_bar_enabled():
        return nullcontext()
    return bar_of_library(logging.disable_progress_bar, logging.enable_progress_bar)


def _refuse_left_out_layers(name: str, model: Any, unexpected: Iterable[str]) -> None:
    """Raise `CheckpointError` for weights of more layers than the configuration has, which transformers leaves out."""
    known = {_NUMBER.sub("0", key) for key in model.state_dict()}
    further = sorted(key for key in unexpected if _NUMBER.search(key) and _NUMBER.sub("0", key) in known)
    if further:
        wanted = "expected weights of as many layers as config.json says"
        raise CheckpointError(f"{name}: {wanted}, got further ones, such as {further[0]!r} ({len(further)} such)")


def _base_files(source: Path | str, revision: str, *, own_tokenizer: bool) -> BaseFiles:
    """What lies in the folder that was read, or in its copy in the hub's cache."""
    file = cached_file(str(source), CONFIG, revision=revision, **_where(source))
    config = json.loads(Path(str(file)).read_text(encoding="utf-8"))
    return BaseFiles(Path(str(file)).parent, config, own_tokenizer)


def backbone_shapes(name: str, *, revision: str | None = None, tokenizer: str | None = None) -> Backbone:
    """A decoder-only backbone without weights, on torch's meta device; arguments as of `load_backbone`.

    Raises `ConfigError` for a name that cannot be found or used. A T5 is loaded: whether its head is tied to its
    embeddings only its weights say.
    """
    source, file_revision = _source(name)
    config = _read_config(name, source, revision)
    backbone, architecture = _usable(name, config, Backbone)
    if backbone is not CausalBackbone:
        return load_backbone(name, revision=revision, tokenizer=tokenizer)
    tokens = load_tokenizer(tokenizer or name, revision=None if tokenizer else revision)
    with torch.device("meta"):
        model = architecture.from_config(config)
    return backbone(model, tokens, BaseModel(name, file_revision or "no weights"))


def make_backbone(config: dict[str, Any], tokenizer: str, seed: int, folder: Path) -> Path:
    """Write a randomly initialised model with a tokenizer, as a backbone.

    `config` are `T5Config` fields, or with a `model_type` those of a decoder-only model's configuration.
    """
    tokens = load_tokenizer(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_causal(config, tokens) if "model_type" in config else build_t5(config)
    if len(tokens) > model.config.vocab_size:
        raise ConfigError(
            f"backbone.config.vocab_size: expected at least the tokenizer's {len(tokens)}, "
            f"got {model.config.vocab_size}"
        )
    with new_folder(folder, overwrite=True) as temporary:
        write_model(temporary, model, tokens)
    return folder


def build_causal(fields: dict[str, Any], tokenizer: Any = None) -> Any:
    """A randomly initialised decoder-only model of the given type and configuration fields.

    Special tokens are the tokenizer's unless the fields say otherwise. Raises `ConfigError` for another type, and for
    a field that the type's configuration does not have or that has a wrong value.
    """
    kind, given = fields.get("model_type"), {key: value for key, value in fields.items() if key != "model_type"}
    if kind not in CAUSAL:
        raise ConfigError(f"backbone.config.model_type: expected one of {', '.join(CAUSAL)}, got {kind!r}")
    known = AutoConfig.for_model(kind)
    odd = sorted(key for key in given if key not in known.to_dict() and key not in known.attribute_map)
    if odd:
        near = get_close_matches(odd[0], list(known.to_dict()), n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise ConfigError(f"backbone.config.{odd[0]}: unknown key of a model of type {kind!r}{hint}")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "eos", "bos")}
    given = {**{key: value for key, value in special.items() if value is not None}, **given}
    try:
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given))
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise ConfigError(f"backbone.config: {' '.join(str(error).split())}") from error


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """Load a tokenizer of a built-in backbone, a folder or the hub.

    Raises `ConfigError` if there is none, or one without a vocabulary.
    """
    try:
        source = _source(name)[0]
        if Path(source).is_dir():  # transformers reads it even if it is no model's
            refuse_pointers(Path(source))
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main", **_where(source))
    except (OSError, ValueError, ImportError, StrictDataclassError) as error:
        raise ConfigError(f"backbone.tokenizer: cannot load {name!r}: {first_line(error)}") from error
    return _with_vocabulary(tokenizer, name)


def _with_vocabulary(tokenizer: Any, name: str) -> Any:
    """Return a tokenizer. Raises `ConfigError` for one that transformers made up where the vocabulary's files lack."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    words = tokenizer.get_vocab().keys() - added
    if len(words) < _LEAST_WORDS:
        raise ConfigError(
            f"{name}: expected the files of the tokenizer's vocabulary (such as tokenizer.json or spiece.model), got "
            f"none: without them transformers makes a tokenizer of {len(tokenizer)} entries, which knows no word"
        )
    return tokenizer


def build_t5(fields: dict[str, Any]) -> "T5ForConditionalGeneration":
    """A randomly initialised T5 of the given `T5Config` fields, untied if `tie_word_embeddings` is false.

    transformers unties a head only when it loads one that differs; a model made from a configuration it
    always ties.
    """
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration(t5_config(fields))
    if fields.get("tie_word_embeddings") is False:
        head = torch.randn(model.lm_head.weight.shape, dtype=model.dtype) * model.config.d_model**-0.5
        model.lm_head.weight = torch.nn.Parameter(head)
    return model


def t5_config(fields: dict[str, Any]) -> "T5Config":
    """A `T5Config` whose start, end and padding tokens are T5's unless the fields say otherwise.

    Raises `ConfigError` for a field of the wrong type or value.
    """
    from transformers import T5Config

    special = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    try:
        return T5Config(**{**special, **fields})
    except (StrictDataclassError, ValueError) as error:
        raise ConfigError(f"backbone.config: {' '.join(str(error).split())}") from error


def locate(name: str, relative_to: Path | None = None) -> Path | str:
    """Return the folder of a backbone (built in, beside a checkpoint, or as given), else its hub name."""
    if name in BUILT_IN:
        return Path(str(resources.files("tagi") / "assets" / BUILT_IN[name]))
    beside = [Path(os.path.normpath(relative_to / name))] if relative_to else []
    for candidate in [*beside, Path(name)]:
        if (candidate / "config.json").is_file():
            return candidate
    return name


def _source(name: str, relative_to: Path | None = None) -> tuple[Path | str, str | None]:
    """Return what `locate` does and None; for a GGUF file the folder it was converted to and the file's revision."""
    file = find_gguf(name, relative_to)
    if file is None:
        return locate(name, relative_to), None
    digest = file_digest(file)
    return converted(name, file, digest), f"{_CONTENT}{digest[:_DIGITS]}"


def _where(source: Path | str) -> dict[str, bool]:
    """The argument by which transformers asks no hub for what lies here, nor one that cannot be reached."""
    return {"local_files_only": Path(source).is_dir() or hub_is_unreachable()}


def may_be_found(name: str) -> bool:
    """Whether a name means something that lies here, or could be the hub's."""
    return name in WHEELS or name.endswith(SUFFIX) or "/" in name or isinstance(locate(name), Path)


def folder_revision(folder: Path) -> str:
    """`sha256:` and the first 16 digits over a model folder's configuration and weights, by file name."""
    digest = hashlib.sha256()
    files = sorted({path for pattern in _IDENTITY for path in folder.glob(pattern)})
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return f"{_CONTENT}{digest.hexdigest()[:_DIGITS]}"


def _usable(name: str, config: Any, family: type[B]) -> tuple[type[B], Any]:
    """Return our class and transformers' class for a configuration's type."""
    usable = {kind: (ours, theirs) for kind, (ours, theirs) in _ARCHITECTURES.items() if issubclass(ours, family)}
    if config.model_type not in usable:
        supported = ", ".join(sorted(usable))
        hint = "" if config.model_type in _ARCHITECTURES else f" ({ANOTHER})"
        raise ConfigError(f"{name}: expected a model of type {supported}, got {config.model_type!r}{hint}")
    if getattr(config, "quantization_config", None):
        raise ConfigError(
            f"{name}: expected weights in floating point, into which a LoRA can be merged, got a model with a "
            "'quantization_config' in config.json: take the model that it was made from, or a GGUF file"
        )
    return usable[config.model_type]


def _read_config(name: str, source: Path | str, revision: str | None) -> Any:
    if isinstance(source, Path):
        if not source.exists():
            raise CheckpointError(f"{name}: expected a model folder, got nothing at {source}")
        refuse_pointers(source)
    try:
        hub: dict[str, Any] = {} if isinstance(source, Path) else {"revision": revision or "main"}
        return AutoConfig.from_pretrained(source, **hub, **_where(source))
    except (OSError, ValueError, StrictDataclassError) as error:
        raise ConfigError(
            f"{name}: expected a built-in backbone ({', '.join([*BUILT_IN, *WHEELS])}), a model folder, a GGUF file or "
            f"a hub name; {first_line(error)}"
        ) from error
