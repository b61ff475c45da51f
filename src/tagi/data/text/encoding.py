"""Prompts: a task's instruction `a`, an input `b`, and both in one text for methods that concatenate.

Encodings are pure text. Lengths are counted by the tokenizer given with a limit, special tokens included.
"""

import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from tagi.data.task import Example
from tagi.errors import ConfigError, InputError

INPUT_MARK, OUTPUT_MARK = "# Input #", "# Output #"
"""What stands before a demonstration's input and its output, as FiD-ICL has it."""


@runtime_checkable
class Tokenizer(Protocol):
    """What counts tokens: `tokenizer(text)["input_ids"]`, as transformers' tokenizers do."""

    def __call__(self, text: str, /) -> Mapping[str, Any]:
        """The text's tokens under `input_ids`, special tokens included."""
        ...


@runtime_checkable
class DecodingTokenizer(Tokenizer, Protocol):
    """A tokenizer that turns tokens back into text, which truncating a concatenated prompt needs."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of the tokens."""
        ...


@dataclass(frozen=True)
class Encoding(ABC):
    """How a task and an input become text; `positives` is the number of positive examples that `a` may hold.

    With `limit` (tokens; needs `tokenizer`) an example that would take the text past the limit is left out,
    and those after it. Without room for the rest an `InputError` names count and limit, unless `truncate`.
    """

    positives: int = 0
    name: ClassVar[str]
    separator: ClassVar[str]

    @property
    @abstractmethod
    def cue(self) -> str:
        """What ends a text after which, in the same text, its answer follows."""

    @property
    def gap(self) -> str:
        """What stands between the cue and an answer. It belongs to the answer: most tokenizers write " cat" as one
        token."""
        return " "

    def __post_init__(self) -> None:
        if self.positives < 0:
            raise ConfigError(f"encoding: expected 0 or more positive examples, got {self.positives}")

    def instruction(
        self,
        task_instruction: str,
        examples: Sequence[Example] = (),
        *,
        tokenizer: Tokenizer | None = None,
        limit: int | None = None,
        truncate: bool = False,
    ) -> str:
        """`a`: the instruction, then as many of the first `positives` examples as fit within `limit` tokens.

        An instruction over the limit is an `InputError`; with `truncate` its end is cut so that `a` fits.
        An empty one is always an `InputError`.
        """
        text = stripped(task_instruction)
        counting = _counting(tokenizer, limit)
        if counting is None:
            return self._with_examples(text, examples, lambda _: True)
        tokens = counting.count(self._definition(text))
        if tokens > counting.limit:
            if not truncate:
                raise InputError(too_long("the instruction", tokens, counting.limit))
            return counting.shorten(text, self._definition)
        return self._with_examples(text, examples, counting.fits)

    def frame(self) -> str:
        """What stands around an instruction's words, without any."""
        return self._definition("")

    def input(
        self,
        text: str,
        *,
        tokenizer: Tokenizer | None = None,
        limit: int | None = None,
        truncate: bool = False,
    ) -> str:
        """`b`: the input as the model reads it.

        An input over `limit` tokens is an `InputError`; with `truncate` its end is cut so that `b` fits, and
        what frames it is kept.
        """
        counting = _counting(tokenizer, limit)
        prompt = self._input(text)
        if counting is None or counting.fits(prompt):
            return prompt
        if not truncate:
            raise InputError(too_long("the input", counting.count(prompt), counting.limit))
        return counting.shorten(text, self._input)

    def concatenated(
        self,
        task_instruction: str,
        examples: Sequence[Example],
        text: str,
        *,
        tokenizer: Tokenizer | None = None,
        limit: int | None = None,
        truncate: bool = False,
    ) -> str:
        """`a`, the separator and `b` in one text; the limit applies to all of it.

        With `truncate` a text over the limit becomes what its first `limit` tokens decode to, as Tk-Instruct
        has it: that loses the end of `b` and what the tokenizer does not know, and tokenized again it may be
        a closing token over the limit, so tokenize with truncation.
        """
        definition = stripped(task_instruction)
        counting = _counting(tokenizer, limit)
        tail = self.separator + self._input(text)
        if counting is None:
            return self._with_examples(definition, examples, lambda _: True) + tail
        prompt = self._with_examples(definition, examples, lambda head: counting.fits(head + tail)) + tail
        if counting.fits(prompt):
            return prompt
        if not truncate:
            raise InputError(too_long("the instruction and the input together", counting.count(prompt), counting.limit))
        return counting.decode(counting.ids(prompt)[: counting.limit])

    def demonstrations(
        self,
        examples: Sequence[Example],
        *,
        tokenizer: Tokenizer | None = None,
        limit: int | None = None,
        truncate: bool = False,
    ) -> str:
        """Examples alone, without an instruction: as many of the first as fit within `limit` tokens.

        A first one over the limit is an `InputError`; with `truncate` its end is cut. None at all always is one.
        """
        if not examples:
            raise InputError("expected demonstrations, which are read in the instruction's place, got none")
        counting, text = _counting(tokenizer, limit), ""
        for number, example in enumerate(examples, start=1):
            longer = text + self._alone(number, example)
            if counting is not None and not counting.fits(longer):
                break
            text = longer
        if text or counting is None:
            return text.strip()
        first = self._alone(1, examples[0])
        if not truncate:
            raise InputError(too_long("the demonstration", counting.count(first), counting.limit))
        return counting.shorten(first.strip(), str)

    def cued(self, prompt: str) -> str:
        """`prompt` as a decoder-only model reads it: its cue last, no space after it.

        The space belongs to the answer: most tokenizers write " cat" as one token.
        """
        text = prompt.rstrip()
        return text if text.endswith(self.cue) else text + self.cue

    def _with_examples(self, text: str, examples: Sequence[Example], fits: Callable[[str], bool]) -> str:
        """The instruction with the first examples, up to the first that does not fit."""
        head = self._definition(text)
        for number, example in enumerate(examples[: self.positives], start=1):
            longer = head + self._example(number, example)
            if not fits(longer):
                break
            head = longer
        return head

    @abstractmethod
    def _definition(self, text: str) -> str:
        """The instruction alone, as `a` starts."""

    @abstractmethod
    def _example(self, number: int, example: Example) -> str:
        """What the `number`-th example (from 1) adds to `a`."""

    def _alone(self, number: int, example: Example) -> str:
        """What the `number`-th example is where examples stand alone."""
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


@dataclass(frozen=True)
class Counting:
    """A tokenizer and the limit it counts against."""

    tokenizer: Tokenizer
    limit: int

    def ids(self, text: str) -> Sequence[int]:
        """The text's tokens."""
        ids: Sequence[int] = self.tokenizer(text)["input_ids"]
        return ids

    def count(self, text: str) -> int:
        """How many they are."""
        return len(self.ids(text))

    def fits(self, text: str) -> bool:
        """Whether they are within the limit."""
        return self.count(text) <= self.limit

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        if not isinstance(self.tokenizer, DecodingTokenizer):
            kind = type(self.tokenizer).__name__
            raise TypeError(f"truncation needs a tokenizer that can decode, got {kind}")
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def shorten(self, text: str, render: Callable[[str], str]) -> str:
        """`render` of the start of `text` with which the whole just fits, every character of it as it was."""
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


def _counting(tokenizer: Tokenizer | None, limit: int | None) -> Counting | None:
    if limit is None:
        return None
    if tokenizer is None:
        raise ValueError("a limit in tokens needs a tokenizer to count them")
    return Counting(tokenizer, limit)


def stripped(task_instruction: str) -> str:
    """An instruction without surrounding space; an empty one is an `InputError`."""
    text = task_instruction.strip()
    if not text:
        raise InputError("expected an instruction, got an empty text")
    return text


def _closed(text: str) -> str:
    """`text`, ending in ASCII punctuation: Tk-Instruct adds a full stop where there is none."""
    return text if text[-1] in string.punctuation else text + "."


def too_long(what: str, tokens: int, limit: int) -> str:
    """What is wrong with a text over its limit."""
    return f"expected at most {limit} tokens, got {tokens}: shorten {what} or allow it to be truncated"
