"""The generator: backbone, hypernetwork and fusion as one module (sections 3.2.1 and 3.2.4 of the paper)."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tagi.adapters import Attached, Attachment, Bank, detached
from tagi.backbones import T5Backbone
from tagi.data.text import TextEncoder, TextSettings
from tagi.hypernetwork.component import ComponentGenerator
from tagi.hypernetwork.fusion import Fusion
from tagi.hypernetwork.pooled import PooledGenerator
from tagi.hypernetwork.query import QueryGenerator
from tagi.hypernetwork.settings import GeneratorSettings
from tagi.hypernetwork.states import TaskStates
from tagi.hypernetwork.targets import Targets, targets_of
from tagi.hypernetwork.tune import set_tuned

if TYPE_CHECKING:
    from tagi.hypernetwork.task_adapter import TaskAdapter


class Generator(nn.Module):
    """What reads instructions and makes a backbone do the tasks.

    Every call takes what it needs as arguments and leaves nothing behind: banks and fusion are attached to
    the backbone for the length of the call. One that generates prefixes sets the backbone's attention to take them,
    which without one computes what it did.
    """

    def __init__(self, backbone: T5Backbone, settings: GeneratorSettings, text: TextSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.settings = settings
        self.text = TextEncoder(backbone.tokenizer, text)
        self.targets = targets_of(backbone, settings)
        self.hypernetwork = _hypernetwork(backbone, self.targets, settings)
        self.fusion = (
            Fusion(backbone, norm=settings.fusion_norm, init=settings.fusion_init, seed=settings.seed)
            if settings.fuses
            else None
        )
        self.reader = deepcopy(backbone.model.encoder).requires_grad_(True) if settings.reader == "own" else None
        if settings.makes_prefixes:
            backbone.take_prefixes()
        set_tuned(backbone.model, settings.tune)

    @property
    def own_parts(self) -> list[nn.Module]:
        """What is not the backbone's: hypernetwork, fusion, a reader of its own."""
        return [part for part in (self.hypernetwork, self.fusion, self.reader) if part is not None]

    def encode_instructions(
        self, ids: Int[Tensor, "task token"], mask: Bool[Tensor, "task token"]
    ) -> Float[Tensor, "task token d_model"]:
        """`I_x`: the reader's encoder with nothing generated and no fusion, also inside another call."""
        encoder = self.backbone.model.encoder if self.reader is None else self.reader
        trained = any(p.requires_grad for p in encoder.parameters())
        with detached(), torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            states: Tensor = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            return states

    def generate_bank(self, states: Float[Tensor, "task token d_model"], mask: Bool[Tensor, "task token"]) -> Bank:
        """`I_x` -> one LoRA, or whatever else is generated, per task (eq. 2)."""
        bank: Bank = self.hypernetwork(states, mask)
        return bank

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
        states = self.encode_instructions(instruction_ids, instruction_mask)
        bank = self.generate_bank(states, instruction_mask)
        return self.logits(states, instruction_mask, bank, rows, input_ids, input_mask, labels), bank

    def logits(
        self,
        states: Float[Tensor, "task token d_model"],
        instruction_mask: Bool[Tensor, "task token"],
        bank: Bank,
        rows: Int[Tensor, " row"],
        input_ids: Int[Tensor, "row input_token"],
        input_mask: Bool[Tensor, "row input_token"],
        labels: Int[Tensor, "row target"],
    ) -> Float[Tensor, "row target vocabulary"]:
        """Teacher-forced logits from instruction states and a bank already computed."""
        kept = self._kept(instruction_mask)[rows]
        hooks: list[Mapping[nn.Module, Attached]] = [self.backbone.hooks(bank, rows)]
        if self.fusion is not None:
            # Values of zero read as nothing: fusion has no biases.
            keys_values = [(k[rows], v[rows] * kept[:, None, None, None]) for k, v in self.fusion.keys_values(states)]
            hooks.append(self.fusion.hooks(self.backbone, keys_values, instruction_mask[rows]))
        with Attachment(*hooks).active():
            encoded, mask = self.backbone.encode(input_ids, input_mask), input_mask
            if self.settings.concatenates:
                encoded = torch.cat([states[rows], encoded], dim=1)
                mask = torch.cat([instruction_mask[rows] & kept[:, None], mask], dim=1)
            return self.backbone.logits(encoded, mask, labels)

    def _kept(self, mask: Bool[Tensor, "task token"]) -> Bool[Tensor, " task"]:
        """Which tasks of a batch keep their instruction states: all, but for `state_dropout` in training.

        A task without them has nothing but its adapter, which so cannot leave the work to the states.
        """
        rate = self.settings.state_dropout if self.training else 0.0
        return torch.rand(mask.shape[0], device=mask.device) >= rate

    @torch.no_grad()
    def prepare(self, ids: Int[Tensor, "task token"], mask: Bool[Tensor, "task token"]) -> TaskStates:
        """Everything that inference needs of the instructions, in one pass over them."""
        states = self.encode_instructions(ids, mask)
        return self.states_from(states, mask, self.generate_bank(states, mask))

    @torch.no_grad()
    def states_from(
        self, states: Float[Tensor, "task token d_model"], mask: Bool[Tensor, "task token"], bank: Bank
    ) -> TaskStates:
        """Keys and values over given instruction states, the decoder's under the given bank."""
        cross = None
        if self.settings.concatenates:
            every_task = torch.arange(mask.shape[0], device=mask.device)
            with Attachment(self.backbone.hooks(bank, every_task)).active():
                cross = self.backbone.cross_keys_values(states)
        fusion = None if self.fusion is None else self.fusion.keys_values(states)
        return TaskStates(bank, states, mask, fusion, cross)

    def adapt(
        self,
        instructions: str | Sequence[str],
        examples: Sequence[tuple[str, str]] = (),
        *,
        truncate: bool = False,
    ) -> "TaskAdapter | list[TaskAdapter]":
        """Instructions in plain words -> task adapters, all of them in one pass.

        One instruction gives one adapter, a sequence a list. `examples` (input, output) are demonstrations of
        the task, shown to the hypernetwork with every instruction given. Raises `InputError` for an empty
        instruction, and for one over the generator's limit unless `truncate`.
        """
        from tagi.hypernetwork.task_adapter import adapt

        adapters = adapt(self, [instructions] if isinstance(instructions, str) else instructions, examples, truncate)
        return adapters[0] if isinstance(instructions, str) else adapters

    def save_pretrained(self, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write `config.json`, `model.safetensors` (trained tensors alone) and a card.

        `extra` is kept as provenance.
        """
        from tagi.hypernetwork.checkpoint import save_generator

        save_generator(self, Path(folder), extra)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> "Generator":
        """Read a generator from a folder, by a built-in name, or from the hub.

        Raises `CheckpointError` if it is damaged, foreign or made for another base model.
        """
        from tagi.hypernetwork.checkpoint import load_generator
        from tagi.hypernetwork.hub import find_generator

        return load_generator(find_generator(str(name), revision))

    def push_to_hub(self, repository: str, *, private: bool = False, message: str = "Upload generator") -> str:
        """Save and upload to a hub repository, which is made if it does not exist; the commit's address."""
        from tagi.hypernetwork.hub import push_generator

        return push_generator(self, repository, private=private, message=message)


def _hypernetwork(backbone: T5Backbone, targets: Targets, settings: GeneratorSettings) -> nn.Module:
    width, hidden, seed = backbone.d_model, settings.hidden, settings.seed
    if settings.kind == "pooled":
        return PooledGenerator(targets, width, pooling=settings.pooling, hidden=hidden, seed=seed)
    if settings.kind == "component":
        return ComponentGenerator(targets, width, heads=backbone.heads, d_kv=backbone.d_kv, hidden=hidden, seed=seed)
    return QueryGenerator(targets, width, width=settings.width, heads=settings.heads, hidden=hidden, seed=seed)
