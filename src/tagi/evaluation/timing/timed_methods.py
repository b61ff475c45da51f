"""What is timed: the meta-trained model and TAGI, answering a task's inputs with answers of a fixed length."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from tagi.backbones.protocol import Instructions
from tagi.data.task import Task
from tagi.data.text.encoder import TextEncoder
from tagi.evaluation.timing.memory import held_bytes
from tagi.evaluation.timing.stopwatch import Chain
from tagi.hypernetwork.adapted_task import AdaptedTask, adapted_states
from tagi.hypernetwork.inference import Runner, merged_runner, rows_runner
from tagi.hypernetwork.states import TaskStates
from tagi.methods.concatenation import Concatenation
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI

Inputs = Sequence[str]
WORDS, ENCODE, DECODE = "words", "encode", "decode"
"""Phases of an answer: text to tokens and back; up to the decoder's keys and values; generating."""
INSTRUCTION, ADAPTER, KEYS_VALUES, MERGE = "read instruction", "generate adapter", "keys and values", "merge"
"""Phases of an instruction that was not read before."""


class Contender(ABC):
    """One way to answer a task's inputs. Answers have exactly `output` tokens, whatever the weights."""

    name: ClassVar[str]
    text: TextEncoder

    def __init__(self, device: torch.device, task: Task, output: int) -> None:
        self.device = device
        self.task = task
        self.output = output

    @abstractmethod
    def answer(self, inputs: Inputs) -> list[str]:
        """Answers, by the way that users take, whatever is done once for a task done before."""

    @abstractmethod
    def chain(self) -> Chain:
        """The same from its parts: inputs to answers."""

    @abstractmethod
    def sequences(self, inputs: Inputs) -> list[list[int]]:
        """Tokens of what is read for every input."""

    @abstractmethod
    def held(self) -> int:
        """Bytes of weights and of what is kept of the task."""

    def answer_tokens(self, inputs: Inputs) -> int:
        """How many tokens answers have: the decoder's start, which every answer has, does not count."""
        value: Any = inputs
        for name, step in self.chain():
            value = step(value)
            if name == DECODE:
                return int(value.shape[1]) - 1
        raise AssertionError("a chain decodes")

    def _predict(self, method: Method, states: Any, inputs: Inputs) -> list[str]:
        return method.predict(
            states,
            _one_task(len(inputs)),
            inputs,
            max_new_tokens=self.output,
            min_new_tokens=self.output,
            truncate=True,
        )

    def _words(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        ids, mask = self.text.batch(self.sequences(inputs))
        return ids.to(self.device), mask.to(self.device)


class Metatrained(Contender):
    """The backbone with the instruction concatenated: for it no instruction is ever warm."""

    name = "Metatrain"

    def __init__(self, method: Concatenation, task: Task, output: int) -> None:
        super().__init__(method.backbone.device, task, output)
        self.method = method
        self.text = method.text
        self.states = method.prepare([task], truncate=True)

    def answer(self, inputs: Inputs) -> list[str]:
        """By `Concatenation.predict`."""
        return self._predict(self.method, self.states, inputs)

    def chain(self) -> Chain:
        """Words, encode, decode."""
        backbone = self.method.backbone

        @torch.no_grad()
        def encode(read: tuple[Tensor, Tensor]) -> Any:
            return backbone.cross_keys_values(backbone.encode(*read)), read[1]

        def decode(encoded: Any) -> Tensor:
            cross, mask = encoded
            return backbone.generate(cross, mask, max_new_tokens=self.output, min_new_tokens=self.output)

        return ((WORDS, self._words), (ENCODE, encode), (DECODE, decode), (WORDS, self.text.decode))

    def sequences(self, inputs: Inputs) -> list[list[int]]:
        """Instruction and input in one text."""
        task = self.task
        return [self.text.concatenated(task.instruction, task.examples, text, truncate=True) for text in inputs]

    def held(self) -> int:
        """Bytes of the backbone."""
        return held_bytes([*self.method.parameters(), *self.method.buffers()])


class Adapted(Contender):
    """TAGI: the instruction read once, then inputs alone."""

    def __init__(self, method: TAGI, task: Task, output: int) -> None:
        super().__init__(method.generator.backbone.device, task, output)
        self.method = method
        self.text = method.text
        self.states: TaskStates = method.prepare([task], truncate=True)

    @abstractmethod
    def cold(self, inputs: Inputs) -> list[str]:
        """Answers, the instruction not read before."""

    @abstractmethod
    def runner(self, rows: int) -> Runner:
        """What reads a batch of so many rows."""

    def chain(self) -> Chain:
        """Words, encode, decode. Choosing the adapters of a batch, where it is done anew for each, is encoding."""

        @torch.no_grad()
        def encode(read: tuple[Tensor, Tensor]) -> Any:
            runner = self.runner(len(read[0]))
            return runner, *runner.read(*read)

        def decode(encoded: Any) -> Tensor:
            runner, cross, memory = encoded
            answers: Tensor = runner.decode(cross, memory, max_new_tokens=self.output, min_new_tokens=self.output)
            return answers

        return ((WORDS, self._words), (ENCODE, encode), (DECODE, decode), (WORDS, self.text.decode))

    def once(self) -> Chain:
        """What a cold instruction adds, from its parts; given anything, since it reads the task alone."""
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

        return ((INSTRUCTION, read), (ADAPTER, generate), (KEYS_VALUES, keys_values))

    def instruction(self) -> list[int]:
        """Tokens of the instruction with its demonstrations."""
        return self.text.instruction(self.task.instruction, self.task.examples, truncate=True)

    def sequences(self, inputs: Inputs) -> list[list[int]]:
        """Inputs alone."""
        return [self.text.input(text, truncate=True) for text in inputs]

    def held(self) -> int:
        """Bytes of backbone, hypernetwork, fusion and the task's states."""
        generator = self.method.generator
        return held_bytes([*generator.parameters(), *generator.buffers(), *_tensors(self.states)])


class AdaptedRows(Adapted):
    """LoRA by its own products beside the backbone's, as in a batch that mixes tasks: `TAGI.predict`."""

    name = "TAGI per row"

    def answer(self, inputs: Inputs) -> list[str]:
        """By `TAGI.predict` from states prepared before."""
        return self._predict(self.method, self.states, inputs)

    def cold(self, inputs: Inputs) -> list[str]:
        """By `TAGI.prepare`, then `TAGI.predict`."""
        states = self.method.prepare([self.task], truncate=True)
        return self._predict(self.method, states, inputs)

    def runner(self, rows: int) -> Runner:
        """Chosen anew for every batch, as `TAGI.predict` does."""
        return rows_runner(self.method.generator, self.states, _one_task(rows).to(self.device))


class AdaptedMerged(Adapted):
    """LoRA merged into weights of the task's own: `AdaptedTask`, one task to a batch."""

    name = "TAGI merged"

    def __init__(self, method: TAGI, task: Task, output: int) -> None:
        super().__init__(method, task, output)
        self.adapter = AdaptedTask(method.generator, self.states, task.instruction, task.examples)
        self.adapter.runner()

    def answer(self, inputs: Inputs) -> list[str]:
        """By `AdaptedTask.predict`, merged before."""
        return self._answer(self.adapter, inputs)

    def cold(self, inputs: Inputs) -> list[str]:
        """Read the instruction, generate the adapter and merge it, then answer."""
        task, generator = self.task, self.method.generator
        (states,) = adapted_states(generator, [task.instruction], [task.examples], truncate=True)
        return self._answer(AdaptedTask(generator, states, task.instruction, task.examples), inputs)

    def runner(self, rows: int) -> Runner:
        """The adapter's."""
        return self.adapter.runner()

    def once(self) -> Chain:
        """As for rows, then merging."""

        def merge(states: TaskStates) -> Runner:
            return merged_runner(self.method.generator, states)

        return (*super().once(), (MERGE, merge))

    def held(self) -> int:
        """The task's merged weights besides."""
        generator, merged = self.method.generator, self.adapter.runner().backbone
        kept = [*generator.parameters(), *generator.buffers(), *_tensors(self.states), *merged.parameters()]
        return held_bytes(kept)

    def _answer(self, adapter: AdaptedTask, inputs: Inputs) -> list[str]:
        answers = adapter.predict(
            list(inputs), batch_size=len(inputs), max_new_tokens=self.output, min_new_tokens=self.output, truncate=True
        )
        assert isinstance(answers, list)
        return answers


def _one_task(rows: int) -> Tensor:
    return torch.zeros(rows, dtype=torch.long)


def _tensors(states: TaskStates) -> Iterable[Tensor]:
    yield from (states.states, states.mask)
    yield from states.bank.tensors().values()
    for layers in (states.fusion, states.cross):
        for pair in layers or ():
            yield from pair
