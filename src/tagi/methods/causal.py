"""A decoder-only backbone with the instruction before every input: the GPT-2 and OPT baselines.

Without training it is a prompted language model; fully fine-tuned it is the decoder-only counterpart of Tk-Instruct.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tagi.backbones.causal import CausalBackbone, Reading, score_after
from tagi.backbones.grouping import grouped_logits
from tagi.backbones.prompt_cache import CachedPrefixes, cached_part, keep_starts
from tagi.backbones.protocol import Reduction
from tagi.backbones.shapes import ChoiceLabels, ChoiceScores, Labels, Logits, TokenIds, TokenMask
from tagi.data.task import Task
from tagi.data.text.encoder import CausalTextEncoder
from tagi.errors import ConfigError
from tagi.methods.flops import Cost, Lengths, prompted_cost
from tagi.methods.prompted import Prompted, Prompts
from tagi.settings.generator import LoraShape
from tagi.settings.text import TextSettings

_UNLIKE = ("x", "the 7 (cat", '"')
"""Inputs with different first characters."""


@dataclass(frozen=True)
class CachedPrompts(Prompts):
    """The tasks, and the KV prefixes that each task's prompts have in common."""

    kept: CachedPrefixes


class CausalConcatenation(Prompted[CausalBackbone]):
    """Instruction, input and answer in one text.

    With `prefix_cached` the common start of a task's prompts is processed once and every input continues from its KV
    prefix. Raises `ConfigError` if the limits of prompt and target together exceed the model's positions.
    """

    name = "causal-concatenation"
    family = CausalBackbone
    encoder = CausalTextEncoder

    def __init__(
        self,
        backbone: CausalBackbone,
        text: TextSettings,
        lora: LoraShape | None = None,
        *,
        frozen: bool = False,
        prefix_cached: bool = False,
    ) -> None:
        if text.max_prompt_tokens + text.max_target_tokens > backbone.max_tokens:
            raise ConfigError(
                f"{backbone.identity.name}: expected limits of prompt and target that make at most "
                f"{backbone.max_tokens} tokens together (the model's positions), "
                f"got {text.max_prompt_tokens} and {text.max_target_tokens}"
            )
        super().__init__(backbone, text, lora, frozen=frozen)
        self.prefix_cached = prefix_cached

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments for JSON."""
        return {**super().settings(), "prefix_cached": self.prefix_cached}

    @classmethod
    def options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Whether prefixes are cached. Older checkpoints lack this key."""
        return {"prefix_cached": bool(config.get("prefix_cached", False))}

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Prompts:
        """Store the tasks' texts; with `prefix_cached` also compute the KV prefix of each task's prompts."""
        prompts = super().prepare(tasks, truncate=truncate)
        if not self.prefix_cached:
            return prompts
        return CachedPrompts(prompts.tasks, keep_starts(self.backbone, [self._beginning(task) for task in tasks]))

    def _beginning(self, task: Task) -> list[int]:
        """Return the tokens that prompts with different inputs have in common."""
        prompts = [self._prompt(task, text, truncate=True) for text in _UNLIKE]
        same = next((at for at, pair in enumerate(zip(*prompts, strict=False)) if len(set(pair)) > 1), None)
        return prompts[0][: max(1, len(prompts[0]) - 1 if same is None else same)]

    def _read(self, states: Any, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Reading, Tensor]:
        """Return the prompts, padded as without a cache, and the cached keys and values of their first columns."""
        ids, mask = self._tokens(states, rows, inputs, truncate)
        known = cached_part(states.kept, rows.to(ids.device), ids, mask) if isinstance(states, CachedPrompts) else None
        return Reading(ids, known), mask

    def _logits(self, ids: TokenIds, mask: TokenMask, labels: Labels) -> Logits:
        def compute(_: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
            return self.backbone.logits(ids, mask, labels)

        return grouped_logits(ids, mask, labels, compute)

    def _scores(self, read: Reading, mask: TokenMask, labels: ChoiceLabels, reduction: Reduction) -> ChoiceScores:
        known = 0 if read.known is None else read.known.get_seq_length()
        prefix = self.backbone.read(read.ids[:, known:], mask, read.known)
        return score_after(self.backbone, prefix, labels, reduction)

    def cost(self, lengths: Lengths) -> Cost:
        """Compute FLOPs with the prompt processed per input, or the instruction once with `prefix_cached`.

        A LoRA is not merged. Raises `ConfigError` for a backbone whose FLOPs cannot be computed.
        """
        read = self._read_of(lengths)
        return prompted_cost(self.shapes, read, rank=self.lora_rank, prefix_cached=self.prefix_cached)
