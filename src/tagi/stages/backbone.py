"""The stage `backbone`: pretraining a small T5 by span corruption on text of the toy tasks."""

from typing import Any, Literal

from tagi.data.batches import StreamBatches
from tagi.data.toy.corpus import toy_corpus
from tagi.errors import ConfigError
from tagi.settings.recipe import Recipe
from tagi.stages.protocol import BackboneStage, Job, Tables, Training
from tagi.stages.tasks import RecipeData

_CORPUS_STRIDE = 1_000_003  # documents of different micro-batches have different seeds


class Backbone(BackboneStage):
    """A backbone from random weights."""

    name = "backbone"
    description = "the toy tasks' backbone, on their unlabelled text"

    def deciding(self, recipe: Recipe, tables: Tables) -> dict[str, Any]:
        """Return the source of the text."""
        return {"data": tables["data"]["source"]}

    def content(self, data: RecipeData) -> dict[str, Any]:
        """Return an empty digest: the text is built in."""
        return {}

    def build(self, job: Job) -> Training:
        """Build the backbone and its documents. Raises `ConfigError` if the recipe does not use the toy tasks."""
        from tagi.methods.denoiser import Denoiser
        from tagi.stages.one_model import OneModel
        from tagi.stages.recipe_models import as_t5, load_recipe_backbone

        recipe = job.recipe
        backbone = load_recipe_backbone(recipe, job.out, self.settings(recipe).dropout)
        if recipe.data.source != "toy":
            raise ConfigError(f"data.source: the stage 'backbone' needs 'toy', got {recipe.data.source!r}")
        length, size = self.micro_batches(recipe), self.samples(recipe)
        batches = StreamBatches(lambda at: _documents(recipe.seed * _CORPUS_STRIDE + at, size), length=length)
        model = Denoiser(as_t5(recipe, backbone), seed=recipe.seed)
        return OneModel(self.name, job, model, batches, {"source": "toy corpus", "documents": size * length})

    def tuned(self, recipe: Recipe) -> tuple[Literal["all", "lora", "none"], int]:
        """Return that all parameters are trained."""
        return "all", 0

    def row_tokens(self, recipe: Recipe) -> int:
        """Return the limits of an input and a target."""
        return recipe.data.max_input_tokens + recipe.data.max_target_tokens


def _documents(seed: int, count: int) -> list[str]:
    corpus = toy_corpus(seed)
    return [next(corpus) for _ in range(count)]


STAGE = Backbone()
