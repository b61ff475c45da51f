"""FiD-ICL: demonstrations are encoded separately and concatenated before the decoder, once per task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tagi.backbones.kv_cache import join, longest, select_rows
from tagi.backbones.protocol import KeysValues
from tagi.backbones.shapes import Labels, Logits, Scalar, TaskRows, TokenIds, TokenMask
from tagi.backbones.t5 import T5Backbone
from tagi.data.batches import Sample
from tagi.data.task import Example, Task
from tagi.methods.flops import Cost, Lengths, fid_icl_cost
from tagi.methods.in_context import InContext, shots_of
from tagi.methods.prompted import Prompts
from tagi.methods.protocol import Batch
from tagi.settings.generator import LoraShape
from tagi.settings.text import TextSettings

QUERY_MARK = "<extra_id_99>"
"""Precedes every query if the tokenizer has it as a token."""


@dataclass(frozen=True, slots=True)
class Demonstrated(Prompts):
    """The tasks' texts, and per decoder layer keys and values over their demonstrations (or None) with mask."""

    cross: KeysValues | None
    mask: Bool[Tensor, "task memory"] | None


class FidICL(InContext):
    """The decoder attends to `(demonstrations; query)`, encoded separately, without padding.

    If the instruction is used, it is part of the query.
    """

    name = "fid-icl"

    def __init__(
        self, backbone: T5Backbone, text: TextSettings, lora: LoraShape | None = None, *, frozen: bool = False
    ) -> None:
        super().__init__(backbone, text, lora, frozen=frozen)
        found = backbone.tokenizer.get_vocab().get(QUERY_MARK)
        self._mark = [] if found is None else [found]

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Collate one row per query. Demonstrations are included once per episode; `rows` maps rows to episodes."""
        distinct: dict[tuple[Example, ...], int] = {}
        rows = [distinct.setdefault(shots_of(sample.asked), len(distinct)) for sample in samples]
        ids, mask, owners = self._demonstrations(list(distinct))
        return {
            **super().collate(samples),
            "demonstration_ids": ids,
            "demonstration_mask": mask,
            "owners": owners,
            "rows": torch.tensor(rows),
        }

    def forward(self, input_ids: TokenIds, input_mask: TokenMask, labels: Labels, **shown: Tensor) -> dict[str, Scalar]:
        """Compute the cross-entropy of the targets; `shown` are the collated demonstrations."""
        return self._terms(self.logits(input_ids, input_mask, labels, **shown), labels)

    def logits(
        self,
        input_ids: TokenIds,
        input_mask: TokenMask,
        labels: Labels,
        demonstration_ids: Int[Tensor, "demonstration shown_token"],
        demonstration_mask: Bool[Tensor, "demonstration shown_token"],
        owners: Int[Tensor, " demonstration"],
        rows: TaskRows,
    ) -> Logits:
        """Compute teacher-forced logits of the labels after demonstrations and query."""
        known, known_mask = self._states(demonstration_ids, demonstration_mask, owners)
        states = torch.cat([known[rows], self.backbone.encode(input_ids, input_mask)], dim=1)
        return self.backbone.logits(states, torch.cat([known_mask[rows], input_mask], dim=1), labels)

    @torch.no_grad()
    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Demonstrated:
        """Encode all demonstrations in one pass, and compute the decoder's keys and values over them."""
        prompts = super().prepare(tasks, truncate=truncate)
        shown = (tensor.to(self.backbone.device) for tensor in self._demonstrations([task.shots for task in tasks]))
        states, mask = self._states(*shown)
        return Demonstrated(prompts.tasks, self.backbone.cross_keys_values(states), mask)

    def without_instruction(self, states: Prompts) -> Demonstrated:
        """The query alone."""
        return Demonstrated((None,) * len(states.tasks), None, None)

    def cost(self, lengths: Lengths) -> Cost:
        """Compute FLOPs with demonstrations encoded once per task. A LoRA is not merged."""
        return fid_icl_cost(self.shapes, lengths, self.query_tokens(lengths) + len(self._mark), rank=self.lora_rank)

    def _prompt(self, task: Task | None, text: str, *, truncate: bool) -> list[int]:
        """Return the marker token, which does not count towards the limit, and the query."""
        return [*self._mark, *self._query(task, text, truncate=truncate)]

    def _read(self, states: Demonstrated, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Any, Tensor]:
        """Return the decoder's keys and values over demonstrations (cached) and query."""
        cross, mask = super()._read(states, rows, inputs, truncate)
        if states.cross is None or states.mask is None:
            return cross, mask
        distinct = rows.unique()
        chosen = (distinct if len(distinct) == 1 else rows).to(mask.device)
        known_mask = states.mask[chosen]
        known_mask = known_mask[:, : longest(known_mask)]
        return join(select_rows(states.cross, chosen, known_mask.shape[1]), known_mask, cross, mask)

    def _demonstrations(self, shown: Sequence[Sequence[Example]]) -> tuple[Tensor, Tensor, Tensor]:
        """Return token ids and mask of every demonstration, and the index of its task."""
        ids, mask = self.text.batch([self.text.demonstration(one) for shots in shown for one in shots])
        owners = [task for task, shots in enumerate(shown) for _ in shots]
        return ids, mask, torch.tensor(owners)

    def _states(
        self,
        ids: Int[Tensor, "demonstration token"],
        mask: Bool[Tensor, "demonstration token"],
        owners: Int[Tensor, " demonstration"],
    ) -> tuple[Float[Tensor, "task memory d_model"], Bool[Tensor, "task memory"]]:
        """Encode demonstrations separately and concatenate those of a task without padding between them."""
        tasks = int(owners.max()) + 1
        counts = torch.zeros(tasks, dtype=torch.long, device=mask.device).index_add(0, owners, mask.sum(1))
        parts = self.backbone.encode(ids, mask)[mask].split(counts.tolist())
        kept = torch.arange(int(counts.max()), device=mask.device) < counts[:, None]
        return pad_sequence(parts, batch_first=True), kept
