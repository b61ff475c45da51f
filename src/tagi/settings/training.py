"""Training settings of the stages."""

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
    """Training settings of one stage.

    Args:
        steps: Number of optimizer steps.
        tasks_per_batch: Number of tasks in a micro-batch.
        queries_per_task: Number of examples of each task in a micro-batch.
        accumulation: Number of micro-batches per step and process (gradient accumulation).
        balance: How tasks are sampled. "natural": uniformly. "category": a category first, then one of its tasks, so
            that large categories do not dominate.
        learning_rate: Peak learning rate.
        optimizer: "adamw", "adafactor" (fixed learning rate), or "adafactor-scaled" (learning rate relative to each
            tensor's root mean square, as for pretraining T5; needed to train T5 from random weights).
        weight_decay: Weight decay.
        schedule: Schedule after warm-up: "linear" or "cosine" decay to zero, or "constant".
        warmup_ratio: Share of the steps used for linear warm-up.
        max_grad_norm: Maximum gradient norm for clipping.
        dropout: Dropout of the backbone. By default that of its configuration.
        bf16: Train in bfloat16 mixed precision, with weights in float32.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        save_every: Number of steps between checkpoints.
        keep_checkpoints: Number of latest checkpoints to keep, besides the best.
        log_every: Number of steps between log entries.
        validate_every: Number of steps between validations. By default there is no validation.
        patience: Stop after this many validations without improvement. By default training does not stop early.
        report_to: Experiment trackers. TensorBoard writes to `logs` next to the checkpoints; others ("wandb",
            "mlflow", ...) are configured by their environment variables.
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
        """`[training]`: settings for all stages, and a table of changes for each stage."""

        def __getattr__(self, name: str) -> StageSettings: ...

else:
    _DIFFERS = "\n".join(f"    {entry.name}: Changed settings for training {entry.trains}." for entry in ENTRIES)
    Training = _table(
        _TrainingOfStages,
        "Training",
        f"`[training]`: settings for all stages, and a table of changes for each stage.\n\nArgs:\n{_DIFFERS}\n",
        {stage: (StageSettings, StageSettings()) for stage in STAGES},
    )


@dataclass(frozen=True)
class MetatrainSettings(Table):
    """The stage metatrain: training the backbone on all training tasks.

    Args:
        method: "concatenation": instruction and input in one text. "fid-icl", "concat-icl" and "ensemble-icl" read
            `shots.count` demonstrations. Other methods with a class of their own are possible
            (`tagi.settings.methods`).
        tune: What is trained: the whole backbone ("all"), a LoRA ("lora"), or nothing ("none", the method No FT).
        rank: Rank of the LoRA. By default that of the shared LoRA, or of the generated LoRA if there is no shared one.
        alpha: Alpha of the LoRA. By default `alpha / rank` is that of the generated LoRA.
        instruction: Include the instruction. False trains a control that sees inputs only.
        prefix_cached: For decoder-only models, compute the instruction's KV prefix once per task at inference.
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
    """The stage single: one model per test task, fine-tuned on that task only.

    Args:
        examples: "shots": the task's shots (Full FT). "all": all examples that it is not scored on (Simple FT).
        tune: What is trained: the whole backbone ("all") or a LoRA ("lora").
    """

    examples: Literal["shots", "all"] = "shots"
    tune: Literal["all", "lora"] = "all"


@dataclass(frozen=True)
class TeacherSettings(Table):
    """The stage teachers: one LoRA per category, with the generator's rank and alpha.

    Args:
        base: Model that the LoRAs are trained on: the backbone or the meta-trained model.
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
    """The stage pretrain: pretraining the hypernetwork on unlabelled text.

    Args:
        source: "c4": files in C4's format. "toy": the text of the built-in toy tasks.
        path: Folder or file of C4.
        max_tokens: Maximum length of a document; longer ones are truncated.
        parts: Number of parts that a document is split into. 3: a, b and c (eq. 3). 4: A, B, C and D, of which the
            hypernetwork reads A and D (HyperTuning).
        tune: Backbone parameters that are trained in this stage. By default those of `generator.tune`.
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
    """The stages that `tagi run` runs.

    Args:
        stages: Stages to train, in order.
        start: Model that the generator is trained on: the backbone or the meta-trained model.
        checkpoint: Trained generator to initialise finetuning from: a built-in name, a folder or a hub name.
    """

    later: ClassVar[frozenset[str]] = frozenset({"checkpoint"})
    rules: ClassVar[Mapping[str, Rule]] = {"stages": _stages_fault, "start": _start_fault}

    stages: list[Stage] = field(default_factory=lambda: list[Stage](MODELS[:1]))
    start: Literal["backbone", "metatrained"] = "backbone"
    checkpoint: Text | None = None
