"""A reader of instructions apart from the backbone: HyperTuning trains the model that reads and freezes the other."""

from typing import cast

import torch
from torch import nn

from tagi.adapters import view_with_parameters
from tagi.backbones import T5Backbone


def copied_encoder(backbone: T5Backbone) -> nn.Module:
    """The backbone's encoder with its embeddings, every parameter a trained one of its own."""
    encoder = cast(nn.Module, backbone.model.encoder)
    own = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    with torch.no_grad():
        copied = view_with_parameters(encoder, own)
    return copied.requires_grad_(True).train(encoder.training)
