"""The interface of a backbone, whatever the architecture of its language model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Required, TypedDict, TypeVar, Unpack, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tagi.adapters.attach import Attached, reenter
from tagi.adapters.protocol import Bank
from tagi.adapters.slices import layer_of
from tagi.backbones import shapes
from tagi.backbones.model_files import BaseFiles

B = TypeVar("B", bound="Backbone")
Projection = Literal["q", "v"]
Reduction = Literal["sum", "mean"]
KeysValues = list[tuple[Float[Tensor, "_row _heads _token _d_kv"], Float[Tensor, "_row _heads _token _d_kv"]]]
"""Keys and values of one attention module per layer, `(row, heads, token, d_kv)`."""
Memory = tuple[KeysValues, Bool[Tensor, "#row known"]]
"""`Backbone.memory` of each row's instruction (or one for all rows), and the mask of its tokens."""


class Decoding(TypedDict, total=False):
    """Decoding settings.

    Args:
        max_new_tokens: Maximum number of tokens of an answer.
        min_new_tokens: Minimum number of tokens of an answer.
        num_beams: Number of beams, 1 for greedy decoding. The active attachment must be laid out for `row * num_beams`
            rows, with the beams of a row next to each other.
    """

    max_new_tokens: Required[int]
    min_new_tokens: int | None
    num_beams: int


@dataclass(frozen=True, slots=True)
class TargetModule:
    """A target module of LoRA: a linear layer, or a slice of the output of a fused one.

    `path` is the layer's module path, for slices with the columns (`tagi.adapters.slices`). `layer` is the index of the
    attention module that it belongs to: query and value of a layer share one MLP of the hypernetwork (eq. 2).
    """

    path: str
    layer: int
    projection: Projection
    d_in: int
    d_out: int


@dataclass(frozen=True)
class Instructions:
    """Several encoded instructions.

    `states` are `I_x`, and `mask` marks the tokens that are not padding. `layers` are the keys and values of every
    layer, for decoder-only backbones with a KV prefix computed without LoRA. `ids` are the token ids, stored if the KV
    prefix is computed under the task's LoRA.
    """

    states: shapes.InstructionStates
    mask: shapes.InstructionMask
    layers: KeysValues | None = None
    ids: shapes.InstructionIds | None = None

    def select(self, rows: shapes.TaskRows) -> "Instructions":
        """Select instruction `rows[i]` as instruction i. Rows may repeat."""
        layers = None if self.layers is None else [(keys[rows], values[rows]) for keys, values in self.layers]
        return Instructions(self.states[rows], self.mask[rows], layers, None if self.ids is None else self.ids[rows])


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Identity of the model that a generator or adapter belongs to: built-in name, folder or hub name, and revision.

    The revision is the hub's commit, or `sha256:...` of a folder's weights.
    """

    name: str
    revision: str

    def __str__(self) -> str:
        return f"{self.name} ({self.revision})"


def find_target_modules(model: nn.Module, *, query: str, key: str, value: str) -> tuple[TargetModule, ...]:
    """Return query and value projections of every attention module, found by the names of its linear layers.

    Layers are numbered in the model's order. T5-base has 36 attention modules (encoder self, decoder self, decoder
    cross), and thus 72 target modules.
    """
    target_modules: list[TargetModule] = []
    for path, attention in model.named_modules():
        if not all(isinstance(getattr(attention, name, None), nn.Linear) for name in (query, key, value)):
            continue
        layer = len(target_modules) // 2
        named: tuple[tuple[Projection, str], ...] = (("q", query), ("v", value))
        for projection, name in named:
            linear = cast(nn.Linear, getattr(attention, name))
            target_modules.append(
                TargetModule(f"{path}.{name}", layer, projection, linear.in_features, linear.out_features)
            )
    return tuple(target_modules)


def initial_factors(
    target_modules: Sequence[TargetModule], rank: int, seed: int
) -> dict[str, Float[Tensor, "rank _d_in"]]:
    """Return A0 of every target module by path: the initial A of the generator and of all teachers (B starts at zero).

    The same distribution as in PEFT, Kaiming uniform with a = sqrt(5). Depends only on target modules, rank and seed.
    """
    random = torch.Generator().manual_seed(seed)
    return {
        module.path: (torch.rand(rank, module.d_in, generator=random) * 2 - 1) / math.sqrt(module.d_in)
        for module in target_modules
    }


class Backbone(nn.Module):
    """A language model with LoRA target modules, which encodes instructions once and then answers inputs.

    The model is a submodule and is never modified: generated modules are attached during calls. The result of
    `read_inputs` is specific to the backbone, and is passed to `generate` or `scores`.
    """

    model: Any  # a transformers PreTrainedModel
    tokenizer: Any  # a transformers PreTrainedTokenizerBase
    identity: BaseModel
    target_modules: tuple[TargetModule, ...]
    encoder_decoder: ClassVar[bool]
    """Whether the model is an encoder-decoder (True) or decoder-only."""
    files: BaseFiles | None = None
    """The files that the model was loaded from. None for a model that was created in memory."""
    attentions: tuple[str, ...] = ()
    """Paths of all attention modules that support generated prefixes."""
    self_attention_outputs: tuple[str, ...] = ()
    """Paths of modules that support a sequential bottleneck adapter."""
    feed_forwards: tuple[str, ...] = ()
    """Paths of modules that support a parallel bottleneck adapter."""
    activation: str = ""
    """Activation of the feed-forward layers listed above."""
    d_model: int
    """Width of instruction states."""
    width: int
    """Width of the layers with fusion."""
    heads: int
    d_kv: int
    depth: int
    """Number of layers, of encoder and decoder together."""
    dropout: float
    norm_epsilon: float
    max_tokens: int
    """Number of positions of a decoder-only model, the limit of prompt and answer together."""
    window: int | None = None
    """Smallest sliding window of a layer in tokens; None without sliding windows."""

    def __init__(self, model: Any, tokenizer: Any, identity: BaseModel) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.identity = identity

    @property
    def target_layers(self) -> Mapping[str, nn.Module]:
        """The target modules' layers by module path. Not cached, so that wrapped modules are found."""
        layers = dict.fromkeys(layer_of(module.path) for module in self.target_modules)
        return {layer: self.model.get_submodule(layer) for layer in layers}

    @property
    def linears(self) -> list[str]:
        """Module paths of all linear layers."""
        return [path for path, module in self.model.named_modules() if isinstance(module, nn.Linear | Conv1D)]

    @property
    def transposed(self) -> bool:
        """Whether the target modules' layers store their weights as `(d_in, d_out)`."""
        return any(isinstance(module, Conv1D) for module in self.target_layers.values())

    @property
    def fused(self) -> bool:
        """Whether target modules are slices of a layer's output."""
        return any(layer_of(module.path) != module.path for module in self.target_modules)

    @property
    def places(self) -> Mapping[str, nn.Module]:
        """All modules that a bank can change, by path."""
        return self.target_layers

    @property
    def instruction_reader(self) -> nn.Module:
        """The part of the model that encodes instructions."""
        raise NotImplementedError

    @property
    def fusion_places(self) -> list[nn.Module]:
        """The modules that support fusion (eq. 1), in the model's order."""
        raise NotImplementedError

    @property
    def cross_attentions(self) -> list[nn.Module]:
        """The cross-attention of each decoder layer; empty for decoder-only models."""
        return []

    @property
    def vocabulary(self) -> int:
        """Number of tokens in the logits."""
        size: int = self.model.config.vocab_size
        return size

    @property
    def device(self) -> torch.device:
        """The device of the model's parameters."""
        device: torch.device = self.model.device
        return device

    def viewed(self: B, model: Any) -> B:
        """Return the same backbone with another view of its model, such as one with merged weights."""
        return type(self)(model, self.tokenizer, self.identity)

    def checkpoint_gradients(self) -> None:
        """Enable gradient checkpointing.

        Activations are recomputed under the attachment that was active in the forward pass.
        """
        options = {"use_reentrant": False, "context_fn": reenter}
        # renamed in transformers 5.23, which warns of the old name.
        renamed = getattr(self.model, "activation_checkpointing_enable", None)
        (renamed or self.model.gradient_checkpointing_enable)(options)

    def hooks(self, bank: Bank, rows: shapes.TaskRows | None = None) -> dict[nn.Module, Attached]:
        """Return a bank's attachment: row i uses task `rows[i]`; without `rows` all rows use the only task."""
        return bank.hooks(self.places, rows)

    def take_prefixes(self) -> None:
        """Make attention modules use prefixes. Without a prefix the results are identical to before."""
        raise NotImplementedError

    def encode(self, ids: shapes.TokenIds, mask: shapes.TokenMask) -> shapes.TokenStates:
        """Return the hidden states of a text under the active attachment."""
        raise NotImplementedError

    def read_instructions(
        self, ids: shapes.InstructionIds, mask: shapes.InstructionMask, *, keep: bool
    ) -> Instructions:
        """Encode instructions that are padded on the right; with `keep` also return their keys and values."""
        raise NotImplementedError

    def memory(self, read: Instructions) -> KeysValues:
        """Return keys and values per layer of instructions encoded with `keep`. The tasks' bank must be attached."""
        raise NotImplementedError

    def memory_shapes(self, tokens: int) -> list[tuple[int, int, int]]:
        """Return the shapes of keys and values per layer for an instruction of the given length."""
        raise NotImplementedError

    def forced_logits(
        self, ids: shapes.TokenIds, mask: shapes.TokenMask, labels: shapes.Labels, before: Instructions | None = None
    ) -> shapes.Logits:
        """Compute teacher-forced logits at each target position after the input, or after instruction and input.

        Labels of -100 are padding. Gradients flow into the encoded instructions.
        """
        raise NotImplementedError

    def read_inputs(
        self, ids: shapes.TokenIds, mask: shapes.TokenMask, before: Memory | None = None
    ) -> tuple[Any, shapes.MemoryMask]:
        """Encode inputs, after the instructions in `before` if given. Returns the result and the mask of its tokens.

        Any number of answers and choices can be computed from the result.
        """
        raise NotImplementedError

    def generate(self, read: Any, mask: shapes.MemoryMask, **decoding: Unpack[Decoding]) -> shapes.AnswerIds:
        """Generate one answer per row from the result of `read_inputs`."""
        raise NotImplementedError

    def scores(
        self, read: Any, mask: shapes.MemoryMask, labels: shapes.ChoiceLabels, reduction: Reduction = "sum"
    ) -> shapes.ChoiceScores:
        """Compute the log-probability of every choice of every row from the result of `read_inputs`.

        Includes the end of sequence; sum or mean over tokens. A choice with labels of -100 only scores 0. The active
        attachment must be laid out for `row * choice` rows, with the choices of a row next to each other.
        """
        raise NotImplementedError


def count_parameters(module: nn.Module, trained: bool | None = None) -> int:
    """Return the number of parameters of a module; with `trained`, only of those that are (not) trained."""
    return sum(p.numel() for p in module.parameters() if trained is None or p.requires_grad is trained)
