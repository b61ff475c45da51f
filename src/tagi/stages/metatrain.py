"""The stage `metatrain`: the backbone trained on all tasks, with the instruction concatenated or in context."""

from collections.abc import Iterator
from typing import Any, Literal

from tagi.settings.recipe import Recipe
from tagi.settings.text import Reads
from tagi.stages.protocol import (
    BackboneStage,
    Fault,
    Job,
    Need,
    Tables,
    Training,
    apart_table,
    lora_table,
    training_data,
)
from tagi.stages.recipe_settings import in_context_text, metatrain_lora, text_settings
from tagi.stages.shots import in_context


class Metatrain(BackboneStage):
    """One model for all tasks, which reads the instruction with every input."""

    name = "metatrain"
    description = "the backbone, fully or with a LoRA, with the instruction concatenated (Tk-Instruct, T0)"
    evaluation = "evaluate-metatrain"

    def table_faults(self, recipe: Recipe) -> Iterator[Fault]:
        """Check `[metatrain]` against `[backbone]`."""
        table, family = recipe.metatrain, recipe.backbone.family
        if not table.instruction and recipe.data.source == "p3":
            wanted = "expected true with data.source = 'p3', whose prompts hold the template's text"
            yield "metatrain.instruction", f"{wanted}, got false"
        if not table.instruction and table.method != "concatenation":
            yield "metatrain.instruction", f"expected true with method = {table.method!r}, got false"
        elif not table.instruction and table.prefix_cached:
            yield "metatrain.instruction", "expected true with prefix_cached = true, got false: nothing is left to keep"
        if family == "causal" and table.method != "concatenation":
            wanted = "expected 'concatenation' with backbone.family = 'causal'"
            yield "metatrain.method", f"{wanted}, got {table.method!r}"
        if family != "causal" and table.prefix_cached:
            yield "metatrain.prefix_cached", f"expected backbone.family = 'causal' with it, got {family!r}"

    def deciding(self, recipe: Recipe, tables: Tables) -> dict[str, Any]:
        """Return the training data, `[metatrain]` and the LoRA's size."""
        lora: dict[str, Any] | None = None
        if recipe.metatrain.tune == "lora":
            shape = metatrain_lora(recipe)
            lora = {"rank": shape.rank, "alpha": shape.alpha} if recipe.generator.shared_rank else lora_table(tables)
        shots = self.episode_shots(recipe)
        return {
            "data": training_data(tables),
            "metatrain": tables["metatrain"],
            "lora": lora,
            **apart_table(recipe),
            **({"shots": {"count": shots}} if shots else {}),
        }

    def episode_shots(self, recipe: Recipe) -> int:
        """Return `shots.count` for in-context methods."""
        return recipe.shots.count if in_context(recipe) else 0

    def build(self, job: Job) -> Training:
        """Build the method and its tasks."""
        from tagi.stages.one_model import OneModel
        from tagi.stages.recipe_models import load_recipe_backbone

        recipe = job.recipe
        backbone = load_recipe_backbone(recipe, job.out, self.settings(recipe).dropout)
        tasks = job.data.tasks("train")
        batches = self.task_batches(recipe, tasks)
        return OneModel(self.name, job, self.untrained(recipe, backbone), batches, tasks.record())

    def untrained(self, recipe: Recipe, backbone: Any) -> Any:
        """Return the method of `metatrain.method`."""
        from tagi.methods.concatenation import Concatenation
        from tagi.methods.in_context import InContext
        from tagi.methods.load import METHODS
        from tagi.methods.prompted import Prompted
        from tagi.stages.recipe_models import as_t5, concatenated_method

        kind, tune = METHODS[recipe.metatrain.method], recipe.metatrain.tune
        shape = metatrain_lora(recipe)
        if kind is Concatenation:
            reads: Reads = "instruction" if recipe.metatrain.instruction else "nothing"
            return concatenated_method(recipe, backbone, tune, reads, shape)
        assert issubclass(kind, Prompted)
        text = in_context_text(recipe) if issubclass(kind, InContext) else text_settings(recipe)
        return kind(as_t5(recipe, backbone), text, shape if tune == "lora" else None, frozen=tune == "none")

    def traits(self, recipe: Recipe) -> tuple[bool, ...]:
        """Return the conditions for a model that reads the instruction with every input, or not at all."""
        table = recipe.metatrain
        trained, reads = table.tune != "none", table.instruction
        cached = table.method == "fid-icl" or table.prefix_cached
        return trained, False, reads, reads, table.tune != "all", cached, False, trained

    def models(self, recipe: Recipe) -> int:
        """Return 0 if nothing is trained."""
        return 0 if recipe.metatrain.tune == "none" else 1

    def tuned(self, recipe: Recipe) -> tuple[Literal["all", "lora", "none"], int]:
        """Return `metatrain.tune` and the LoRA's rank."""
        return recipe.metatrain.tune, metatrain_lora(recipe).rank

    def row_tokens(self, recipe: Recipe) -> int:
        """Return the length limits of prompt and target."""
        if recipe.metatrain.method == "concatenation" and recipe.metatrain.instruction:
            return super().row_tokens(recipe)
        return recipe.data.max_input_tokens + recipe.data.max_target_tokens

    def shown_tokens(self, recipe: Recipe) -> int:
        """Return the tokens of demonstrations that are encoded separately."""
        settings, data, count = self.settings(recipe), recipe.data, self.episode_shots(recipe)
        texts = {"fid-icl": settings.tasks_per_batch * count, "ensemble-icl": self.samples(recipe) * (count - 1)}
        return texts.get(recipe.metatrain.method, 0) * (data.max_input_tokens + data.max_target_tokens)


def start_needs(recipe: Recipe) -> list[Need]:
    """Return the meta-trained model if `run.start` names it."""
    return [] if recipe.run.start == "backbone" else [Need(Metatrain.name, "start", "run.start")]


def start_faults(recipe: Recipe, *, generates: bool) -> Iterator[Fault]:
    """Check the meta-trained model for a stage with `run.start = "metatrained"`.

    Args:
        recipe: The recipe.
        generates: Whether the stage trains a generator.
    """
    if recipe.run.start != "metatrained":
        return
    generator, table = recipe.generator, recipe.metatrain
    if generator.shared_rank:
        if table.tune != "lora":
            yield "run.start", f"expected metatrain.tune = 'lora' to be the shared LoRA, got {table.tune!r}"
        elif table.rank not in (None, generator.shared_rank):
            wanted = f"expected metatrain.rank = {generator.shared_rank}, that of the shared LoRA"
            yield "run.start", f"{wanted}, got {table.rank}"
    elif table.tune != "all":
        yield "run.start", f"expected metatrain.tune = 'all' to start on the whole model, got {table.tune!r}"
    elif generates and generator.tune != "all":
        wanted = "expected generator.tune = 'all' to start on the meta-trained model"
        yield "run.start", f"{wanted}, got {generator.tune!r}"


STAGE = Metatrain()
