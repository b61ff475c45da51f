"""Construction of the parts of a generator, and checks of its settings against the backbone."""

from tagi.backbones.protocol import Backbone
from tagi.data.text.encoder import CausalTextEncoder, TextEncoder
from tagi.errors import ConfigError
from tagi.hypernetwork.component import ComponentHypernetwork
from tagi.hypernetwork.hypernetwork import Hypernetwork
from tagi.hypernetwork.pooled import PooledHypernetwork
from tagi.hypernetwork.query import QueryHypernetwork
from tagi.hypernetwork.targets import Targets
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings


def text_encoder(backbone: Backbone, settings: TextSettings) -> TextEncoder:
    """Return the text encoder for the backbone's family."""
    return (TextEncoder if backbone.encoder_decoder else CausalTextEncoder)(backbone.tokenizer, settings)


def make_hypernetwork(backbone: Backbone, targets: Targets, settings: GeneratorSettings) -> Hypernetwork:
    """Construct the hypernetwork that the settings describe."""
    d_model = backbone.d_model
    if settings.kind == "component":
        return ComponentHypernetwork(targets, d_model, settings, heads=backbone.heads, d_kv=backbone.d_kv)
    return (PooledHypernetwork if settings.kind == "pooled" else QueryHypernetwork)(targets, d_model, settings)


def check_settings(backbone: Backbone, settings: GeneratorSettings, text: TextSettings) -> None:
    """Raise `ConfigError` for settings that the backbone does not support."""
    name = backbone.identity.name
    if backbone.encoder_decoder:
        if settings.instruction_cache is not None:
            raise ConfigError(
                f"generator.instruction_cache: expected none on the encoder-decoder {name}, whose encoder reads a "
                f"text in both directions, got {settings.instruction_cache!r}"
            )
        return
    if settings.fusion_init != "t5":
        raise ConfigError(
            f"generator.fusion_init: expected 't5' on the decoder-only {name}, got {settings.fusion_init!r}"
        )
    if settings.reader == "own" and settings.concatenates:
        raise ConfigError(
            f"generator.reader: expected 'backbone' on the decoder-only {name} with fusion {settings.fusion!r}, whose "
            "keys and values are the backbone's, got 'own'"
        )
    if settings.instruction_cache is not None and settings.fusion not in ("attention", "none"):
        raise ConfigError(
            f"generator.fusion: expected 'attention' or 'none' on the decoder-only {name} with generator."
            f"instruction_cache, which takes the place of concatenation, got {settings.fusion!r}"
        )
    if settings.adapts_prefix and settings.fuses:
        raise ConfigError(
            f"generator.fusion: expected 'none' with generator.instruction_cache = 'adapted', got {settings.fusion!r}"
        )
    _check_limits(backbone, settings, text)


def _check_limits(backbone: Backbone, settings: GeneratorSettings, text: TextSettings) -> None:
    """Raise `ConfigError` if the length limits exceed the positions of a decoder-only backbone."""
    answered = text.max_input_tokens + text.max_target_tokens
    instruction = text.max_instruction_tokens
    before = settings.concatenates or settings.adapts_prefix
    needed = answered + instruction if before else max(answered, instruction)
    seen, what = backbone.max_tokens, "its positions"
    if before and backbone.window is not None and backbone.window < seen:
        seen, what = backbone.window, "its sliding window"
    if needed > seen:
        together = "of instruction, input and target together" if before else "of input and target"
        name = backbone.identity.name
        raise ConfigError(f"{name}: expected limits {together} that make at most {seen} tokens ({what}), got {needed}")
