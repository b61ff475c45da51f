"""A tokenizer's chat template as an encoding: the instruction is the system's message, the input the user's.

`a` is the start of the chat up to the user's turn, `b` the user's turn and the assistant's opening, so that `a + b` is
what the template makes of both, and a model that has read `a` may go on with any `b`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jinja2 import TemplateError

from tagi.data.encoding import Counting, Encoding, Tokenizer, stripped
from tagi.data.task import Example
from tagi.errors import ConfigError

_TOLD, _ASKED, _ANSWERED = "told-7d1f", "asked-7d1f", "answered-7d1f"
"""Stand in a template for the instruction, the input and the answer."""


@dataclass(frozen=True)
class ChatEncoding(Encoding):
    """What a chat template writes around an instruction, an input and an answer.

    `opening` and `told` stand around the instruction, `asking` and `closing` around the input; after that comes the
    answer without a space, and `ending` ends it.
    """

    opening: str = ""
    told: str = ""
    asking: str = ""
    closing: str = ""
    ending: str = ""
    name: ClassVar[str] = "chat"
    separator: ClassVar[str] = ""
    gap: ClassVar[str] = ""

    @property
    def cue(self) -> str:
        """The assistant's opening, with what closes the user's turn."""
        return self.closing

    def cued(self, prompt: str) -> str:
        """`prompt`, its cue last."""
        return prompt if prompt.endswith(self.closing) else prompt + self.closing

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
        """As `Encoding.concatenated`, but the chat stays whole: a text over the limit loses the end of its input.

        An input keeps up to half of what the template leaves; an instruction that is too long then loses its end too.
        """
        given: dict[str, Any] = {"tokenizer": tokenizer, "limit": limit}
        if not truncate or tokenizer is None or limit is None:
            return super().concatenated(task_instruction, examples, text, **given)
        counting, tail, told = Counting(tokenizer, limit), self._input(text), stripped(task_instruction)
        bare = self._input("")
        head = self._with_examples(told, examples, lambda head: counting.fits(head + tail))
        if counting.fits(head + tail):
            return head + tail
        half = (limit - counting.count(self._definition("") + bare)) // 2
        rest = Counting(tokenizer, limit - min(counting.count(tail) - counting.count(bare), half))
        if not rest.fits(head + bare):
            head = rest.shorten(told, lambda t: self._definition(t) + bare).removesuffix(bare)
        return head + tail if counting.fits(head + tail) else counting.shorten(text, lambda t: head + self._input(t))

    def _with_examples(self, text: str, examples: Sequence[Example], fits: Callable[[str], bool]) -> str:
        for number, example in enumerate(examples[: self.positives], start=1):
            longer = text + self._example(number, example)
            if not fits(self._definition(longer)):
                break
            text = longer
        return self._definition(text)

    def _definition(self, text: str) -> str:
        return self.opening + text + self.told

    def _example(self, number: int, example: Example) -> str:
        return f"\n\nInput: {example.input.strip()}\nOutput: {example.output.strip()}"

    def _input(self, text: str) -> str:
        return self.asking + text.strip() + self.closing


def chat_encoding(tokenizer: Any, positives: int = 0) -> ChatEncoding:
    """The encoding of a tokenizer's own chat template.

    A template without a system's message has the instruction before the input in the user's. `a` ends at a special
    token between both if there is one: no token can span the two there. Raises `ConfigError` for a tokenizer without a
    template and for one that does not show instruction, input and answer once each, in this order.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError("encoding 'chat': expected a tokenizer with a chat template, got one without")
    system = [{"role": "system", "content": _TOLD}, {"role": "user", "content": _ASKED}]
    user = [{"role": "user", "content": f"{_TOLD}\n\n{_ASKED}"}]
    for messages in (system, user):
        parts = _parts(tokenizer, messages)
        if parts is not None:
            opening, between, closing, ending = parts
            cut = _boundary(tokenizer, between)
            return ChatEncoding(positives, opening, between[:cut], between[cut:], closing, ending)
    raise ConfigError(
        "encoding 'chat': expected a chat template that shows instruction, input and answer once each, in this order, "
        "got one that does not"
    )


def _parts(tokenizer: Any, messages: list[dict[str, str]]) -> tuple[str, str, str, str] | None:
    """What stands before the instruction, between it and the input, before the answer and after it."""
    answered = [*messages, {"role": "assistant", "content": _ANSWERED}]
    try:
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(answered, tokenize=False)
    except TemplateError:  # such as that of a template that knows no system
        return None
    if any(prompt.count(mark) != 1 for mark in (_TOLD, _ASKED)) or whole.count(_ANSWERED) != 1:
        return None
    opening, _, rest = prompt.partition(_TOLD)
    between, found, closing = rest.partition(_ASKED)
    asked, _, ending = whole.partition(_ANSWERED)
    return (opening, between, closing, ending) if found and _ASKED in asked else None


def special_tokens(tokenizer: Any) -> set[str]:
    """What a tokenizer never joins with anything around it."""
    return {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}


def _boundary(tokenizer: Any, text: str) -> int:
    """A place that no token spans: before a special token inside the text, else after one that starts it, else 0."""
    tokens = special_tokens(tokenizer)
    inside = [at for token in tokens if (at := text.find(token, 1)) > 0]
    return min(inside, default=max([0, *(len(token) for token in tokens if text.startswith(token))]))
