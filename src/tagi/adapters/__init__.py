"""Generated factors and how they reach a model for the length of a call."""

from tagi.adapters.attach import Attachment, OutputHook, detached, reenter
from tagi.adapters.bank import LoraBank, delta_products, delta_variance, stack_banks
from tagi.adapters.merge import merge, merged_weights, view_with_weights

__all__ = [
    "Attachment",
    "LoraBank",
    "OutputHook",
    "delta_products",
    "delta_variance",
    "detached",
    "merge",
    "merged_weights",
    "reenter",
    "stack_banks",
    "view_with_weights",
]
