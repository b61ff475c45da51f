"""Settings of the generator, which its checkpoint stores."""

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
    """Architecture of a generator: hypernetwork, generated module, fusion, and tuned backbone parameters.

    Sizes of modules that are not generated are ignored, except `rank` and `alpha`, which the LoRA teachers also use.

    Args:
        kind: Form of the hypernetwork (eq. 2). "pooled": MLPs on the pooled instruction states. "query": learned
            queries attend to the instruction's tokens. "component": learned components attend to the instruction, and
            one MLP per part is shared by all layers (HINT).
        module: What is generated: "lora", "bottleneck" (bottleneck adapters), "prefix" (a prefix of keys and values for
            every attention), or "bottleneck+prefix".
        placement: Position of bottleneck adapters: on the output of self-attention, before the residual connection
            ("attention"), or parallel to feed-forward layers ("ffn").
        bottleneck: Width of bottleneck adapters.
        prefix: Length of a generated prefix in tokens.
        reader: Model that encodes instructions: the backbone's encoder ("backbone"), or a copy of it that is trained
            with the hypernetwork ("own", HyperTuning's hypermodel).
        rank: Rank of the generated LoRA.
        alpha: Alpha of the generated LoRA; its update is scaled by `alpha / rank`.
        hidden: Hidden width of the MLPs.
        width: Width of the attention in hypernetworks of kind "query".
        heads: Number of attention heads in hypernetworks of kind "query". Must divide `width`.
        pooling: Pooling of instruction states in hypernetworks of kind "pooled": "mean", or learned "attention".
        standardize: Standardise the instruction states per channel before the hypernetwork. Mean and deviation are
            measured on the first training instructions.
        fusion: How inputs use the instruction states. "attention": cross-attention in the layers (eq. 1).
            "concatenation": before the input's states in T5's decoder; as a KV prefix in decoder-only models. "both".
            "none": only the adapter depends on the instruction.
        fusion_norm: Position of the norm in fusion: before the attention ("pre"), or after the residual connection as
            in the paper ("post").
        fusion_init: Initial weights of the fusion attention: T5's random initialisation ("t5"), or a copy of the
            decoder's cross-attention ("cross").
        fusion_every: Add fusion attention to every n-th layer.
        tune: Backbone parameters that are trained with the hypernetwork.
        state_dropout: Share of the tasks in a training batch whose inputs do not see instruction states, so that the
            adapter learns to work alone.
        shared_rank: Rank of a LoRA shared by all tasks, to which the generated residual is added. 0 for none. A recipe
            trains it in the stage metatrain (`run.start = "metatrained"`).
        shared_tune: Train the shared LoRA together with the hypernetwork. Otherwise it is frozen.
        residual: What is generated on top of the shared LoRA. "low-rank": LoRA factors of `rank` and `alpha`.
            "scales": one scale per rank of the shared LoRA and target module. "both".
        instruction_cache: For decoder-only backbones, the instruction's KV prefix. "adapted": computed under the task's
            LoRA, which equals an ordinary LoRA with the instruction in the prompt. "stock": computed without LoRA.
            "none": no prefix. Without a value `fusion` decides, as in older checkpoints: "stock" if it concatenates,
            otherwise "none".
        reads: What the hypernetwork reads of a task. "instruction": the instruction with up to `data.positives`
            demonstrations. "demonstrations": the first `data.positives` demonstrations only, or the task's shots if
            `data.positives` is 0. A checkpoint stores this with its text settings.
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
        """Whether layers have fusion attention."""
        return self.fusion in ("both", "attention")

    @property
    def concatenates(self) -> bool:
        """Whether the decoder sees the instruction states, or a KV prefix computed without LoRA."""
        return self.fusion in ("both", "concatenation") or self.instruction_cache == "stock"

    @property
    def adapts_prefix(self) -> bool:
        """Whether the KV prefix is computed under the task's LoRA."""
        return self.instruction_cache == "adapted"

    @property
    def generates_factors(self) -> bool:
        """Whether low-rank factors are generated."""
        return not self.shared_rank or self.residual != "scales"

    @property
    def adapter_rank(self) -> int:
        """Rank of a task's LoRA: the ranks of the shared LoRA and of the generated factors added."""
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
        """Return the parts of a task adapter, besides its LoRA, that are lost when only the LoRA is exported.

        With `instruction_cache` "adapted" nothing is lost: any engine that applies the LoRA to the instruction computes
        the same KV prefix.
        """
        attention = f"fusion with the instruction in the {'layers' if decoder_only else 'encoder'}"
        kept = "the instruction's keys and values" if decoder_only else "instruction states before the decoder"
        return tuple(what for what, there in ((attention, self.fuses), (kept, self.concatenates)) if there)
