"""Generated modules and how they reach a model for the length of a call."""

from tagi.adapters.attach import Attached, Attachment, AttentionPrefix, OutputHook, detached, prefix_of, reenter
from tagi.adapters.bank import LoraBank, as_lora, delta_products, delta_variance
from tagi.adapters.bottleneck import Bottleneck, BottleneckBank
from tagi.adapters.merge import merge, merged_weights, view_with_parameters, view_with_weights
from tagi.adapters.prefix import PrefixBank
from tagi.adapters.protocol import Bank, JointBank, stack_banks
from tagi.adapters.residual import ResidualBank
from tagi.adapters.slices import layer_of, slice_name

__all__ = [
    "Attached",
    "Attachment",
    "AttentionPrefix",
    "Bank",
    "Bottleneck",
    "BottleneckBank",
    "JointBank",
    "LoraBank",
    "OutputHook",
    "PrefixBank",
    "ResidualBank",
    "as_lora",
    "delta_products",
    "delta_variance",
    "detached",
    "layer_of",
    "merge",
    "merged_weights",
    "prefix_of",
    "reenter",
    "slice_name",
    "stack_banks",
    "view_with_parameters",
    "view_with_weights",
]
