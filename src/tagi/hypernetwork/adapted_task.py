"""Task adapters in memory: everything that is computed once for a task, and answering inputs with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, TypeVar, Unpack, overload

import torch
from torch import Tensor

from tagi.activity import activity, counted
from tagi.adapters.protocol import Bank
from tagi.backbones.modes import evaluating
from tagi.backbones.protocol import Decoding, Reduction
from tagi.data.task import Example
from tagi.data.text.unknown import warn_of_unknown
from tagi.errors import InputError
from tagi.hypernetwork.inference import Runner, answer, merged_runner, score
from tagi.hypernetwork.model import GeneratorModel
from tagi.hypernetwork.states import TaskStates

_BATCH = 32
A = TypeVar("A", bound="AdaptedTask")
R = TypeVar("R")


class _Answering(TypedDict, total=False):
    max_new_tokens: int | None
    min_new_tokens: int | None
    num_beams: int
    batch_size: int
    truncate: bool


class _Scoring(TypedDict, total=False):
    reduction: Reduction
    batch_size: int
    truncate: bool


class AdaptedTask:
    """A task adapter in memory: generated module, instruction states and KV prefix, with their generator.

    A LoRA is merged into a view of the backbone at the first call, so that it adds no cost per input.

    Args:
        generator: Generator of the adapter.
        states: Task states of this one task.
        instruction: The task's instruction.
        examples: Demonstrations that the generator read with it.
        refined: Record of the refinement; None for an adapter as generated.
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
        """The generated module, as a bank with one task."""
        return self.states.bank

    def to(self: A, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> A:
        """Move adapter and generator to a device or cast the backbone, in place.

        Args:
            device: New device; None for no change.
            dtype: New data type of backbone and instruction states; None for no change. Hypernetwork, fusion and
                generated parameters keep their type.

        Returns:
            The adapter itself.
        """
        if device is not None:
            self.generator.to(device)
            self.states = self.states.to(device)
        if dtype is not None:
            self.generator.backbone.to(dtype)
            cross = self.states.cross and [(keys.to(dtype), values.to(dtype)) for keys, values in self.states.cross]
            self.states = replace(self.states, states=self.states.states.to(dtype), cross=cross)
        self._runner = None
        return self

    @overload
    def predict(self, inputs: str, **options: Unpack[_Answering]) -> str: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, inputs: Sequence[str], **options: Unpack[_Answering]) -> list[str]: ...

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
        """Generate the answers to one or several inputs.

        Args:
            inputs: One input or several.
            max_new_tokens: Maximum length of an answer in tokens; by default the generator's limit for targets.
            min_new_tokens: Minimum length of an answer in tokens.
            num_beams: Number of beams; 1 is greedy decoding.
            batch_size: Number of inputs per batch.
            truncate: Truncate inputs that exceed the generator's length limit.

        Returns:
            One answer for one input; a list in the same order for several.

        Raises:
            InputError: An input is empty, or exceeds the length limit and `truncate` is False. Nothing is computed.
        """
        text = self.generator.text
        decoding: Decoding = {
            "max_new_tokens": max_new_tokens or text.settings.max_target_tokens,
            "min_new_tokens": min_new_tokens,
            "num_beams": num_beams,
        }

        def answers(ids: Tensor, mask: Tensor, _: list[int]) -> list[str]:
            return text.decode(answer(self.runner(), ids, mask, **decoding))

        found = self._in_batches(inputs, answers, batch_size, truncate)
        return found[0] if isinstance(inputs, str) else found

    @overload
    def score(  # type: ignore[overload-overlap]
        self, inputs: str, choices: Sequence[str], **options: Unpack[_Scoring]
    ) -> list[float]: ...

    @overload
    def score(
        self, inputs: Sequence[str], choices: Sequence[str] | Sequence[Sequence[str]], **options: Unpack[_Scoring]
    ) -> list[list[float]]: ...

    def score(
        self,
        inputs: str | Sequence[str],
        choices: Sequence[str] | Sequence[Sequence[str]],
        *,
        reduction: Reduction = "sum",
        batch_size: int = _BATCH,
        truncate: bool = False,
    ) -> list[float] | list[list[float]]:
        """Compute the log-probability of each choice as the answer, including the end of sequence.

        Args:
            inputs: One input or several.
            choices: The choices for all inputs, or a list of choices per input.
            reduction: "sum" or "mean" of the log-probabilities of a choice's tokens.
            batch_size: Number of inputs per batch.
            truncate: Truncate inputs that exceed the generator's length limit.

        Returns:
            A list with one score per choice for one input; a list of such lists for several.

        Raises:
            InputError: An input is invalid as in `predict`, or the number of lists of choices is not that of inputs.
        """
        per_input = _choices_of(choices, 1 if isinstance(inputs, str) else len(inputs))

        def scores(ids: Tensor, mask: Tensor, batch: list[int]) -> list[list[float]]:
            labels = self.generator.text.choice_labels([per_input[i] for i in batch]).to(ids.device)
            rows = score(self.runner(), ids, mask, labels, reduction).tolist()
            return [row[: len(per_input[i])] for i, row in zip(batch, rows, strict=True)]

        found = self._in_batches(inputs, scores, batch_size, truncate)
        return found[0] if isinstance(inputs, str) else found

    def runner(self) -> Runner:
        """Return the backbone with the task's LoRA merged or its module attached. Cached after the first call."""
        if self._runner is None:
            self._runner = merged_runner(self.generator, self.states)
        return self._runner

    def _in_batches(
        self,
        inputs: str | Sequence[str],
        compute: Callable[[Tensor, Tensor, list[int]], list[R]],
        batch_size: int,
        truncate: bool,
    ) -> list[R]:
        """Apply `compute` to batches of inputs of similar length; return the results in the order of the inputs."""
        tokens, encode = [], self.generator.input_encoder(alone=self.states.alone)
        texts = [inputs] if isinstance(inputs, str) else inputs
        for number, text in enumerate(texts, start=1):
            try:
                tokens.append(encode(text, truncate=truncate))
            except InputError as error:
                raise InputError(f"input {number} of {len(texts)}: {error}") from error
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        results: dict[int, R] = {}
        with activity(f"Answering {counted(len(order), 'input')}") as tell:
            for start in range(0, len(order), batch_size):
                batch, device = order[start : start + batch_size], self.generator.backbone.device
                ids, mask = self.generator.text.batch([tokens[i] for i in batch])
                results.update(zip(batch, compute(ids.to(device), mask.to(device), batch), strict=True))
                tell(f"Answered {len(results)} of {counted(len(order), 'input')}")
        return [results[i] for i in range(len(tokens))]


def adapted_states(
    generator: GeneratorModel,
    instructions: Sequence[str],
    examples: Sequence[Sequence[Example]],
    *,
    truncate: bool = False,
) -> list[TaskStates]:
    """Compute the states of several tasks in one forward pass.

    Args:
        generator: The generator. It runs in evaluation mode; its training mode is restored.
        instructions: One instruction per task.
        examples: One sequence of demonstrations per task.
        truncate: Truncate instructions that exceed the generator's length limit.

    Raises:
        InputError: There is no instruction; an instruction is empty, or exceeds the limit and `truncate` is False; or
            a task has no demonstrations and the generator reads only these.
    """
    if not instructions:
        raise InputError("expected an instruction, got none")
    if generator.text.settings.reads == "demonstrations" and not all(examples):
        raise InputError(
            "expected examples of the task, which this generator reads in place of an instruction, got none"
        )
    warn_of_unknown(generator.text.tokenizer, instructions)
    sequences = [
        generator.text.instruction(text, shown, truncate=truncate)
        for text, shown in zip(instructions, examples, strict=True)
    ]
    ids, mask = generator.text.batch_instructions(sequences)
    device = generator.backbone.device
    with activity(f"Generating {counted(len(instructions), 'adapter')}"), evaluating(generator):
        states = generator.prepare(ids.to(device), mask.to(device))
    return [states.select(torch.tensor([task], device=device)) for task in range(len(instructions))]


def _choices_of(choices: Sequence[str] | Sequence[Sequence[str]], inputs: int) -> list[list[str]]:
    """Return the choices of every input. A string is not treated as a list of characters."""
    if isinstance(choices, str):
        raise InputError(f"expected a list of choices, got the text {choices!r}")
    if not choices:
        raise InputError("expected choices to score, got none")
    texts = [choice for choice in choices if isinstance(choice, str)]
    if len(texts) == len(choices):
        return [texts] * inputs
    if texts:
        raise InputError(f"expected a list of choices for each input, got the text {texts[0]!r} in place of one")
    if len(choices) != inputs or not all(choices):
        raise InputError(f"expected a list of choices for each of {inputs} inputs, got {len(choices)}")
    return [list(row) for row in choices]
