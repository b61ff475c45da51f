"""Settings of the text format: the part that recipes set, and the part that checkpoints store."""

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict
from pydantic.dataclasses import dataclass

from tagi.settings.tables import Count, Flag, StoredSettings, Table

IGNORED = -100
"""Label of padding positions. PyTorch's cross-entropy ignores it by default."""
Reads = Literal["instruction", "demonstrations", "nothing"]
"""What a method reads of a task besides its inputs."""


@dataclass(frozen=True)
class TextFormat(Table):
    """Format of instructions and inputs, and their limits in tokens, including special tokens.

    Args:
        encoding: Format of instruction, input and answer. "tk-instruct": Tk-Instruct's prompt. "plain": the bare texts.
            "chat": the chat template of a decoder-only model.
        positives: Maximum number of demonstrations in an instruction.
        max_instruction_tokens: Maximum length of an instruction with its demonstrations.
        max_input_tokens: Maximum length of an input.
        max_target_tokens: Maximum length of an answer.
        template_arguments: Further arguments of the chat template, as JSON values, such as `{enable_thinking = false}`
            for Qwen3 or `{date_string = "26 Jul 2024"}` for Llama 3.
    """

    encoding: Literal["tk-instruct", "plain", "chat"] = "tk-instruct"
    positives: Annotated[int, Strict(), Field(ge=0, le=8)] = 0
    max_instruction_tokens: Count = 1024
    max_input_tokens: Count = 1024
    max_target_tokens: Count = 128
    template_arguments: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class TextSettings(TextFormat, StoredSettings):
    """Text settings that a checkpoint stores. Includes the keys of `TextFormat`.

    Args:
        reads: What is read of a task besides its inputs. "instruction": the instruction with its demonstrations.
            "demonstrations": the first `positives` demonstrations only, or the task's shots if `positives` is 0.
            "nothing": the inputs only.
        apart: Where instruction and input are one text, truncate each to its own limit. Otherwise `max_input_tokens` is
            the limit of both together.
        frame: The text that the chat template writes around instruction, input and answer (`ChatEncoding.pieces`).
            Stored if the template writes the current date, and then used instead of the template.
    """

    title: ClassVar[str] = "text settings"
    newer: ClassVar[frozenset[str]] = frozenset({"reads", "apart", "template_arguments", "frame"})

    reads: Reads = "instruction"
    apart: Flag = False
    frame: dict[str, Any] | None = field(default=None, hash=False)

    @property
    def max_prompt_tokens(self) -> int:
        """Limit of instruction and input in one text."""
        return self.max_input_tokens + (self.max_instruction_tokens if self.apart else 0)
