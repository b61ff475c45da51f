"""What a generator is made of, as plain values that travel in its checkpoint."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tagi.errors import CheckpointError

Fuse = Literal["both", "attention", "concatenation", "none"]
Tune = Literal["none", "norms+embeddings", "ffn", "all"]
Module = Literal["lora", "bottleneck", "prefix", "bottleneck+prefix"]
Placement = Literal["attention", "ffn"]
Reader = Literal["backbone", "own"]
Residual = Literal["low-rank", "scales", "both"]
InstructionCache = Literal["none", "stock", "adapted"]
_LATER = (
    "module",
    "placement",
    "bottleneck",
    "prefix",
    "reader",
    "fusion_every",
    "standardize",
    "shared_rank",
    "shared_tune",
    "residual",
    "instruction_cache",
)
"""Keys that checkpoints from before them lack. At its default each is left out, so that those stay what they are."""


@dataclass(frozen=True, slots=True)
class GeneratorSettings:
    """Architecture of a generator.

    `module`: what is generated, LoRA, bottleneck adapters `bottleneck` wide, `prefix` tokens for every attention, or
    the last two. Bottlenecks act on the output of self-attentions before its residual or beside feed-forwards, by
    `placement`, which else means nothing. `kind`: "pooled" or "query", two forms of eq. 2, or "component", learned
    components that attend to the instruction and one MLP per part, shared by all layers (HINT). `fusion`: attention
    inside the encoder (eq. 1), concatenation `(I_x; F)` before the decoder, both, or none (the adapter alone carries
    the task). Of a decoder-only backbone attention acts after the layers, and concatenation is the instruction's keys
    and values, cached before the input's. Attention is in every `fusion_every`-th layer. `tune`: which of the
    backbone's parameters are trained. Sizes: `rank` and `alpha` of LoRA, `hidden` of the MLPs, `width` and `heads` of
    the query generator's attention. `reader`: what reads instructions, the backbone's
    encoder, or a copy of it that is trained with the hypernetwork (HyperTuning's hypermodel). `standardize`: the
    hypernetwork sees every channel of the states less its mean and by its deviation over training instructions.

    `shared_rank`: rank of the shared LoRA, 0 for none. With one, the hypernetwork generates a residual on top of it:
    `residual` "low-rank" (LoRA of `rank` and `alpha`), "scales" (one number per rank of the shared LoRA and target
    module) or "both". `shared_tune`: whether the shared LoRA is trained with the hypernetwork; else it is frozen.

    `instruction_cache`, for decoder-only backbones: what inputs read before them. "none": nothing, the adapter alone
    carries the task. "stock": keys and values of the instruction as the backbone without LoRA computes them.
    "adapted": keys and values of the instruction under the task's own LoRA, so that the whole is an ordinary LoRA with
    the instruction in its prompt. None: as checkpoints of an older form have it, by `fusion`: "stock" where
    that concatenates, else "none".
    """

    kind: Literal["pooled", "query", "component"] = "query"
    module: Module = "lora"
    placement: Placement = "attention"
    bottleneck: int = 64
    prefix: int = 30
    reader: Reader = "backbone"
    rank: int = 32
    alpha: float = 64.0
    hidden: int = 128
    width: int = 128
    heads: int = 4
    pooling: Literal["mean", "attention"] = "mean"
    standardize: bool = False
    fusion: Fuse = "both"
    fusion_norm: Literal["pre", "post"] = "pre"
    fusion_init: Literal["t5", "cross"] = "t5"
    fusion_every: int = 1
    tune: Tune = "none"
    state_dropout: float = 0.0
    shared_rank: int = 0
    shared_tune: bool = False
    residual: Residual = "low-rank"
    instruction_cache: InstructionCache | None = None
    seed: int = 0

    @property
    def fuses(self) -> bool:
        """Whether layers attend to the instruction."""
        return self.fusion in ("both", "attention")

    @property
    def concatenates(self) -> bool:
        """Whether what writes the answer sees the instruction's own states, or keys and values."""
        return self.fusion in ("both", "concatenation") or self.instruction_cache == "stock"

    @property
    def adapts_prefix(self) -> bool:
        """Whether the instruction is read a second time, under the task's own LoRA, before the inputs."""
        return self.instruction_cache == "adapted"

    @property
    def generates_factors(self) -> bool:
        """Whether low-rank factors are generated."""
        return not self.shared_rank or self.residual != "scales"

    @property
    def adapter_rank(self) -> int:
        """Rank of a task's LoRA: that of the shared LoRA and that of the generated factors together."""
        return self.shared_rank + (self.rank if self.generates_factors else 0)

    @property
    def makes_bottlenecks(self) -> bool:
        """Whether bottleneck adapters are generated."""
        return self.module.startswith("bottleneck")

    @property
    def makes_prefixes(self) -> bool:
        """Whether prefixes are generated."""
        return self.module.endswith("prefix")

    def beside_lora(self, *, decoder_only: bool) -> tuple[str, ...]:
        """Return what carries a task besides its LoRA and is lost where the LoRA alone is exported.

        With `instruction_cache` "adapted" nothing is: any engine that reads the instruction under the LoRA computes the
        same keys and values.
        """
        attention = f"fusion with the instruction in the {'layers' if decoder_only else 'encoder'}"
        kept = "the instruction's keys and values" if decoder_only else "instruction states before the decoder"
        return tuple(what for what, there in ((attention, self.fuses), (kept, self.concatenates)) if there)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        default = {field.name: field.default for field in fields(self) if field.name in _LATER}
        return {key: value for key, value in asdict(self).items() if key not in default or value != default[key]}

    @classmethod
    def from_dict(cls, values: Any) -> "GeneratorSettings":
        """The inverse of `as_dict`; an unknown or missing key or choice is a `CheckpointError`."""
        if not isinstance(values, dict):
            raise CheckpointError(f"generator settings: expected an object, got {values!r}")
        known = {field.name for field in fields(cls) if field.name in values or field.name not in _LATER}
        if known != values.keys():
            odd = sorted(known ^ values.keys())[0]
            raise CheckpointError(f"generator settings: expected exactly {sorted(known)}, got a difference at {odd!r}")
        for name, hint in get_type_hints(cls).items():
            if name == "instruction_cache":
                hint = get_args(hint)[0]
                if values.get(name) is None:
                    continue
            if get_origin(hint) is Literal and values.get(name, get_args(hint)[0]) not in get_args(hint):
                expected = ", ".join(get_args(hint))
                raise CheckpointError(f"generator settings: expected {name} of {expected}, got {values[name]!r}")
        return cls(**values)
