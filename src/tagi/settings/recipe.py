"""The recipe: every group of settings, and the rules between them.

A rule between two groups sits on the later one and sees the earlier, so that it is reported beside every other fault.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from tagi.settings.backbone import BackboneSettings
from tagi.settings.data import DataSettings, ShotSettings
from tagi.settings.evaluation import EvaluationSettings
from tagi.settings.generator import GeneratorSettings
from tagi.settings.losses import LossSettings
from tagi.settings.tables import IN_RECIPE, SPLITS, STRICT, VALIDATED, Seed, Stage, Text, ValidationInfo, faults_below
from tagi.settings.training import (
    MetatrainSettings,
    PretrainingSettings,
    RunSettings,
    SingleSettings,
    StageSettings,
    TeacherSettings,
    Training,
    TrainingSettings,
)


class Recipe(BaseModel):
    """A whole run: backbone, generator, data, losses, every stage's training, evaluation.

    Args:
        name: Name of the recipe.
        description: What it trains, in one line.
        method: What tables call the trained method. Without a value it is TAGI.
        seed: Seed of everything random but shots.
        backbone: The language model.
        generator: The generator's architecture.
        data: Tasks and the format of their texts.
        shots: Labelled examples of a task.
        training: How each stage trains.
        metatrain: The stage metatrain.
        single: The stage single.
        teacher: The stage teachers.
        pretraining: The stage pretrain. Without a table a recipe cannot have this stage.
        losses: The terms of the finetuning loss.
        run: The stages of `tagi run`.
        evaluation: How predictions are made and scored.
    """

    model_config = STRICT | ConfigDict(frozen=True, strict=True)

    name: Text
    description: str = ""
    method: Text | None = None
    seed: Seed = 0
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

    @classmethod
    def from_tables(cls, tables: dict[str, Any]) -> "Recipe":
        """Return the recipe of a TOML file's tables. Raises `pydantic.ValidationError` with all faults."""
        return cls.model_validate(tables, context=IN_RECIPE)

    def training_for(self, stage: Stage) -> TrainingSettings:
        """Return `[training]` with what `[training.<stage>]` says differently."""
        return self.training.of_stage(stage, self.seed)


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
