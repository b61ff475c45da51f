"""The tables of a recipe that say how each stage trains.

A rule between keys of one table sits on the later key and sees the earlier ones.
"""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from tagi.settings.tables import (
    STAGES,
    VALIDATED,
    Balance,
    Count,
    NotNegative,
    Optimizer,
    Positive,
    Schedule,
    Share,
    Stage,
    Table,
    Text,
    Tune,
    faults_below,
)

if TYPE_CHECKING:
    from pydantic import ValidationInfo
else:
    ValidationInfo = Any  # a protocol that the tests' runtime type checks cannot check


class TrainingSettings(Table):
    """One stage of training. A step sees `accumulation * tasks_per_batch * queries_per_task` examples."""

    steps: Count
    tasks_per_batch: Count
    queries_per_task: Count
    accumulation: Count = 1
    balance: Balance = "natural"
    learning_rate: Positive
    optimizer: Optimizer = "adamw"
    weight_decay: NotNegative = 0.0
    schedule: Schedule = "linear"
    warmup_ratio: Share = 0.02
    max_grad_norm: Positive = 1.0
    dropout: Share | None = None
    bf16: bool = False
    gradient_checkpointing: bool = False
    save_every: Count = 1000
    keep_checkpoints: Count = 2
    log_every: Count = 50
    validate_every: Count | None = None
    patience: Count | None = Field(default=None, validate_default=True)
    report_to: list[Text] = Field(default_factory=lambda: ["tensorboard"])

    @field_validator("patience")
    @classmethod
    def _patience_needs_validation(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("validate_every") is None:
            raise ValueError(f"expected validate_every with it, got {value} alone")
        return value


class StageSettings(Table):
    """What one stage does otherwise than `[training]` says; a key left out is as there."""

    steps: Count | None = None
    tasks_per_batch: Count | None = None
    queries_per_task: Count | None = None
    accumulation: Count | None = None
    balance: Balance | None = None
    learning_rate: Positive | None = None
    optimizer: Optimizer | None = None
    weight_decay: NotNegative | None = None
    schedule: Schedule | None = None
    warmup_ratio: Share | None = None
    max_grad_norm: Positive | None = None
    dropout: Share | None = None
    bf16: bool | None = None
    gradient_checkpointing: bool | None = None
    save_every: Count | None = None
    keep_checkpoints: Count | None = None
    log_every: Count | None = None
    validate_every: Count | None = None
    patience: Count | None = None
    report_to: list[Text] | None = None


class Training(TrainingSettings):
    """`[training]`, and under it a table for each stage that differs."""

    backbone: StageSettings = StageSettings()
    metatrain: StageSettings = StageSettings()
    teachers: StageSettings = StageSettings()
    pretrain: StageSettings = StageSettings()
    finetune: StageSettings = StageSettings()
    single: StageSettings = StageSettings()

    @field_validator("backbone", "teachers", "pretrain", "single")
    @classmethod
    def _nothing_to_validate_on(cls, value: StageSettings) -> StageSettings:
        given = {key: getattr(value, key) for key in ("validate_every", "patience")}
        faults = {
            key: f"expected none, since only {' and '.join(VALIDATED)} are scored on tasks, got {number}"
            for key, number in given.items()
            if number is not None
        }
        if faults:
            raise faults_below(faults)
        return value


class MetatrainSettings(Table):
    """The backbone meta-trained: whole, a LoRA, or not at all (No FT).

    `rank` and `alpha` are the LoRA's: by default those of the generator's LoRA, or of its shared LoRA if it has one.

    `method`: with the instruction concatenated, or to learn in context from demonstrations, `shots.count` of them.
    `instruction`: without it the input stands alone, for all tasks alike: what is then learnt owes it nothing.
    `prefix_cached`: a decoder-only model keeps an instruction's keys and values for all inputs of its task.
    """

    method: Literal["concatenation", "fid-icl", "concat-icl", "ensemble-icl"] = "concatenation"
    tune: Literal["all", "lora", "none"] = "all"
    later: ClassVar[frozenset[str]] = frozenset({"rank", "alpha"})

    rank: Count | None = None
    alpha: Positive | None = None
    instruction: bool = True
    prefix_cached: bool = False


class SingleSettings(Table):
    """One model for each test task, fine-tuned on its own examples alone: whole, or by a LoRA.

    Its shots ("shots", Full FT), or all of its examples that are not tested ("all", Simple FT).
    """

    examples: Literal["shots", "all"] = "shots"
    tune: Literal["all", "lora"] = "all"


class TeacherSettings(Table):
    """One LoRA teacher per category, of the generator's rank and alpha, on the backbone or the meta-trained model."""

    base: Literal["backbone", "metatrained"] = "backbone"


class PretrainingSettings(Table):
    """Unlabelled text for the hypernetwork: files in C4's format, or the built-in family's ("toy").

    Documents of up to `max_tokens` are cut into `parts` pieces: a, b, c (eq. 3), or A, B, C, D of which the
    hypernetwork reads A and D. `tune` is what of the backbone is trained meanwhile, by default what the generator says.
    """

    source: Literal["c4", "toy"] = "c4"
    path: Text | None = Field(default=None, validate_default=True)
    max_tokens: Count = 1024
    parts: Annotated[int, Field(ge=3, le=4)] = 3
    tune: Tune | None = None

    @field_validator("path")
    @classmethod
    def _path_unless_built_in(cls, value: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source")
        if source == "c4" and value is None:
            raise ValueError("expected a folder or file with pretraining.source = 'c4', got nothing")
        if source == "toy" and value is not None:
            raise ValueError(f"expected no path with pretraining.source = 'toy', got {value!r}")
        return value


class LossSettings(Table):
    """Weights of the terms of the finetuning loss (eq. 6), 0 for off, and how each is computed.

    `prediction`: L_pred. `kl`: lambda_1 of L_kl, whose `teacher` is the category's LoRA teacher, the meta-trained model
    or FiD-ICL with demonstrations of its own; with `top_k` the teacher's distributions are computed once ahead and only
    their largest entries are kept.
    `ins`: lambda_2 of L_ins, on the factors or on their product, for the tasks of `alignment_split` alone if given.
    `contrast` (ours): the right instruction's adapter shall explain the target better than another task's.
    `alone`, `alone_kl` (ours): every sample is asked twice, with the instruction before the input and with the adapter
    alone. They weigh the latter's cross-entropy, and its divergence from what is said with the instruction.
    """

    prediction: NotNegative = 1.0
    kl: NotNegative = 0.0
    teacher: Literal["lora", "metatrained", "fid-icl"] = "lora"
    temperature: Positive = 1.0
    top_k: Count | None = None
    ins: NotNegative = 0.0
    alignment: Literal["factors", "product"] = "factors"
    alignment_split: Count | None = None
    contrast: NotNegative = 0.0
    contrast_margin: NotNegative = 0.0
    later: ClassVar[frozenset[str]] = frozenset({"alone", "alone_kl"})

    alone: NotNegative = 0.0
    alone_kl: NotNegative = 0.0


class RunSettings(Table):
    """What `tagi run` does: which stages, in order, and whether the generator starts on the meta-trained model."""

    stages: list[Stage] = Field(default_factory=lambda: list[Stage](["finetune"]))
    start: Literal["backbone", "metatrained"] = "backbone"

    @field_validator("stages")
    @classmethod
    def _in_order(cls, value: list[Stage]) -> list[Stage]:
        known = [stage for stage in STAGES if stage in value]
        if value != known or not value or "backbone" in value:
            expected = ", ".join(stage for stage in STAGES if stage != "backbone")
            raise ValueError(f"expected some of {expected} in this order, got {', '.join(value) or 'none'}")
        return value

    @field_validator("start")
    @classmethod
    def _start_is_trained(cls, value: str, info: ValidationInfo) -> str:
        if value == "metatrained" and "metatrain" not in info.data.get("stages", ["metatrain"]):
            raise ValueError("expected 'metatrain' among run.stages to start from it, got none")
        return value
