"""Adapters of tiny generators, written as folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tagi.api.generator import AdapterGenerator
from tagi.backbones.load import load_backbone
from tagi.settings.generator import GeneratorSettings
from tests.causal_models import causal_tokenizer, tiny_causal_model
from tests.models import INSTRUCTIONS, text_settings, tiny_model, tokenizer


def adapter_of(folder: Path, kind: str = "llama", fields: Mapping[str, Any] | None = None, **changed: Any) -> Path:
    """An adapter of a generator on a tiny model, "t5" or a decoder-only type: `base`, `generator`, `adapter`.

    `fields` changes the model's configuration, `changed` the generator's settings.
    """
    model = tiny_model(**fields or {}) if kind == "t5" else tiny_causal_model(kind, **fields or {})
    model.save_pretrained(folder / "base")
    (tokenizer() if kind == "t5" else causal_tokenizer()).save_pretrained(folder / "base")
    sizes: dict[str, Any] = {"rank": 7, "alpha": 15.0, "hidden": 13, "width": 12, "heads": 3, "fusion": "both"}
    settings = GeneratorSettings(**{"kind": "query", **sizes, "state_dropout": 0.5, **changed})
    generator = AdapterGenerator(load_backbone(str(folder / "base")), settings, text_settings())
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for part in generator.own_parts:
            for parameter in part.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    generator.save_pretrained(folder / "generator")
    AdapterGenerator.from_pretrained(folder / "generator").adapt(INSTRUCTIONS[0]).save_pretrained(folder / "adapter")
    return folder / "adapter"
