"""The methods that are timed, the meta-trained model and TAGI, with answers of a fixed length."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tagi.backbones.protocol import Decoding, Instructions
from tagi.data.task import Instance, Task
from tagi.evaluation.timing.memory import held_bytes
from tagi.evaluation.timing.stopwatch import Chain
from tagi.hypernetwork.adapted_task import AdaptedTask
from tagi.hypernetwork.inference import Runner, merged_runner, rows_runner
from tagi.hypernetwork.states import TaskStates
from tagi.methods.concatenation import Concatenation
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI

Inputs = Sequence[Instance]
"""What is answered: each method reads of it what it reads of an instance."""
WORDS, ENCODE, DECODE = "words", "encode", "decode"
"""Phases of an answer: text to tokens and back; up to the decoder's keys and values; generating."""
INSTRUCTION, ADAPTER, KEYS_VALUES, MERGE = "read instruction", "generate adapter", "keys and values", "merge"
"""Phases of an instruction that was not read before."""


def answers_of(method: Method, states: Any, inputs: Inputs, output: int) -> list[str]:
    """Return a method's answers to inputs of one task, each of exactly `output` tokens."""
    rows = torch.zeros(len(inputs), dtype=torch.long)
    texts = [method.input_of(one) for one in inputs]
    return method.predict(states, rows, texts, max_new_tokens=output, min_new_tokens=output, truncate=True)


class TimedMethod(ABC):
    """A method that answers a task's inputs with exactly `output` tokens per answer, independent of its weights.

    Args:
        name: Name in tables.
        method: The method.
        task: The task with its inputs.
        output: Number of tokens per answer, including the end token.
    """

    def __init__(self, name: str, method: Method, task: Task, output: int) -> None:
        self.name = name
        self.method = method
        self.text = method.text
        self.task = task
        self.output = output
        self.device = next(method.parameters()).device
        self.states = method.prepare([task], truncate=True)

    def answer(self, inputs: Inputs) -> list[str]:
        """Return the answers. What is computed once per task has been computed before."""
        return answers_of(self.method, self.states, inputs, self.output)

    def chain(self) -> Chain:
        """Return the phases of `answer` in order: words, encode, decode, words."""

        @torch.no_grad()
        def encode(read: tuple[Tensor, Tensor]) -> Callable[..., Tensor]:
            return self.encode(*read)

        def decode(generate: Callable[..., Tensor]) -> Tensor:
            return generate(max_new_tokens=self.output, min_new_tokens=self.output)

        return ((WORDS, self._words), (ENCODE, encode), (DECODE, decode), (WORDS, self.text.decode))

    @abstractmethod
    def encode(self, ids: Tensor, mask: Tensor) -> Callable[..., Tensor]:
        """Encode a batch of inputs, and return a function that generates the answers."""

    @abstractmethod
    def sequences(self, inputs: Inputs) -> list[list[int]]:
        """Return the tokens that the method reads for every input."""

    def texts(self, inputs: Inputs) -> list[str]:
        """Return the texts that the method reads for inputs."""
        return [self.method.input_of(one) for one in inputs]

    def held(self) -> int:
        """Return the bytes of the weights and of the task states."""
        return held_bytes([*self.method.parameters(), *self.method.buffers(), *self.kept()])

    def kept(self) -> Iterable[Tensor]:
        """Return the task states."""
        return ()

    def answer_tokens(self, inputs: Inputs) -> int:
        """Return the number of tokens in answers, without the decoder's start token."""
        written: Any = inputs
        for _, step in self.chain()[:-1]:
            written = step(written)
        return int(written.shape[1]) - 1

    def _words(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        ids, mask = self.text.batch(self.sequences(inputs))
        return ids.to(self.device), mask.to(self.device)


class TimedMetatrained(TimedMethod):
    """The backbone with the instruction concatenated. It has no warm instructions."""

    method: Concatenation

    def __init__(self, method: Concatenation, task: Task, output: int) -> None:
        super().__init__("Metatrain", method, task, output)

    def encode(self, ids: Tensor, mask: Tensor) -> Callable[..., Tensor]:
        """Compute the decoder's keys and values over instruction and input."""
        backbone = self.method.backbone
        return partial(backbone.generate, backbone.cross_keys_values(backbone.encode(ids, mask)), mask)

    def sequences(self, inputs: Inputs) -> list[list[int]]:
        """Return instruction and input as one text; for P3, the rendered prompt."""
        task, texts = self.task, self.texts(inputs)
        return [self.text.concatenated(task.instruction, task.examples, text, truncate=True) for text in texts]


class TimedTAGI(TimedMethod):
    """TAGI: reads the instruction once, and then only inputs.

    The LoRA is merged into a copy of the weights, as in `AdaptedTask` for batches of one task. With `merged=False` it
    is applied next to the backbone's weights, as in `TAGI.predict` for batches that mix tasks.
    """

    method: TAGI
    states: TaskStates

    def __init__(self, method: TAGI, task: Task, output: int, *, merged: bool) -> None:
        super().__init__("TAGI merged" if merged else "TAGI per row", method, task, output)
        self.merged = self._adapted(self.states) if merged else None

    def answer(self, inputs: Inputs) -> list[str]:
        """Answer with prepared states and, if `merged`, the merged LoRA."""
        return self._answers(self.states, self.merged, inputs)

    def cold(self, inputs: Inputs) -> list[str]:
        """Read the instruction, generate the adapter, merge it if `merged`, and answer."""
        states = self.method.prepare([self.task], truncate=True)
        return self._answers(states, None if self.merged is None else self._adapted(states), inputs)

    def runner(self, rows: int) -> Runner:
        """Return the runner for a batch of `rows` rows. Without merging, it is created anew for every batch."""
        if self.merged is not None:
            return self.merged.runner()
        return rows_runner(self.method.generator, self.states, torch.zeros(rows, dtype=torch.long, device=self.device))

    def encode(self, ids: Tensor, mask: Tensor) -> Callable[..., Tensor]:
        """Encode inputs with the runner. Selecting the adapters of a batch counts as encoding."""
        runner = self.runner(len(ids))
        return partial(runner.decode, *runner.read(ids, mask))

    def once(self) -> Chain:
        """Return the phases that a cold instruction adds. Their argument is ignored."""
        generator = self.method.generator

        @torch.no_grad()
        def read(_inputs: Inputs) -> Instructions:
            ids, mask = self.text.batch_instructions([self.instruction()])
            return generator.read_instructions(ids.to(self.device), mask.to(self.device))

        @torch.no_grad()
        def generate(read: Instructions) -> Any:
            return read, generator.generate_bank(read.states, read.mask)

        def keys_values(generated: Any) -> TaskStates:
            return generator.states_from(*generated)

        chain = ((INSTRUCTION, read), (ADAPTER, generate), (KEYS_VALUES, keys_values))
        return chain if self.merged is None else (*chain, (MERGE, partial(merged_runner, generator)))

    def instruction(self) -> list[int]:
        """Return the tokens of the instruction with its demonstrations."""
        return self.text.instruction(self.task.instruction, self.task.examples, truncate=True)

    def sequences(self, inputs: Inputs) -> list[list[int]]:
        """Return the tokens of the inputs only."""
        return [self.text.input(text, truncate=True) for text in self.texts(inputs)]

    def kept(self) -> Iterable[Tensor]:
        """Return the task's states and its merged weights."""
        states = self.states
        yield from (states.states, states.mask, *states.bank.tensors().values())
        yield from (tensor for layers in (states.fusion, states.cross) for pair in layers or () for tensor in pair)
        if self.merged is not None:
            yield from self.merged.runner().backbone.parameters()

    def _adapted(self, states: TaskStates) -> AdaptedTask:
        adapted = AdaptedTask(self.method.generator, states, self.task.instruction, self.task.examples)
        adapted.runner()  # merges
        return adapted

    def _answers(self, states: TaskStates, adapted: AdaptedTask | None, inputs: Inputs) -> list[str]:
        if adapted is None:
            return answers_of(self.method, states, inputs, self.output)
        length: Decoding = {"max_new_tokens": self.output, "min_new_tokens": self.output}
        return list(adapted.predict(self.texts(inputs), batch_size=len(inputs), truncate=True, **length))
