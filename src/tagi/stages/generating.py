"""Base class of stages that train a generator."""

from collections.abc import Iterator
from typing import Any

from tagi.settings.recipe import Recipe
from tagi.stages.metatrain import start_faults, start_needs
from tagi.stages.protocol import Fault, Need, Sizes, TrainingStage
from tagi.stages.recipe_settings import generator_settings, generator_text


class GeneratingStage(TrainingStage):
    """A stage that trains a generator on the backbone."""

    def table_faults(self, recipe: Recipe) -> Iterator[Fault]:
        """Check `[generator]` against `[backbone]`."""
        family, cache, fusion = recipe.backbone.family, recipe.generator.instruction_cache, recipe.generator.fusion
        if family != "causal" and cache is not None:
            wanted = f"expected no value with backbone.family = {family!r}, whose encoder reads a text in both"
            yield "generator.instruction_cache", f"{wanted} directions, got {cache!r}"
        elif cache == "adapted" and fusion != "none":
            yield "generator.fusion", f"expected 'none' with generator.instruction_cache = 'adapted', got {fusion!r}"

    def run_faults(self, recipe: Recipe) -> Iterator[Fault]:
        """Check the starting model, and that a decoder-only backbone supports the generator."""
        yield from start_faults(recipe, generates=True)
        generator, run = recipe.generator, recipe.run
        frozen = generator.shared_rank and not generator.shared_tune
        # A recipe with one stage may start from a checkpoint given on the command line.
        if frozen and run.start != "metatrained" and len(run.stages) > 1:
            reason = "since the shared LoRA is the meta-trained one"
            wanted = f"expected 'metatrained' with generator.shared_rank and generator.shared_tune = false, {reason}"
            yield "run.start", f"{wanted}, got {run.start!r}"
        if recipe.backbone.family != "causal":
            return
        on = "with backbone.family = 'causal'"
        concatenates = generator.fusion in ("both", "concatenation") or generator.instruction_cache == "stock"
        required = {"module": "lora", "fusion_init": "t5", **({"reader": "backbone"} if concatenates else {})}
        for key, value in required.items():
            given = getattr(generator, key)
            if given != value:
                yield "run.stages", f"expected generator.{key} = {value!r} for {self.name!r} {on}, got {given!r}"
        if generator.instruction_cache is not None and generator.fusion not in ("attention", "none"):
            reason = "generator.instruction_cache, which takes the place of concatenation"
            wanted = f"expected generator.fusion = 'none' or 'attention' {on} and {reason}"
            yield "run.stages", f"{wanted}, got {generator.fusion!r}"
        elif concatenates and self.settings(recipe).gradient_checkpointing:
            wanted = f"expected training.{self.name}.gradient_checkpointing = false {on} and a cached instruction"
            yield "run.stages", f"{wanted}, which it would drop, got true"

    def needs(self, recipe: Recipe) -> list[Need]:
        """Return the starting model."""
        return start_needs(recipe)

    def untrained(self, recipe: Recipe, backbone: Any) -> Any:
        """Return the generator on the backbone, without an objective."""
        from tagi.hypernetwork.model import GeneratorModel
        from tagi.methods.tagi import TAGI

        return TAGI(GeneratorModel(backbone, generator_settings(recipe), generator_text(recipe)))

    def parameters(self, recipe: Recipe, sizes: Sizes) -> tuple[int, int]:
        """Count the generator and tuned backbone parameters as trained."""
        return sizes.generator + sizes.tuned, sizes.backbone - sizes.tuned + sizes.shared
