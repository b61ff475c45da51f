"""Tiny decoder-only models of every supported type. Every dimension differs from every other."""

from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tagi.backbones.causal import CausalBackbone
from tests.models import IDENTITY, WORDS, rounding

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FF, LAYERS, POSITIONS, WINDOW, EMBEDDED = 24, 6, 3, 10, 37, 2, 53, 8, 20
START, END, UNKNOWN = "<s>", "</s>", "<unk>"
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}

_SHARED = {
    "hidden_size": HIDDEN,
    "intermediate_size": FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.3,
}
_GROUPED = {**_SHARED, "num_key_value_heads": KV_HEADS}
_LLAMA = {**_GROUPED, "head_dim": HEAD_DIM}
_SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_GPT2 = {"n_embd": HIDDEN, "n_head": HEADS, "n_layer": LAYERS, "n_inner": FF, "n_positions": POSITIONS}
MODELS: dict[str, dict[str, Any]] = {
    "gemma": _LLAMA,
    "gemma2": {**_LLAMA, **_SLIDING},
    "gemma3_text": {**_LLAMA, **_SLIDING},
    "gpt2": {**_GPT2, "initializer_range": 0.3},
    "gpt_neo": {**_SHARED, "num_layers": LAYERS, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gpt_neox": _SHARED,
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": WINDOW},
    "opt": {**_SHARED, "ffn_dim": FF, "word_embed_proj_dim": EMBEDDED, "init_std": 0.3},
    "phi": _GROUPED,
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _LLAMA,
    "smollm3": {**_LLAMA, "no_rope_layers": [1, 0]},
}
FUSED = ("gpt2", "gpt_neox", "phi3")
SINGLE = ("gemma2", "gpt_neo")
"""Types whose attention computes in fp32 whatever the model's own type."""
CORE = ("llama", "gpt2", "opt", "qwen2")


@lru_cache
def causal_tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token; Llama's conventions: a start before every text, no end after it, no padding."""
    vocabulary = {token: at for at, token in enumerate([START, END, UNKNOWN, "->", "Output:", *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[(START, vocabulary[START])])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=START, eos_token=END, unk_token=UNKNOWN)


def tiny_causal_model(kind: str = "llama", seed: int = 0, **fields: Any) -> Any:
    """A model of `MODELS[kind]`, whose logits depend on what it reads."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": len(causal_tokenizer()) + 3, **SPECIAL, **MODELS[kind]}
    config = AutoConfig.for_model(kind, **{**sizes, **fields})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms start alike everywhere
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def tiny_causal(kind: str = "llama", seed: int = 0, **fields: Any) -> CausalBackbone:
    return CausalBackbone(tiny_causal_model(kind, seed, **fields), causal_tokenizer(), IDENTITY)


def exact_causal(kind: str) -> CausalBackbone:
    """In fp64, where the type can: what is left of a difference is rounding."""
    backbone = tiny_causal(kind)
    return backbone if kind in SINGLE else backbone.double()


def close(found: Tensor, wanted: Tensor) -> None:
    """Equal to what rounding in their own type may cost; `tests.models.same` for fp64."""
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert rounding(found, wanted) < 4096 * torch.finfo(found.dtype).eps
