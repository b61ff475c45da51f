"""The interface of training stages.

Every stage is a module in this package. Stages import torch only when they build something, so that checking recipes is
fast.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from tagi.data.batches import TaskBatches
from tagi.errors import ConfigError
from tagi.settings.recipe import Recipe
from tagi.settings.stages import Stage
from tagi.settings.training import TrainingSettings
from tagi.stages.recipe_settings import concatenated_text
from tagi.stages.tasks import LoadedTasks, RecipeData

Fault = tuple[str, str]
"""A dotted key of a recipe with an error message."""
Tables = Mapping[str, Any]
"""A recipe's tables as JSON values."""
Role = Literal["start", "teachers", "metatrained"]


@dataclass(frozen=True)
class Sources:
    """Results of earlier stages that a stage uses.

    Args:
        start: Checkpoints to initialise from, in this order.
        teachers: Folder of the LoRA teachers.
        metatrained: Checkpoint of the meta-trained model.
    """

    start: tuple[str, ...] = ()
    teachers: Path | None = None
    metatrained: str | None = None

    @property
    def folders(self) -> list[Path]:
        """All sources."""
        return [Path(name) for name in (self.teachers, *self.start, self.metatrained) if name is not None]

    def revisions(self) -> dict[str, Any]:
        """Return digests of the sources' content."""
        from tagi.backbones.load import folder_revision
        from tagi.formats.finding import find_checkpoint
        from tagi.methods.objective.teachers import catalogue_revision

        return self._each(lambda name: folder_revision(find_checkpoint(name)), catalogue_revision)

    def names(self) -> dict[str, Any]:
        """Return the names of the sources' folders, for plans without the files."""
        return self._each(lambda name: Path(name).name, lambda folder: folder.name)

    def _each(self, checkpoint: Callable[[str], str], catalogue: Callable[[Path], str]) -> dict[str, Any]:
        return {
            "start": [checkpoint(name) for name in self.start],
            "teachers": self.teachers and catalogue(self.teachers),
            "metatrained": self.metatrained and checkpoint(self.metatrained),
        }


@dataclass(frozen=True)
class Need:
    """An earlier stage that a stage depends on.

    Args:
        stage: The earlier stage.
        role: What is used of it: initial parameters, LoRA teachers, or the meta-trained model.
        reason: The recipe keys that require it.
        method: Required `metatrain.method`, or None.
    """

    stage: Stage
    role: Role
    reason: str
    method: str | None = None


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters by part, and the shape of activations, for estimating a stage's cost.

    Args:
        backbone: The whole backbone.
        embeddings: Input embeddings of the backbone, which cost no FLOPs.
        generator: Trained parameters of the generator, without the backbone.
        shared: A frozen shared LoRA.
        tuned: Backbone parameters that are trained with the generator.
        lora: A LoRA of rank 1 on all target modules.
        generated: One generated adapter.
        d_model: Width of the activations.
        layers: Number of layers.
    """

    backbone: int
    embeddings: int
    generator: int
    shared: int
    tuned: int
    lora: int
    generated: int
    d_model: int
    layers: int

    @property
    def body(self) -> int:
        """Parameters that take part in matrix products."""
        return self.backbone - self.embeddings

    def backward(self, trained: int) -> int:
        """Return FLOPs per parameter and token with `trained` parameters. Frozen layers still propagate gradients."""
        return 6 if trained >= self.backbone else 4


@dataclass(frozen=True)
class Work:
    """Cost of one micro-batch with texts as long as their limits.

    Args:
        tokens: Tokens that the model processes.
        flops: FLOPs of the forward and backward pass.
        rows: Rows in the loss.
    """

    tokens: int
    flops: int
    rows: int


@dataclass(frozen=True)
class Job:
    """Arguments of training a stage: recipe, folder, sources and data."""

    recipe: Recipe
    out: Path
    sources: Sources
    data: RecipeData

    @classmethod
    def of(cls, recipe: Recipe, out: Path, sources: Sources | None = None, data: RecipeData | None = None) -> "Job":
        """Create a job, by default without sources and with its own data."""
        return cls(recipe, out, sources or Sources(), data or RecipeData(recipe))


@runtime_checkable
class Training(Protocol):
    """One or many models, ready for training."""

    def train(self, *, identity: str, resume: bool, progress: bool) -> dict[str, Any]:
        """Train into the job's folder and return entries for the record.

        Args:
            identity: Identity of the run, which must be the same when resuming.
            resume: Continue an interrupted run.
            progress: Show progress on standard error.
        """
        ...


class TrainingStage(ABC):
    """One stage of training.

    Class attributes:
        name: The name in `run.stages` and `[training.<name>]`.
        description: One line for the help of `tagi train`.
        evaluation: Name of the step that evaluates the trained model. None if it cannot be evaluated.
        rewords: Whether training samples wordings of the instructions.
    """

    name: ClassVar[Stage]
    description: ClassVar[str]
    evaluation: ClassVar[str | None] = None
    rewords: ClassVar[bool] = True

    def table_faults(self, recipe: Recipe) -> Iterator[Fault]:
        """Check the stage's tables against the others, even if the recipe does not run the stage."""
        yield from ()

    def run_faults(self, recipe: Recipe) -> Iterator[Fault]:
        """Check a recipe that runs the stage."""
        yield from ()

    def needs(self, recipe: Recipe) -> list[Need]:
        """Return the earlier stages that this one depends on."""
        return []

    def sources(self, recipe: Recipe, folders: Mapping[Stage, Path]) -> Sources:
        """Return the sources of the stage, given the folders of all stages."""
        needs = self.needs(recipe)
        first = {need.role: folders[need.stage] for need in reversed(needs)}
        return Sources(
            start=tuple(str(folders[need.stage]) for need in needs if need.role == "start"),
            teachers=first.get("teachers"),
            metatrained=str(first["metatrained"]) if "metatrained" in first else None,
        )

    def from_checkpoint(self, recipe: Recipe, sources: Sources) -> Sources:
        """Return the sources, with `run.checkpoint` if the stage starts from it."""
        return sources

    @abstractmethod
    def deciding(self, recipe: Recipe, tables: Tables) -> dict[str, Any]:
        """Return the recipe tables that affect the result, besides seed, backbone and the stage's training."""

    def content(self, data: RecipeData) -> dict[str, Any]:
        """Return digests of the stage's data, by default of the training tasks."""
        return {"tasks": data.training_digests()}

    def episode_shots(self, recipe: Recipe) -> int:
        """Return the number of demonstrations per training sample."""
        return 0

    @abstractmethod
    def build(self, job: Job) -> Training:
        """Build the model or models of the stage with their data."""

    def untrained(self, recipe: Recipe, backbone: Any) -> Any:
        """Return the untrained method. Raises `ConfigError` if the stage trains none."""
        raise self._no_method()

    def traits(self, recipe: Recipe) -> tuple[bool, ...]:
        """Return the eight characteristics of Table 8 (`tagi.stages.registry`); `ConfigError` as `untrained`."""
        raise self._no_method()

    def _no_method(self) -> ConfigError:
        return ConfigError(f"run.stages: expected a last stage that trains a method, got {self.name!r}")

    def models(self, recipe: Recipe) -> int:
        """Return the number of models that the stage trains."""
        return 1

    @abstractmethod
    def parameters(self, recipe: Recipe, sizes: Sizes) -> tuple[int, int]:
        """Return the numbers of trained parameters and of frozen ones in memory, including teachers."""

    @abstractmethod
    def work(self, recipe: Recipe, sizes: Sizes, trained: int) -> Work:
        """Return the cost of a micro-batch with `trained` parameters."""

    def settings(self, recipe: Recipe) -> TrainingSettings:
        """Return the stage's table of `[training]`."""
        return recipe.training_for(self.name)

    def samples(self, recipe: Recipe) -> int:
        """Return the number of samples in a micro-batch."""
        settings = self.settings(recipe)
        return settings.tasks_per_batch * settings.queries_per_task

    def micro_batches(self, recipe: Recipe) -> int:
        """Return the number of micro-batches over all processes."""
        from tagi.training.distributed import process_count

        settings = self.settings(recipe)
        return settings.steps * settings.accumulation * process_count()

    def task_batches(self, recipe: Recipe, tasks: LoadedTasks) -> TaskBatches:
        """Return the micro-batches of a stage that is trained on tasks."""
        settings = self.settings(recipe)
        return TaskBatches(
            tasks.tasks,
            length=self.micro_batches(recipe),
            tasks_per_batch=settings.tasks_per_batch,
            queries_per_task=settings.queries_per_task,
            seed=recipe.seed,
            balance=settings.balance,
            shots=self.episode_shots(recipe),
            wordings=recipe.data.wordings if self.rewords else None,
            demonstrations=recipe.data.demonstrations,
            positives=recipe.data.positives,
        )


class BackboneStage(TrainingStage):
    """Base class of stages that train the backbone, fully or by LoRA, on instruction and input in one text."""

    @abstractmethod
    def tuned(self, recipe: Recipe) -> tuple[Literal["all", "lora", "none"], int]:
        """Return which backbone parameters are trained, and the rank of the LoRA."""

    def row_tokens(self, recipe: Recipe) -> int:
        """Return the tokens of a row: instruction, input and target."""
        return concatenated_text(recipe).max_prompt_tokens + recipe.data.max_target_tokens

    def shown_tokens(self, recipe: Recipe) -> int:
        """Return the tokens that demonstrations add to a micro-batch."""
        return 0

    def parameters(self, recipe: Recipe, sizes: Sizes) -> tuple[int, int]:
        """Count the backbone, a LoRA or nothing as trained."""
        tune, rank = self.tuned(recipe)
        trained = {"all": sizes.backbone, "lora": rank * sizes.lora, "none": 0}[tune]
        return trained, 0 if tune == "all" else sizes.backbone

    def work(self, recipe: Recipe, sizes: Sizes, trained: int) -> Work:
        """Count one row for every sample."""
        rows = self.samples(recipe)
        tokens = rows * self.row_tokens(recipe) + self.shown_tokens(recipe)
        return Work(tokens, tokens * sizes.body * sizes.backward(trained), rows)


def training_data(tables: Tables) -> dict[str, Any]:
    """Return the keys of `[data]` that affect training."""
    left_out = {key for key in tables["data"] if key.startswith("test_") and key != "test_tasks"} | {"prompts"}
    if tables["data"]["templates"] is None:  # earlier versions used them for evaluation only
        left_out.add("templates")
    return {key: value for key, value in tables["data"].items() if key not in left_out}


def lora_table(tables: Tables) -> dict[str, Any]:
    """Return rank and alpha of the generated LoRA and the teachers."""
    return {key: tables["generator"][key] for key in ("rank", "alpha")}


def apart_table(recipe: Recipe) -> dict[str, Any]:
    """Return the identity's entry on limits within one text; empty for the earlier form with one limit."""
    return {"apart": True} if concatenated_text(recipe).apart else {}
