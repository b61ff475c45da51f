"""What a recipe may say: tables, keys, types, ranges and the rules between keys.

A rule between keys of one table sits on the later key and sees the earlier ones, so that it is reported
beside every other fault and under that key.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from pydantic import ValidationInfo
else:
    ValidationInfo = Any  # a protocol that the tests' runtime type checks cannot check

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

Optimizer = Literal["adamw", "adafactor"]
Schedule = Literal["linear", "constant", "cosine"]
Stage = Literal["backbone", "metatrain", "finetune"]


class Table(BaseModel):
    """A table of a recipe: unknown keys and values of another type are faults, nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class T5Fields(Table):
    """The `T5Config` fields that `[backbone.config]` may set, under transformers' names."""

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
    tie_word_embeddings: bool | None = None


class BackboneSettings(Table):
    """Which language model: "toy" (built in), a folder, a hub name, or "config" (made from `config`).

    `tokenizer` is a folder, a hub name or "toy"; a model that brings its own needs none.
    """

    name: Text
    revision: Text | None = Field(default=None, validate_default=True)
    tokenizer: Text | None = Field(default=None, validate_default=True)
    dtype: Literal["float32", "bfloat16"] = "float32"
    config: dict[str, Any] | None = Field(default=None, validate_default=True)

    @field_validator("revision")
    @classmethod
    def _revision_of_a_stored_model(cls, value: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("name")
        if value is not None and name in ("toy", "config"):
            raise ValueError(f"expected no revision with backbone.name = {name!r}, got {value!r}")
        return value

    @field_validator("tokenizer")
    @classmethod
    def _tokenizer_where_none_is_stored(cls, value: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("name")
        if value is None and name == "config":
            raise ValueError("expected a folder or hub name with backbone.name = 'config', got nothing")
        if value is not None and name == "toy":
            raise ValueError(f"expected no tokenizer with backbone.name = 'toy', got {value!r}")
        return value

    @field_validator("config")
    @classmethod
    def _config_if_and_only_if_made(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        name = info.data.get("name")
        if name is None:
            return value
        if (value is not None) != (name == "config"):
            wanted, got = ("a table of T5Config fields", "nothing") if value is None else ("no table", "one")
            raise ValueError(f"expected {wanted} with backbone.name = {name!r}, got {got}")
        if value is not None:
            T5Fields.model_validate(value)  # its faults are reported under backbone.config
        return value


class GeneratorSettings(Table):
    """The hypernetwork, fusion, and what of the backbone is tuned with them."""

    kind: Literal["pooled", "query"]
    rank: Count = 32
    alpha: Positive
    hidden: Count
    width: Count = 64
    heads: Count = Field(default=4, validate_default=True)
    pooling: Literal["mean", "attention"] = "mean"
    fusion: Literal["both", "attention", "concatenation", "none"] = "both"
    fusion_norm: Literal["pre", "post"] = "pre"
    fusion_init: Literal["t5", "cross"] = "t5"
    tune: Literal["none", "norms+embeddings", "ffn", "all"] = "none"
    state_dropout: Share = 0.0

    @field_validator("heads")
    @classmethod
    def _heads_divide_width(cls, value: int, info: ValidationInfo) -> int:
        width = info.data.get("width")
        if info.data.get("kind") == "query" and width is not None and width % value:
            raise ValueError(f"expected a divisor of generator.width ({width}), got {value}")
        return value


class DataSettings(Table):
    """Which tasks, how they become text, and the limits in tokens.

    `shuffle_inputs` is a control: inputs change places among a task's instances, so that they tell nothing.
    """

    source: Literal["toy", "sni", "jsonl"]
    path: Text | None = Field(default=None, validate_default=True)
    encoding: Literal["tk-instruct", "plain"] = "tk-instruct"
    positives: Annotated[int, Field(ge=0, le=8)] = 0
    instances_per_task: Count = 100
    test_instances_per_task: Count = 100
    max_instruction_tokens: Count = 1024
    max_input_tokens: Count = 1024
    max_target_tokens: Count = 128
    truncate: bool = False
    shuffle_inputs: bool = False

    @field_validator("path")
    @classmethod
    def _path_unless_built_in(cls, value: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source")
        if value is None and source in ("sni", "jsonl"):
            raise ValueError(f"expected a path with data.source = {source!r}, got nothing")
        if value is not None and source == "toy":
            raise ValueError(f"expected no path with data.source = 'toy', got {value!r}")
        return value


class TrainingSettings(Table):
    """One stage of training. A step sees `accumulation * tasks_per_batch * queries_per_task` examples."""

    steps: Count
    tasks_per_batch: Count
    queries_per_task: Count
    accumulation: Count = 1
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


class StageSettings(Table):
    """What one stage does otherwise than `[training]` says; a key left out is as there."""

    steps: Count | None = None
    tasks_per_batch: Count | None = None
    queries_per_task: Count | None = None
    accumulation: Count | None = None
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


class Training(TrainingSettings):
    """`[training]`, and under it a table for each stage that differs."""

    backbone: StageSettings = StageSettings()
    metatrain: StageSettings = StageSettings()
    finetune: StageSettings = StageSettings()


class EvaluationSettings(Table):
    """How predictions are made for scoring; `limit` is instances per task."""

    batch_size: Count = 32
    max_new_tokens: Count = 128
    num_beams: Count = 1
    limit: Count | None = None


class Recipe(Table):
    """A whole run: backbone, generator, data, training, evaluation."""

    name: Text
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    backbone: BackboneSettings
    generator: GeneratorSettings
    data: DataSettings
    training: Training
    evaluation: EvaluationSettings = EvaluationSettings()

    def training_for(self, stage: Stage) -> TrainingSettings:
        """`[training]` with what `[training.<stage>]` says otherwise."""
        shared = self.training.model_dump(include=set(TrainingSettings.model_fields))
        own: StageSettings = getattr(self.training, stage)
        return TrainingSettings.model_validate({**shared, **own.model_dump(exclude_none=True)})
