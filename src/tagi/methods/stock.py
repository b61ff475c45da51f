"""The stock model: the unchanged base model of a checkpoint, with the instruction in its prompt."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import load_backbone
from tagi.backbones.protocol import Backbone
from tagi.formats.checkpoint import base_of, read_config
from tagi.methods.causal import CausalConcatenation
from tagi.methods.concatenation import Concatenation
from tagi.methods.protocol import Method
from tagi.settings.text import TextSettings


def stock_model(method: Method, folder: Path | None = None) -> Method | None:
    """Return the base model of a method, with the method's limits of instruction and input together for the prompt.

    Shares the weights of a generator with a frozen backbone; otherwise the weights are loaded again.

    Args:
        method: The method.
        folder: Its checkpoint. None for a generator in memory, whose base model is known only if it is frozen.

    Returns None if the base model is not known.
    """
    generator = method.generator_model
    if generator is not None and generator.settings.tune == "none":
        backbone: Backbone = generator.backbone
    elif folder is not None:
        base = base_of(read_config(folder))
        backbone = load_backbone(base.name, revision=base.revision, relative_to=folder)
    else:
        return None
    text = method.text.settings
    apart = generator is not None or text.reads != "instruction"
    limit = text.max_instruction_tokens + text.max_input_tokens if apart else text.max_input_tokens
    if isinstance(backbone, CausalBackbone):
        both = min(text.max_prompt_tokens if text.apart else limit, backbone.max_tokens - text.max_target_tokens)
        return _frozen(CausalConcatenation, backbone, text, both)
    return _frozen(Concatenation, backbone, text, limit)


def _frozen(kind: Any, backbone: Backbone, text: TextSettings, limit: int) -> Method:
    settings = replace(text, reads="instruction", apart=False, max_input_tokens=limit)
    made: Method = kind(backbone, settings, frozen=True).eval()
    return made.to(next(backbone.parameters()).device)
