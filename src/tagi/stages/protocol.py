"""A training stage as an object: what it rests on, what decides its outcome, how it is trained and what it costs.

Every stage is one module beside this one. None of them imports torch before something is built, so that recipes are
checked fast.
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
"""A dotted key of a recipe, and what was expected of it and given."""
Tables = Mapping[str, Any]
"""A recipe's tables as JSON values."""
Role = Literal["start", "teachers", "metatrained"]


@dataclass(frozen=True)
class Sources:
    """What a stage rests on.

    Args:
        start: Checkpoints whose parameters it begins with, in this order.
        teachers: The folder of the LoRA teachers.
        metatrained: The checkpoint of the meta-trained model.
    """

    start: tuple[str, ...] = ()
    teachers: Path | None = None
    metatrained: str | None = None

    @property
    def folders(self) -> list[Path]:
        """All of them."""
        return [Path(name) for name in (self.teachers, *self.start, self.metatrained) if name is not None]

    def revisions(self) -> dict[str, Any]:
        """Return digests of what is in them: a stage that rests on other weights is another one."""
        from tagi.backbones.load import folder_revision
        from tagi.formats.finding import find_checkpoint
        from tagi.methods.objective.teachers import catalogue_revision

        return self._each(lambda name: folder_revision(find_checkpoint(name)), catalogue_revision)

    def names(self) -> dict[str, Any]:
        """Return their folders' names, for a plan that is made where they need not be."""
        return self._each(lambda name: Path(name).name, lambda folder: folder.name)

    def _each(self, checkpoint: Callable[[str], str], catalogue: Callable[[Path], str]) -> dict[str, Any]:
        return {
            "start": [checkpoint(name) for name in self.start],
            "teachers": self.teachers and catalogue(self.teachers),
            "metatrained": self.metatrained and checkpoint(self.metatrained),
        }


@dataclass(frozen=True)
class Need:
    """An earlier stage that a stage rests on.

    Args:
        stage: The earlier stage.
        role: What it is for: its parameters to start from, its LoRA teachers, or its meta-trained model.
        reason: The keys of the recipe that ask for it.
        method: What the stage metatrain has to train for it (`metatrain.method`). None if that does not matter.
    """

    stage: Stage
    role: Role
    reason: str
    method: str | None = None


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters by part, and the shape of activations, from which a stage's cost is estimated.

    Args:
        backbone: The whole backbone.
        embeddings: Its input embeddings, which are looked up and cost no FLOPs.
        generator: What is trained of the generator beside the backbone.
        shared: A frozen shared LoRA.
        tuned: What is trained of the backbone with the generator.
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
        """Parameters that every token is multiplied by."""
        return self.backbone - self.embeddings

    def backward(self, trained: int) -> int:
        """FLOPs per parameter and token with `trained` parameters: a frozen layer still passes gradients back."""
        return 6 if trained >= self.backbone else 4


@dataclass(frozen=True)
class Work:
    """What one micro-batch costs, with every text as long as its limit.

    Args:
        tokens: Tokens that enter the model.
        flops: FLOPs of the forward and backward pass.
        rows: Rows that the loss is computed on.
    """

    tokens: int
    flops: int
    rows: int


@dataclass(frozen=True)
class Job:
    """A stage that is to be trained: the recipe, the folder, what the stage rests on, and the recipe's data."""

    recipe: Recipe
    out: Path
    sources: Sources
    data: RecipeData

    @classmethod
    def of(cls, recipe: Recipe, out: Path, sources: Sources | None = None, data: RecipeData | None = None) -> "Job":
        """Make a job that rests on nothing and reads its own data unless they are given."""
        return cls(recipe, out, sources or Sources(), data or RecipeData(recipe))


@runtime_checkable
class Training(Protocol):
    """What a stage has built: one model or many, ready to be trained."""

    def train(self, *, identity: str, resume: bool, progress: bool) -> dict[str, Any]:
        """Train into the job's folder and return what the record says of it.

        Args:
            identity: Digest of all that decides the outcome. A resumed run must have the same.
            resume: Take up what an interrupted run left in the folder.
            progress: Show progress on standard error.
        """
        ...


class TrainingStage(ABC):
    """One stage of training.

    Class attributes:
        name: The name in `run.stages` and `[training.<name>]`.
        description: One line for the help of `tagi train`.
        evaluation: Name of the step that scores what the stage trained. None if that cannot be asked anything.
        rewords: Whether training draws among the tasks' wordings.
    """

    name: ClassVar[Stage]
    description: ClassVar[str]
    evaluation: ClassVar[str | None] = None
    rewords: ClassVar[bool] = True

    def table_faults(self, recipe: Recipe) -> Iterator[Fault]:
        """Check the stage's tables beside the others, whether or not the recipe runs the stage."""
        yield from ()

    def run_faults(self, recipe: Recipe) -> Iterator[Fault]:
        """Check what a recipe that runs the stage has to say."""
        yield from ()

    def needs(self, recipe: Recipe) -> list[Need]:
        """Return the earlier stages that this one rests on."""
        return []

    def sources(self, recipe: Recipe, folders: Mapping[Stage, Path]) -> Sources:
        """Return what the stage rests on, with every stage's folder given."""
        needs = self.needs(recipe)
        first = {need.role: folders[need.stage] for need in reversed(needs)}
        return Sources(
            start=tuple(str(folders[need.stage]) for need in needs if need.role == "start"),
            teachers=first.get("teachers"),
            metatrained=str(first["metatrained"]) if "metatrained" in first else None,
        )

    def from_checkpoint(self, recipe: Recipe, sources: Sources) -> Sources:
        """Return the sources with `run.checkpoint`, if the stage begins with it: most do not."""
        return sources

    @abstractmethod
    def deciding(self, recipe: Recipe, tables: Tables) -> dict[str, Any]:
        """Return what of the recipe's tables decides the outcome, beside seed, backbone and the stage's training."""

    def content(self, data: RecipeData) -> dict[str, Any]:
        """Return digests of what the stage reads: by default the training tasks."""
        return {"tasks": data.training_digests()}

    def episode_shots(self, recipe: Recipe) -> int:
        """Return how many demonstrations every sample comes with in training."""
        return 0

    @abstractmethod
    def build(self, job: Job) -> Training:
        """Build what the stage trains, with its data."""

    def untrained(self, recipe: Recipe, backbone: Any) -> Any:
        """Return the method that the stage trains, before it is trained; `ConfigError` if it trains none."""
        raise self._no_method()

    def traits(self, recipe: Recipe) -> tuple[bool, ...]:
        """Return the eight characteristics of Table 8 (`tagi.stages.registry`); `ConfigError` as `untrained`."""
        raise self._no_method()

    def _no_method(self) -> ConfigError:
        return ConfigError(f"run.stages: expected a last stage that trains a method, got {self.name!r}")

    def models(self, recipe: Recipe) -> int:
        """Return how many models the stage trains."""
        return 1

    @abstractmethod
    def parameters(self, recipe: Recipe, sizes: Sizes) -> tuple[int, int]:
        """Return how many parameters are trained and how many frozen ones are in memory, teachers included."""

    @abstractmethod
    def work(self, recipe: Recipe, sizes: Sizes, trained: int) -> Work:
        """Return what a micro-batch costs while `trained` parameters are trained."""

    def settings(self, recipe: Recipe) -> TrainingSettings:
        """Return the stage's table of `[training]`."""
        return recipe.training_for(self.name)

    def samples(self, recipe: Recipe) -> int:
        """Return how many samples a micro-batch has."""
        settings = self.settings(recipe)
        return settings.tasks_per_batch * settings.queries_per_task

    def micro_batches(self, recipe: Recipe) -> int:
        """Return how many micro-batches all processes take together."""
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
    """A stage that trains the backbone itself, whole or by a LoRA, on instruction and input in one text."""

    @abstractmethod
    def tuned(self, recipe: Recipe) -> tuple[Literal["all", "lora", "none"], int]:
        """Return what of the backbone is trained, and the rank of its LoRA."""

    def row_tokens(self, recipe: Recipe) -> int:
        """Return the tokens of a row: instruction, input and target."""
        return concatenated_text(recipe).max_prompt_tokens + recipe.data.max_target_tokens

    def shown_tokens(self, recipe: Recipe) -> int:
        """Return the tokens that demonstrations add to a micro-batch."""
        return 0

    def parameters(self, recipe: Recipe, sizes: Sizes) -> tuple[int, int]:
        """Count the backbone as trained, or a LoRA beside it, or nothing."""
        tune, rank = self.tuned(recipe)
        trained = {"all": sizes.backbone, "lora": rank * sizes.lora, "none": 0}[tune]
        return trained, 0 if tune == "all" else sizes.backbone

    def work(self, recipe: Recipe, sizes: Sizes, trained: int) -> Work:
        """Count one row for every sample."""
        rows = self.samples(recipe)
        tokens = rows * self.row_tokens(recipe) + self.shown_tokens(recipe)
        return Work(tokens, tokens * sizes.body * sizes.backward(trained), rows)


def training_data(tables: Tables) -> dict[str, Any]:
    """Return the keys of `[data]` that are about training, not about test tasks alone."""
    left_out = {key for key in tables["data"] if key.startswith("test_") and key != "test_tasks"} | {"prompts"}
    if tables["data"]["templates"] is None:  # once they were read for evaluation alone
        left_out.add("templates")
    return {key: value for key, value in tables["data"].items() if key not in left_out}


def lora_table(tables: Tables) -> dict[str, Any]:
    """Return rank and alpha of the LoRA that is generated, and so of the teachers'."""
    return {key: tables["generator"][key] for key in ("rank", "alpha")}


def apart_table(recipe: Recipe) -> dict[str, Any]:
    """Return what identities say of limits in one text; nothing for the older form with one limit."""
    return {"apart": True} if concatenated_text(recipe).apart else {}
