"""Settings of the backbone."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.dataclasses import dataclass

from tagi.settings.tables import Count, Flag, Positive, Rule, Share, Table, Text


@dataclass(frozen=True, kw_only=True)
class T5Fields(Table):
    """Fields of `T5Config` that `[backbone.config]` may set. The others keep transformers' defaults.

    Args:
        d_model: Width of the hidden states.
        d_kv: Width of a head's keys and values.
        d_ff: Hidden width of the feed-forwards.
        num_layers: Layers of the encoder.
        num_heads: Attention heads of every layer.
        vocab_size: Tokens of the vocabulary.
        num_decoder_layers: Layers of the decoder, by default as many as of the encoder.
        dropout_rate: Dropout everywhere.
        feed_forward_proj: Form of the feed-forwards.
        initializer_factor: Factor on the scale of the initial weights.
        layer_norm_epsilon: Epsilon of the norms.
        relative_attention_max_distance: Largest distance that relative positions tell apart.
        relative_attention_num_buckets: Buckets of relative positions.
        tie_word_embeddings: Use the input embeddings as output projection.
    """

    d_model: Count
    d_kv: Count
    d_ff: Count
    num_layers: Count
    num_heads: Count
    vocab_size: Count
    num_decoder_layers: Count | None = None
    dropout_rate: Share | None = None
    feed_forward_proj: Literal["relu", "gated-gelu"] | None = None
    initializer_factor: Positive | None = None
    layer_norm_epsilon: Positive | None = None
    relative_attention_max_distance: Count | None = None
    relative_attention_num_buckets: Count | None = None
    tie_word_embeddings: Flag | None = None


class CausalFields(BaseModel):
    """`[backbone.config]` of a decoder-only model: `model_type` and the fields of that type's configuration.

    The type and its fields are checked when the model is built.

    Args:
        model_type: Type of the model, as transformers names it.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    model_type: Text


def _revision_fault(revision: str | None, given: Mapping[str, Any]) -> str | None:
    name = given.get("name")
    if revision is not None and name in ("toy", "config"):
        return f"expected no revision with backbone.name = {name!r}, got {revision!r}"
    return None


def _tokenizer_fault(tokenizer: str | None, given: Mapping[str, Any]) -> str | None:
    name = given.get("name")
    if tokenizer is None and name == "config":
        return "expected a folder or hub name with backbone.name = 'config', got nothing"
    if tokenizer is not None and name == "toy":
        return f"expected no tokenizer with backbone.name = 'toy', got {tokenizer!r}"
    return None


def _config_fault(config: dict[str, Any] | None, given: Mapping[str, Any]) -> str | None:
    name = given.get("name")
    if name is not None and (config is not None) != (name == "config"):
        wanted, got = ("a table of the model's fields", "nothing") if config is None else ("no table", "one")
        return f"expected {wanted} with backbone.name = {name!r}, got {got}"
    if name is not None and config is not None:  # raises faults of its keys
        (CausalFields if given.get("family") == "causal" else T5Fields)(**config)
    return None


@dataclass(frozen=True)
class BackboneSettings(Table):
    """The backbone and how it is loaded.

    Args:
        name: A folder, a hub name, a GGUF file, "toy" (built in), or "config" (random weights, shaped by `config`).
        family: "t5" for T5 and its variants, "causal" for decoder-only models.
        revision: Branch, tag or commit of a hub model.
        tokenizer: Folder or hub name of the tokenizer, or "toy". Needed with "config" only.
        dtype: Data type of the weights. "auto" is bfloat16 if the hardware supports it, else float32: a CPU without
            bfloat16 instructions is six times slower in bfloat16.
        attention: Implementation of attention. By default transformers chooses, except that "eager" is used with
            bfloat16 on a CPU if `dtype` is "auto", where it trains faster.
        config: Fields of the model's configuration, named as in transformers. With "config" only.
    """

    rules: ClassVar[Mapping[str, Rule]] = {
        "revision": _revision_fault,
        "tokenizer": _tokenizer_fault,
        "config": _config_fault,
    }

    name: Text
    family: Literal["t5", "causal"] = "t5"
    revision: Text | None = None
    tokenizer: Text | None = None
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    config: dict[str, Any] | None = None
