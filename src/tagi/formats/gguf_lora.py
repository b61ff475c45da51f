"""llama.cpp's LoRA files: its names and its order of rows live in this module alone.

llama.cpp's names of layers are gguf's own, looked up by transformers' names. Rotary embeddings rotate neighbouring
elements of a head in llama.cpp's Llama, and the two halves of a head in transformers. The rows of query and key weights
are therefore in another order in a GGUF file of the Llama family, and so are those of a LoRA's B.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tagi.adapters.bank import LoraBank
from tagi.errors import ConfigError

ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Type of model whose LoRA can be written -> its architecture in GGUF."""
_ROTATED = ("llama", "mistral")
"""Types of models whose query and key rows llama.cpp's converter reorders."""


def gguf_factors(bank: LoraBank, config: Any) -> dict[str, Float[Tensor, "_rows _columns"]]:
    """Return the factors of a bank of one task by llama.cpp's names, rows in its order.

    Args:
        bank: The bank.
        config: The configuration of the transformers model, of a type in `ARCHITECTURES`.

    Raises `ConfigError` for a layer that llama.cpp's file of the model does not have.
    """
    tensors, names = {}, _names(config)
    heads = _rotated_heads(config)
    for module, (a, b) in bank.whole().factors.items():
        into = None if _is_tied_head(module, config) else names.get_name(module)
        if into is None:
            wanted = f"expected LoRA on layers that llama.cpp has in a model of type {config.model_type!r}"
            raise ConfigError(f"{wanted}, got one on {module!r}")
        turned = heads.get(module.rsplit(".", 1)[-1])
        tensors[f"{into}.weight.lora_a"] = a[0]
        tensors[f"{into}.weight.lora_b"] = b[0] if turned is None else interleaved(b[0], turned)
    return tensors


def interleaved(rows: Float[Tensor, "d_out rank"], heads: int) -> Float[Tensor, "d_out rank"]:
    """Return the rows with each head's two halves interleaved: first, halfway, second, ..."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def write_gguf_lora(path: Path, tensors: Mapping[str, Tensor], *, architecture: str, alpha: float, name: str) -> None:
    """Write the file in fp32. The same tensors give the same bytes."""
    from gguf import GGUFType, GGUFWriter, Keys  # imported here because it takes a tenth of a second

    writer = GGUFWriter(path, architecture)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_name(name)
    for key, tensor in tensors.items():
        writer.add_tensor(key, tensor.detach().cpu().float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _names(config: Any) -> Any:
    """gguf's table of names for a model."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    numbers = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    return get_tensor_name_map(numbers[ARCHITECTURES[config.model_type]], config.num_hidden_layers)


def _rotated_heads(config: Any) -> dict[str, int]:
    """Number of heads by the name of each projection whose rows are reordered."""
    if config.model_type not in _ROTATED:
        return {}
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}


def _is_tied_head(module: str, config: Any) -> bool:
    """Whether a layer is the output head of a model whose file in GGUF has the embeddings in its place."""
    return module == "lm_head" and bool(config.tie_word_embeddings)
