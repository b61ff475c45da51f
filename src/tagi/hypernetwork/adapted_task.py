"""A generator adapted to one task: everything computed once for it, ready to answer inputs."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from tagi.adapters.protocol import Bank
from tagi.backbones.modes import evaluating
from tagi.backbones.protocol import Reduction
from tagi.data.task import Example
from tagi.errors import InputError
from tagi.hypernetwork.inference import Runner, answer, merged_runner, score
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.states import TaskStates

_BATCH = 32
A = TypeVar("A", bound="AdaptedTask")


class AdaptedTask:
    """One task's LoRA or other module, instruction states and cached keys and values, with their generator.

    LoRA is merged into weights of its own at the first call, so that answering costs nothing per input. `refined` says
    how what was generated was trained further, if it was.
    """

    def __init__(
        self,
        generator: GeneratorModel,
        states: TaskStates,
        instruction: str,
        examples: Sequence[Example] = (),
        *,
        refined: Mapping[str, Any] | None = None,
    ) -> None:
        self.generator = generator
        self.states = states
        self.instruction = instruction
        self.examples = tuple(examples)
        self.refined = dict(refined or {})
        self._runner: Runner | None = None

    @property
    def bank(self) -> Bank:
        """What was generated, a bank of one task."""
        return self.states.bank

    def to(self: A, device: torch.device | str) -> A:
        """Move the generator, and all that was computed for the task, to a device; the adapter itself."""
        self.generator.to(device)
        self.states, self._runner = self.states.to(device), None
        return self

    def predict(
        self,
        inputs: str | Sequence[str],
        *,
        max_new_tokens: int | None = None,
        min_new_tokens: int | None = None,
        num_beams: int = 1,
        batch_size: int = _BATCH,
        truncate: bool = False,
    ) -> str | list[str]:
        """Answers to one input or to several, greedy or by beam search, none that ends before `min_new_tokens`.

        Raises `InputError`, before anything is computed, for an empty input and for one over the generator's
        limit unless `truncate`.
        """
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        tokens = self._tokens(texts, truncate)
        limit = max_new_tokens or self.generator.text.settings.max_target_tokens
        answers = [""] * len(texts)
        for batch in _by_length(tokens, batch_size):
            ids, mask = self._batch([tokens[i] for i in batch])
            found = answer(
                self.runner(), ids, mask, max_new_tokens=limit, min_new_tokens=min_new_tokens, num_beams=num_beams
            )
            for i, text in zip(batch, self.generator.text.decode(found), strict=True):
                answers[i] = text
        return answers[0] if isinstance(inputs, str) else answers

    def score(
        self,
        inputs: Sequence[str],
        choices: Sequence[str] | Sequence[Sequence[str]],
        *,
        reduction: Reduction = "sum",
        batch_size: int = _BATCH,
        truncate: bool = False,
    ) -> list[list[float]]:
        """Log-probability of every choice after every input: summed, or the mean per token.

        End of sequence included. `choices` is one list for all inputs, or a list per input. Every input is
        encoded once.
        """
        per_input = _per_input(choices, len(inputs))
        tokens = self._tokens(inputs, truncate)
        scores: list[list[float]] = [[] for _ in inputs]
        for batch in _by_length(tokens, batch_size):
            ids, mask = self._batch([tokens[i] for i in batch])
            labels = self.generator.text.choice_labels([per_input[i] for i in batch]).to(ids.device)
            for i, row in zip(batch, score(self.runner(), ids, mask, labels, reduction).tolist(), strict=True):
                scores[i] = row[: len(per_input[i])]
        return scores

    def runner(self) -> Runner:
        """The backbone with this task's LoRA merged in, or another module attached, made once."""
        if self._runner is None:
            self._runner = merged_runner(self.generator, self.states)
        return self._runner

    def _tokens(self, inputs: Sequence[str], truncate: bool) -> list[list[int]]:
        asks = self.generator.asks(alone=self.states.alone)
        tokens = []
        for number, one in enumerate(inputs, start=1):
            try:
                tokens.append(asks(one, truncate=truncate))
            except InputError as error:
                raise InputError(f"input {number} of {len(inputs)}: {error}") from error
        return tokens

    def _batch(self, sequences: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = self.generator.text.batch(sequences)
        device = self.generator.backbone.device
        return ids.to(device), mask.to(device)


def adapted_states(
    generator: GeneratorModel, instructions: Sequence[str], examples: Sequence[Example], *, truncate: bool = False
) -> list[TaskStates]:
    """Return the task states of several instructions, computed in one pass; every one shows the same examples.

    Raises `InputError` for an empty instruction, for one over the generator's limit unless `truncate`, and for no
    examples where the generator reads them in place of an instruction.
    """
    if not instructions:
        raise InputError("expected an instruction, got none")
    if generator.text.settings.reads == "demonstrations" and not examples:
        raise InputError(
            "expected examples of the task, which this generator reads in place of an instruction, got none"
        )
    sequences = [generator.text.instruction(text, examples, truncate=truncate) for text in instructions]
    ids, mask = generator.text.batch_instructions(sequences)
    device = generator.backbone.device
    with evaluating(generator):
        states = generator.prepare(ids.to(device), mask.to(device))
    return [states.select(torch.tensor([task], device=device)) for task in range(len(instructions))]


def _by_length(tokens: Sequence[list[int]], batch_size: int) -> list[list[int]]:
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _per_input(choices: Sequence[str] | Sequence[Sequence[str]], inputs: int) -> list[list[str]]:
    if not choices:
        raise InputError("expected choices to score, got none")
    if all(isinstance(choice, str) for choice in choices):
        return [list(choices)] * inputs  # type: ignore[arg-type]
    if len(choices) != inputs or not all(choices):
        raise InputError(f"expected a list of choices for each of {inputs} inputs, got {len(choices)}")
    return [list(row) for row in choices]
