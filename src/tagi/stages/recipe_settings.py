"""Conversion of recipe tables to the settings of texts, generators and LoRA."""

from dataclasses import fields, replace

from tagi.settings.generator import GeneratorSettings, LoraShape
from tagi.settings.recipe import Recipe
from tagi.settings.text import Reads, TextFormat, TextSettings


def text_settings(recipe: Recipe) -> TextSettings:
    """Return the recipe's encoding and limits."""
    return TextSettings(**{field.name: getattr(recipe.data, field.name) for field in fields(TextFormat)})


def generator_text(recipe: Recipe) -> TextSettings:
    """Return what the recipe's generator reads. Teachers and baselines always read instructions."""
    return replace(text_settings(recipe), reads=recipe.generator.reads)


def in_context_text(recipe: Recipe) -> TextSettings:
    """Return what in-context methods read: on P3 the rendered input only, else also the instruction."""
    reads: Reads = "demonstrations" if recipe.data.source == "p3" else "instruction"
    return replace(text_settings(recipe), positives=0, reads=reads)


def concatenated_text(recipe: Recipe, reads: Reads = "instruction") -> TextSettings:
    """Return text settings of methods with instruction and input in one text.

    P3's rendered prompts already contain the template's text, so no instruction is added. With `instruction_cache`,
    instruction and input have separate limits, as in the generator's prompts. Otherwise the limit of the input is that
    of both.
    """
    if recipe.data.source == "p3":
        reads = "nothing"
    apart = reads == "instruction" and recipe.generator.instruction_cache is not None
    return replace(text_settings(recipe), reads=reads, apart=apart)


def generator_settings(recipe: Recipe) -> GeneratorSettings:
    """Return the settings of the recipe's generator."""
    return replace(recipe.generator, reads="instruction", seed=recipe.seed)  # `reads` is part of the text settings


def lora_shape(recipe: Recipe) -> LoraShape:
    """Return the shape of the generated LoRA and of the teachers."""
    return LoraShape(recipe.generator.rank, recipe.generator.alpha, recipe.seed)


def metatrain_lora(recipe: Recipe) -> LoraShape:
    """Return the shape of the meta-trained LoRA: by default that of the generator's LoRA or of its shared LoRA."""
    generator, wanted = recipe.generator, recipe.metatrain
    rank = wanted.rank or generator.shared_rank or generator.rank
    # With another rank the scale alpha / rank is kept.
    return LoraShape(rank, wanted.alpha or generator.alpha * rank / generator.rank, recipe.seed)
