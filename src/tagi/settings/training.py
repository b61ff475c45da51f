"""How each stage trains."""

from collections.abc import Mapping
from dataclasses import field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import Field, Strict
from pydantic.dataclasses import dataclass

from tagi.settings.generator import Tune
from tagi.settings.methods import MetatrainMethod
from tagi.settings.stages import ENTRIES, MODELS, RUN, STAGES, STARTS, VALIDATED, Stage
from tagi.settings.tables import (
    Count,
    Flag,
    NotNegative,
    OwnSeed,
    Positive,
    Rule,
    Share,
    Table,
    Text,
    fields_of,
)


def _patience_fault(patience: int | None, given: Mapping[str, Any]) -> str | None:
    lonely = patience is not None and given.get("validate_every") is None
    return f"expected validate_every with it, got {patience} alone" if lonely else None


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Table):
    """One stage of training.

    Args:
        steps: Optimizer steps.
        tasks_per_batch: Tasks in a micro-batch.
        queries_per_task: Examples of each task in a micro-batch.
        accumulation: Micro-batches of a step on every process, whose gradients are accumulated.
        balance: How tasks are drawn: all equally likely ("natural"), or a category first and then one of its tasks
            ("category"), so that large categories do not crowd out small ones.
        learning_rate: Learning rate after warm-up.
        optimizer: "adamw", "adafactor" (steps of the learning rate as it is), or "adafactor-scaled" (T5's own, whose
            step is relative to each tensor's root mean square; what a T5 from random weights needs).
        weight_decay: Weight decay.
        schedule: Learning rate after warm-up: linear or cosine decay to zero, or constant.
        warmup_ratio: Share of the steps in which the learning rate rises from zero.
        max_grad_norm: Gradients are clipped to this norm.
        dropout: Dropout of the backbone. By default as its configuration says.
        bf16: Compute in bfloat16 with weights in float32 (automatic mixed precision).
        gradient_checkpointing: Recompute activations in the backward pass, for less memory.
        save_every: Steps between checkpoints.
        keep_checkpoints: The newest checkpoints that are kept, beside the best.
        log_every: Steps between log entries.
        validate_every: Steps between scorings on validation tasks. Without a value there are none.
        patience: Stop after so many validations in a row without a better score. Without a value training never stops
            early.
        report_to: Trackers. TensorBoard's files go to `logs` beside the checkpoints; others ("wandb", "mlflow", ...)
            are set up by their own environment variables.
        seed: Seed of dropout. In a recipe, the recipe's seed.
    """

    rules: ClassVar[Mapping[str, Rule]] = {"patience": _patience_fault}

    steps: Count
    tasks_per_batch: Count
    queries_per_task: Count
    accumulation: Count = 1
    balance: Literal["natural", "category"] = "natural"
    learning_rate: Positive
    optimizer: Literal["adamw", "adafactor", "adafactor-scaled"] = "adamw"
    weight_decay: NotNegative = 0.0
    schedule: Literal["linear", "constant", "cosine"] = "linear"
    warmup_ratio: Share = 0.02
    max_grad_norm: Positive = 1.0
    dropout: Share | None = None
    bf16: Flag = False
    gradient_checkpointing: Flag = False
    save_every: Count = 1000
    keep_checkpoints: Count = 2
    log_every: Count = 50
    validate_every: Count | None = None
    patience: Count | None = None
    report_to: tuple[Text, ...] = ("tensorboard",)
    seed: OwnSeed = 0


def _table(base: type[Table], name: str, doc: str, keys: Mapping[str, tuple[Any, Any]]) -> Any:
    """Make a class of settings from keys with their types and defaults, where no class statement can list them."""
    defaults = {key: default for key, (_, default) in keys.items()}
    hints = {key: hint for key, (hint, _) in keys.items()}
    kind = type(name, (base,), {"__annotations__": hints, "__doc__": doc, "__module__": __name__, **defaults})
    return dataclass(frozen=True, kw_only=True)(kind)


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class StageSettings(Table):
        """The fields of `TrainingSettings`, each None where the stage trains as `[training]` says."""

        def __getattr__(self, name: str) -> Any: ...

else:
    _HINTS = get_type_hints(TrainingSettings, include_extras=True)
    StageSettings = _table(
        Table,
        "StageSettings",
        "The fields of `TrainingSettings`, each None where the stage trains as `[training]` says.",
        {name: (_HINTS[name] | None, None) for name, key in fields_of(TrainingSettings).items() if not key.exclude},
    )


def _validation_faults(stage: StageSettings, given: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: f"expected none, since only {' and '.join(VALIDATED)} are scored on tasks, got {number}"
        for key in ("validate_every", "patience")
        if (number := getattr(stage, key)) is not None
    }


@dataclass(frozen=True, kw_only=True)
class _TrainingOfStages(TrainingSettings):
    rules: ClassVar[Mapping[str, Rule]] = {
        **TrainingSettings.rules,
        **{stage: _validation_faults for stage in STAGES if stage not in VALIDATED},
    }

    def of_stage(self, stage: Stage, seed: int) -> TrainingSettings:
        """Return how a stage trains; without validation where there are no tasks to validate on."""
        own: StageSettings = getattr(self, stage)
        values = {key.name: getattr(self, key.name) for key in fields(TrainingSettings)}
        values |= {**own.model_dump(exclude_none=True), "seed": seed}
        if stage not in VALIDATED:
            values |= {"validate_every": None, "patience": None}
        return TrainingSettings(**values)


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class Training(_TrainingOfStages):
        """`[training]`: what holds for all stages, and a table for each stage that differs."""

        def __getattr__(self, name: str) -> StageSettings: ...

else:
    _DIFFERS = "\n".join(f"    {entry.name}: What training {entry.trains} does differently." for entry in ENTRIES)
    Training = _table(
        _TrainingOfStages,
        "Training",
        "`[training]`: what holds for all stages, and a table for each stage that differs. Beside the keys of a stage:"
        f"\n\nArgs:\n{_DIFFERS}\n",
        {stage: (StageSettings, StageSettings()) for stage in STAGES},
    )


@dataclass(frozen=True)
class MetatrainSettings(Table):
    """The stage metatrain: the backbone trained on all training tasks.

    Args:
        method: With the instruction concatenated, or a method of its own module (`tagi.settings.methods`): those that
            learn in context read `shots.count` demonstrations ("fid-icl", "concat-icl", "ensemble-icl").
        tune: What is trained: the whole backbone, a LoRA, or nothing (No FT).
        rank: Rank of the LoRA. By default that of the shared LoRA if the generator has one, otherwise that of the
            generated LoRA.
        alpha: Alpha of the LoRA. By default `alpha / rank` is that of the generated LoRA.
        instruction: Show the instruction. Without it all tasks look alike, and what is learnt owes it nothing.
        prefix_cached: A decoder-only model keeps an instruction's keys and values for all inputs of its task.
    """

    later: ClassVar[frozenset[str]] = frozenset({"rank", "alpha"})

    method: MetatrainMethod = "concatenation"
    tune: Literal["all", "lora", "none"] = "all"
    rank: Count | None = None
    alpha: Positive | None = None
    instruction: Flag = True
    prefix_cached: Flag = False


@dataclass(frozen=True)
class SingleSettings(Table):
    """The stage single: one model for each test task, fine-tuned on its own examples alone.

    Args:
        examples: The task's shots ("shots", Full FT), or all of its examples that are not tested ("all", Simple FT).
        tune: What is trained: the whole backbone or a LoRA.
    """

    examples: Literal["shots", "all"] = "shots"
    tune: Literal["all", "lora"] = "all"


@dataclass(frozen=True)
class TeacherSettings(Table):
    """The stage teachers: one LoRA per category, of the generator's rank and alpha.

    Args:
        base: What the LoRA is trained on: the backbone or the meta-trained model.
    """

    base: Literal["backbone", "metatrained"] = "backbone"


def _path_fault(path: str | None, given: Mapping[str, Any]) -> str | None:
    source = given.get("source")
    if source == "c4" and path is None:
        return "expected a folder or file with pretraining.source = 'c4', got nothing"
    if source == "toy" and path is not None:
        return f"expected no path with pretraining.source = 'toy', got {path!r}"
    return None


@dataclass(frozen=True)
class PretrainingSettings(Table):
    """The stage pretrain: unlabelled text for the hypernetwork.

    Args:
        source: Files in C4's format ("c4"), or the text of the built-in family ("toy").
        path: Folder or file of C4's.
        max_tokens: Documents are shortened to so many tokens.
        parts: Pieces a document is cut into: 3 are a, b and c (eq. 3); of 4, A, B, C and D, the hypernetwork reads A
            and D.
        tune: Which of the backbone's parameters are trained meanwhile. By default those of `generator.tune`.
    """

    rules: ClassVar[Mapping[str, Rule]] = {"path": _path_fault}

    source: Literal["c4", "toy"] = "c4"
    path: Text | None = None
    max_tokens: Count = 1024
    parts: Annotated[int, Strict(), Field(ge=3, le=4)] = 3
    tune: Tune | None = None


def _stages_fault(stages: list[Stage], given: Mapping[str, Any]) -> str | None:
    known = [stage for stage in STAGES if stage in stages]
    if stages == known and stages and set(stages) <= set(RUN):
        return None
    return f"expected some of {', '.join(RUN)} in this order, got {', '.join(stages) or 'none'}"


def _start_fault(start: str, given: Mapping[str, Any]) -> str | None:
    stage = STARTS.get(start)
    if stage is None or stage in given.get("stages", [stage]):
        return None
    return f"expected {stage!r} among run.stages to start from it, got none"


@dataclass(frozen=True)
class RunSettings(Table):
    """What `tagi run` does.

    Args:
        stages: The stages to train, in order.
        start: What the generator starts on: the backbone or the meta-trained model.
        checkpoint: A trained generator whose parameters finetuning begins with: a built-in name, a folder or a name on
            the hub.
    """

    later: ClassVar[frozenset[str]] = frozenset({"checkpoint"})
    rules: ClassVar[Mapping[str, Rule]] = {"stages": _stages_fault, "start": _start_fault}

    stages: list[Stage] = field(default_factory=lambda: list[Stage](MODELS[:1]))
    start: Literal["backbone", "metatrained"] = "backbone"
    checkpoint: Text | None = None
