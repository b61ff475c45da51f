"""A GGUF file of a tiny Llama, as llama.cpp's converter writes one: query and key rows in its order, byte-level BPE."""

from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType, GGUFWriter, dequantize, quantize
from torch import Tensor

from tagi.formats.gguf_lora import interleaved
from tests.causal_models import HEADS, KV_HEADS, tiny_causal_model

HIDDEN, FF, HEAD_DIM = 96, 160, 10
"""Rows of 32 or a multiple of it can be quantised."""
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_MERGES = ("h e", "l l", "he ll", "o w")
_LAYERS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_QUANTISED = ("attn_q", "ffn_up")
Q8 = GGMLQuantizationType.Q8_0


def vocabulary() -> list[str]:
    """Every byte as byte-level BPE prints it, then what merges make of them, a start and an end."""
    others = iter(range(256, 512))
    letters = [chr(byte if byte in _PRINTED else next(others)) for byte in range(256)]
    return [*letters, *(merge.replace(" ", "") for merge in _MERGES), "<s>", "</s>"]


def gguf_model(seed: int = 0) -> Any:
    """The model that `write_gguf_model` writes, weights that are quantised as they are read back."""
    size = len(vocabulary())
    model = tiny_causal_model(
        "llama",
        seed,
        hidden_size=HIDDEN,
        intermediate_size=FF,
        head_dim=HEAD_DIM,
        vocab_size=size,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if _name(name).split(".")[-2] in _QUANTISED:
                parameter.copy_(torch.from_numpy(dequantize(quantize(parameter.numpy(), Q8), Q8)))
    return model


def write_gguf_model(path: Path, seed: int = 0, without: str | None = None) -> Path:
    """Two of the weights of a layer in Q8_0, the rest in fp32; all but the tensor `without`."""
    model, tokens = gguf_model(seed), vocabulary()
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
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
        into, weight = _name(name), _in_its_order(name, parameter.detach())
        if into == without:
            continue
        if into.split(".")[-2] in _QUANTISED:
            writer.add_tensor(into, quantize(weight.numpy(), Q8), raw_dtype=Q8)
        else:
            writer.add_tensor(into, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(own: str) -> str:
    part = own.removesuffix(".weight")
    if part in _ENDS:
        return f"{_ENDS[part]}.weight"
    _, _, layer, rest = part.split(".", 3)
    return f"blk.{layer}.{_LAYERS[rest]}.weight"


def _in_its_order(name: str, weight: Tensor) -> Tensor:
    heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else None
    return weight if heads is None else interleaved(weight, heads).contiguous()
