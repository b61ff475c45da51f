"""In-context methods: Concat-ICL and Ensemble-ICL.

The demonstrations are a task's shots in FiD-ICL's format, each truncated to the limits. The instruction precedes the
input, unless the text settings read demonstrations only, as in the paper on P3, where inputs are rendered prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import LogitsProcessor

from tagi.backbones.protocol import Decoding, Reduction
from tagi.backbones.shapes import AnswerIds, ChoiceLabels, ChoiceScores, TaskRows
from tagi.data.batches import Sample
from tagi.data.task import Example, Task
from tagi.errors import InputError
from tagi.methods.concatenation import EncoderDecoder
from tagi.methods.flops import Cost, Lengths, Number, prompted_cost
from tagi.methods.prompted import Prompts
from tagi.methods.protocol import Batch


class InContext(EncoderDecoder):
    """Base of methods that read a task's shots. Raises `InputError` for a task without shots."""

    @property
    def needs_demonstrations(self) -> bool:
        """Always."""
        return True

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> Prompts:
        """Store the tasks' texts. Raises `InputError` for an instruction over the limit unless `truncate`."""
        for task in tasks:
            shots_of(task)
            if self.reads_instruction:
                self.text.instruction(task.instruction, truncate=truncate)
        return Prompts(tuple(tasks))

    def query_tokens(self, lengths: Lengths) -> Number:
        """Return the length of an input with its instruction, without demonstrations."""
        return lengths.prompt if self.reads_instruction else lengths.whole_input

    def _query(self, task: Task | None, text: str, *, truncate: bool) -> list[int]:
        """Return the token ids of an input, after its instruction if that is used. Shots replace positive examples."""
        told = replace(task, examples=()) if task is not None and self.reads_instruction else None
        return super()._prompt(told, text, truncate=truncate)


class ConcatICL(InContext):
    """All demonstrations and the query in one text.

    Demonstrations are dropped from the end until the text is within the limit of inputs. The query is truncated only if
    no demonstration is left.
    """

    name = "concat-icl"

    def _prompt(self, task: Task | None, text: str, *, truncate: bool) -> list[int]:
        query = self._query(task, text, truncate=truncate)
        shown: list[int] = []
        for example in shots_of(task) if task is not None else ():
            longer = [*shown, *self.text.demonstration(example)]
            if len(longer) + len(query) > self.text.settings.max_input_tokens:
                break
            shown = longer
        return [*shown, *query]

    def cost(self, lengths: Lengths) -> Cost:
        """Compute FLOPs with all demonstrations that fit and the query, per input. A LoRA is not merged."""
        return self._pass_cost(lengths, lengths.shots)

    def _pass_cost(self, lengths: Lengths, shots: int) -> Cost:
        """Cost of one pass per input, over the first `shots` demonstrations that fit and the query."""
        read = lengths.with_shots(shots, self.query_tokens(lengths), self.text.settings.max_input_tokens)
        return prompted_cost(self.shapes, read, rank=self.lora_rank)


@dataclass(frozen=True, slots=True)
class OneShots(Prompts):
    """Every demonstration of every task as a separate task; `counts` has the number per task."""

    counts: tuple[int, ...]


class EnsembleICL(ConcatICL):
    """One pass per demonstration.

    The score of a choice is the mean over the passes. Answers are generated greedily by the mean log-probabilities of
    the passes at every step. Training minimises the mean cross-entropy of the passes.
    """

    name = "ensemble-icl"

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Collate one row per sample and demonstration."""
        return super().collate(
            [replace(sample, shots=(shown,)) for sample in samples for shown in shots_of(sample.asked)]
        )

    def prepare(self, tasks: Sequence[Task], *, truncate: bool = False) -> OneShots:
        """Store the tasks' texts, once per demonstration."""
        super().prepare(tasks, truncate=truncate)
        alone = tuple(replace(task, shots=(shown,)) for task in tasks for shown in task.shots)
        return OneShots(alone, tuple(len(task.shots) for task in tasks))

    def without_instruction(self, states: Prompts) -> OneShots:
        """Return the query in one pass."""
        assert isinstance(states, OneShots)
        return OneShots((None,) * len(states.counts), (1,) * len(states.counts))

    def cost(self, lengths: Lengths) -> Cost:
        """Compute FLOPs with one pass per input and demonstration. A LoRA is not merged."""
        one = self._pass_cost(lengths, 1)
        return replace(one, each=one.each * lengths.shots)

    def _read(self, states: OneShots, rows: Tensor, inputs: Sequence[str], truncate: bool) -> tuple[Any, Tensor]:
        """Return keys and values of every pass, grouped by row, and the number of passes per row."""
        starts = [sum(states.counts[:task]) for task in range(len(states.counts))]
        passes = [
            (starts[task] + at, text)
            for task, text in zip(rows.tolist(), inputs, strict=True)
            for at in range(states.counts[task])
        ]
        read, mask = super()._read(
            states, torch.tensor([at for at, _ in passes]), [text for _, text in passes], truncate
        )
        return (read, torch.tensor(states.counts, device=mask.device)[rows.to(mask.device)]), mask

    def _answers(self, read: Any, mask: Bool[Tensor, "pass memory"], **decoding: Unpack[Decoding]) -> AnswerIds:
        if (beams := decoding.get("num_beams", 1)) > 1:
            raise InputError(f"{self.name}: expected greedy answers, each step the mean of passes, got {beams} beams")
        cross, counts = read
        answers = self.backbone.generate(cross, mask, processors=[_MeanOfPasses(counts)], **decoding)
        return answers[counts.cumsum(0) - counts]

    def _scores(
        self, read: Any, mask: Bool[Tensor, "pass memory"], labels: ChoiceLabels, reduction: Reduction
    ) -> ChoiceScores:
        cross, counts = read
        passes = self.backbone.scores(cross, mask, labels.repeat_interleave(counts, 0), reduction)
        return mean_of_passes(passes, counts)


class _MeanOfPasses(LogitsProcessor):
    """Replaces the log-probabilities of a row's passes by their mean, so that all continue with the same token."""

    def __init__(self, counts: TaskRows) -> None:
        self.counts = counts

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)
        return mean_of_passes(wide, self.counts).repeat_interleave(self.counts, 0).to(scores.dtype)


def mean_of_passes(values: Float[Tensor, "pass value"], counts: TaskRows) -> Float[Tensor, "row value"]:
    """Compute means over the passes of each row; row i has `counts[i]` passes, next to each other."""
    owners = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    total = values.new_zeros(len(counts), values.shape[1]).index_add(0, owners, values)
    return total / counts[:, None]


def shots_of(task: Task) -> tuple[Example, ...]:
    """Return a task's shots. Raises `InputError` if it has none."""
    if not task.shots:
        raise InputError(f"{task.name}: expected demonstrations (shots) to learn from, got none")
    return task.shots
