"""A tokenizer's chat template as an encoding: instruction as system message, input as user message.

`a` is the start of the chat up to the user's turn. `b` is the user's turn and the start of the assistant's. `a + b` is
what the template renders for both, so the KV prefix of `a` can be used with any `b`. Prompt, answer and ending together
are a prefix of what the template renders for the whole conversation. An input without instruction is rendered as a
conversation with only a user message, to which many templates add a default system message.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar

from jinja2 import TemplateError

from tagi.data.task import Example
from tagi.data.text.encoding import UNLIMITED, Budget, Encoding, stripped, while_fitting
from tagi.errors import CheckpointError, ConfigError

_INSTRUCTION, _INPUT, _ANSWER = "told-7d1f", "asked-7d1f", "answered-7d1f"
"""Placeholders for the instruction, the input and the answer."""
JOIN = "\n\n"
"""Text between instruction and input in the user's message, if a template has no system message."""


@dataclass(frozen=True)
class ChatEncoding(Encoding):
    """What a chat template writes around an instruction, an input and an answer.

    Args:
        opening: Text before the instruction.
        told: Text after the instruction, up to the start of the user's turn.
        asking: Text before the input.
        closing: Text after the input, up to the start of the answer.
        space: White space before an answer that the template writes as part of the answer.
        ending: Text after the answer.
        alone_opening: Text before an input without any instruction.
        alone_closing: Text after such an input.
    """

    opening: str = ""
    told: str = ""
    asking: str = ""
    closing: str = ""
    space: str = ""
    ending: str = ""
    alone_opening: str = ""
    alone_closing: str = ""
    name: ClassVar[str] = "chat"
    separator: ClassVar[str] = ""

    @property
    def cue(self) -> str:
        """The end of the user's turn and the start of the assistant's."""
        return self.closing

    @property
    def gap(self) -> str:
        """White space that the template writes before an answer, as part of it."""
        return self.space

    def pieces(self) -> dict[str, str]:
        """Return the template's texts by name, for a checkpoint."""
        return {piece.name: getattr(self, piece.name) for piece in fields(self) if piece.name != "positives"}

    @classmethod
    def of_pieces(cls, pieces: Mapping[str, str], positives: int = 0) -> "ChatEncoding":
        """Create an encoding from `pieces`. Raises `CheckpointError` for missing, unknown or invalid ones."""
        known = {piece.name for piece in fields(cls)} - {"positives"}
        if not isinstance(pieces, Mapping) or set(pieces) != known:
            got = sorted(pieces) if isinstance(pieces, Mapping) else pieces
            raise CheckpointError(f"text settings: expected a chat's frame of {sorted(known)}, got {got}")
        if odd := sorted(name for name, piece in pieces.items() if not isinstance(piece, str)):
            raise CheckpointError(f"text settings: expected a text for frame.{odd[0]}, got {pieces[odd[0]]!r}")
        return cls(positives, **pieces)

    def alone(self, text: str, budget: Budget) -> str:
        """Return an input without instruction, as the template renders a conversation with only a user message.

        Raises `InputError` for a text over the limit, unless the end of its input may be truncated.
        """
        return budget.fitted(text, self.alone_text, "the input")

    def content(self, prompt: str) -> str | None:
        """Return the instruction without the template's text around it, or None if `prompt` does not have this text.

        Args:
            prompt: The rendered instruction with its demonstrations, as `instruction` returns it.
        """
        if not prompt.startswith(self.opening) or not prompt.endswith(self.told):
            return None
        return prompt[len(self.opening) : len(prompt) - len(self.told)]

    def cued(self, prompt: str) -> str:
        """Return `prompt` with its cue last."""
        return prompt if prompt.endswith(self.closing) else prompt + self.closing

    def concatenated(
        self, task_instruction: str, examples: Sequence[Example], text: str, budget: Budget = UNLIMITED
    ) -> str:
        """Concatenate as in `Encoding.concatenated`, but truncate without removing the template's text.

        If the text exceeds the limit, the end of the input is removed first, but up to half of the tokens that the
        template leaves are kept for it. If that is not enough, the end of the instruction is removed too.
        """
        if not budget.truncate:
            return super().concatenated(task_instruction, examples, text, budget)
        tail, bare, instruction = self._input(text), self._input(""), stripped(task_instruction)
        head = self._with_examples(instruction, examples, lambda head: budget.fits(head + tail))
        if budget.fits(head + tail):
            return head + tail
        half = (budget.limit - budget.count(self._definition("") + bare)) // 2
        rest = replace(budget, limit=budget.limit - min(budget.count(tail) - budget.count(bare), half))
        if not rest.fits(head + bare):
            head = rest.shorten(instruction, lambda t: self._definition(t) + bare).removesuffix(bare)
        return head + tail if budget.fits(head + tail) else budget.shorten(text, lambda t: head + self._input(t))

    def _with_examples(self, text: str, examples: Sequence[Example], fits: Callable[[str], bool]) -> str:
        return self._definition(
            while_fitting(text, self._parts(examples), lambda longer: fits(self._definition(longer)))
        )

    def _definition(self, text: str) -> str:
        return self.opening + text + self.told

    def _example(self, number: int, example: Example) -> str:
        return f"\n\nInput: {example.input.strip()}\nOutput: {example.output.strip()}"

    def _input(self, text: str) -> str:
        return self.asking + text.strip() + self.closing

    def alone_text(self, text: str) -> str:
        """Return an input without instruction, with the template's text around it."""
        return self.alone_opening + text.strip() + self.alone_closing


def chat_encoding(
    tokenizer: Any, positives: int = 0, arguments: Mapping[str, Any] | None = None
) -> tuple[ChatEncoding, bool]:
    """Create the encoding of a tokenizer's chat template.

    If a template has no system message, like Gemma's and Mistral's, the instruction is at the start of the user
    message. If there is a special token between instruction and input, `a` ends before it, so no token spans both.

    Args:
        tokenizer: One of transformers' tokenizers.
        positives: Maximum number of positive examples in an instruction.
        arguments: Further arguments of the template, such as `enable_thinking` of Qwen3's.

    Returns:
        The encoding, and whether the template renders today's date, so that the encoding depends on the day.

    Raises:
        ConfigError: The tokenizer has no template; the template does not show instruction, input and answer once each,
            in this order; what it writes to start an answer is not how it starts an answer in a conversation; or an
            argument is not the template's.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("encoding 'chat': expected a tokenizer with a chat template, got one without")
    arguments = dict(arguments or {})
    taken = set(inspect.signature(tokenizer.apply_chat_template).parameters) - {"kwargs"}
    if odd := sorted(taken & arguments.keys()):
        raise ConfigError(f"template_arguments: expected arguments of the chat template, got {odd[0]!r}, which is set")
    found, *others = (_encoding(tokenizer, arguments, day, positives) for day in (None, "3 May", "4 June"))
    return found, others[0] != others[1]


def _encoding(tokenizer: Any, arguments: Mapping[str, Any], day: str | None, positives: int) -> ChatEncoding:
    """Return the encoding of a tokenizer's template; with `day`, rendered with this date instead of today's."""
    text: str = tokenizer.get_chat_template()
    if day is not None:  # a macro hides transformers' function of the same name
        text = f"{{% macro strftime_now(format) %}}{day}{{% endmacro %}}{{{{ '' }}}}{text}"
    render = partial(tokenizer.apply_chat_template, chat_template=text, tokenize=False, **arguments)
    system = [{"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": _INPUT}]
    user = [{"role": "user", "content": _INSTRUCTION + JOIN + _INPUT}]
    alone = _parts(render, [{"role": "user", "content": _INPUT}], [_INPUT])
    for messages in (system, user):
        parts = _parts(render, messages, [_INSTRUCTION, _INPUT])
        if parts is None or alone is None:
            continue
        opening, between, closing, space, ending = parts
        cut = _boundary(tokenizer, between)
        return ChatEncoding(
            positives, opening, between[:cut], between[cut:], closing, space, ending, alone[0], alone[1]
        )
    raise ConfigError(
        "encoding 'chat': expected a chat template that shows instruction, input and answer once each, in this order, "
        "got one that does not"
    )


def _parts(render: Callable[..., str], messages: list[dict[str, str]], marks: list[str]) -> list[str] | None:
    """Return the text before each mark, before the answer, the white space right before it, and the text after it."""
    answered = [*messages, {"role": "assistant", "content": _ANSWER}]
    try:
        prompt = render(messages, add_generation_prompt=True)
        whole = render(answered, add_generation_prompt=False)
    except TemplateError:  # such as that of a template without system messages
        return None
    if any(prompt.count(mark) != 1 for mark in marks) or whole.count(_ANSWER) != 1:
        return None
    before, _, ending = whole.partition(_ANSWER)
    if any(mark not in before for mark in marks):
        return None
    if not before.startswith(prompt):
        raise ConfigError(
            "encoding 'chat': expected a chat template that starts an answer as it starts one in a whole conversation, "
            f"got {_tail(prompt)!r} to start an answer and {_tail(before)!r} in a conversation; set the template's "
            "arguments (data.template_arguments)"
        )
    parts, rest = [], before
    for mark in marks:
        part, found, rest = rest.partition(mark)
        if not found:
            return None
        parts.append(part)
    # White space that occurs only in a conversation belongs to the answer: tokenizers join it with the first word.
    added = before[len(prompt) :]
    space = "" if added.strip() else added
    return [*parts, rest.removesuffix(space), space, ending]


def _tail(text: str) -> str:
    """Return the text after the input."""
    return text.rpartition(_INPUT)[2]


def special_tokens(tokenizer: Any) -> set[str]:
    """Return the tokens that a tokenizer never joins with the text around them."""
    return {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}


def _boundary(tokenizer: Any, text: str) -> int:
    """Return a position that no token spans: before a special token in the text, or after one at its start, or 0."""
    # If several tokens start at a position, the tokenizer uses the longest, such as Gemma's for two line breaks.
    tokens = sorted(special_tokens(tokenizer), key=len, reverse=True)
    spans = [found.span() for found in re.finditer("|".join(map(re.escape, tokens)), text)] if tokens else []
    return next((start for start, _ in spans if start), spans[0][1] if spans else 0)
