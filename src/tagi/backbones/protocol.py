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
"""Keys and values of one attention per layer, `(row, heads, token, d_kv)`, whatever the attention."""
Memory = tuple[KeysValues, Bool[Tensor, "#row known"]]
"""`Backbone.memory` of each row's instruction, or of one for all rows, and which of its tokens are not padding."""


class Decoding(TypedDict, total=False):
    """How answers are generated: greedily, or by beam search.

    Args:
        max_new_tokens: Most tokens of an answer.
        min_new_tokens: No answer ends before so many tokens.
        num_beams: Beams, 1 for greedy decoding. An attachment in force must be laid out for `row * num_beams` rows, the
            beams of a row side by side.
    """

    max_new_tokens: Required[int]
    min_new_tokens: int | None
    num_beams: int


@dataclass(frozen=True, slots=True)
class TargetModule:
    """A target module, which receives LoRA: a linear layer, or a slice of the output of one that fuses several.

    `path` is the layer's module path; a slice's says besides which columns it is (`tagi.adapters.slices`). `layer`
    numbers the attention module the target module belongs to: its query and value share one generator MLP
    (eq. 2).
    """

    path: str
    layer: int
    projection: Projection
    d_in: int
    d_out: int


@dataclass(frozen=True)
class Instructions:
    """What a backbone computed from several instructions, each read once and before any input.

    `states` are `I_x`, `mask` says which of their tokens are not padding. `layers` are keys and values of every
    attention over them, if the backbone is decoder-only and shall go on from there. `ids` are the instructions' tokens,
    kept where the instruction is read again under an adapter.
    """

    states: shapes.InstructionStates
    mask: shapes.InstructionMask
    layers: KeysValues | None = None
    ids: shapes.InstructionIds | None = None

    def select(self, rows: shapes.TaskRows) -> "Instructions":
        """Instruction i is this one's `rows[i]`; rows may repeat."""
        layers = None if self.layers is None else [(keys[rows], values[rows]) for keys, values in self.layers]
        return Instructions(self.states[rows], self.mask[rows], layers, None if self.ids is None else self.ids[rows])


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Which model a generator or adapter was made for: built-in name, folder or hub name, and its revision.

    The revision is the hub's commit, or `sha256:...` over a folder's weights.
    """

    name: str
    revision: str

    def __str__(self) -> str:
        return f"{self.name} ({self.revision})"


def find_target_modules(model: nn.Module, *, query: str, key: str, value: str) -> tuple[TargetModule, ...]:
    """Query and value projections of every attention: of every module with three linear layers so named.

    Layers are numbered in the model's order. T5-base has 36 attentions (encoder self, decoder self, decoder
    cross), so 72 target modules.
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
    """A0 of every target module by path: what all teachers' A, and the generator's, start from (B starts at zero).

    PEFT's own start, Kaiming uniform with a = sqrt(5); a function of the target modules, the rank and the seed alone.
    """
    random = torch.Generator().manual_seed(seed)
    return {
        module.path: (torch.rand(rank, module.d_in, generator=random) * 2 - 1) / math.sqrt(module.d_in)
        for module in target_modules
    }


class Backbone(nn.Module):
    """A language model with LoRA target modules, that reads instructions once and answers inputs after them.

    The model is a submodule and is never modified: what is generated is attached for the length of a call. What is
    read of inputs is the backbone's own affair: a pair goes from `read_inputs` to `generate` or `scores`.
    """

    model: Any  # a transformers PreTrainedModel
    tokenizer: Any  # a transformers PreTrainedTokenizerBase
    identity: BaseModel
    target_modules: tuple[TargetModule, ...]
    encoder_decoder: ClassVar[bool]
    """Whether an encoder reads texts and a decoder generates answers, or one stack does both."""
    files: BaseFiles | None = None
    """The files that it was read from. None for a model that was made in memory."""
    attentions: tuple[str, ...] = ()
    """Paths of all attentions that can read a generated prefix."""
    self_attention_outputs: tuple[str, ...] = ()
    """Paths of modules behind which a bottleneck adapter can stand."""
    feed_forwards: tuple[str, ...] = ()
    """Paths of modules beside which a bottleneck adapter can stand."""
    activation: str = ""
    """The feed-forwards' activation, where they are listed."""
    d_model: int
    """Width of instruction states."""
    width: int
    """Width of the layers where an instruction is fused."""
    heads: int
    d_kv: int
    depth: int
    """Number of layers, the encoder's and the decoder's together."""
    dropout: float
    norm_epsilon: float
    max_tokens: int
    """Positions of a decoder-only model, which limit prompt and answer together."""
    window: int | None = None
    """Tokens that the layer with the smallest sliding window sees; None if all layers see everything."""

    def __init__(self, model: Any, tokenizer: Any, identity: BaseModel) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.identity = identity

    @property
    def target_layers(self) -> Mapping[str, nn.Module]:
        """The target modules' layers by module path, as a bank wants them; looked up anew so that wrappers are seen."""
        layers = dict.fromkeys(layer_of(module.path) for module in self.target_modules)
        return {layer: self.model.get_submodule(layer) for layer in layers}

    @property
    def linears(self) -> list[str]:
        """Module paths of all linear layers."""
        return [path for path, module in self.model.named_modules() if isinstance(module, nn.Linear | Conv1D)]

    @property
    def transposed(self) -> bool:
        """Whether the target modules' layers keep their weights as `(d_in, d_out)`."""
        return any(isinstance(module, Conv1D) for module in self.target_layers.values())

    @property
    def fused(self) -> bool:
        """Whether target modules are slices of a layer's output."""
        return any(layer_of(module.path) != module.path for module in self.target_modules)

    @property
    def places(self) -> Mapping[str, nn.Module]:
        """All modules that a bank may act on, by path."""
        return self.target_layers

    @property
    def instruction_reader(self) -> nn.Module:
        """The part of the model that encodes instructions."""
        raise NotImplementedError

    @property
    def fusion_places(self) -> list[nn.Module]:
        """The modules whose output may attend to an instruction (eq. 1), in the model's order."""
        raise NotImplementedError

    @property
    def cross_attentions(self) -> list[nn.Module]:
        """Per decoder layer its attention over the encoder's output; empty for a decoder-only model."""
        return []

    @property
    def vocabulary(self) -> int:
        """Tokens that logits are over."""
        size: int = self.model.config.vocab_size
        return size

    @property
    def device(self) -> torch.device:
        """The device of the model's parameters."""
        device: torch.device = self.model.device
        return device

    def viewed(self: B, model: Any) -> B:
        """Return the same backbone around another view of its model, such as one with merged weights."""
        return type(self)(model, self.tokenizer, self.identity)

    def checkpoint_gradients(self) -> None:
        """From now on keep no activations of layers while training: they are recomputed in backward.

        Recomputation happens after the call, under the attachment that was in force in the forward pass.
        """
        options = {"use_reentrant": False, "context_fn": reenter}
        # transformers renamed it in 5.23 and warns of the old name.
        renamed = getattr(self.model, "activation_checkpointing_enable", None)
        (renamed or self.model.gradient_checkpointing_enable)(options)

    def hooks(self, bank: Bank, rows: shapes.TaskRows | None = None) -> dict[nn.Module, Attached]:
        """Return what to attach of a bank: row i of a call gets task `rows[i]`, without `rows` all get its one task."""
        return bank.hooks(self.places, rows)

    def take_prefixes(self) -> None:
        """From now on attentions read prefixes; without one they compute the same as before, bit for bit."""
        raise NotImplementedError

    def encode(self, ids: shapes.TokenIds, mask: shapes.TokenMask) -> shapes.TokenStates:
        """Hidden states of a text under whatever attachment is in force."""
        raise NotImplementedError

    def read_instructions(
        self, ids: shapes.InstructionIds, mask: shapes.InstructionMask, *, keep: bool
    ) -> Instructions:
        """`I_x` of instructions padded on the right; with `keep` also what inputs read after them need of the pass."""
        raise NotImplementedError

    def memory(self, read: Instructions) -> KeysValues:
        """Return the keys and values, per layer, of instructions read with `keep`. The tasks' bank must be attached."""
        raise NotImplementedError

    def memory_shapes(self, tokens: int) -> list[tuple[int, int, int]]:
        """Return per layer the shape of the keys, and of the values, of an instruction of so many tokens."""
        raise NotImplementedError

    def forced_logits(
        self, ids: shapes.TokenIds, mask: shapes.TokenMask, labels: shapes.Labels, before: Instructions | None = None
    ) -> shapes.Logits:
        """Teacher-forced logits at each target position after inputs, or after each row's instruction and its input.

        Labels of -100 are padding. For training: gradients reach what was read before.
        """
        raise NotImplementedError

    def read_inputs(
        self, ids: shapes.TokenIds, mask: shapes.TokenMask, before: Memory | None = None
    ) -> tuple[Any, shapes.MemoryMask]:
        """Read inputs, after the instructions in `before` if given. Returns what was read, and the mask of its tokens.

        Any number of answers and choices can follow what was read.
        """
        raise NotImplementedError

    def generate(self, read: Any, mask: shapes.MemoryMask, **decoding: Unpack[Decoding]) -> shapes.AnswerIds:
        """Generate one answer per row from what `read_inputs` returned."""
        raise NotImplementedError

    def scores(
        self, read: Any, mask: shapes.MemoryMask, labels: shapes.ChoiceLabels, reduction: Reduction = "sum"
    ) -> shapes.ChoiceScores:
        """Log-probability of every choice of every row from what `read_inputs` gave, end of sequence included.

        Summed over tokens, or their mean. A choice whose labels are all -100 scores 0. An attachment in force must be
        laid out for `row * choice` rows, a row's choices together.
        """
        raise NotImplementedError


def count_parameters(module: nn.Module, trained: bool | None = None) -> int:
    """Parameters of a module; only those that are (not) trained if `trained` says so."""
    return sum(p.numel() for p in module.parameters() if trained is None or p.requires_grad is trained)
