"""Prompts: a task's instruction `a`, an input `b`, and both in one text for methods that concatenate.

Encodings are pure text. Lengths are counted by the tokenizer given with a limit, special tokens included.
"""

import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from tagi.data.task import Example
from tagi.errors import ConfigError, InputError

INPUT_MARK, OUTPUT_MARK = "# Input #", "# Output #"
"""Marks before a demonstration's input and its output, as in FiD-ICL."""


@runtime_checkable
class Tokenizer(Protocol):
    """What encodings need of a tokenizer, as transformers' tokenizers offer it."""

    def __call__(self, text: str, /) -> Mapping[str, Any]:
        """Return the text's tokens under `input_ids`, special tokens included."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of the tokens. Only the truncation of a concatenated prompt needs it."""
        ...


@dataclass(frozen=True)
class Budget:
    """How long a text may be.

    Args:
        tokenizer: Counts tokens, special tokens included. None counts nothing, so that every text fits.
        limit: Most tokens of the text.
        truncate: Whether a text over the limit is truncated. If not, it is an `InputError` that names count and limit.
    """

    tokenizer: Tokenizer | None
    limit: int = 0
    truncate: bool = False

    def ids(self, text: str) -> Sequence[int]:
        """Return the text's tokens."""
        return () if self.tokenizer is None else self.tokenizer(text)["input_ids"]

    def count(self, text: str) -> int:
        """Return the number of tokens."""
        return len(self.ids(text))

    def fits(self, text: str) -> bool:
        """Return whether the tokens are within the limit."""
        return self.count(text) <= self.limit

    def fitted(self, text: str, render: Callable[[str], str], what: str) -> str:
        """Return `render(text)` if it fits, else of the start of the text that does.

        Raises `InputError`, in which `what` names the text, if it is too long and may not be truncated.
        """
        whole = render(text)
        if self.fits(whole):
            return whole
        self.check(whole, what)
        return self.shorten(text, render)

    def check(self, text: str, what: str) -> None:
        """Raise `InputError` for a text over the limit unless it may be truncated; `what` names the text."""
        if not self.truncate and not self.fits(text):
            raise InputError(too_long(what, self.count(text), self.limit))

    def shorten(self, text: str, render: Callable[[str], str]) -> str:
        """Return `render` of the longest start of `text` with which the whole fits."""
        fitting, over = 0, len(text)
        while over - fitting > 1:
            middle = (fitting + over) // 2
            if self.fits(render(text[:middle].rstrip())):
                fitting = middle
            else:
                over = middle
        start = text[:fitting].rstrip()
        if not start:
            raise InputError(f"a limit of {self.limit} tokens leaves no room for any of the text")
        return render(start)


UNLIMITED = Budget(None)


@dataclass(frozen=True)
class Encoding(ABC):
    """How a task and an input become text.

    A budget limits a text's tokens. An example that would take the text past the limit is left out, and so are those
    after it.

    Args:
        positives: Number of positive examples that `a` may hold.
    """

    positives: int = 0
    name: ClassVar[str]
    separator: ClassVar[str]

    @property
    @abstractmethod
    def cue(self) -> str:
        """The end of a prompt after which, in the same text, the answer follows."""

    @property
    def gap(self) -> str:
        """White space between cue and answer. It belongs to the answer: most tokenizers have " cat" as one token."""
        return " "

    def __post_init__(self) -> None:
        if self.positives < 0:
            raise ConfigError(f"encoding: expected 0 or more positive examples, got {self.positives}")

    def instruction(self, task_instruction: str, examples: Sequence[Example] = (), budget: Budget = UNLIMITED) -> str:
        """Return `a`: the instruction, then as many of the first `positives` examples as fit.

        Raises `InputError` for an empty instruction and for one over the limit, unless its end may be truncated.
        """
        text = stripped(task_instruction)
        fitted = budget.fitted(text, self._definition, "the instruction")
        return self._with_examples(text, examples, budget.fits) if fitted == self._definition(text) else fitted

    def frame(self) -> str:
        """Return the frame of an instruction, without an instruction in it."""
        return self._definition("")

    def input(self, text: str, budget: Budget = UNLIMITED) -> str:
        """Return `b`: the input as the model reads it.

        Raises `InputError` for an input over the limit, unless its end may be truncated; what frames it is kept.
        """
        return budget.fitted(text, self._input, "the input")

    def concatenated(
        self, task_instruction: str, examples: Sequence[Example], text: str, budget: Budget = UNLIMITED
    ) -> str:
        """Return `a`, the separator and `b` in one text; the limit applies to all of it.

        A text over the limit that may be truncated becomes what its first tokens decode to, as in Tk-Instruct: this
        loses the end of `b` and what the tokenizer does not know. Tokenized again it may be a closing token over the
        limit, so tokenize with truncation.
        """
        definition, tail = stripped(task_instruction), self.separator + self._input(text)
        prompt = self._with_examples(definition, examples, lambda head: budget.fits(head + tail)) + tail
        if budget.tokenizer is None or budget.fits(prompt):
            return prompt
        budget.check(prompt, "the instruction and the input together")
        return budget.tokenizer.decode(budget.ids(prompt)[: budget.limit], skip_special_tokens=True)

    def demonstrations(self, examples: Sequence[Example], budget: Budget = UNLIMITED) -> str:
        """Return examples alone, without an instruction: as many of the first as fit.

        Raises `InputError` for no examples, and for a first one over the limit, unless its end may be truncated.
        """
        if not examples:
            raise InputError("expected demonstrations, which are read in the instruction's place, got none")
        parts = [self._alone(number, example) for number, example in enumerate(examples, start=1)]
        first, text = parts[0], while_fitting("", parts, budget.fits)
        if text:
            return text.strip()
        budget.check(first, "the demonstration")
        return budget.shorten(first.strip(), str)

    def cued(self, prompt: str) -> str:
        """Return `prompt` as a decoder-only model reads it: its cue last, without a space after it."""
        text = prompt.rstrip()
        return text if text.endswith(self.cue) else text + self.cue

    def _with_examples(self, text: str, examples: Sequence[Example], fits: Callable[[str], bool]) -> str:
        """Return the instruction with the first examples, up to the first that does not fit."""
        return while_fitting(self._definition(text), self._parts(examples), fits)

    def _parts(self, examples: Sequence[Example]) -> Iterable[str]:
        """Return what each of the first `positives` examples adds to an instruction."""
        return (self._example(number, example) for number, example in enumerate(examples[: self.positives], start=1))

    @abstractmethod
    def _definition(self, text: str) -> str:
        """The instruction alone, as `a` starts."""

    @abstractmethod
    def _example(self, number: int, example: Example) -> str:
        """Return what the `number`-th example (from 1) adds to `a`."""

    def _alone(self, number: int, example: Example) -> str:
        """Return the text of the `number`-th example where there is no instruction."""
        return self._example(number, example)

    @abstractmethod
    def _input(self, text: str) -> str:
        """The whole of `b`."""


@dataclass(frozen=True)
class TkInstructEncoding(Encoding):
    """Tk-Instruct's prompt: `a + b` is what its `ni_collator.py` makes, to the character.

    `a` is the definition and the positive examples, `b` starts at "Now complete the following example -".
    """

    name: ClassVar[str] = "tk-instruct"
    separator: ClassVar[str] = ""
    cue: ClassVar[str] = "\nOutput:"

    def _definition(self, text: str) -> str:
        return _closed("Definition: " + text) + "\n\n"

    def _example(self, number: int, example: Example) -> str:
        question = _closed(f" Positive Example {number} -\nInput: {example.input.strip()}")
        return question + "\n" + _closed(f" Output: {example.output.strip()}") + "\n\n"

    def _input(self, text: str) -> str:
        return _closed(f"Now complete the following example -\nInput: {text.strip()}") + "\nOutput: "


@dataclass(frozen=True)
class PlainEncoding(Encoding):
    """No template: `a` is the instruction and a line "input -> output" per example; `b` is the input.

    Its cue is that of the examples: where an answer follows, an input without one would not show its end. Examples
    without an instruction have FiD-ICL's form.
    """

    name: ClassVar[str] = "plain"
    separator: ClassVar[str] = "\n"
    cue: ClassVar[str] = " ->"

    def _definition(self, text: str) -> str:
        return text

    def _example(self, number: int, example: Example) -> str:
        return f"\n{example.input.strip()} -> {example.output.strip()}"

    def _alone(self, number: int, example: Example) -> str:
        return f" {INPUT_MARK} {example.input.strip()} {OUTPUT_MARK} {example.output.strip()}"

    def _input(self, text: str) -> str:
        return text


def encoding_from_name(name: str, positives: int = 0) -> Encoding:
    """The encoding "tk-instruct" or "plain". Raises `ConfigError` on another name or `positives` below 0."""
    kinds: dict[str, type[Encoding]] = {kind.name: kind for kind in (TkInstructEncoding, PlainEncoding)}
    if name not in kinds:
        raise ConfigError(f"encoding: expected {' or '.join(map(repr, kinds))}, got {name!r}")
    return kinds[name](positives)


def stripped(task_instruction: str) -> str:
    """An instruction without surrounding space; an empty one is an `InputError`."""
    text = task_instruction.strip()
    if not text:
        raise InputError("expected an instruction, got an empty text")
    return text


def while_fitting(text: str, parts: Iterable[str], fits: Callable[[str], bool]) -> str:
    """Return the text followed by parts, up to the first with which it does not fit."""
    for part in parts:
        if not fits(text + part):
            break
        text += part
    return text


def _closed(text: str) -> str:
    """`text`, ending in ASCII punctuation: Tk-Instruct adds a full stop where there is none."""
    return text if text[-1] in string.punctuation else text + "."


def too_long(what: str, tokens: int, limit: int) -> str:
    """Return the message about a text over its limit."""
    return f"expected at most {limit} tokens, got {tokens}: shorten {what} or allow it to be truncated"
