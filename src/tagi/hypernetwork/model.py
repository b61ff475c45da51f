"""The generator: backbone, hypernetwork and fusion as one module (sections 3.2.1 and 3.2.4 of the paper)."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from tagi.adapters.attach import Attached, Attachment, detached
from tagi.adapters.bank import LoraBank
from tagi.adapters.protocol import Bank
from tagi.adapters.residual import ResidualBank
from tagi.backbones.grouping import grouped_logits
from tagi.backbones.modes import evaluating
from tagi.backbones.protocol import Backbone, Instructions, KeysValues
from tagi.backbones.shapes import InstructionIds, InstructionMask, InstructionStates, Labels, Logits, TaskRows
from tagi.hypernetwork.build import check_settings, make_hypernetwork, text_encoder
from tagi.hypernetwork.fusion import Fusion
from tagi.hypernetwork.shared_lora import SharedLora
from tagi.hypernetwork.states import TaskStates
from tagi.hypernetwork.targets import bank_of, blank_bank, targets_of
from tagi.hypernetwork.tune import set_tuned
from tagi.settings.generator import GeneratorSettings
from tagi.settings.text import TextSettings


class GeneratorModel(nn.Module):
    """A backbone with hypernetwork, fusion and shared LoRA.

    Calls have no side effects: banks and fusion are attached to the backbone only during a call. A generator of
    prefixes replaces the backbone's attention by one that accepts prefixes and otherwise gives identical results.

    Raises:
        ConfigError: The backbone does not support the settings, or the length limits exceed its positions.
    """

    def __init__(self, backbone: Backbone, settings: GeneratorSettings, text: TextSettings) -> None:
        super().__init__()
        check_settings(backbone, settings, text)
        self.backbone = backbone
        self.settings = settings
        self.text = text_encoder(backbone, text)
        self.source: str | None = None
        """The name under which this generator can be found, once it was saved or loaded (`formats.finding`)."""
        self.targets = targets_of(backbone, settings)
        self.hypernetwork = make_hypernetwork(backbone, self.targets, settings)
        self.shared = None
        if settings.shared_rank:
            rank, trained = settings.shared_rank, settings.shared_tune
            self.shared = SharedLora(backbone.target_modules, rank, seed=settings.seed, trained=trained)
        self.fusion = Fusion(backbone, settings) if settings.fuses else None
        self.reader = deepcopy(backbone.instruction_reader).requires_grad_(True) if settings.reader == "own" else None
        if settings.makes_prefixes:
            backbone.take_prefixes()
        set_tuned(backbone.model, settings.tune)

    @property
    def own_parts(self) -> list[nn.Module]:
        """The modules besides the backbone: hypernetwork, shared LoRA, fusion, and a separate instruction encoder."""
        return [part for part in (self.hypernetwork, self.shared, self.fusion, self.reader) if part is not None]

    @property
    def keeps_keys_values(self) -> bool:
        """Whether inputs continue from a KV prefix that cannot be recomputed from the instruction states."""
        return self.settings.concatenates and not self.backbone.encoder_decoder

    @property
    def keeps_prefix(self) -> bool:
        """Whether inputs continue from a KV prefix of the instruction."""
        return self.settings.adapts_prefix or self.keeps_keys_values

    def encode_instructions(self, ids: InstructionIds, mask: InstructionMask) -> InstructionStates:
        """Return the instruction states `I_x`."""
        return self._read(ids, mask, keep=False).states

    def read_instructions(self, ids: InstructionIds, mask: InstructionMask) -> Instructions:
        """Encode instructions: `I_x`, and for a decoder-only backbone the KV prefix, in one forward pass.

        Adapters and fusion are never active here, even inside another call. If the KV prefix is computed under the
        task's LoRA later, the result contains the token ids instead.
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
        """Whether the instruction encoder is trained. If not, the states of an instruction never change."""
        reads = self.backbone.instruction_reader if self.reader is None else self.reader
        return any(parameter.requires_grad for parameter in reads.parameters())

    @property
    def wants_measuring(self) -> bool:
        """Whether statistics for standardising instruction states still have to be measured."""
        return self.settings.standardize and not self.hypernetwork.norm.measured

    def measure(
        self,
        batches: Iterable[tuple[InstructionIds, InstructionMask]],
        encode: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """Measure mean and deviation of every channel of `I_x`, for `standardize`.

        Args:
            batches: Token ids and masks of instructions.
            encode: Function that encodes a batch; by default `encode_instructions`.
        """
        with evaluating(self):
            encode = encode or self.encode_instructions
            self.hypernetwork.norm.measure((encode(ids, mask), mask) for ids, mask in batches)

    def generate_bank(self, states: InstructionStates, mask: InstructionMask) -> Bank:
        """Generate one LoRA (or other module) per task from `I_x` (eq. 2), including the shared LoRA if any."""
        bank: Bank = self.hypernetwork(states, mask)
        return bank if self.shared is None else self.shared_with(bank)

    def generate_residual(self, states: InstructionStates, mask: InstructionMask) -> ResidualBank:
        """Generate the residual on top of the shared LoRA from `I_x`. Raises `ValueError` without a shared LoRA."""
        if self.shared is None:
            raise ValueError("expected a generator with a shared LoRA, got one without")
        residual: ResidualBank = self.hypernetwork(states, mask)
        return residual

    def shared_with(self, residual: Bank) -> LoraBank:
        """Combine the shared LoRA with generated residuals into one LoRA per task."""
        assert self.shared is not None
        assert isinstance(residual, ResidualBank)
        return residual.joined(self.shared.factors())

    @torch.no_grad()
    def start_bank(self) -> Bank:
        """Return the bank before training: A0 and B = 0, on top of the shared LoRA if there is one.

        LoRA teachers with the same seed start from it.
        """
        like = next(self.hypernetwork.parameters())
        slots = [slot for target in self.targets for slot in target.slots]
        nothing = {(slot.place, slot.part): like.new_zeros(1, slot.rows, slot.width) for slot in slots}
        bank = bank_of(self.targets, self.hypernetwork.heads.with_starts(nothing))
        return bank if self.shared is None else self.shared_with(bank)

    @property
    def blank_bank(self) -> Bank:
        """Return a task's bank on torch's meta device, which has shapes but no values."""
        blank = blank_bank(self.targets)
        if self.shared is None or not isinstance(blank, ResidualBank):
            return blank
        shared = {path: (a.to("meta"), b.to("meta")) for path, (a, b) in self.shared.factors().items()}
        return blank.joined(shared)

    def forward(
        self,
        instruction_ids: InstructionIds,
        instruction_mask: InstructionMask,
        rows: TaskRows,
        input_ids: Int[Tensor, "row input_token"],
        input_mask: Bool[Tensor, "row input_token"],
        labels: Labels,
    ) -> tuple[Logits, Bank]:
        """Compute teacher-forced logits of a batch with several tasks, and return the generated bank too.

        `rows[i]` is the task of row i. Each instruction is encoded and its adapter generated once.
        """
        read = self.read_instructions(instruction_ids, instruction_mask)
        bank = self.generate_bank(read.states, read.mask)
        return self.logits(read, bank, rows, input_ids, input_mask, labels), bank

    def logits(
        self,
        read: Instructions,
        bank: Bank,
        rows: TaskRows,
        input_ids: Int[Tensor, "row input_token"],
        input_mask: Bool[Tensor, "row input_token"],
        labels: Labels,
        alone: Bool[Tensor, " row"] | None = None,
    ) -> Logits:
        """Compute teacher-forced logits from encoded instructions and a generated bank.

        Rows marked in `alone` use the adapter only, without instruction states or KV prefix.
        """
        visible = self._with_states(read.mask)[rows]
        if alone is not None:
            visible = visible & ~alone
        if not (self.backbone.encoder_decoder or self.fusion or self.settings.concatenates):
            return self._prompted_logits(read, bank, rows, input_ids, input_mask, labels, visible)
        hooks: list[Mapping[nn.Module, Attached]] = [self.backbone.hooks(bank, rows)]
        if self.fusion is not None:
            # Values of zero contribute nothing, since fusion has no biases.
            pairs = self.fusion.keys_values(read.states)
            keys_values = [(k[rows], v[rows] * visible[:, None, None, None]) for k, v in pairs]
            hooks.append(self.fusion.hooks(self.backbone, keys_values, read.mask[rows]))
        before = None
        if self.settings.concatenates and (self.backbone.encoder_decoder or read.layers is not None):
            chosen = read.select(rows)
            before = replace(chosen, mask=chosen.mask & visible[:, None])
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
        visible: Bool[Tensor, " row"],
    ) -> Logits:
        """Compute logits of instruction, input and target as one text under each row's bank, grouped by length."""
        ids, mask = input_ids, input_mask
        if self.settings.adapts_prefix:
            assert read.ids is not None
            ids = torch.cat([read.ids[rows], ids], 1)
            mask = torch.cat([read.mask[rows] & visible[:, None], mask], 1)
            order = mask.long().argsort(dim=1, stable=True)  # move all padding to the left
            ids, mask = ids.gather(1, order), mask.gather(1, order)

        def compute(group: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
            with Attachment(self.backbone.hooks(bank, rows[group])).active():
                return self.backbone.forced_logits(ids, mask, labels)

        return grouped_logits(ids, mask, labels, compute)

    def _with_states(self, mask: InstructionMask) -> Bool[Tensor, " task"]:
        """Return which tasks of a batch keep their instruction states: all, except for `state_dropout` in training.

        Tasks without states use the adapter only, which thus learns to work alone.
        """
        rate = self.settings.state_dropout if self.training else 0.0
        return torch.rand(mask.shape[0], device=mask.device) >= rate

    @torch.no_grad()
    def prepare(self, ids: InstructionIds, mask: InstructionMask) -> TaskStates:
        """Compute the task states of instructions for inference."""
        read = self.read_instructions(ids, mask)
        return self.states_from(read, self.generate_bank(read.states, mask))

    @torch.no_grad()
    def states_from(self, read: Instructions, bank: Bank) -> TaskStates:
        """Compute task states from encoded instructions under the given bank.

        Keys and values that depend on the bank are computed here: those of T5's decoder, and the KV prefix under the
        task's LoRA of a decoder-only backbone.
        """
        cross: KeysValues | None = None
        if self.settings.adapts_prefix or self.settings.concatenates:
            every_task = torch.arange(read.mask.shape[0], device=read.mask.device)
            with Attachment(self.backbone.hooks(bank, every_task)).active():
                cross = self.backbone.memory(self.read_again(read) if self.settings.adapts_prefix else read)
        fusion = None if self.fusion is None else self.fusion.keys_values(read.states)
        return TaskStates(bank, read.states, read.mask, fusion, cross, read.ids)

    def read_again(self, read: Instructions) -> Instructions:
        """Return instructions read under the attachment in force, with the keys and values that inputs go on from.

        Raises `ValueError` for instructions without their tokens.
        """
        if read.ids is None:
            raise ValueError("expected the instructions' tokens, to read them under the task's LoRA, got none")
        return self.backbone.read_instructions(read.ids, read.mask, keep=True)

    def input_encoder(self, *, alone: bool | None = None) -> Callable[..., list[int]]:
        """Return the function that encodes an input (and takes `truncate`).

        Generators without `instruction_cache` encode inputs in the same way with and without instruction.

        Args:
            alone: Whether the input has no instruction before it. None means the format used in training: with the
                instruction if the generator uses a KV prefix.
        """
        if self.settings.instruction_cache is None:
            return self.text.input
        alone = not self.keeps_prefix if alone is None else alone
        return self.text.alone if alone else self.text.continuation
