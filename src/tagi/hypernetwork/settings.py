"""What a generator is made of, as plain values that travel in its checkpoint."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tagi.errors import CheckpointError

Fuse = Literal["both", "attention", "concatenation", "none"]
Tune = Literal["none", "norms+embeddings", "ffn", "all"]


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """Architecture of a generator.

    `kind`: "pooled" or "query", two forms of eq. 2. `fusion`: attention inside the encoder (eq. 1),
    concatenation `(I_x; F)` before the decoder, both, or none (the adapter alone carries the task). `tune`:
    which of the backbone's parameters are trained. Sizes: `rank` and `alpha` of LoRA, `hidden` of the MLPs,
    `width` and `heads` of the query generator's attention.
    """

    kind: Literal["pooled", "query"] = "query"
    rank: int = 32
    alpha: float = 64.0
    hidden: int = 128
    width: int = 128
    heads: int = 4
    pooling: Literal["mean", "attention"] = "mean"
    fusion: Fuse = "both"
    fusion_norm: Literal["pre", "post"] = "pre"
    fusion_init: Literal["t5", "cross"] = "t5"
    tune: Tune = "none"
    state_dropout: float = 0.0
    seed: int = 0

    @property
    def fuses(self) -> bool:
        """Whether the encoder attends to the instruction."""
        return self.fusion in ("both", "attention")

    @property
    def concatenates(self) -> bool:
        """Whether the decoder sees the instruction states."""
        return self.fusion in ("both", "concatenation")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "GeneratorSettings":
        """The inverse of `as_dict`; an unknown or missing key or choice is a `CheckpointError`."""
        if not isinstance(values, dict):
            raise CheckpointError(f"generator settings: expected an object, got {values!r}")
        known = {field.name for field in fields(cls)}
        if known != values.keys():
            odd = sorted(known ^ values.keys())[0]
            raise CheckpointError(f"generator settings: expected exactly {sorted(known)}, got a difference at {odd!r}")
        for name, hint in get_type_hints(cls).items():
            if get_origin(hint) is Literal and values[name] not in get_args(hint):
                expected = ", ".join(get_args(hint))
                raise CheckpointError(f"generator settings: expected {name} of {expected}, got {values[name]!r}")
        return cls(**values)
