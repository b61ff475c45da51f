"""How the texts of a task become tokens: what recipes choose, and what a checkpoint holds."""

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict
from pydantic.dataclasses import dataclass

from tagi.settings.tables import Count, Flag, StoredSettings, Table

IGNORED = -100
"""Label of a position that holds no token of a target: padding. PyTorch's cross-entropy ignores it by default."""
Reads = Literal["instruction", "demonstrations", "nothing"]
"""What is read of a task besides its inputs."""


@dataclass(frozen=True)
class TextFormat(Table):
    """Format of instructions and inputs, and their limits in tokens, special tokens included.

    Args:
        encoding: How instruction, input and answer are written. "tk-instruct": as Tk-Instruct does. "plain": the texts
            alone. "chat": a decoder-only model's own chat template.
        positives: The instruction shows at most so many demonstrations.
        max_instruction_tokens: Limit of an instruction with its demonstrations.
        max_input_tokens: Limit of an input.
        max_target_tokens: Limit of an answer.
        template_arguments: Further arguments of the chat template, values that JSON can hold, such as
            `{enable_thinking = false}` of Qwen3's or `{date_string = "26 Jul 2024"}` of Llama 3's.
    """

    encoding: Literal["tk-instruct", "plain", "chat"] = "tk-instruct"
    positives: Annotated[int, Strict(), Field(ge=0, le=8)] = 0
    max_instruction_tokens: Count = 1024
    max_input_tokens: Count = 1024
    max_target_tokens: Count = 128
    template_arguments: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class TextSettings(TextFormat, StoredSettings):
    """How instructions and inputs become tokens. Beside the format of the texts:

    Args:
        reads: What is read of a task besides its inputs. "instruction": the instruction with its demonstrations.
            "demonstrations": these alone, the first `positives` of a task's examples, or for 0 its shots. "nothing":
            inputs alone.
        apart: Where instruction and input are one text, shorten each to its own limit. Otherwise `max_input_tokens` is
            the limit of both together.
        frame: What a chat template wrote around instruction, input and answer (`ChatEncoding.pieces`). It is kept where
            the template writes today's date, and is then used in place of the template.
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
