"""GGUF files of tiny models, as llama.cpp's converter writes them: its order of rows, its names, byte-level BPE."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    dequantize,
    get_tensor_name_map,
    quantize,
)
from torch import Tensor

from tagi.formats.gguf_lora import interleaved
from tests.causal_models import HEADS, KV_HEADS, tiny_causal_model

HIDDEN, FF, HEAD_DIM = 96, 160, 10
"""Rows of 32 or a multiple of it can be quantised."""
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_MERGES = ("h e", "l l", "he ll", "o w")
_QUANTISED = ("attn_q", "ffn_up")
Q8 = GGMLQuantizationType.Q8_0


def vocabulary() -> list[str]:
    """Every byte as byte-level BPE prints it, then what merges make of them, a start and an end."""
    others = iter(range(256, 512))
    letters = [chr(byte if byte in _PRINTED else next(others)) for byte in range(256)]
    return [*letters, *(merge.replace(" ", "") for merge in _MERGES), "<s>", "</s>"]


def gguf_model(seed: int = 0, kind: str = "llama") -> Any:
    """The model that `write_gguf_model` writes, weights that are quantised as they are read back."""
    size = len(vocabulary())
    grouped = {"hidden_size": HIDDEN, "intermediate_size": FF, "head_dim": _head_dim(kind)}
    gpt2 = {"n_embd": HIDDEN, "n_inner": 4 * HIDDEN, "n_positions": 1024}  # transformers reads no others from GGUF
    sizes = gpt2 if kind == "gpt2" else grouped
    model = tiny_causal_model(kind, seed, **sizes, vocab_size=size, bos_token_id=size - 2, eos_token_id=size - 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if _is_quantised(kind, _name(name, model.config)):
                parameter.copy_(torch.from_numpy(dequantize(quantize(parameter.numpy(), Q8), Q8)))
    return model


def write_gguf_model(
    path: Path,
    seed: int = 0,
    kind: str = "llama",
    updates: Mapping[str, Tensor] | None = None,
    without: str | None = None,
) -> Path:
    """Write a model in fp32, but of a Llama two of the weights of a layer in Q8_0.

    `updates` are added to tensors of the file, by their names in it; the tensor `without` is left out.
    """
    model, tokens = gguf_model(seed, kind), vocabulary()
    config, architecture = model.config, {"mistral": "llama"}.get(kind, kind)
    writer = GGUFWriter(path, architecture)
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_head_count(HEADS)
    if kind == "gpt2":
        writer.add_feed_forward_length(4 * HIDDEN)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        head_dim = _head_dim(kind)
        writer.add_feed_forward_length(FF)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_rope_dimension_count(head_dim)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in tokens])
    writer.add_token_merges(list(_MERGES))
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    for name, parameter in model.named_parameters():
        into, weight = _name(name, config), _in_its_order(name, parameter.detach(), kind)
        if into == without:
            continue
        weight = weight + (updates or {}).get(into, torch.zeros(()))
        if _is_quantised(kind, into):
            writer.add_tensor(into, quantize(weight.numpy(), Q8), raw_dtype=Q8)
        else:
            writer.add_tensor(into, weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(own: str, config: Any) -> str:
    architecture = {"mistral": "llama"}.get(config.model_type, config.model_type)
    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture)
    found = get_tensor_name_map(number, config.num_hidden_layers).get_name(own, try_suffixes=(".weight", ".bias"))
    assert found is not None
    return found


def _head_dim(kind: str) -> int:
    """Size of a head; what transformers takes Qwen's for when it reads GGUF, whatever the file says."""
    return {"qwen2": HIDDEN // HEADS, "qwen3": 128}.get(kind, HEAD_DIM)


def _is_quantised(kind: str, name: str) -> bool:
    return kind == "llama" and name.split(".")[-2] in _QUANTISED


def _in_its_order(name: str, weight: Tensor, kind: str) -> Tensor:
    if kind == "gpt2" and name.split(".")[-2] in ("c_attn", "c_proj", "c_fc") and weight.ndim == 2:
        return weight.T
    heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else None
    return weight if heads is None or kind not in ("llama", "mistral") else interleaved(weight, heads).contiguous()
