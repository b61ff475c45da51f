"""Language models as backbones."""

from tagi.backbones.load import build_t5, load_backbone, load_tokenizer, locate, make_backbone, t5_config
from tagi.backbones.protocol import (
    Backbone,
    BaseModel,
    KeysValues,
    Reduction,
    Site,
    count_parameters,
    initial_factors,
)
from tagi.backbones.t5 import T5Backbone, score_cached

__all__ = [
    "Backbone",
    "BaseModel",
    "KeysValues",
    "Reduction",
    "Site",
    "T5Backbone",
    "build_t5",
    "count_parameters",
    "initial_factors",
    "load_backbone",
    "load_tokenizer",
    "locate",
    "make_backbone",
    "score_cached",
    "t5_config",
]
