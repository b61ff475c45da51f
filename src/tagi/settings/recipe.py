"""What a recipe may say: tables, keys, types, ranges and the rules between keys.

A rule between keys of one table sits on the later key and sees the earlier ones, so that it is reported
beside every other fault and under that key.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from tagi.settings.tables import (
    SPLITS,
    VALIDATED,
    Count,
    NotNegative,
    Positive,
    Share,
    Stage,
    Table,
    Text,
    Tune,
    faults_below,
)
from tagi.settings.training import (
    LossSettings,
    MetatrainSettings,
    PretrainingSettings,
    RunSettings,
    SingleSettings,
    StageSettings,
    TeacherSettings,
    Training,
    TrainingSettings,
)

if TYPE_CHECKING:
    from pydantic import ValidationInfo
else:
    ValidationInfo = Any  # a protocol that the tests' runtime type checks cannot check


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


class CausalFields(Table):
    """The type of a decoder-only model, as transformers names it, beside the fields of that type's configuration.

    Which types there are and what fields they have, is known where models are made.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    model_type: Text


class BackboneSettings(Table):
    """Which language model: "toy" (built in), a folder, a hub name, or "config" (made from `config`).

    `family`: T5 and its relatives, or decoder-only ("causal"). `tokenizer` is a folder, a hub name or "toy"; a model
    that brings its own needs none.

    `dtype` "auto" is bfloat16 where the machine computes in it, else float32: a CPU without such instructions takes six
    times as long in bfloat16. `attention`: how it is computed, by default as transformers chooses, but with `dtype`
    "auto" and bfloat16 on a CPU "eager", which trains faster there.
    """

    name: Text
    family: Literal["t5", "causal"] = "t5"
    revision: Text | None = Field(default=None, validate_default=True)
    tokenizer: Text | None = Field(default=None, validate_default=True)
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = None
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
            wanted, got = ("a table of the model's fields", "nothing") if value is None else ("no table", "one")
            raise ValueError(f"expected {wanted} with backbone.name = {name!r}, got {got}")
        if value is not None:
            fields = CausalFields if info.data.get("family") == "causal" else T5Fields
            fields.model_validate(value)  # its faults are reported under backbone.config
        return value


class GeneratorSettings(Table):
    """The hypernetwork, what it generates, fusion, and what of the backbone is tuned with them.

    `reader`: the backbone's encoder reads instructions, or a copy of it that is trained with the hypernetwork. What it
    `reads`: the instruction with `data.positives` demonstrations, or demonstrations alone: the first
    `data.positives` of the task's examples, or for 0 its shots.

    `fusion`: layers attend to the instruction, every `fusion_every`-th of them; T5's decoder sees its states before the
    input's, and a decoder-only model goes on from its cached keys and values; both; or none.

    `module`: LoRA of `rank` and `alpha`; bottleneck adapters `bottleneck` wide, after self-attentions or beside
    feed-forwards by `placement`; `prefix` tokens of keys and values for every attention; or both of the latter. What
    is not generated needs no size, and one given means nothing, but for `rank` and `alpha`, which LoRA teachers have.

    `standardize`: the hypernetwork sees every channel of the states less its mean and by its deviation, both measured
    over the stage's first instructions before it is trained.

    `shared_rank`: rank of a LoRA for all tasks, on top of which a residual is generated: `residual` low-rank factors,
    scales of its ranks, or both. It is the LoRA of the stage metatrain (`run.start = "metatrained"`), frozen unless
    `shared_tune`.

    `instruction_cache`, for decoder-only backbones in place of a concatenation by `fusion`: inputs go on from the
    instruction's keys and values as the backbone alone computes them ("stock") or under the task's own LoRA
    ("adapted"), or from nothing ("none").
    """

    kind: Literal["pooled", "query", "component"]
    module: Literal["lora", "bottleneck", "prefix", "bottleneck+prefix"] = "lora"
    placement: Literal["attention", "ffn"] = "attention"
    bottleneck: Count = 64
    prefix: Count = 30
    reader: Literal["backbone", "own"] = "backbone"
    rank: Count = 32
    alpha: Positive
    hidden: Count
    width: Count = 64
    heads: Count = Field(default=4, validate_default=True)
    pooling: Literal["mean", "attention"] = "mean"
    standardize: bool = False
    fusion: Literal["both", "attention", "concatenation", "none"] = "both"
    fusion_norm: Literal["pre", "post"] = "pre"
    fusion_init: Literal["t5", "cross"] = "t5"
    fusion_every: Count = 1
    tune: Tune = "none"
    state_dropout: Share = 0.0
    later: ClassVar[frozenset[str]] = frozenset({"shared_rank", "shared_tune", "residual", "instruction_cache"})

    shared_rank: Annotated[int, Field(ge=0)] = 0
    shared_tune: bool = False
    residual: Literal["low-rank", "scales", "both"] = "low-rank"
    instruction_cache: Literal["none", "stock", "adapted"] | None = None
    reads: Literal["instruction", "demonstrations"] = "instruction"

    @field_validator("shared_rank")
    @classmethod
    def _shared_of_lora(cls, value: int, info: ValidationInfo) -> int:
        module = info.data.get("module")
        if value and module not in ("lora", None):
            raise ValueError(f"expected 0 with generator.module = {module!r}, got {value}")
        return value

    @field_validator("shared_tune", "residual")
    @classmethod
    def _of_a_shared_lora(cls, value: Any, info: ValidationInfo) -> Any:
        if value not in (False, "low-rank") and info.data.get("shared_rank") == 0:
            raise ValueError(f"expected generator.shared_rank of at least 1 with it, got {value!r} without")
        return value

    @field_validator("heads")
    @classmethod
    def _heads_divide_width(cls, value: int, info: ValidationInfo) -> int:
        width = info.data.get("width")
        if info.data.get("kind") == "query" and width is not None and width % value:
            raise ValueError(f"expected a divisor of generator.width ({width}), got {value}")
        return value


class DataSettings(Table):
    """Which tasks, how they become text, and the limits in tokens.

    The `source` "everyday" is the everyday benchmark that comes with the package: it is for evaluation only.
    `test_path` is P3's folder of evaluation sets: raw ones, rendered by the prompt templates in the folder `templates`,
    or without that key the hub's, a file for each prompt. `prompts` are those for the original task of a data set, as
    T0 is evaluated, or all. The `encoding` "chat" is a decoder-only model's own template, and `template_arguments` are
    further arguments of it, such as {enable_thinking = false} of Qwen3's or {date_string = "26 Jul 2024"} of Llama 3's.
    `task_split` keeps only the training tasks of the largest categories (Figure 3). `validation_tasks` training tasks
    are held out of training for choosing the best checkpoint. `shuffle_inputs` is a control: inputs change places among
    a task's instances, so that they tell nothing.

    `validation_categories` holds out all training tasks of these categories instead.

    `wordings` are weights by name of a wording: training draws a task's instruction by them, once per micro-batch.
    "definition" is the instruction itself; tasks of Super-Natural Instructions also have "terse", "short", "plain",
    "request" and "detailed", and `paraphrases` of JSON Lines are "1", "2" and so on. A task draws among the names that
    it has. By default the instruction and its `paraphrases` are equally likely.

    `demonstrations` is the share of these draws that show demonstrations, between 1 and `positives` of them; the other
    draws show none. By default every row shows the first `positives` examples. With a share set, validation and
    evaluation show none unless `tagi evaluate --positives` asks for some.
    """

    source: Literal["toy", "sni", "p3", "jsonl", "everyday"]
    path: Text | None = Field(default=None, validate_default=True)
    test_path: Text | None = None
    templates: Text | None = None
    prompts: Literal["original", "all"] = "original"
    encoding: Literal["tk-instruct", "plain", "chat"] = "tk-instruct"
    template_arguments: dict[str, Any] | None = None
    positives: Annotated[int, Field(ge=0, le=8)] = 0
    instances_per_task: Count = 100
    test_instances_per_task: Count = 100
    max_instruction_tokens: Count = 1024
    max_input_tokens: Count = 1024
    max_target_tokens: Count = 128
    truncate: bool = False
    shuffle_inputs: bool = False
    task_split: Count | None = Field(default=None, validate_default=True)
    validation_tasks: Annotated[int, Field(ge=0)] = 0
    validation_instances: Count = 10
    later: ClassVar[frozenset[str]] = frozenset(
        {"validation_categories", "wordings", "demonstrations", "template_arguments"}
    )

    validation_categories: Annotated[list[Text], Field(min_length=1)] | None = None
    wordings: dict[Text, NotNegative] | None = None
    demonstrations: Annotated[float, Field(ge=0, le=1)] | None = None

    @field_validator("validation_categories")
    @classmethod
    def _one_way_to_hold_out(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        count = info.data.get("validation_tasks")
        if value is not None and count:
            raise ValueError(f"expected this or data.validation_tasks, got both (data.validation_tasks = {count})")
        return value

    @field_validator("wordings")
    @classmethod
    def _some_weight(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and not any(value.values()):
            raise ValueError("expected at least one weight above 0, got none")
        return value

    @field_validator("demonstrations")
    @classmethod
    def _positives_to_show(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value and info.data.get("positives") == 0:
            raise ValueError(f"expected data.positives of at least 1 with it, got {value} and no positives")
        return value

    @field_validator("template_arguments")
    @classmethod
    def _arguments_of_a_chat(cls, value: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if value is None:
            return None
        if info.data.get("encoding", "chat") != "chat":
            raise ValueError(f"expected none with data.encoding = {info.data['encoding']!r}, got {value!r}")
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(f"expected values that JSON can hold, got {value!r}") from error
        return value

    @field_validator("task_split")
    @classmethod
    def _split_of_the_source(cls, value: int | None, info: ValidationInfo) -> int | None:
        source = info.data.get("source")
        if value is None or source is None:
            return value
        if source not in SPLITS:
            raise ValueError(f"expected no split with data.source = {source!r}, got {value}")
        if value not in SPLITS[source]:
            raise ValueError(f"expected one of {', '.join(map(str, SPLITS[source]))} with {source}, got {value}")
        return value

    @field_validator("test_path")
    @classmethod
    def _test_path_of_p3(cls, value: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source")
        if value is not None and source not in ("p3", None):
            raise ValueError(f"expected no test_path with data.source = {source!r}, got {value!r}")
        return value

    @field_validator("templates")
    @classmethod
    def _templates_of_test_sets(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "test_path" in info.data and info.data["test_path"] is None:
            raise ValueError(f"expected data.test_path with it, got {value!r} alone")
        return value

    @field_validator("prompts")
    @classmethod
    def _prompts_of_test_sets(cls, value: str, info: ValidationInfo) -> str:
        if value != "original" and "test_path" in info.data and info.data["test_path"] is None:
            raise ValueError(f"expected data.test_path with it, got {value!r} alone")
        return value

    @field_validator("path")
    @classmethod
    def _path_unless_built_in(cls, value: str | None, info: ValidationInfo) -> str | None:
        source = info.data.get("source")
        if value is None and source in ("sni", "p3", "jsonl"):
            raise ValueError(f"expected a path with data.source = {source!r}, got nothing")
        if value is not None and source in ("toy", "everyday"):
            raise ValueError(f"expected no path with data.source = {source!r}, got {value!r}")
        return value


class ShotSettings(Table):
    """Labelled examples of a task: what methods read that learn in context, in training as many of every episode.

    Those of test tasks are drawn by `seed` from what is not tested: further instances of the task, of P3's prompts
    further rows, or those of the training sets in the folder `path`, in the layout of `data.test_path`.
    """

    count: Count = 16
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    path: Text | None = None


class EvaluationSettings(Table):
    """How predictions are made for scoring; `limit` is instances per task.

    `metric`: "exact" equality, "rouge" (ROUGE-L and exact match as Tk-Instruct scores them), "rank" of the choices, or
    "task": each task's own metric, on greedily generated answers. By default exact for toy, rank for P3's evaluation
    sets, task for the everyday benchmark and for JSON Lines in which a task names a metric, rouge for the others. A
    choice's score is the log-probability of its tokens: their sum, or their mean.
    """

    batch_size: Count = 32
    max_new_tokens: Count = 128
    num_beams: Count = 1
    metric: Literal["exact", "rouge", "rank", "task"] | None = None
    choice_score: Literal["sum", "mean"] = "sum"
    limit: Count | None = None

    @field_validator("metric")
    @classmethod
    def _tasks_own_metrics_are_greedy(cls, value: str | None, info: ValidationInfo) -> str | None:
        beams = info.data.get("num_beams")
        if value == "task" and beams is not None and beams > 1:
            raise ValueError(f"expected evaluation.num_beams = 1 with 'task', got {beams}")
        return value


class Recipe(Table):
    """A whole run: backbone, generator, data, losses, every stage's training, evaluation.

    `method` is what tables call what it trains, where it is another row of the paper's than TAGI.
    """

    name: Text
    description: str = ""
    method: Text | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    backbone: BackboneSettings
    generator: GeneratorSettings
    data: DataSettings
    shots: ShotSettings = ShotSettings()
    training: Training
    metatrain: MetatrainSettings = MetatrainSettings()
    single: SingleSettings = SingleSettings()
    teacher: TeacherSettings = TeacherSettings()
    pretraining: PretrainingSettings | None = None
    losses: LossSettings = LossSettings()
    run: RunSettings = RunSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @field_validator("data")
    @classmethod
    def _chats_with_models_that_do(cls, value: DataSettings, info: ValidationInfo) -> DataSettings:
        backbone: BackboneSettings | None = info.data.get("backbone")
        if backbone is not None and value.encoding == "chat" and backbone.family != "causal":
            message = f"expected backbone.family = 'causal' with 'chat', got {backbone.family!r}"
            raise faults_below({"encoding": message})
        return value

    @field_validator("data")
    @classmethod
    def _demonstrations_there_are(cls, value: DataSettings, info: ValidationInfo) -> DataSettings:
        generator: GeneratorSettings | None = info.data.get("generator")
        if generator is not None and generator.reads == "demonstrations" and value.source == "p3" and value.positives:
            wanted = "expected 0 with generator.reads = 'demonstrations', since P3's tasks have shots alone"
            raise faults_below({"positives": f"{wanted}, got {value.positives}"})
        if generator is not None and generator.reads == "demonstrations" and value.demonstrations is not None:
            wanted = "expected none with generator.reads = 'demonstrations', which always needs some"
            raise faults_below({"demonstrations": f"{wanted}, got {value.demonstrations}"})
        return value

    @field_validator("shots")
    @classmethod
    def _path_of_training_sets(cls, value: ShotSettings, info: ValidationInfo) -> ShotSettings:
        data: DataSettings | None = info.data.get("data")
        if value.path is not None and data is not None and data.test_path is None:
            raise faults_below({"path": f"expected data.test_path with it, got {value.path!r} alone"})
        return value

    @field_validator("training")
    @classmethod
    def _validation_has_tasks(cls, value: Training, info: ValidationInfo) -> Training:
        data = info.data.get("data")
        faults = dict(_unheard_patience(value))
        if data is not None and not data.validation_tasks and not data.validation_categories:
            faults |= {key: _no_tasks(every) for key, every in _validations(value)}
        if faults:
            raise faults_below(faults)
        return value

    @field_validator("losses")
    @classmethod
    def _split_of_the_source(cls, value: LossSettings, info: ValidationInfo) -> LossSettings:
        data = info.data.get("data")
        if data is not None and value.alignment_split is not None:
            sizes = SPLITS.get(data.source, ())
            if value.alignment_split not in sizes:
                wanted = f"one of {', '.join(map(str, sizes))}" if sizes else "none"
                got = value.alignment_split
                message = f"expected {wanted} with data.source = {data.source!r}, got {got}"
                raise faults_below({"alignment_split": message})
        return value

    @field_validator("losses")
    @classmethod
    def _alignment_needs_lora(cls, value: LossSettings, info: ValidationInfo) -> LossSettings:
        generator = info.data.get("generator")
        if generator is not None and value.ins and generator.module != "lora":
            message = f"expected generator.module = 'lora' to align with LoRA teachers, got {generator.module!r}"
            raise faults_below({"ins": message})
        return value

    @field_validator("losses")
    @classmethod
    def _contrast_needs_another_task(cls, value: LossSettings, info: ValidationInfo) -> LossSettings:
        training: Training | None = info.data.get("training")
        if training is not None and value.contrast:
            tasks = training.finetune.tasks_per_batch or training.tasks_per_batch
            if tasks < 2:
                message = f"expected training.finetune.tasks_per_batch of at least 2 with it, got {tasks}"
                raise faults_below({"contrast": message})
        return value

    def training_for(self, stage: Stage) -> TrainingSettings:
        """`[training]` with what `[training.<stage>]` says otherwise, and no validation where there are no tasks."""
        shared = self.training.model_dump(include=set(TrainingSettings.model_fields))
        own: StageSettings = getattr(self.training, stage)
        unheard = {} if stage in VALIDATED else {"validate_every": None, "patience": None}
        return TrainingSettings.model_validate({**shared, **own.model_dump(exclude_none=True), **unheard})


def _validations(training: Training) -> Iterator[tuple[str, int]]:
    """Every key that asks for validation, and how often."""
    tables = {"": training, **{f"{stage}.": getattr(training, stage) for stage in VALIDATED}}
    for prefix, table in tables.items():
        if table.validate_every is not None:
            yield f"{prefix}validate_every", table.validate_every


def _no_tasks(every: int) -> str:
    wanted = "expected data.validation_tasks of at least 1, or data.validation_categories, with it"
    return f"{wanted}, got {every} and no tasks"


def _unheard_patience(training: Training) -> Iterator[tuple[str, str]]:
    for stage in VALIDATED:
        own: StageSettings = getattr(training, stage)
        if own.patience is not None and own.validate_every is None and training.validate_every is None:
            yield f"{stage}.patience", f"expected validate_every with it, got {own.patience} alone"
