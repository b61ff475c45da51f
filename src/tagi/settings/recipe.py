"""The recipe: all groups of settings, and the rules between them.

A rule between two groups belongs to the later one, whose validation sees the earlier one.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from tagi.settings.backbone import BackboneSettings
from tagi.settings.data import DataSettings, ShotSettings
from tagi.settings.evaluation import EvaluationSettings
from tagi.settings.generator import GeneratorSettings
from tagi.settings.losses import LossSettings
from tagi.settings.stages import VALIDATED, Stage
from tagi.settings.tables import (
    IN_RECIPE,
    SPLITS,
    STRICT,
    Rule,
    Seed,
    Text,
    ValidationInfo,
    check_rule,
)
from tagi.settings.training import (
    MetatrainSettings,
    PretrainingSettings,
    RunSettings,
    SingleSettings,
    TeacherSettings,
    Training,
    TrainingSettings,
)


def _data_faults(data: DataSettings, given: Mapping[str, Any]) -> dict[str, str]:
    backbone, generator = given.get("backbone"), given.get("generator")
    faults = {}
    if backbone is not None and data.encoding == "chat" and backbone.family != "causal":
        faults["encoding"] = f"expected backbone.family = 'causal' with 'chat', got {backbone.family!r}"
    if generator is not None and generator.reads == "demonstrations":
        on = "with generator.reads = 'demonstrations'"
        if data.source == "p3" and data.positives:
            faults["positives"] = f"expected 0 {on}, since P3's tasks have shots alone, got {data.positives}"
        if data.demonstrations is not None:
            faults["demonstrations"] = f"expected none {on}, which always needs some, got {data.demonstrations}"
    return faults


def _shots_faults(shots: ShotSettings, given: Mapping[str, Any]) -> dict[str, str]:
    data = given.get("data")
    if shots.path is None or data is None:
        return {}
    if data.test_path is None:
        return {"path": f"expected data.test_path with it, got {shots.path!r} alone"}
    own = data.source == "jsonl"
    return {"path": f"expected none with data.source = 'jsonl', got {shots.path!r}"} if own else {}


def _training_faults(training: Training, given: Mapping[str, Any]) -> dict[str, str]:
    data = given.get("data")
    no_tasks = data is not None and not data.validation_tasks and not data.validation_categories
    wanted = "expected data.validation_tasks of at least 1, or data.validation_categories, with it"
    faults = {}
    for prefix, table in {"": training, **{f"{stage}.": getattr(training, stage) for stage in VALIDATED}}.items():
        every, patience = table.validate_every, table.patience
        if patience is not None and every is None and training.validate_every is None:
            faults[f"{prefix}patience"] = f"expected validate_every with it, got {patience} alone"
        if every is not None and no_tasks:
            faults[f"{prefix}validate_every"] = f"{wanted}, got {every} and no tasks"
    return faults


def _losses_faults(losses: LossSettings, given: Mapping[str, Any]) -> dict[str, str]:
    data, generator, training = given.get("data"), given.get("generator"), given.get("training")
    faults = {}
    if data is not None and losses.alignment_split is not None:
        sizes = SPLITS.get(data.source, ())
        if losses.alignment_split not in sizes:
            wanted = f"one of {', '.join(map(str, sizes))}" if sizes else "none"
            got = losses.alignment_split
            faults["alignment_split"] = f"expected {wanted} with data.source = {data.source!r}, got {got}"
    if generator is not None and losses.ins and generator.module != "lora":
        wanted = "expected generator.module = 'lora' to align with LoRA teachers"
        faults["ins"] = f"{wanted}, got {generator.module!r}"
    if training is not None and losses.contrast:
        tasks = training.finetune.tasks_per_batch or training.tasks_per_batch
        if tasks < 2:
            faults["contrast"] = f"expected training.finetune.tasks_per_batch of at least 2 with it, got {tasks}"
    return faults


_RULES: Mapping[str, Rule] = {
    "data": _data_faults,
    "shots": _shots_faults,
    "training": _training_faults,
    "losses": _losses_faults,
}


class Recipe(BaseModel):
    """All settings of a run.

    Args:
        name: Name of the recipe.
        description: One-line description.
        method: Name of the trained method in tables. By default "TAGI".
        seed: Random seed of everything except `shots`.
        backbone: The language model.
        generator: Architecture of the generator.
        data: Tasks and the format of their texts.
        shots: Labelled examples of a task for in-context methods.
        training: Training settings of the stages.
        metatrain: Settings of the stage metatrain.
        single: Settings of the stage single.
        teacher: Settings of the stage teachers.
        pretraining: Settings of the stage pretrain. Required if the run has this stage.
        losses: Terms of the finetuning loss.
        run: Stages of `tagi run`.
        evaluation: How answers are generated and scored.
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

    @field_validator(*_RULES)
    @classmethod
    def _check_rule(cls, value: Any, info: ValidationInfo) -> Any:
        return check_rule(_RULES, value, info)

    @classmethod
    def from_tables(cls, tables: dict[str, Any]) -> "Recipe":
        """Return the recipe of a TOML file's tables. Raises `pydantic.ValidationError` with all faults."""
        return cls.model_validate(tables, context=IN_RECIPE)

    def training_for(self, stage: Stage) -> TrainingSettings:
        """Return `[training]` with what `[training.<stage>]` says differently."""
        return self.training.of_stage(stage, self.seed)
