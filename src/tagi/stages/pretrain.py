"""The stage `pretrain`: training the generator on parts of unlabelled documents (eq. 3 of the paper)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tagi.data.batches import StreamBatches
from tagi.data.digest import files_digest
from tagi.data.readers.c4 import C4Documents
from tagi.data.toy.corpus import ToyDocuments
from tagi.errors import ConfigError
from tagi.settings.recipe import Recipe
from tagi.settings.training import PretrainingSettings
from tagi.stages.generating import GeneratingStage
from tagi.stages.protocol import Fault, Job, Sizes, Tables, Training, Work
from tagi.stages.tasks import RecipeData

_TEXT_KEYS = ("encoding", "positives", "template_arguments")
"""Keys of `[data]` that affect tokenization, besides the limits."""


class Pretrain(GeneratingStage):
    """Pretraining of the generator."""

    name = "pretrain"
    description = "the hypernetwork on unlabelled text"

    def run_faults(self, recipe: Recipe) -> Iterator[Fault]:
        """Check that the recipe has `[pretraining]`."""
        if recipe.pretraining is None:
            stages = ", ".join(recipe.run.stages)
            yield "run.stages", f"expected a table [pretraining] (stage pretrain), got {stages}"
        yield from super().run_faults(recipe)

    def deciding(self, recipe: Recipe, tables: Tables) -> dict[str, Any]:
        """Return the keys for tokenization, `[generator]` and `[pretraining]`."""
        data = tables["data"]
        text = {key: value for key, value in data.items() if key.startswith("max_") or key in _TEXT_KEYS}
        return {"text": text, "generator": tables["generator"], "pretraining": tables["pretraining"]}

    def content(self, data: RecipeData) -> dict[str, Any]:
        """Return a digest of the files of text."""
        wanted = data.recipe.pretraining
        if wanted is None or wanted.path is None:
            return {}
        return {"text": files_digest(C4Documents(Path(wanted.path)).files, ends_only=True)}

    def build(self, job: Job) -> Training:
        """Build the generator and its documents; `ConfigError` without a table `[pretraining]`."""
        from tagi.methods.pretraining import Pretraining
        from tagi.stages.one_model import OneModel
        from tagi.stages.recipe_models import load_recipe_backbone

        recipe, wanted = job.recipe, _table(job.recipe)
        length, size = self.micro_batches(recipe), self.samples(recipe)
        backbone = load_recipe_backbone(recipe, job.out, self.settings(recipe).dropout)
        tuned = replace(recipe.generator, tune=wanted.tune or recipe.generator.tune)
        method = self.untrained(recipe.model_copy(update={"generator": tuned}), backbone)
        documents: ToyDocuments | C4Documents
        documents = ToyDocuments(recipe.seed) if wanted.source == "toy" else C4Documents(Path(str(wanted.path)))
        batches = StreamBatches(lambda at: documents.read(at * size, size), length=length)
        model = Pretraining(method, max_tokens=wanted.max_tokens, parts=wanted.parts, seed=recipe.seed)
        data = {"source": wanted.source, "documents": length * size, "parts": wanted.parts}
        return OneModel(self.name, job, model, batches, data)

    def work(self, recipe: Recipe, sizes: Sizes, trained: int) -> Work:
        """Count each document, its generated adapter, and its instruction again if processed under the LoRA.

        Split points are uniform: one of 3 parts is the instruction, or two of 4.
        """
        rows, wanted, generator = self.samples(recipe), _table(recipe), recipe.generator
        backward = sizes.backward(trained)
        told = rows * wanted.max_tokens * (wanted.parts - 2) // wanted.parts
        read = rows * wanted.max_tokens - (0 if generator.instruction_cache == "adapted" else told)
        of_instruction = backward if sizes.tuned or generator.reader == "own" else 2  # a frozen encoder: no backward
        flops = (told * of_instruction + read * backward) * sizes.body + rows * 6 * sizes.generated
        return Work(told + read, flops, rows)


def _table(recipe: Recipe) -> PretrainingSettings:
    if recipe.pretraining is None:
        raise ConfigError("pretraining: expected a table [pretraining] for the stage 'pretrain', got none")
    return recipe.pretraining


STAGE = Pretrain()
