"""Folders of transformers models, written so that what a base model's own files say stays said.

transformers normalises a configuration when it reads it: that of a T5 says that the output head is tied, whatever the
file says. Written from memory it would mean another model to other versions of transformers.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CONFIG = "config.json"
TOKENIZER_FILES = (
    *("tokenizer*", "spiece.model", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("chat_template*", "generation_config.json"),
)
"""Files beside the weights that an export takes over as they are."""
_WRITTEN = ("architectures", "transformers_version")
"""Keys that are of what is written rather than of the base."""
_DTYPES = ("dtype", "torch_dtype")
"""Names of the key for the weights' type, the newer first."""


@dataclass(frozen=True)
class BaseFiles:
    """The files of a base model, as they were before anything was read.

    Args:
        folder: Where they lie: the model's folder, or its copy in the hub's cache.
        config: What its configuration says.
        tokenizer: Whether the tokenizer is the folder's own.
    """

    folder: Path
    config: Mapping[str, Any]
    tokenizer: bool = True

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of the weights, if the configuration says it."""
        found = next((self.config[key] for key in _DTYPES if self.config.get(key)), None)
        dtype = getattr(torch, str(found).removeprefix("torch."), None)
        return dtype if isinstance(dtype, torch.dtype) else None


def write_model(folder: Path, model: Any, tokenizer: Any, base: BaseFiles | None = None) -> None:
    """Write a model and its tokenizer into an existing folder.

    Args:
        folder: The folder.
        model: A transformers model. Of a T5 the configuration says that its head is tied only if its outputs are scaled
            as those of a tied head are, which is what other versions of transformers take the key for.
        tokenizer: Its tokenizer.
        base: Files of the base model that it was made from. The weights are written in the type that these say, the
            configuration is theirs, and so are the tokenizer's files.
    """
    dtype = None if base is None else base.dtype
    if getattr(model.config, "scale_decoder_outputs", True) is False:
        _own_head(model)
    weights = None if dtype is None else _cast(model.state_dict(), dtype)
    model.save_pretrained(folder, **({} if weights is None else {"state_dict": weights}))
    written = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config = written if base is None else _like(written, base.config)
    if "scale_decoder_outputs" in written:
        config["tie_word_embeddings"] = written["scale_decoder_outputs"]
    if dtype is not None:
        key = next((name for name in _DTYPES if name in config), _DTYPES[0])
        config[key] = str(dtype).removeprefix("torch.")
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    if base is not None and base.tokenizer:
        for pattern in TOKENIZER_FILES:
            for file in base.folder.glob(pattern):
                shutil.copyfile(file, folder / file.name)


def _like(written: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The base's configuration; of what is written only what it says of itself."""
    return {**base, **{key: written[key] for key in _WRITTEN if key in written}}


def _cast(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights in a type; names that share a tensor go on sharing one."""
    made: dict[int, Tensor] = {}
    return {
        name: made.setdefault(tensor.data_ptr(), tensor.to(dtype)) if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def _own_head(model: Any) -> None:
    """Give the head weights of its own, which a configuration that says it is not tied promises."""
    if model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr():
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=False)
