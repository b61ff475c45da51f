"""What a generator is made of, as plain values that travel in its checkpoint."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from tagi.settings.tables import Count, Flag, OwnSeed, Positive, Rule, Share, StoredSettings, Whole

Fuse = Literal["both", "attention", "concatenation", "none"]
Tune = Literal["none", "norms+embeddings", "ffn", "all"]
Module = Literal["lora", "bottleneck", "prefix", "bottleneck+prefix"]
Placement = Literal["attention", "ffn"]


@dataclass(frozen=True)
class LoraShape(StoredSettings):
    """Shape of a LoRA on every target module.

    Args:
        rank: Rank of the factors A and B.
        alpha: The update is scaled by `alpha / rank`.
        seed: Seed of the initial A. B starts at zero.
    """

    title: ClassVar[str] = "lora"

    rank: Count
    alpha: Positive
    seed: OwnSeed = 0


def _heads_fault(heads: int, given: Mapping[str, Any]) -> str | None:
    width = given.get("width")
    if given.get("kind") == "query" and width is not None and width % heads:
        return f"expected a divisor of generator.width ({width}), got {heads}"
    return None


def _shared_rank_fault(rank: int, given: Mapping[str, Any]) -> str | None:
    module = given.get("module", "lora")
    return f"expected 0 with generator.module = {module!r}, got {rank}" if rank and module != "lora" else None


def _residual_fault(value: Any, given: Mapping[str, Any]) -> str | None:
    if value not in (False, "low-rank") and given.get("shared_rank") == 0:
        return f"expected generator.shared_rank of at least 1 with it, got {value!r} without"
    return None


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings(StoredSettings):
    """Architecture of a generator: its hypernetwork, what that generates, fusion, and what of the backbone is tuned.

    Sizes of modules that are not generated mean nothing, except `rank` and `alpha`, which the LoRA teachers have too.

    Args:
        kind: Form of the hypernetwork (eq. 2). "pooled": MLPs on the pooled instruction states. "query": learned
            queries attend to the instruction's tokens. "component": learned components attend to the instruction, and
            one MLP per part is shared by all layers (HINT).
        module: What is generated: LoRA, bottleneck adapters, a prefix of keys and values for every attention, or the
            last two.
        placement: Where bottleneck adapters act: on the output of self-attentions before its residual ("attention")
            or beside feed-forwards ("ffn").
        bottleneck: Width of bottleneck adapters.
        prefix: Tokens of a generated prefix.
        reader: What reads instructions: the backbone's encoder ("backbone"), or a copy of it that is trained with the
            hypernetwork ("own", HyperTuning's hypermodel).
        rank: Rank of the generated LoRA.
        alpha: The update of the generated LoRA is scaled by `alpha / rank`.
        hidden: Hidden width of the MLPs.
        width: Width of the query generator's attention.
        heads: Attention heads of the query generator. Must divide `width`.
        pooling: How the pooled generator summarizes instruction states: their mean, or learned attention.
        standardize: Show the hypernetwork every channel of the instruction states with mean 0 and deviation 1. Both
            are measured over the first training instructions.
        fusion: How inputs see the instruction. "attention": layers attend to its states (eq. 1). "concatenation":
            T5's decoder sees its states before the input's, a decoder-only model continues from its cached keys and
            values. "both", or "none": the adapter alone carries the task.
        fusion_norm: Norm of the fusion's attention: before it ("pre"), or after its residual as the paper writes it
            ("post").
        fusion_init: Initial weights of the fusion's attention: small random ones as T5 has them ("t5"), or a copy of
            the decoder's cross-attention ("cross").
        fusion_every: The fusion's attention is in every so many layers.
        tune: Which of the backbone's own parameters are trained with the hypernetwork.
        state_dropout: Share of the tasks in a training batch whose inputs see no instruction states, so that the
            adapter alone must carry them.
        shared_rank: Rank of a LoRA for all tasks, on top of which a residual is generated. 0 for none. Of a recipe it
            is the LoRA that the stage metatrain trains (`run.start = "metatrained"`).
        shared_tune: Train the shared LoRA with the hypernetwork. Otherwise it is frozen.
        residual: What is generated on top of the shared LoRA: low-rank factors of `rank` and `alpha` ("low-rank"), one
            scale per rank of the shared LoRA and target module ("scales"), or both.
        instruction_cache: Of a decoder-only backbone, the instruction's keys and values that inputs continue from.
            "stock": as the backbone computes them without LoRA. "adapted": under the task's own LoRA, so that the
            whole equals an ordinary LoRA with the instruction in the prompt. "none": no keys and values. Without a
            value, `fusion` decides, as in older checkpoints: "stock" if it concatenates, otherwise "none".
        reads: What the hypernetwork reads of a task. "instruction": the instruction with `data.positives`
            demonstrations. "demonstrations": the first `data.positives` examples alone, or for 0 the task's shots. A
            checkpoint holds it with its text settings.
        seed: Seed of the initial weights. In a recipe, the recipe's seed.
    """

    title: ClassVar[str] = "generator settings"
    later: ClassVar[frozenset[str]] = frozenset({"shared_rank", "shared_tune", "residual", "instruction_cache"})
    newer: ClassVar[frozenset[str]] = later | {
        "module",
        "placement",
        "bottleneck",
        "prefix",
        "reader",
        "fusion_every",
        "standardize",
    }
    unstored: ClassVar[frozenset[str]] = frozenset({"reads"})
    rules: ClassVar[Mapping[str, Rule]] = {
        "heads": _heads_fault,
        "shared_rank": _shared_rank_fault,
        "shared_tune": _residual_fault,
        "residual": _residual_fault,
    }

    kind: Literal["pooled", "query", "component"]
    module: Module = "lora"
    placement: Placement = "attention"
    bottleneck: Count = 64
    prefix: Count = 30
    reader: Literal["backbone", "own"] = "backbone"
    rank: Count = 32
    alpha: Positive
    hidden: Count
    width: Count = 64
    heads: Count = 4
    pooling: Literal["mean", "attention"] = "mean"
    standardize: Flag = False
    fusion: Fuse = "both"
    fusion_norm: Literal["pre", "post"] = "pre"
    fusion_init: Literal["t5", "cross"] = "t5"
    fusion_every: Count = 1
    tune: Tune = "none"
    state_dropout: Share = 0.0
    shared_rank: Whole = 0
    shared_tune: Flag = False
    residual: Literal["low-rank", "scales", "both"] = "low-rank"
    instruction_cache: Literal["none", "stock", "adapted"] | None = None
    reads: Literal["instruction", "demonstrations"] = "instruction"
    seed: OwnSeed = 0

    @property
    def fuses(self) -> bool:
        """Whether layers attend to the instruction."""
        return self.fusion in ("both", "attention")

    @property
    def concatenates(self) -> bool:
        """Whether the answer is generated from the instruction's own states, or its keys and values."""
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

        With `instruction_cache` "adapted" nothing is lost: any engine that reads the instruction under the LoRA
        computes the same keys and values.
        """
        attention = f"fusion with the instruction in the {'layers' if decoder_only else 'encoder'}"
        kept = "the instruction's keys and values" if decoder_only else "instruction states before the decoder"
        return tuple(what for what, there in ((attention, self.fuses), (kept, self.concatenates)) if there)
