"""Encoding of tasks as padded token batches, with a method's length limits."""

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

    With `truncate`, texts over their limit are truncated; otherwise they are an `InputError`. Empty inputs are always
    an `InputError`. Control tokens (`tagi.data.text.control`) in instructions, examples, inputs and outputs are
    encoded as ordinary text.
    """

    closes: ClassVar[bool] = True
    """Whether a prompt ends with end-of-sequence. Otherwise the answer continues it."""

    def __init__(self, tokenizer: Any, settings: TextSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.encoding: Encoding = self._encoding()
        self._tokens = UserTextTokenizer(tokenizer, added=settings.encoding == ChatEncoding.name)
        self._instructions: Tokenizer = self._tokens
        self._prompts: Tokenizer = self._tokens

    def instruction(self, text: str, examples: Sequence[Example] = (), *, truncate: bool = False) -> list[int]:
        """Return the token ids of `a`: instruction and demonstrations, or only these if no instruction is read."""
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
        """Return the token ids of everything that is read of a task except its inputs."""
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
        """Return the token ids of a text without template, limit and special tokens."""
        ids: list[int] = self._tokens(self._tokens.escape(text), add_special_tokens=False)["input_ids"]
        return ids

    def empty_instruction(self) -> list[int]:
        """Return the token ids of an empty instruction: the encoding's text around it, if any, and the end token.

        Empty instructions are an error for users, but evaluation compares with them.
        """
        frame = self.encoding.frame() if self.settings.reads == "instruction" else ""
        ids = self._ids(frame, self.settings.max_instruction_tokens, self._instructions)
        return ids or [self.tokenizer.eos_token_id]  # a tokenizer may add no end token

    def input(self, text: str, *, truncate: bool = False) -> list[int]:
        """Return the token ids of `b`."""
        return self._within(text, self.encoding.input, self._prompts, truncate)

    def _within(
        self, text: str, encode: Callable[[str, Budget], str], tokenizer: Tokenizer, truncate: bool
    ) -> list[int]:
        """Return the token ids of `encode` of an input, within the limit of inputs."""
        _not_empty(text)
        limit = self.settings.max_input_tokens
        return self._ids(encode(self._tokens.escape(text), Budget(tokenizer, limit, truncate)), limit, tokenizer)

    def alone(self, text: str, *, truncate: bool = False) -> list[int]:
        """Return the token ids of an input without instruction.

        With a chat template this is a conversation with only a user message, as any chat endpoint renders it. With all
        other encodings it is the same as `input`.
        """
        return self.input(text, truncate=truncate)

    def continuation(self, text: str, *, truncate: bool = False) -> list[int]:
        """Return the token ids of an input that continues a text whose instruction has been processed.

        For encoder-decoders and chats this is the same as `input`. Other texts continue without a start token.
        """
        return self.input(text, truncate=truncate)

    def concatenated(
        self, instruction: str, examples: Sequence[Example], text: str, *, truncate: bool = False
    ) -> list[int]:
        """Return the token ids of `a + b` in one text, or only of `b` if nothing else is read.

        The limit of inputs applies to both together. With `text.apart`, each has its own limit.
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
        """Decode answers, without special tokens and surrounding white space."""
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def batch(self, sequences: Sequence[list[int]]) -> tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]]:
        """Return sequences padded on the right, and the mask of entries that are not padding."""
        return _pad(sequences, self._filler)

    def batch_instructions(
        self, sequences: Sequence[list[int]]
    ) -> tuple[Int[Tensor, "task token"], Bool[Tensor, "task token"]]:
        """Return sequences padded on the right, for every kind of model, and their mask."""
        return _pad(sequences, self._filler)

    @property
    def _filler(self) -> int:
        """The padding id; end-of-sequence if the tokenizer has none."""
        pad = self.tokenizer.pad_token_id
        filler: int = self.tokenizer.eos_token_id if pad is None else pad
        return filler

    def labels(self, sequences: Sequence[list[int]]) -> Int[Tensor, "row token"]:
        """Return sequences padded on the right with -100."""
        return _pad(sequences, IGNORED)[0]

    def choice_labels(self, choices: Sequence[Sequence[str]]) -> Int[Tensor, "row choice target"]:
        """Return the labels of every row's choices. Rows with fewer choices are padded with -100."""
        most = max(len(row) for row in choices)
        flat = [self.target(choice) for row in choices for choice in [*row, *[""] * (most - len(row))]]
        labels = self.labels(flat).unflatten(0, (len(choices), most))
        for index, row in enumerate(choices):
            labels[index, len(row) :] = IGNORED
        return labels

    def _target(self, text: str) -> tuple[list[int], list[int]]:
        """Return the token ids of a whole output, and its end tokens."""
        ids: list[int] = self._tokens(text)["input_ids"]
        end = self._kept(ids, self._tokens)
        return ids[: len(ids) - len(end)], end

    def _escaped(self, text: str, examples: Sequence[Example]) -> tuple[str, list[Example]]:
        escape = self._tokens.escape
        return escape(text), [Example(escape(one.input), escape(one.output)) for one in examples]

    def _encoding(self) -> Encoding:
        return encoding_from_name(self.settings.encoding, self.settings.positives)

    def _ids(self, text: str, limit: int, tokens: Tokenizer) -> list[int]:
        # Truncated here, because truncation is mutable state of a fast tokenizer, which is not thread-safe.
        ids: list[int] = tokens(text)["input_ids"]
        if len(ids) <= limit:
            return ids
        end = self._kept(ids, tokens)
        return ids[: limit - len(end)] + end

    def _kept(self, ids: list[int], tokens: Tokenizer) -> list[int]:
        """Return the tokens at the end of a text that truncation keeps."""
        return ids[-1:] if ids[-1:] == [self.tokenizer.eos_token_id] else []


class CausalTextEncoder(TextEncoder):
    """A text encoder for decoder-only models, whose answer continues the prompt.

    A prompt starts with the tokenizer's start tokens and ends with the encoding's cue, never with end-of-sequence. A
    target continues it and always ends with end-of-sequence. With the encoding "chat", the tokenizer's template starts
    and ends texts instead. Prompts are padded on the left, with end-of-sequence if the tokenizer has no padding token.
    A tokenizer without end-of-sequence is a `ConfigError`.
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
        """Return the token ids of an output after a prompt, with the space between them, and its end token."""
        text = text.strip()
        ids = self._after(self.encoding.cue.lstrip(), self.encoding.gap + text) if text else []
        return ids, [self._end]

    def input(self, text: str, *, truncate: bool = False) -> list[int]:
        """Return the token ids of `b`. In a chat it continues an instruction, without a start token."""
        if isinstance(self.encoding, ChatEncoding) and not self.encoding.asking.startswith(self._special):
            return self._within(text, self.encoding.input, self._continued, truncate)
        return super().input(text, truncate=truncate)

    def alone(self, text: str, *, truncate: bool = False) -> list[int]:
        """Return the token ids of an input without instruction."""
        if not isinstance(self.encoding, ChatEncoding):
            return self.input(text, truncate=truncate)
        return self._within(text, self.encoding.alone, self._instructions, truncate)

    def continuation(self, text: str, *, truncate: bool = False) -> list[int]:
        """Return the token ids of an input that follows an instruction that has been processed already."""
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
        if dated:  # on another day the template would render another text
            self.settings = replace(settings, frame=encoding.pieces())
        return encoding

    def _unclosed(self, text: str) -> list[int]:
        """Return the token ids of a text without end token. A chat already contains its special tokens."""
        chat = isinstance(self.encoding, ChatEncoding)
        ids: list[int] = self._tokens(text, add_special_tokens=not chat)["input_ids"]
        return ids if chat or ids[-1] != self.tokenizer.eos_token_id else ids[:-1]

    def _following(self, text: str) -> list[int]:
        """Return the token ids of an input with its cue that continues an instruction."""
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
        """Return the token ids of `text` after `before`; some tokenizers mark the start of a text."""
        start, whole, alone = (
            self._tokens(part, add_special_tokens=False)["input_ids"] for part in (before, before + text, text)
        )
        return whole[len(start) :] if whole[: len(start)] == start else alone


@dataclass(frozen=True)
class _OpenText:
    """A tokenizer for texts that others follow: `tokens` encodes, and `tokenizer` decodes."""

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
