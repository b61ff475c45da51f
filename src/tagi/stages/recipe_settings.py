"""A recipe's tables as the settings of texts, generators and LoRA."""

from dataclasses import replace

from tagi.data.text.encoder import Reads, TextSettings
from tagi.methods.lora import LoraShape
from tagi.settings.generator import GeneratorSettings
from tagi.settings.recipe import Recipe
from tagi.stages.protocol import reads_apart


def text_settings(recipe: Recipe) -> TextSettings:
    """Return the recipe's encoding and limits."""
    data = recipe.data
    return TextSettings(
        data.encoding,
        data.positives,
        data.max_instruction_tokens,
        data.max_input_tokens,
        data.max_target_tokens,
        template_arguments=data.template_arguments,
    )


def generator_text(recipe: Recipe) -> TextSettings:
    """Return what the recipe's generator reads. Teachers and rivals read instructions whatever it does."""
    return replace(text_settings(recipe), reads=recipe.generator.reads)


def in_context_text(recipe: Recipe) -> TextSettings:
    """Return what methods read that learn in context: of P3 the rendered input alone, else the instruction as well."""
    reads: Reads = "demonstrations" if recipe.data.source == "p3" else "instruction"
    return replace(text_settings(recipe), positives=0, reads=reads)


def concatenated_text(recipe: Recipe, reads: Reads = "instruction") -> TextSettings:
    """Return what methods read that have instruction and input in one text.

    With `instruction_cache` each of them has its own limit, as in the generator's prompts. Else the limit of the input
    is that of both.
    """
    return replace(text_settings(recipe), reads=reads, apart=reads == "instruction" and reads_apart(recipe))


def generator_settings(recipe: Recipe) -> GeneratorSettings:
    """Return the settings of the recipe's generator."""
    return GeneratorSettings(**recipe.generator.model_dump(exclude={"reads"}), seed=recipe.seed)


def lora_shape(recipe: Recipe) -> LoraShape:
    """Return the shape of the LoRA that is generated, and so of the teachers' LoRA."""
    return LoraShape(recipe.generator.rank, recipe.generator.alpha, recipe.seed)
