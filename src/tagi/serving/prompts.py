"""Encoding of requests as token ids, the same for every engine."""

from collections.abc import Sequence

from jinja2 import TemplateError

from tagi.data.text.control import UserTextTokenizer
from tagi.errors import InputError, first_line
from tagi.hypernetwork.model import GeneratorModel
from tagi.serving.protocol import Message, PromptError, Request


class PromptEncoder:
    """Encodes requests for a generator's base model and its adapters.

    Args:
        generator: The generator.
        context: Maximum number of tokens of prompt and answer together.
    """

    def __init__(self, generator: GeneratorModel, context: int) -> None:
        self.generator = generator
        self.context = context
        self._tokenizer = generator.backbone.tokenizer
        self._text = UserTextTokenizer(self._tokenizer, added=True)

    def encode(self, request: Request, *, alone: bool) -> list[int]:
        """Return the token ids of a prompt. For a chat with an adapter: the input as the adapter's encoding formats it.

        Args:
            request: The request.
            alone: For a chat with an adapter: whether the input has no instruction before it.

        Raises `PromptError` for an invalid or empty prompt.
        """
        prompt = request.prompt
        _check_text([prompt] if isinstance(prompt, str) else [message.content for message in prompt])
        if isinstance(prompt, str):
            return self._raw(prompt)
        return self._chat(prompt) if request.adapter is None else self._input(prompt, alone)

    def room(self, request: Request, prompt_tokens: int) -> int:
        """Return the maximum length of the answer: the requested one, limited by the context.

        Raises `PromptError` if the prompt leaves no room, or if an answer of 0 tokens is requested.
        """
        if request.sampling.max_tokens < 1:
            raise PromptError(f"expected an answer of at least 1 token, got {request.sampling.max_tokens}")
        if prompt_tokens >= self.context:
            raise PromptError(
                f"expected a prompt of fewer than {self.context} tokens (the context holds prompt and answer), "
                f"got {prompt_tokens}"
            )
        return min(request.sampling.max_tokens, self.context - prompt_tokens)

    def _raw(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)["input_ids"]
        if ids[-1:] == [self._tokenizer.eos_token_id] and not text.endswith(self._tokenizer.eos_token):
            ids = ids[:-1]  # the tokenizer adds an end token, but this text continues
        if not ids:
            raise PromptError("expected a prompt, got an empty text")
        return ids

    def _chat(self, messages: Sequence[Message]) -> list[int]:
        """Render messages with the base model's chat template. Control tokens in them are ordinary text."""
        if not messages:
            raise PromptError("expected a chat of at least one message, got none")
        if not getattr(self._tokenizer, "chat_template", None):
            name = self.generator.backbone.identity.name
            raise PromptError(f"expected raw text for {name}, whose tokenizer has no chat template, got a chat")
        written = [{"role": one.role, "content": self._text.escape(one.content)} for one in messages]
        arguments = self.generator.text.settings.template_arguments or {}
        try:
            text = self._tokenizer.apply_chat_template(written, tokenize=False, add_generation_prompt=True, **arguments)
        except TemplateError as error:
            raise PromptError(f"expected a chat that the base model's template writes; {first_line(error)}") from error
        ids: list[int] = self._text(text, add_special_tokens=False)["input_ids"]
        return ids

    def _input(self, messages: Sequence[Message], alone: bool) -> list[int]:
        roles = [message.role for message in messages]
        if roles != ["user"]:
            raise PromptError(
                "expected a chat of one user message, the input, with an adapter, whose instruction the server adds; "
                f"got {', '.join(roles) or 'no message'}"
            )
        try:
            return self.generator.input_encoder(alone=alone)(messages[0].content)
        except InputError as error:
            raise PromptError(str(error)) from error


def _check_text(texts: Sequence[str]) -> None:
    """Raise `PromptError` for a lone surrogate, which no tokenizer can read."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(f"expected valid Unicode, got {text[error.start]!r}, half of a surrogate pair") from error
