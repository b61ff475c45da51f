"""Language models as backbones."""

from tagi.backbones.causal import CausalBackbone, Prefix, Reading, score_after
from tagi.backbones.load import (
    backbone_shapes,
    build_causal,
    build_t5,
    load_backbone,
    load_tokenizer,
    locate,
    make_backbone,
    may_be_found,
    t5_config,
)
from tagi.backbones.lora_folder import write_lora
from tagi.backbones.protocol import (
    Backbone,
    BaseModel,
    Instructions,
    KeysValues,
    Reduction,
    Site,
    count_parameters,
    initial_factors,
)
from tagi.backbones.scores import choice_scores
from tagi.backbones.t5 import T5Backbone, score_cached

__all__ = [
    "Backbone",
    "BaseModel",
    "CausalBackbone",
    "Instructions",
    "KeysValues",
    "Prefix",
    "Reading",
    "Reduction",
    "Site",
    "T5Backbone",
    "backbone_shapes",
    "build_causal",
    "build_t5",
    "choice_scores",
    "count_parameters",
    "initial_factors",
    "load_backbone",
    "load_tokenizer",
    "locate",
    "make_backbone",
    "may_be_found",
    "score_after",
    "score_cached",
    "t5_config",
    "write_lora",
]
