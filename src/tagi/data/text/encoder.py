"""Text to padded token batches: what a method reads of tasks, under the limits it was made with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tagi.data.task import Example, Task
from tagi.data.text.chat import ChatEncoding, chat_encoding, special_tokens
from tagi.data.text.control import BREAK, UserTextTokenizer
from tagi.data.text.encoding import INPUT_MARK, OUTPUT_MARK, Budget, Encoding, Tokenizer, encoding_from_name, too_long
from tagi.errors import ConfigError, InputError
from tagi.settings.text import IGNORED, TextSettings


class TextEncoder:
    """A tokenizer with an encoding and its limits.

    With `truncate` a text over its limit is truncated; without, it is an `InputError`, as an empty input always is. The
    text of a control token (`tagi.data.text.control`) in an instruction, an example, an input or an output is ordinary
    text.
    """

    closes: ClassVar[bool] = True
    """Whether a text that is read ends with end-of-sequence, or what is written goes on from it."""

    def __init__(self, tokenizer: Any, settings: TextSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.encoding: Encoding = self._encoding()
        self._tokens = UserTextTokenizer(tokenizer, added=settings.encoding == ChatEncoding.name)
        self._instructions: Tokenizer = self._tokens
        self._prompts: Tokenizer = self._tokens

    def instruction(self, text: str, examples: Sequence[Example] = (), *, truncate: bool = False) -> list[int]:
        """Token ids of `a`: the instruction with its demonstrations, or these alone where no instruction is read."""
        a = self._instruction(text, examples, truncate)
        return self._ids(a, self.settings.max_instruction_tokens, self._instructions)

    def instruction_text(self, text: str, examples: Sequence[Example] = (), *, truncate: bool = False) -> str:
        """Return the text whose tokens `instruction` returns."""
        return self._instruction(text, examples, truncate).replace(BREAK, "")

    def _instruction(self, text: str, examples: Sequence[Example], truncate: bool) -> str:
        budget = Budget(self._instructions, self.settings.max_instruction_tokens, truncate)
        text, examples = self._escaped(text, examples)
        if self.settings.reads == "demonstrations":
            return self.encoding.demonstrations(examples[: self.settings.positives or None], budget)
        return self.encoding.instruction(text, examples, budget)

    def of_task(self, task: Task, *, truncate: bool = False) -> list[int]:
        """Return the token ids of all that is read of a task besides its inputs."""
        by_shots = self.settings.reads == "demonstrations" and not self.settings.positives
        try:
            return self.instruction(task.instruction, task.shots if by_shots else task.examples, truncate=truncate)
        except InputError as error:
            raise InputError(f"{task.name}: {error}") from error

    def demonstration(self, example: Example) -> list[int]:
        """Return the token ids of a labelled example in FiD-ICL's form, without special tokens.

        Its input is truncated to the limit of inputs, its output to that of targets.
        """
        shown = self.document(example.input)[: self.settings.max_input_tokens]
        answer = self.document(example.output)[: self.settings.max_target_tokens]
        return [*self.document(INPUT_MARK), *shown, *self.document(OUTPUT_MARK), *answer]

    def document(self, text: str) -> list[int]:
        """Token ids of a text by itself: no frame, no limit and no special tokens."""
        ids: list[int] = self._tokens(self._tokens.escape(text), add_special_tokens=False)["input_ids"]
        return ids

    def empty_instruction(self) -> list[int]:
        """Return the token ids of an empty instruction: the encoding's frame, if it has one, and the end token.

        Users may not give an empty instruction; evaluation compares with it.
        """
        frame = self.encoding.frame() if self.settings.reads == "instruction" else ""
        ids = self._ids(frame, self.settings.max_instruction_tokens, self._instructions)
        return ids or [self.tokenizer.eos_token_id]  # a tokenizer may add no end token

    def input(self, text: str, *, truncate: bool = False) -> list[int]:
        """Token ids of `b`."""
        return self._within(text, self.encoding.input, self._prompts, truncate)

    def _within(
        self, text: str, encode: Callable[[str, Budget], str], tokenizer: Tokenizer, truncate: bool
    ) -> list[int]:
        """Token ids of what `encode` makes of an input within the limit of inputs."""
        _not_empty(text)
        limit = self.settings.max_input_tokens
        return self._ids(encode(self._tokens.escape(text), Budget(tokenizer, limit, truncate)), limit, tokenizer)

    def alone(self, text: str, *, truncate: bool = False) -> list[int]:
        """Return the token ids of an input without any instruction.

        A chat template writes it as a conversation with a user message only, as any chat endpoint does. In all other
        encodings it is the same as `input`.
        """
        return self.input(text, truncate=truncate)

    def continuation(self, text: str, *, truncate: bool = False) -> list[int]:
        """Token ids of an input that follows an instruction which has been read already, in the same text.

        Encoder-decoders and chats read the same as `input`; other texts go on without a start token.
        """
        return self.input(text, truncate=truncate)

    def concatenated(
        self, instruction: str, examples: Sequence[Example], text: str, *, truncate: bool = False
    ) -> list[int]:
        """Return the token ids of `a + b` in one text, or of `b` alone where nothing else is read.

        The limit of inputs is that of both together; with `text.apart` each has its own limit.
        """
        _not_empty(text)
        if self.settings.reads == "nothing":
            return self.input(text, truncate=truncate)
        if self.settings.apart:
            before = self.instruction(instruction, examples, truncate=truncate)
            return [*before, *self.continuation(text, truncate=truncate)]
        limit, text = self.settings.max_input_tokens, self._tokens.escape(text)
        instruction, examples = self._escaped(instruction, examples)
        joined = self.encoding.concatenated(instruction, examples, text, Budget(self._prompts, limit, truncate))
        return self._ids(joined, limit, self._prompts)

    def target(self, text: str, *, truncate: bool = True) -> list[int]:
        """Return the token ids of an output, by default truncated to its limit."""
        ids, end = self._target(self._tokens.escape(text))
        limit, tokens = self.settings.max_target_tokens, len(ids) + len(end)
        if tokens > limit and not truncate:
            raise InputError(too_long("the output", tokens, limit))
        return [*ids[: limit - len(end)], *end]

    def decode(self, ids: Int[Tensor, "row token"]) -> list[str]:
        """Answers as text, without special tokens and surrounding space."""
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def batch(self, sequences: Sequence[list[int]]) -> tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]]:
        """Return sequences padded on the right, and the mask of entries that are not padding."""
        return _pad(sequences, self._filler)

    def batch_instructions(
        self, sequences: Sequence[list[int]]
    ) -> tuple[Int[Tensor, "task token"], Bool[Tensor, "task token"]]:
        """Return sequences padded on the right for any kind of model, and their mask: no answer follows them."""
        return _pad(sequences, self._filler)

    @property
    def _filler(self) -> int:
        """The id of padding: end-of-sequence where the tokenizer has none."""
        pad = self.tokenizer.pad_token_id
        filler: int = self.tokenizer.eos_token_id if pad is None else pad
        return filler

    def labels(self, sequences: Sequence[list[int]]) -> Int[Tensor, "row token"]:
        """Sequences padded on the right with -100."""
        return _pad(sequences, IGNORED)[0]

    def choice_labels(self, choices: Sequence[Sequence[str]]) -> Int[Tensor, "row choice target"]:
        """Labels of every row's choices; rows with fewer choices are filled up with -100."""
        most = max(len(row) for row in choices)
        flat = [self.target(choice) for row in choices for choice in [*row, *[""] * (most - len(row))]]
        labels = self.labels(flat).unflatten(0, (len(choices), most))
        for index, row in enumerate(choices):
            labels[index, len(row) :] = IGNORED
        return labels

    def _target(self, text: str) -> tuple[list[int], list[int]]:
        """Return the token ids of a whole output and those that end it."""
        ids: list[int] = self._tokens(text)["input_ids"]
        end = self._kept(ids, self._tokens)
        return ids[: len(ids) - len(end)], end

    def _escaped(self, text: str, examples: Sequence[Example]) -> tuple[str, list[Example]]:
        escape = self._tokens.escape
        return escape(text), [Example(escape(one.input), escape(one.output)) for one in examples]

    def _encoding(self) -> Encoding:
        return encoding_from_name(self.settings.encoding, self.settings.positives)

    def _ids(self, text: str, limit: int, tokens: Tokenizer) -> list[int]:
        # Truncated here: a fast tokenizer keeps its truncation as state, which two threads may not change at once.
        ids: list[int] = tokens(text)["input_ids"]
        if len(ids) <= limit:
            return ids
        end = self._kept(ids, tokens)
        return ids[: limit - len(end)] + end

    def _kept(self, ids: list[int], tokens: Tokenizer) -> list[int]:
        """Return the tokens at the end of a text that are kept when it is truncated."""
        return ids[-1:] if ids[-1:] == [self.tokenizer.eos_token_id] else []


class CausalTextEncoder(TextEncoder):
    """Texts for a decoder-only model, which writes its answer after the prompt in the same text.

    A prompt starts as the tokenizer starts texts, ends with the encoding's cue and never with end-of-sequence; a
    target goes on from there and always ends with it. With the encoding "chat" the tokenizer's template starts and
    ends texts instead. Prompts are padded on the left, by end-of-sequence where the
    tokenizer has no padding. A tokenizer without end-of-sequence is a `ConfigError`.
    """

    closes = False

    def __init__(self, tokenizer: Any, settings: TextSettings) -> None:
        super().__init__(tokenizer, settings)
        if tokenizer.eos_token_id is None:
            raise ConfigError("expected a tokenizer with an end-of-sequence token, got one without")
        self._instructions = _OpenText(self._tokens, self._unclosed)
        self._prompts = _OpenText(self._tokens, lambda text: self._unclosed(self.encoding.cued(text)))
        self._continued = _OpenText(self._tokens, self._following)
        self._special = tuple(special_tokens(tokenizer))
        self._cue: list[int] = self._after("x", self.encoding.cue)
        self._end: int = self._ending()

    def _target(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of an output as they follow a prompt, with the space between, and the end of what is written."""
        text = text.strip()
        ids = self._after(self.encoding.cue.lstrip(), self.encoding.gap + text) if text else []
        return ids, [self._end]

    def input(self, text: str, *, truncate: bool = False) -> list[int]:
        """Token ids of `b`. In a chat it goes on from an instruction, and no token marks it as the start of a text."""
        if isinstance(self.encoding, ChatEncoding) and not self.encoding.asking.startswith(self._special):
            return self._within(text, self.encoding.input, self._continued, truncate)
        return super().input(text, truncate=truncate)

    def alone(self, text: str, *, truncate: bool = False) -> list[int]:
        """Return the token ids of an input without any instruction."""
        if not isinstance(self.encoding, ChatEncoding):
            return self.input(text, truncate=truncate)
        return self._within(text, self.encoding.alone, self._instructions, truncate)

    def continuation(self, text: str, *, truncate: bool = False) -> list[int]:
        """Token ids of an input that follows an instruction which has been read already."""
        if isinstance(self.encoding, ChatEncoding):
            return self.input(text, truncate=truncate)
        return self._within(text, self.encoding.input, self._continued, truncate)

    def batch(self, sequences: Sequence[list[int]]) -> tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]]:
        """Return sequences padded on the left, and the mask of entries that are not padding."""
        return _pad(sequences, self._filler, left=True)

    def _encoding(self) -> Encoding:
        settings = self.settings
        if settings.encoding != ChatEncoding.name:
            return super()._encoding()
        if settings.frame is not None:
            return ChatEncoding.of_pieces(settings.frame, settings.positives)
        encoding, dated = chat_encoding(self.tokenizer, settings.positives, settings.template_arguments)
        if dated:  # tomorrow the template would write another text
            self.settings = replace(settings, frame=encoding.pieces())
        return encoding

    def _unclosed(self, text: str) -> list[int]:
        """Return the token ids of a text that goes on: no token closes it. A chat holds its special tokens already."""
        chat = isinstance(self.encoding, ChatEncoding)
        ids: list[int] = self._tokens(text, add_special_tokens=not chat)["input_ids"]
        return ids if chat or ids[-1] != self.tokenizer.eos_token_id else ids[:-1]

    def _following(self, text: str) -> list[int]:
        """Return the token ids of an input, with its cue, that goes on from an instruction."""
        return self._tokens.following(self.encoding.separator + self.encoding.cued(text), self.encoding.frame())

    def _ending(self) -> int:
        """Return the token that ends an answer: end-of-sequence, or the chat template's special token for it."""
        end: int = self.tokenizer.eos_token_id
        if isinstance(self.encoding, ChatEncoding):
            first: list[int] = self.tokenizer(self.encoding.ending, add_special_tokens=False)["input_ids"][:1]
            return first[0] if self.tokenizer.decode(first) in self._special else end
        return end

    def _kept(self, ids: list[int], tokens: Tokenizer) -> list[int]:
        return [] if tokens is self._instructions else self._cue

    def _after(self, before: str, text: str) -> list[int]:
        """Token ids of `text` where it follows `before`: some tokenizers mark the start of every text."""
        start, whole, alone = (
            self._tokens(part, add_special_tokens=False)["input_ids"] for part in (before, before + text, text)
        )
        return whole[len(start) :] if whole[: len(start)] == start else alone


@dataclass(frozen=True)
class _OpenText:
    """A tokenizer of texts that others follow: `tokens` gives a text's tokens, and `tokenizer` decodes them."""

    tokenizer: UserTextTokenizer
    tokens: Callable[[str], list[int]]

    def __call__(self, text: str, /) -> Mapping[str, Any]:
        return {"input_ids": self.tokens(text)}

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)


def _pad(sequences: Sequence[list[int]], filler: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(sequence, dtype=torch.long) for sequence in sequences]
    side = "left" if left else "right"
    ids = pad_sequence(rows, batch_first=True, padding_value=filler, padding_side=side)
    masks = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    return ids, pad_sequence(masks, batch_first=True, padding_side=side)


def _not_empty(text: str) -> None:
    if not text.strip():
        raise InputError("expected an input, got an empty text")
