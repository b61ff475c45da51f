"""A decoder-only backbone with the instruction before every input: the "GPT-2 / OPT style" row of the rivals.

Untrained it is a language model asked with a prompt, fully fine-tuned its counterpart of Tk-Instruct.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

from tagi.backbones.causal import CausalBackbone, score_after
from tagi.backbones.grouping import grouped_logits
from tagi.backbones.prompt_cache import KeptStarts, keep_starts, known_part
from tagi.backbones.protocol import Reduction
from tagi.data.task import Task
from tagi.data.text.encoder import CausalTextEncoder, TextSettings
from tagi.errors import ConfigError
from tagi.methods.flops import Cost, Lengths, prompted_cost
from tagi.methods.lora import LoraShape
from tagi.methods.prompted import Prompted, Prompts

_UNLIKE = ("x", "the 7 (cat", '"')
"""Inputs that begin in unlike ways."""


@dataclass(frozen=True)
class Kept(Prompts):
    """The tasks' words, and of each what was read of its prompts before any input."""

    kept: KeptStarts


@dataclass(frozen=True)
class _Read:
    """A batch's prompts: token ids of all, and keys and values of the first columns, if they were read before."""

    ids: Int[Tensor, "row token"]
    known: Cache | None


class CausalConcatenation(Prompted[CausalBackbone]):
    """One text of instruction, input and answer, each token read with those before it.

    With `prefix_cached` the tokens that all of a task's prompts begin with are read once, and every input goes on from
    there: the same answers for less. Raises `ConfigError` if the limits of prompt and target together pass the model's
    positions.
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
        """What the method was made with, for JSON."""
        return {**super().settings(), "prefix_cached": self.prefix_cached}

    @classmethod
    def options(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Whether prefixes are cached; older checkpoints do not say."""
        return {"prefix_cached": bool(config.get("prefix_cached", False))}

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Prompts:
        """The tasks' words, and with `prefix_cached` what all prompts of each begin with, read once."""
        prompts = super().prepare(tasks, truncate=truncate)
        if not self.prefix_cached:
            return prompts
        return Kept(prompts.tasks, keep_starts(self.backbone, [self._beginning(task) for task in tasks]))

    def _beginning(self, task: Task) -> list[int]:
        """Tokens that prompts with unlike inputs have in common; a prompt that differs sooner goes on from there."""
        prompts = [self._prompt(task, text, truncate=True) for text in _UNLIKE]
        same = next((at for at, pair in enumerate(zip(*prompts, strict=False)) if len(set(pair)) > 1), None)
        return prompts[0][: max(1, len(prompts[0]) - 1 if same is None else same)]

    def _read(self, states: Any, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[_Read, Tensor]:
        """The prompts, laid out as they are without a cache, and what of their first columns was read before."""
        ids, mask = super()._read(states, rows, inputs, truncate)
        known = known_part(states.kept, rows.to(ids.device), ids, mask) if isinstance(states, Kept) else None
        return _Read(ids, known), mask

    def _logits(
        self, ids: Int[Tensor, "row token"], mask: Bool[Tensor, "row token"], labels: Int[Tensor, "row target"]
    ) -> Float[Tensor, "row target vocabulary"]:
        def compute(_: Tensor, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
            return self.backbone.logits(ids, mask, labels)

        return grouped_logits(ids, mask, labels, compute)

    def _answers(
        self,
        read: _Read,
        mask: Bool[Tensor, "row token"],
        *,
        max_new_tokens: int,
        min_new_tokens: int | None,
        num_beams: int,
    ) -> Int[Tensor, "row answer"]:
        return self.backbone.generate(
            read.ids,
            mask,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            num_beams=num_beams,
            known=read.known,
        )

    def _scores(
        self,
        read: _Read,
        mask: Bool[Tensor, "row token"],
        labels: Int[Tensor, "row choice target"],
        reduction: Reduction,
    ) -> Float[Tensor, "row choice"]:
        known = 0 if read.known is None else read.known.get_seq_length()
        prefix = self.backbone.read(read.ids[:, known:], mask, read.known)
        return score_after(self.backbone, prefix, labels, reduction)

    def cost(self, lengths: Lengths) -> Cost:
        """FLOPs with the prompt read for every input, or with the instruction read once if `prefix_cached`.

        A LoRA is not merged. Raises `ConfigError` for a backbone whose FLOPs cannot be computed.
        """
        read = self._read_of(lengths)
        return prompted_cost(self.shapes, read, rank=self.lora_rank, prefix_cached=self.prefix_cached)
