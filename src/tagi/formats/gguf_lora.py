"""llama.cpp's LoRA files: its names and its order of rows live in this module alone.

Rotary embeddings rotate neighbouring numbers of a head in llama.cpp, and the two halves of a head in transformers. The
rows of query and key weights are therefore in another order in a GGUF file of the Llama family, and so are those of a
LoRA's B.
"""

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from tagi.adapters.bank import LoraBank
from tagi.errors import ConfigError

ARCHITECTURES = {"llama": "llama"}
"""Type of model whose LoRA can be written -> its architecture in GGUF."""
_NAMES = {"q_proj": "attn_q", "v_proj": "attn_v"}
_ROTATED = ("q_proj",)


def gguf_factors(bank: LoraBank, heads: int) -> dict[str, Float[Tensor, "_rows _columns"]]:
    """Return the factors of a bank of one task on a Llama's query and value projections, as llama.cpp has them.

    Args:
        bank: The bank.
        heads: Number of query heads.

    Returns:
        Factors by llama.cpp's names, rows in its order.

    Raises:
        ConfigError: The bank is also on other layers, whose names and order of rows are not known here.
    """
    tensors = {}
    for module, (a, b) in bank.whole().factors.items():
        *_, layer, _, name = module.split(".")
        if name not in _NAMES:
            raise ConfigError(f"expected LoRA on {', '.join(_NAMES)} alone for llama.cpp, got one on {module!r}")
        into = f"blk.{layer}.{_NAMES[name]}.weight"
        tensors[f"{into}.lora_a"] = a[0]
        tensors[f"{into}.lora_b"] = interleaved(b[0], heads) if name in _ROTATED else b[0]
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
