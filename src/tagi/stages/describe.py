"""Sizes of a backbone with a recipe's generator, computed from configurations."""

from collections import Counter
from typing import Any

import torch

from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import backbone_shapes, build_causal, build_t5, load_tokenizer, may_be_found
from tagi.backbones.protocol import Backbone, BaseModel, count_parameters
from tagi.backbones.t5 import T5Backbone
from tagi.data.toy.tokenizer import toy_tokenizer
from tagi.errors import ConfigError
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.targets import describe_targets
from tagi.settings.recipe import Recipe
from tagi.stages.recipe_settings import generator_settings, generator_text

_SHARED = {"vocab_size": 32128, "d_kv": 64, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
PUBLISHED: dict[str, dict[str, Any]] = {
    "t5-base-lm-adapt": {**_SHARED, "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "t5-large-lm-adapt": {**_SHARED, "d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
    "t5-xl-lm-adapt": {**_SHARED, "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "t5-xxl-lm-adapt": {**_SHARED, "d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64},
}
"""Dimensions of Google's T5 v1.1 LM-adapted models, from their configurations on the hub."""

HUB = {
    **{f"google/{name}": name for name in PUBLISHED},
    "qinyuany/my-t0-base": "t5-base-lm-adapt",
    "qinyuany/my-t0-large": "t5-large-lm-adapt",
    "qinyuany/my-t0-3b": "t5-xl-lm-adapt",
}
"""Hub models with known dimensions, so that no network is needed."""


def describe(name: str, recipe: Recipe) -> dict[str, Any]:
    """Return the sizes of a model with the recipe's generator: target modules and parameter counts.

    Loads no weights, except for a T5 in a folder.

    Args:
        name: A published T5, "recipe" for the recipe's own backbone, a built-in backbone, a folder, a GGUF file or a
            name on the hub.
        recipe: The recipe whose generator is described.

    Returns:
        Counts by name. `rank` is the rank of a task's LoRA including the shared LoRA. `trained` includes a shared LoRA
        only if it is trained with the hypernetwork.
    """
    settings = generator_settings(recipe)
    backbone = shapes_of(name, recipe)
    with torch.device("meta"):
        generator = GeneratorModel(backbone, settings, generator_text(recipe))
    total, tuned = count_parameters(backbone), count_parameters(backbone, trained=True)
    parts = {"hypernetwork": generator.hypernetwork, "fusion": generator.fusion, "reader": generator.reader}
    counts = {part: 0 if module is None else count_parameters(module) for part, module in parts.items()}
    shared = 0 if generator.shared is None else count_parameters(generator.shared)
    shapes = Counter(f"{module.d_in}x{module.d_out}" for module in backbone.target_modules)
    return {
        "backbone": name,
        "backbone_parameters": total,
        "target_modules": len(backbone.target_modules),
        "site_shapes": ", ".join(f"{count} of {shape}" for shape, count in shapes.items()),
        "generator": settings.kind,
        "module": settings.module,
        "generates": describe_targets(generator.targets),
        **({"rank": settings.adapter_rank} if settings.module == "lora" else {}),
        "generated_per_adapter": sum(target.parameters for target in generator.targets),
        **({"shared_rank": settings.shared_rank, "shared_lora": shared} if settings.shared_rank else {}),
        "hypernetwork": counts["hypernetwork"],
        "hypernetwork_share_of_backbone": round(counts["hypernetwork"] / total, 4),
        "fusion": counts["fusion"],
        "fusion_share_of_backbone": round(counts["fusion"] / total, 4),
        "backbone_tuned": tuned,
        "backbone_frozen": total - tuned,
        "reader": counts["reader"],
        "trained": sum(counts.values()) + tuned + (shared if settings.shared_tune else 0),
    }


def shapes_of(name: str, recipe: Recipe) -> Backbone:
    """Return a backbone without weights on torch's meta device; arguments as for `describe`.

    Raises `ConfigError` if the backbone does not exist.
    """
    own = recipe.backbone
    wanted = own.name if name == "recipe" else name
    fields = (own.config if name == "recipe" else None) or PUBLISHED.get(HUB.get(wanted, wanted))
    if fields is None:
        if not may_be_found(wanted):
            expected = f"one of {', '.join(PUBLISHED)}, a model folder, a GGUF file, a built-in backbone or 'recipe'"
            raise ConfigError(f"expected {expected}, got {wanted!r}")
        pinned = {"revision": own.revision, "tokenizer": own.tokenizer} if name == "recipe" else {}
        return backbone_shapes(wanted, **pinned)
    with torch.device("meta"):
        if "model_type" in fields:
            # No text is encoded, but a chat encoding needs the recipe's chat template.
            chat = recipe.data.encoding == "chat"
            tokenizer = load_tokenizer(str(own.tokenizer)) if chat else toy_tokenizer()
            return CausalBackbone(build_causal(fields), tokenizer, BaseModel(name, "no weights"))
        return T5Backbone(build_t5(fields), _NoTokenizer(), BaseModel(name, "no weights"))


class _NoTokenizer:
    """A placeholder tokenizer for a T5."""

    pad_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        """Return the ids of T5's hundred sentinels."""
        return {f"<extra_id_{at}>": 32099 - at for at in range(100)}
