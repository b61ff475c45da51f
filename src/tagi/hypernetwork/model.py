"""The generator: backbone, hypernetwork and fusion as one module (sections 3.2.1 and 3.2.4 of the paper)."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Protocol, TypedDict, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tagi.adapters.attach import Attached, Attachment, detached
from tagi.adapters.bank import LoraBank
from tagi.adapters.protocol import Bank
from tagi.adapters.residual import ResidualBank
from tagi.backbones.causal import CausalBackbone
from tagi.backbones.grouping import grouped_logits
from tagi.backbones.protocol import Backbone, Instructions, KeysValues
from tagi.backbones.t5 import T5Backbone
from tagi.data.text.encoder import CausalTextEncoder, TextEncoder, TextSettings
from tagi.errors import ConfigError
from tagi.hypernetwork.component import ComponentGenerator
from tagi.hypernetwork.fusion import Fusion
from tagi.hypernetwork.instruction_norm import InstructionNorm
from tagi.hypernetwork.pooled import PooledGenerator
from tagi.hypernetwork.query import QueryGenerator
from tagi.hypernetwork.shared_lora import SharedLora
from tagi.hypernetwork.states import TaskStates
from tagi.hypernetwork.targets import Targets, blank_bank, targets_of
from tagi.hypernetwork.tune import set_tuned
from tagi.settings.generator import GeneratorSettings


class GeneratorModel(nn.Module):
    """What reads instructions and makes a backbone do the tasks.

    Every call takes what it needs as arguments and leaves nothing behind: banks and fusion are attached to
    the backbone for the length of the call. One that generates prefixes sets the backbone's attention to take them,
    which without one computes what it did.

    Raises `ConfigError` for settings that the backbone cannot serve, and for limits of text that pass its positions.
    """

    def __init__(self, backbone: Backbone, settings: GeneratorSettings, text: TextSettings) -> None:
        super().__init__()
        if isinstance(backbone, CausalBackbone):
            _check_causal(backbone, settings, text)
        elif settings.instruction_cache is not None:
            raise ConfigError(
                f"generator.instruction_cache: expected none on the encoder-decoder {backbone.identity.name}, whose "
                f"encoder reads a text in both directions, got {settings.instruction_cache!r}"
            )
        self.backbone = backbone
        self.settings = settings
        self.text = text_encoder(backbone, text)
        self.source: str | None = None
        """A name that finds this generator from any folder, once it is saved or loaded (`formats.finding`)."""
        self.targets = targets_of(backbone, settings)
        self.hypernetwork = _hypernetwork(backbone, self.targets, settings)
        self.shared = None
        if settings.shared_rank:
            self.shared = SharedLora(
                backbone.sites, settings.shared_rank, seed=settings.seed, trained=settings.shared_tune
            )
        self.fusion = (
            Fusion(
                backbone,
                norm=settings.fusion_norm,
                init=settings.fusion_init,
                every=settings.fusion_every,
                seed=settings.seed,
            )
            if settings.fuses
            else None
        )
        self.reader = deepcopy(backbone.instruction_reader).requires_grad_(True) if settings.reader == "own" else None
        if settings.makes_prefixes and isinstance(backbone, T5Backbone):
            backbone.take_prefixes()
        set_tuned(backbone.model, settings.tune)

    @property
    def own_parts(self) -> list[nn.Module]:
        """What is not the backbone's: hypernetwork, shared LoRA, fusion, a reader of its own."""
        return [part for part in (self.hypernetwork, self.shared, self.fusion, self.reader) if part is not None]

    @property
    def keeps_keys_values(self) -> bool:
        """Whether inputs go on from an instruction's keys and values, which cannot be made anew from its states."""
        return self.settings.concatenates and isinstance(self.backbone, CausalBackbone)

    @property
    def keeps_prefix(self) -> bool:
        """Whether inputs go on from keys and values of the instruction, however these are computed."""
        return self.settings.adapts_prefix or self.keeps_keys_values

    def encode_instructions(
        self, ids: Int[Tensor, "task token"], mask: Bool[Tensor, "task token"]
    ) -> Float[Tensor, "task token d_model"]:
        """`I_x` alone."""
        return self._read(ids, mask, keep=False).states

    def read_instructions(self, ids: Int[Tensor, "task token"], mask: Bool[Tensor, "task token"]) -> Instructions:
        """`I_x`, and of a decoder-only backbone the keys and values that inputs go on from, in one pass.

        The reader reads with nothing generated and no fusion, also inside another call. Where the instruction is read
        again under the task's LoRA, its tokens come along.
        """
        read = self._read(ids, mask, keep=self.settings.concatenates)
        return replace(read, ids=ids) if self.settings.adapts_prefix else read

    def _read(self, ids: Tensor, mask: Tensor, *, keep: bool) -> Instructions:
        trained = self.reader_trained
        with detached(), torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            if self.reader is not None:
                return Instructions(self.reader(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask)
            return self.backbone.read_instructions(ids, mask, keep=keep)

    @property
    def reader_trained(self) -> bool:
        """Whether what reads instructions has trained parameters; if not, an instruction's states never change."""
        reads = self.backbone.instruction_reader if self.reader is None else self.reader
        return any(parameter.requires_grad for parameter in reads.parameters())

    @property
    def wants_measuring(self) -> bool:
        """Whether instruction states are to be standardized, and by what is not known yet."""
        return self.settings.standardize and not self._norm.measured

    def measure(
        self,
        batches: Iterable[tuple[Int[Tensor, "task token"], Bool[Tensor, "task token"]]],
        encode: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """Measure mean and deviation of every channel of `I_x`, for `standardize`.

        Args:
            batches: Instructions, as token ids and mask.
            encode: Gives the states of a batch, by default `encode_instructions`.
        """
        training = self.training
        self.eval()
        self._norm.measure(((encode or self.encode_instructions)(ids, mask), mask) for ids, mask in batches)
        self.train(training)

    @property
    def _norm(self) -> InstructionNorm:
        return cast(InstructionNorm, self.hypernetwork.norm)

    def generate_bank(self, states: Float[Tensor, "task token d_model"], mask: Bool[Tensor, "task token"]) -> Bank:
        """`I_x` -> one LoRA, or whatever else is generated, per task (eq. 2); with the shared LoRA if there is one."""
        bank: Bank = self.hypernetwork(states, mask)
        return bank if self.shared is None else self.shared_with(bank)

    def generate_residual(
        self, states: Float[Tensor, "task token d_model"], mask: Bool[Tensor, "task token"]
    ) -> ResidualBank:
        """`I_x` -> what is generated on top of the shared LoRA. Raises `ValueError` without a shared LoRA."""
        if self.shared is None:
            raise ValueError("expected a generator with a shared LoRA, got one without")
        residual: ResidualBank = self.hypernetwork(states, mask)
        return residual

    def shared_with(self, residual: Bank) -> LoraBank:
        """The shared LoRA with generated residuals, one LoRA per task."""
        assert self.shared is not None
        assert isinstance(residual, ResidualBank)
        return residual.joined(self.shared.factors())

    @property
    def blank_bank(self) -> Bank:
        """A task's adapter without numbers, on torch's meta device: its shapes."""
        blank = blank_bank(self.targets)
        if self.shared is None or not isinstance(blank, ResidualBank):
            return blank
        shared = {path: (a.to("meta"), b.to("meta")) for path, (a, b) in self.shared.factors().items()}
        return blank.joined(shared)

    def forward(
        self,
        instruction_ids: Int[Tensor, "task token"],
        instruction_mask: Bool[Tensor, "task token"],
        rows: Int[Tensor, " row"],
        input_ids: Int[Tensor, "row input_token"],
        input_mask: Bool[Tensor, "row input_token"],
        labels: Int[Tensor, "row target"],
    ) -> tuple[Float[Tensor, "row target vocabulary"], Bank]:
        """Teacher-forced logits of a batch of several tasks, and the bank that produced them.

        `rows[i]` is the task of row i. Each instruction is encoded, and its adapter generated, once.
        """
        read = self.read_instructions(instruction_ids, instruction_mask)
        bank = self.generate_bank(read.states, read.mask)
        return self.logits(read, bank, rows, input_ids, input_mask, labels), bank

    def logits(
        self,
        read: Instructions,
        bank: Bank,
        rows: Int[Tensor, " row"],
        input_ids: Int[Tensor, "row input_token"],
        input_mask: Bool[Tensor, "row input_token"],
        labels: Int[Tensor, "row target"],
        alone: Bool[Tensor, " row"] | None = None,
    ) -> Float[Tensor, "row target vocabulary"]:
        """Teacher-forced logits from instructions that have been read and a bank already generated.

        Rows that are `alone` have nothing of the instruction but the adapter.
        """
        kept = self._kept(read.mask)[rows]
        if alone is not None:
            kept = kept & ~alone
        if isinstance(self.backbone, CausalBackbone) and self.fusion is None and not self.settings.concatenates:
            return self._prompted_logits(read, bank, rows, input_ids, input_mask, labels, kept)
        hooks: list[Mapping[nn.Module, Attached]] = [self.backbone.hooks(bank, rows)]
        if self.fusion is not None:
            # Values of zero read as nothing: fusion has no biases.
            pairs = self.fusion.keys_values(read.states)
            keys_values = [(k[rows], v[rows] * kept[:, None, None, None]) for k, v in pairs]
            hooks.append(self.fusion.hooks(self.backbone, keys_values, read.mask[rows]))
        before = None
        if self.settings.concatenates:
            chosen = read.select(rows)
            before = replace(chosen, mask=chosen.mask & kept[:, None])
        with Attachment(*hooks).active():
            return self.backbone.forced_logits(input_ids, input_mask, labels, before)

    def _prompted_logits(
        self,
        read: Instructions,
        bank: Bank,
        rows: Tensor,
        input_ids: Tensor,
        input_mask: Tensor,
        labels: Tensor,
        kept: Bool[Tensor, " row"],
    ) -> Float[Tensor, "row target vocabulary"]:
        """Instruction, input and target as one text under the row's own bank, rows of similar length together."""
        ids, mask = input_ids, input_mask
        if self.settings.adapts_prefix:
            assert read.ids is not None
            ids = torch.cat([read.ids[rows], ids], 1)
            mask = torch.cat([read.mask[rows] & kept[:, None], mask], 1)
            order = mask.long().argsort(dim=1, stable=True)  # all padding to the left, tokens in their order
            ids, mask = ids.gather(1, order), mask.gather(1, order)

        def compute(group: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
            with Attachment(self.backbone.hooks(bank, rows[group])).active():
                return self.backbone.forced_logits(ids, mask, labels)

        return grouped_logits(ids, mask, labels, compute)

    def _kept(self, mask: Bool[Tensor, "task token"]) -> Bool[Tensor, " task"]:
        """Which tasks of a batch keep their instruction states: all, but for `state_dropout` in training.

        A task without them has nothing but its adapter, which so cannot leave the work to the states.
        """
        rate = self.settings.state_dropout if self.training else 0.0
        return torch.rand(mask.shape[0], device=mask.device) >= rate

    @torch.no_grad()
    def prepare(self, ids: Int[Tensor, "task token"], mask: Bool[Tensor, "task token"]) -> TaskStates:
        """Everything that inference needs of the instructions, in one pass over them."""
        read = self.read_instructions(ids, mask)
        return self.states_from(read, self.generate_bank(read.states, mask))

    @torch.no_grad()
    def states_from(self, read: Instructions, bank: Bank) -> TaskStates:
        """Task states of instructions that have been read, under the given bank.

        Keys and values over the instructions that depend on the bank are computed anew: by T5's decoder, and by a
        decoder-only backbone that reads them under the task's LoRA.
        """
        cross: KeysValues | None = None
        if self.settings.adapts_prefix:
            cross = self._adapted_prefix(read, bank)
        if self.settings.concatenates:
            every_task = torch.arange(read.mask.shape[0], device=read.mask.device)
            with Attachment(self.backbone.hooks(bank, every_task)).active():
                cross = self.backbone.memory(read)
        fusion = None if self.fusion is None else self.fusion.keys_values(read.states)
        return TaskStates(bank, read.states, read.mask, fusion, cross, read.ids)

    def _adapted_prefix(self, read: Instructions, bank: Bank) -> KeysValues:
        """Keys and values of the instructions, each read under its own task's LoRA."""
        if read.ids is None:
            raise ValueError("expected the instructions' tokens, to read them under the task's LoRA, got none")
        every_task = torch.arange(read.mask.shape[0], device=read.mask.device)
        with Attachment(self.backbone.hooks(bank, every_task)).active():
            return self.backbone.memory(self.backbone.read_instructions(read.ids, read.mask, keep=True))

    def asks(self, *, alone: bool) -> "Asks":
        """How an input becomes tokens: after an instruction, or `alone`, without one before it.

        Generators of an older form (no `instruction_cache`) ask in the same way with and without.
        """
        if self.settings.instruction_cache is None:
            return self.text.input
        return self.text.alone if alone else self.text.continuation


def text_encoder(backbone: Backbone, settings: TextSettings) -> TextEncoder:
    """Texts as the backbone's family reads them."""
    kind = CausalTextEncoder if isinstance(backbone, CausalBackbone) else TextEncoder
    return kind(backbone.tokenizer, settings)


def _check_causal(backbone: CausalBackbone, settings: GeneratorSettings, text: TextSettings) -> None:
    """What a decoder-only backbone cannot do, before anything is made."""
    name = backbone.identity.name
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
    own = text.max_input_tokens + text.max_target_tokens
    instruction = text.max_instruction_tokens
    before = settings.concatenates or settings.adapts_prefix
    needed = own + instruction if before else max(own, instruction)
    seen, what = backbone.max_tokens, "its positions"
    if before and backbone.window is not None and backbone.window < seen:
        seen, what = backbone.window, "its sliding window"
    if needed > seen:
        together = "of instruction, input and target together" if before else "of input and target"
        raise ConfigError(f"{name}: expected limits {together} that make at most {seen} tokens ({what}), got {needed}")


class Asks(Protocol):
    """Turns an input into token ids."""

    def __call__(self, text: str, /, *, truncate: bool = False) -> list[int]:
        """Token ids; an input over the limit is an `InputError` unless `truncate`."""
        ...


class _Common(TypedDict):
    hidden: int
    standardize: bool
    seed: int


def _hypernetwork(backbone: Backbone, targets: Targets, settings: GeneratorSettings) -> nn.Module:
    width = backbone.d_model
    common = _Common(hidden=settings.hidden, standardize=settings.standardize, seed=settings.seed)
    if settings.kind == "pooled":
        return PooledGenerator(targets, width, pooling=settings.pooling, **common)
    if settings.kind == "component":
        return ComponentGenerator(targets, width, heads=backbone.heads, d_kv=backbone.d_kv, **common)
    return QueryGenerator(targets, width, width=settings.width, heads=settings.heads, **common)
