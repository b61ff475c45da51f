"""Prompts for exported adapters in other software."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from tagi.data.task import Example
from tagi.data.text.chat import JOIN, ChatEncoding
from tagi.data.text.encoder import TextEncoder

INPUT = "{input}"
"""Placeholder for an input."""


def prompts_of(text: TextEncoder, instruction: str | None, examples: Sequence[Example] = ()) -> dict[str, Any]:
    """Return the prompts under which an exported adapter gives the answers of its task adapter.

    Args:
        text: The text encoder of the adapter's generator.
        instruction: Instruction of the adapter. None for an adapter alone.
        examples: Demonstrations of the adapter.

    Returns:
        `instruction`: the prompt with the instruction, if there is one.
        `alone`: the prompt without it. Each prompt has the rendered `text` with all special tokens, and the `messages`
            that the tokenizer's chat template renders to exactly this text, if there are any.
        `template_arguments`: further arguments of the chat template, if any.
        `dated`: true if the template contains the current date. Rendering then gives the same text on one day only.
    """
    prompts: dict[str, Any] = {}
    if instruction is not None:
        prompts["instruction"] = _instructed(text, instruction, examples)
    prompts["alone"] = _alone(text)
    if text.settings.template_arguments:
        prompts["template_arguments"] = text.settings.template_arguments
    if text.settings.frame is not None:
        prompts["dated"] = True
    return prompts


def _instructed(text: TextEncoder, instruction: str, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the prompt with the instruction, truncated as for the generator."""
    encoding = text.encoding
    told = text.instruction_text(instruction, examples, truncate=True)
    written = told + encoding.separator + encoding.cued(encoding.input(INPUT))
    content = encoding.content(told) if isinstance(encoding, ChatEncoding) else None
    if content is None:
        return {"text": written}
    apart = [{"role": "system", "content": content}, _user(INPUT)]
    together = [_user(content + JOIN + INPUT)]  # for templates without system messages
    return _prompt(text, written, (apart, together))


def _alone(text: TextEncoder) -> dict[str, Any]:
    """Return the prompt without instruction."""
    encoding = text.encoding
    if isinstance(encoding, ChatEncoding):
        return _prompt(text, encoding.alone_text(INPUT), ([_user(INPUT)],))
    return {"text": encoding.cued(encoding.input(INPUT))}


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _prompt(text: TextEncoder, written: str, conversations: Sequence[list[dict[str, str]]]) -> dict[str, Any]:
    """Return the prompt, with the first conversation that the chat template renders to it, if any."""
    arguments = text.settings.template_arguments or {}
    for messages in conversations:
        try:
            rendered = text.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **arguments
            )
        except TemplateError:  # a template may refuse a system message
            continue
        if rendered == written or text.settings.frame is not None:  # the frame was rendered on another day
            return {"messages": messages, "text": written}
    return {"text": written}
